"""Weight learning over a space: the side of every layer, or module, as a prior for a search (METHOD section 3)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from langsearch.adapters.mixed_sides import MixedSides, SideWeights
from langsearch.experiment.folder import read_json, write_json
from langsearch.model.base import Base
from langsearch.prior.learning import LearningProgress, LearningTask, learn_once
from langsearch.space.architecture import BaseShape, Side, Site, Stack
from langsearch.space.problems import InputError
from langsearch.train.loop import TrainingData

SIDES_FILE = "sides.json"

SCALAR_LR = 0.05
"""Learning rate of the scalars, whatever that of the adapters. The published 3e-3 would let 200 updates of Adam move
a scalar by 0.6 at most, and a share from 0.50 to no more than 0.77; 0.05 lets it decide in some dozens."""


@dataclass(frozen=True, kw_only=True)
class LearnedSides:
    """The learned share of either side."""

    by: Literal["layer", "module"]
    steps: int
    rank: int
    weights: Mapping[str, SideWeights]
    """By layer, "encoder.0", or by site, "encoder.0.fc1"."""

    def source_share(self, stack: Stack, layer: int, module: str | None = None) -> float | None:
        """Returns the source's share at a site, or over a layer's; None where nothing was learned."""
        name = f"{stack}.{layer}"
        if module is not None and f"{name}.{module}" in self.weights:
            return self.weights[f"{name}.{module}"].src
        found = [value.src for key, value in self.weights.items() if key == name or key.startswith(f"{name}.")]
        return sum(found) / len(found) if found else None

    def side(self, site: Site) -> Side | None:
        """Returns the side with the larger share at a site, None where it is not sure or nothing was learned."""
        share = self.source_share(site.stack, site.layer, site.module)
        return sure_side([share])

    @property
    def unsure(self) -> tuple[str, ...]:
        """The layers, or sites, whose shares are too near to each other to say a side."""
        return tuple(name for name, value in self.weights.items() if not value.is_sure)

    def proposal(self, shape: BaseShape) -> dict[str, Any]:
        """Returns `sides` for the space's encoder and decoder: the learned side of every layer of the base.

        A layer whose side is not sure is left to the search, the larger share first. One that no point of the space
        adapts has the side of the one below it.
        """
        proposed: dict[str, Any] = {}
        stacks: tuple[tuple[Stack, Side], ...] = (("encoder", "src"), ("decoder", "tgt"))
        for stack, side in stacks:
            sides: list[Any] = []
            for layer in range(shape.num_layers(stack)):
                share = self.source_share(stack, layer)
                side = side if share is None else SideWeights(share, 1 - share).side
                is_sure = share is None or SideWeights(share, 1 - share).is_sure
                sides.append(side if is_sure else {"choice": [side, "tgt" if side == "src" else "src"]})
            proposed[stack] = {"sides": sides}
        return proposed


def sure_side(shares: Sequence[float | None]) -> Side | None:
    """Returns the side that some shares of the source say together, None where that is not sure or none is known."""
    known = [share for share in shares if share is not None]
    if not known:
        return None
    mean = sum(known) / len(known)
    together = SideWeights(mean, 1 - mean)
    return together.side if together.is_sure else None


def learn_sides(base: Base, data: TrainingData, task: LearningTask, folder: Path) -> Iterator[LearningProgress]:
    """Trains the mixture and writes sides.json; goes on where an earlier run stopped, and repeats nothing.

    Args:
        base: The base, on the device to train on, without adapters; it is left so.
        data: Sentences and directions.
        task: What `sides_task` returned.
        folder: Where to write.

    Raises:
        InputError: If the folder was begun with other settings, or the training fails.
    """
    file = folder / SIDES_FILE

    def mixed() -> MixedSides:
        if len(set(dict(task.architecture.slots).values())) < 2:
            raise InputError("Learning sides needs two languages or more: with one, both sides are the same.")
        return MixedSides(
            base,
            task.architecture,
            data.languages,
            task.trainer.seed,
            by=task.by,
            scalar_lr_factor=SCALAR_LR / task.trainer.lr,
        )

    def write(mixture: MixedSides) -> None:
        ranks = {rank for entry in task.architecture.adapters for _, rank in entry.ranks}
        learned = LearnedSides(by=task.by, steps=task.total, rank=max(ranks), weights=mixture.weights())
        _write(file, learned, base.shape)

    return learn_once(base, task, data, file, mixed, write)


def read_sides(folder: Path) -> LearnedSides:
    """Reads what `learn_sides` wrote, in this version or an older one. Raises OSError if it has not ended."""
    value = read_json(folder / SIDES_FILE)
    weights = {name: SideWeights(entry["src"], entry["tgt"]) for name, entry in value["weights"].items()}
    return LearnedSides(by=value["by"], steps=value["steps"], rank=value["rank"], weights=weights)


def _write(path: Path, learned: LearnedSides, shape: BaseShape) -> None:
    weights = {
        name: {
            "side": value.side,
            "src": round(value.src, 6),
            "tgt": round(value.tgt, 6),
            "margin": round(value.margin, 6),
            "is_sure": value.is_sure,
        }
        for name, value in learned.weights.items()
    }
    value = {"by": learned.by, "steps": learned.steps, "rank": learned.rank, "weights": weights}
    write_json(path, {**value, "architecture": learned.proposal(shape)})
