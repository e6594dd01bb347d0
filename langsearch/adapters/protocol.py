"""What every kind of adapter answers, so that the trainer, the decoder and the exports need not know which it is.

A kind is one file of this package, listed in `kinds.py`; tests/test_adapter_kinds.py holds all that are listed to the
promises below.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from langsearch.adapters.lora_linear import LanguageLoRALinear
from langsearch.adapters.routing import Routing
from langsearch.data.directions import Direction
from langsearch.space.architecture import Architecture, Side, Site
from langsearch.space.nesting import Drawn


@dataclass(frozen=True)
class PeftAdapter:
    """One LoRA adapter as PEFT stores it; alpha equals the rank everywhere, so that PEFT scales by 1."""

    side: Side
    slot: str

    pairs: Mapping[str, tuple[Tensor, Tensor]]
    """A (rank, in) and B (out, rank), any factor folded into B, by the path of the linear layer in the base."""

    norms: Mapping[str, nn.LayerNorm] = field(default_factory=dict)
    """Layer norms that take the place of the base's, by their paths: PEFT's `modules_to_save`."""

    @property
    def name(self) -> str:
        """The adapter's folder: "src-de"."""
        return adapter_name(self.side, self.slot)


Below = Mapping[str, nn.Module]
"""What other kinds of adapters of the same model have merged already, by path."""

NOTHING_BELOW: Below = MappingProxyType({})


Role = Literal["own", "shared", "src", "tgt"]
"""What a pair is at its site: a language's, that of all, or a language's by one of both sides."""


PairKey = tuple[Role, Site]


@dataclass(frozen=True)
class Pieces:
    """What adapters consist of, as a cut takes them: nothing of their state is in none of these."""

    pairs: Mapping[PairKey, LanguageLoRALinear] = field(default_factory=dict)
    """Pairs, of which a cut has fewer columns."""

    of_slots: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """What a slot has beside its pairs, by a name and the slot: whole in every cut."""

    of_languages: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """What is a language's, whoever shares its slot."""

    common: Mapping[str, Tensor] = field(default_factory=dict)
    """What is nobody's."""


def by_owner(owners: Sequence[str], values: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Returns stacked values, (owners, …) each, by their names and by owner: views of the same memory."""
    return {name: dict(zip(owners, value.detach(), strict=True)) for name, value in values.items()}


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

    def owned(self, side: Side | None = None) -> Mapping[str, Sequence[Tensor]]:
        """Returns views of what belongs to each slot, padding excepted; nothing is copied.

        Args:
            side: Only what a row has by its language of that side. None: all, also what no side picks.
        """

    def num_parameters(self) -> int:
        """Returns the stored parameters; padding does not count."""

    def num_nonzero(self) -> int:
        """Returns those of them that are not pruned away."""

    def begin_epoch(self, epoch: int) -> None:
        """Called once before an epoch's first update, epochs counted from 1."""

    def before_update(self, progress: float) -> None:
        """Called before every update; what is drawn at random here is the same in a resumed run.

        Args:
            progress: How much of the training is done, from 0 to below 1: schedules are functions of it.
        """

    def penalty(self) -> Tensor | None:
        """Returns what the kind adds to the mean loss of a target token, a scalar; called after a forward pass.

        None: nothing, as of all kinds that learn from the translations alone.
        """

    def after_update(self) -> None:
        """Called after every update of the optimizer."""

    def use(self, drawn: Drawn | None) -> None:
        """Has an update of a nested training compute with what was drawn for it alone; None: with all again."""

    def pieces(self) -> Pieces:
        """Returns what they consist of, as views.

        Raises:
            InputError: If what is cut out of them would be another model.
        """

    def merged(self, direction: Direction, below: Below = NOTHING_BELOW) -> Mapping[str, nn.Module]:
        """Returns plain modules that compute the same for one direction, by path; exact but for rounding.

        Args:
            direction: From and to which language.
            below: What stands in the place of the base's own modules already.

        Raises:
            InputError: If no plain module can: what the kind adds depends on more than the direction.
        """

    def to_peft(self, below: Sequence[PeftAdapter] = ()) -> Sequence[PeftAdapter]:
        """Returns the adapters as PEFT's; a direction activates the one of its source and the one of its target.

        Args:
            below: What other kinds of the same model have made of themselves; returned with these in them.

        Raises:
            InputError: If PEFT cannot hold them.
        """


class Unscheduled(Adapters):
    """The answers of a kind that is its parameters alone: none is pruned, and nothing happens between updates."""

    def state(self) -> dict[str, Tensor]:
        """Returns the parameters."""
        return {name: parameter.data for name, parameter in self.parameters().items()}

    def num_nonzero(self) -> int:
        """Returns all of them."""
        return self.num_parameters()

    def begin_epoch(self, epoch: int) -> None:
        """Does nothing."""

    def before_update(self, progress: float) -> None:
        """Does nothing."""

    def penalty(self) -> Tensor | None:
        """Returns nothing."""
        return None

    def after_update(self) -> None:
        """Does nothing."""

    def use(self, drawn: Drawn | None) -> None:
        """Does nothing: all of it is in every cut."""


def zero_pair(d_model: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns a pair that adds zero, for an adapter that has no other: PEFT takes no LoRA without a layer."""
    return {"model.encoder.layers.0.self_attn.q_proj": (torch.zeros(1, d_model), torch.zeros(d_model, 1))}


TOKENS_NAME = "tokens"
"""The folder of the adapter that has the rows of all languages that are new to the base; every direction activates it.
It is one, since PEFT takes the rows of one adapter at a time."""


def adapter_name(side: Side, slot: str) -> str:
    """Returns the folder of a slot's adapter: "src-de"."""
    return f"{side}-{slot}"
