"""What every kind of adapter answers, so that the trainer, the decoder and the exports need not know which it is.

A kind is one file of this package, listed in `kinds.py`; tests/test_adapter_kinds.py holds all that are listed to the
promises below.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from langsearch.adapters.routing import Routing
from langsearch.data.directions import Direction
from langsearch.space.architecture import Architecture, Side


@dataclass(frozen=True)
class PeftAdapter:
    """One LoRA adapter as PEFT stores it; alpha equals the rank everywhere, so that PEFT scales by 1."""

    side: Side
    slot: str

    pairs: Mapping[str, tuple[Tensor, Tensor]]
    """A (rank, in) and B (out, rank), any factor folded into B, by the path of the linear layer in the base."""

    @property
    def name(self) -> str:
        """The adapter's folder: "src-de"."""
        return adapter_name(self.side, self.slot)


class Adapters(Protocol):
    """The adapters of one kind in one base, built but not in it yet: `AdaptedModel` puts them there.

    Building changes nothing of the base. New adapters change nothing of what it computes, to the bit.
    """

    architecture: Architecture
    languages: tuple[str, ...]
    """The order that the rows' language indices refer to."""

    routing: Routing
    """Where the languages of the rows in flight stand; the kind's modules look at it in their forward pass."""

    def modules(self) -> Mapping[str, nn.Module]:
        """Returns what takes the place of the base's modules, by their paths. Called once, to put them there."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns what is trained, by name, in an order that never changes."""

    def state(self) -> dict[str, Tensor]:
        """Returns all that a checkpoint must hold: what is trained, and what is not but changes; nothing is copied."""

    def num_parameters(self) -> int:
        """Returns the stored parameters; padding does not count."""

    def num_nonzero(self) -> int:
        """Returns those of them that are not pruned away."""

    def begin_epoch(self, epoch: int) -> None:
        """Called once before an epoch's first update, epochs counted from 1."""

    def after_update(self) -> None:
        """Called after every update of the optimizer."""

    def merged(self, direction: Direction) -> Mapping[str, nn.Module]:
        """Returns plain modules that compute the same for one direction, by path; exact but for rounding.

        Raises:
            InputError: If no plain module can: what the kind adds depends on more than the direction.
        """

    def to_peft(self) -> Sequence[PeftAdapter]:
        """Returns the adapters as PEFT's; a direction activates the one of its source and the one of its target.

        Raises:
            InputError: If PEFT cannot hold them.
        """


TOKENS_NAME = "tokens"
"""The folder of the adapter that has the rows of all languages that are new to the base; every direction activates it.
It is one, since PEFT takes the rows of one adapter at a time."""


def adapter_name(side: Side, slot: str) -> str:
    """Returns the folder of a slot's adapter: "src-de"."""
    return f"{side}-{slot}"
