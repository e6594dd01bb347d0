"""Which languages the rows in flight have: one object that all adapted layers of a model look at."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from langsearch.space.architecture import Side

Found = TypeVar("Found")


@dataclass(frozen=True)
class Run:
    """Adjacent rows of one language."""

    language: int
    begin: int
    end: int


Reads = Literal["src", "tgt"]
"""Whose tokens a layer reads: the source's, as the encoder and cross-attention's keys and values, or the target's."""


@dataclass(frozen=True)
class TokenWeights:
    """How much the tokens in flight count in a mean: 0 at padding. Looked at by those that ask alone."""

    src: Tensor | None
    """(rows, src len); of a sentence that stands for several rows, their number. None: not known."""

    labels: Tensor | None
    """(rows, tgt len): the labels, negative where there is none. None: not known."""


class Routing:
    """The languages of the rows of a batch, as indices into a model's languages, (rows,)."""

    def __init__(self) -> None:
        self.src: Tensor | None = None
        self.tgt: Tensor | None = None
        self._weights: TokenWeights | None = None
        self.context: object | None = None
        """Another one whenever the rows' languages are; None where nothing says when they change."""
        self._found: dict[Hashable, Any] = {}

    @contextmanager
    def languages(self, src_lang: Tensor, tgt_lang: Tensor, *, weights: TokenWeights | None = None) -> Iterator[None]:
        """Gives a context in which the rows of a batch have these languages: indices, (rows,)."""
        self.src, self.tgt, self._weights = src_lang, tgt_lang, weights
        self._found, self.context = {}, object()
        try:
            yield
        finally:
            self.src = self.tgt = self._weights = self.context = None
            self._found = {}

    def once(self, key: Hashable, make: Callable[[], Found]) -> Found:
        """Returns what is made of the rows' languages: the same object for one key as long as they stay.

        Args:
            key: Says all that the result depends on beside the languages.
            make: Makes it.
        """
        if self.context is None:
            return make()
        if key not in self._found:
            self._found[key] = make()
        found: Found = self._found[key]
        return found

    def token_weights(self, reads: Reads) -> Tensor | None:
        """Returns how much the tokens that a layer reads count in a mean, (rows, len); None where it is not known."""
        if self._weights is None:
            return None
        if reads == "src":
            return None if self._weights.src is None else self._weights.src.float()
        return None if self._weights.labels is None else (self._weights.labels >= 0).float()

    def rows(self, side: Side, num_rows: int) -> Tensor:
        """Returns the language of one side of each row in flight, (num_rows,).

        With beam search these are the batch's rows, each repeated beams times.
        """
        languages = self.src if side == "src" else self.tgt
        assert languages is not None, "the rows' languages must be routed before the forward pass"
        if languages.shape[0] != num_rows:
            languages = languages.repeat_interleave(num_rows // languages.shape[0])
        return languages

    def runs(self, side: Side, num_rows: int) -> tuple[Run, ...] | None:
        """Returns the rows in flight by language, where each language's stand together; the same object in a context.

        None where they do not, where they are repeated for beams, and on a GPU, which would have to be waited for.
        """
        languages = self.src if side == "src" else self.tgt
        if languages is None or languages.is_cuda or languages.shape[0] != num_rows:
            return None
        return self.once(("runs", side), lambda: _runs_of(languages.tolist()))


def _runs_of(languages: Sequence[int]) -> tuple[Run, ...] | None:
    """Returns the runs of rows; None where a language has several."""
    found, begin = [], 0
    for language, group in groupby(languages):
        end = begin + len(list(group))
        found.append(Run(language, begin, end))
        begin = end
    return tuple(found) if len({run.language for run in found}) == len(found) else None


class SlotTable:
    """Which of a module's slots each row in flight has, if any.

    Args:
        routing: Where the rows' languages stand.
        side: Which of the two picks a row's slot.
        slots: Those that the module has something for.
        slot_of_language: For each language its slot's name.
        device: Where the rows are.
    """

    def __init__(
        self,
        routing: Routing,
        side: Side,
        slots: Sequence[str],
        slot_of_language: Sequence[str],
        device: torch.device,
    ) -> None:
        self.routing, self.side, self.slots = routing, side, tuple(slots)
        self.slot_of_language = [self.slots.index(slot) if slot in self.slots else None for slot in slot_of_language]
        self._index = torch.tensor([index or 0 for index in self.slot_of_language], device=device)
        self._has = torch.tensor([float(index is not None) for index in self.slot_of_language], device=device)

    def rows(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """Returns the index of each row's slot, (rows,), and 1 where the row has one, else 0."""
        languages = self.routing.rows(self.side, num_rows)
        return self._index[languages], self._has[languages]

    def take(self, values: Tensor, num_rows: int) -> Tensor:
        """Returns each row's own of (slots, n), as (rows, n); zeros for a row that has no slot."""
        index, has = self.rows(num_rows)
        return values[index] * has[:, None]
