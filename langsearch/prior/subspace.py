"""Intrinsic subspace estimation: how much rank each language demands, by layer and module (METHOD section 3)."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from langsearch.adapters.lora import LanguageLoRA
from langsearch.experiment.folder import read_rows, write_rows
from langsearch.model.base import Base
from langsearch.prior.learning import LearningProgress, LearningTask, learn_once
from langsearch.space.architecture import Site
from langsearch.train.loop import TrainingData

DEMAND_FILE = "demand.parquet"

DEMAND = pa.schema(
    [
        ("language", pa.string()),
        ("class", pa.string()),
        ("stack", pa.string()),
        ("layer", pa.int64()),
        ("module", pa.string()),
        ("side", pa.string()),
        ("rank", pa.int64()),
        ("stored", pa.int64()),
        ("kept", pa.int64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What one language keeps of its adapter at one site."""

    language: str
    stack: str
    layer: int
    module: str
    side: str
    rank: int
    stored: int
    """Entries of B before pruning."""
    kept: int
    """Entries of B that live and are not zero."""

    @property
    def site(self) -> tuple[str, int, str]:
        """Stack, layer and module."""
        return self.stack, self.layer, self.module


@dataclass(frozen=True)
class Demand:
    """The demand of all languages at all sites.

    What a language keeps says how it stands to the others, not how much it needs by itself: in every layer the same
    share of all entries lives. So the demanded rank is the equal rank, shared out anew in proportion to what is kept.
    Where all of them learned nothing it is 0.
    """

    cells: tuple[Kept, ...]

    @cached_property
    def _by_cell(self) -> dict[tuple[str, tuple[str, int, str]], Kept]:
        return {(cell.language, cell.site): cell for cell in self.cells}

    @cached_property
    def _mean_share(self) -> float:
        return share(self.cells)

    def rank(self, cells: Iterable[tuple[str, Site]]) -> float | None:
        """Returns the rank that languages demand at sites, a mean; None if none of them was estimated."""
        keys = [(language, (site.stack, site.layer, site.module)) for language, site in cells]
        found = [self._by_cell[key] for key in keys if key in self._by_cell]
        if not found:
            return None
        return self._rank(found)

    def language_ranks(self) -> dict[str, float]:
        """Returns the rank that each language demands over all sites."""
        by_language: dict[str, list[Kept]] = defaultdict(list)
        for cell in self.cells:
            by_language[cell.language].append(cell)
        return {name: self._rank(own) for name, own in by_language.items()}

    def _rank(self, cells: Sequence[Kept]) -> float:
        kept = share(cells)
        return max(cell.rank for cell in cells) * kept / self._mean_share if kept else 0.0


def share(cells: Iterable[Kept]) -> float:
    """Returns which part of the entries lives."""
    listed = list(cells)
    return sum(cell.kept for cell in listed) / max(sum(cell.stored for cell in listed), 1)


def learn_subspace(base: Base, data: TrainingData, task: LearningTask, folder: Path) -> Iterator[LearningProgress]:
    """Trains equal ranks, prunes them, and writes demand.parquet; goes on where an earlier run stopped.

    Args:
        base: The base, on the device to train on, without adapters; it is left so.
        data: Sentences and directions.
        task: What `subspace_task` returned.
        folder: Where to write.

    Raises:
        InputError: If the folder was begun with other settings, or the training fails.
    """
    file = folder / DEMAND_FILE

    def equal_ranks() -> LanguageLoRA:
        return LanguageLoRA(base, task.architecture, data.languages, task.trainer.seed)

    def write(adapters: LanguageLoRA) -> None:
        classes = {language: name for name, members in task.classes.items() for language in members}
        rows = [{**asdict(cell), "class": classes.get(cell.language)} for cell in kept_entries(adapters)]
        write_rows(file, rows, DEMAND)

    return learn_once(base, task, data, file, equal_ranks, write)


def kept_entries(adapters: LanguageLoRA) -> Iterator[Kept]:
    """Yields what every slot keeps at every site; each language must have a slot of its own.

    What is still zero, as it started, no gradient has reached. Where a layer has nothing else, pruning leaves some of
    it all the same, of whichever slot comes last: that is no demand.
    """
    assert adapters.masks is not None, "only pruned adapters say what they keep"
    for site, layer in adapters.layers.items():
        for index, (language, rank) in enumerate(zip(layer.slots, layer.ranks, strict=True)):
            b = layer.B.data[index, :, :rank]
            yield Kept(
                language=language,
                stack=site.stack,
                layer=site.layer,
                module=site.module,
                side=layer.side,
                rank=rank,
                stored=b.numel(),
                kept=int((adapters.masks.alive[site][index, :, :rank] & (b != 0)).sum()),
            )


def read_demand(folder: Path) -> Demand:
    """Reads what `learn_subspace` wrote; no cells if it has not ended."""
    names = Kept.__dataclass_fields__
    return Demand(tuple(Kept(**{name: row[name] for name in names}) for row in read_rows(folder / DEMAND_FILE)))
