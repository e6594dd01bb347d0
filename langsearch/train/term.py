"""What a loss term is: the trainer adds up those it is given, and computes nothing that none of them needs.

A term is one file of this package. Its schedule, if it has one, must be a function of how far training is, never of a
counter in memory, which a resumed run would not have.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from langsearch.data.batches import Batch
from langsearch.data.directions import Direction

Need = Literal["encoder", "decoder", "by_source", "sentences", "pivots"]
"""encoder, decoder: that stack's output. by_source: what the encoder says before it looks at the target. sentences:
which sentence each row of the batch is, `Batch.sentences`. pivots: that in the pivot language, `Batch.pivot_ids`."""


@dataclass(frozen=True)
class States:
    """What the forward pass gave; what no term needs is None."""

    encoder: Tensor | None
    """(rows, src_len, d), after the last layer's norm; padding is where `Batch.src_mask` is 0."""

    decoder: Tensor | None
    """(tokens, d): the states of the labels that count, row by row, in the trainer's precision."""

    labels: Tensor | None
    """(tokens,) int64, of the decoder's states."""

    by_source: Tensor | None = None
    """(rows, src_len, d), behind the encoder's last layer below the first one that looks at the target, which is the
    norm at the end where none does; padding is where `Batch.src_mask` is 0."""


class Term(Protocol):
    """One part of the loss."""

    @property
    def needs(self) -> frozenset[Need]:
        """What must be there when `loss` is called; asked once."""

    def loss(self, model: Any, states: States, batch: Batch) -> Tensor:
        """Returns the term for a batch, a scalar; called for every microbatch, with the rows' languages not routed.

        The trainer divides the sum of all terms by the target tokens of the update. So a term is a sum over target
        tokens; one that is a mean is multiplied by `batch.num_tgt_tokens`, else its weight would depend on the size
        of a batch. Padding never counts.

        Args:
            model: The model that is trained, for its `lm_head` and the like.
            states: What `needs` asked for.
            batch: On the model's device.
        """

    def before_epoch(
        self, directions: Sequence[Direction], microbatches: Sequence[NDArray[np.int32]]
    ) -> Iterator[None]:
        """Called before the first update of an epoch, also of a resumed one; gone through before that update.

        What takes long yields again and again: training may be stopped there.

        Args:
            directions: What the microbatches refer to.
            microbatches: As `EpochPlan.microbatches`.
        """

    def attached(self, batch: Batch) -> Batch:
        """Returns a batch of the epoch with what the term needs beside; called on the CPU, it may be in a thread.

        Args:
            batch: As it will come to `loss`, but on the CPU; its rows stay as they are.
        """

    def before_update(self, epoch: int, progress: float) -> None:
        """Called before every update, also the first one of a resumed run.

        Args:
            epoch: Counted from 1.
            progress: How much of the training is done, from 0 to below 1: schedules are functions of it.
        """

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns what the term trains for itself, by names that no other term has; it is of no use afterwards."""

    def state(self) -> dict[str, Tensor]:
        """Returns all that a checkpoint must hold of the term, by names that no other term has; nothing is copied."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave, of this term and of others."""

    def judged(self, epoch: int, score: float, *, is_comparable: bool) -> None:
        """Called where the model was scored at the end of an epoch, before anything of it changes.

        Args:
            epoch: Counted from 1.
            score: The higher the better.
            is_comparable: Whether earlier scores are of the same sentences.
        """


class Plain:
    """The answers of a term that has no schedule and keeps nothing."""

    def before_epoch(
        self, directions: Sequence[Direction], microbatches: Sequence[NDArray[np.int32]]
    ) -> Iterator[None]:
        """Does nothing."""
        return iter(())

    def attached(self, batch: Batch) -> Batch:
        """Returns the batch."""
        return batch

    def before_update(self, epoch: int, progress: float) -> None:
        """Does nothing."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns nothing."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Returns nothing."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Does nothing."""

    def judged(self, epoch: int, score: float, *, is_comparable: bool) -> None:
        """Does nothing."""
