"""Whose turn an update is: of all that is trained together, or of one language's adapter alone.

Completely modular fine-tuning (Cao, Oda, Liu, Aizawa and Watanabe, Findings of EACL 2026, 252) trains for each language
one adapter on pairs into a bridge language and one on pairs out of it, each by itself, and joins any two of them
without training. Here what l's source indexes learns on l -> bridge, and what l's target indexes on bridge -> l. The
bridge has no adapters, so that in either pair's forward and backward pass all others are off.

All stand in one model. An update is one adapter's: it has a batch of its own pairs, its own draw of dropout, its own
count of updates for the learning rate and its own moments. So what it learns depends on no other language, to the bit
where the ranks at a site are alike; products of a rank that is padded to another's may round differently.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, get_args

import torch
from torch import Tensor, nn

from langsearch.adapters.learners import Learner
from langsearch.adapters.protocol import adapter_name
from langsearch.data.batches import Batch
from langsearch.data.directions import Direction
from langsearch.space.architecture import Side
from langsearch.space.problems import InputError
from langsearch.space.settings import TrainerSettings


class Turns(Protocol):
    """Which parameters an update moves."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns what an optimizer moves, by name, in an order that never changes."""

    def learning(self, directions: Sequence[Direction]) -> Sequence[Direction]:
        """Returns the directions that something learns from."""

    def begin(self, batch: Batch) -> None:
        """Called before an update with its first batch, still on the CPU."""

    def end(self, updates: int) -> int:
        """Called behind its backward pass.

        Args:
            updates: Which one it is of all, counted from 1.

        Returns:
            Which one it is of those that move the same.
        """

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint's plain values must have."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` gave."""


class AllLearn:
    """Every update moves all parameters."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns the learner's own."""
        return self._learner.parameters()

    def learning(self, directions: Sequence[Direction]) -> Sequence[Direction]:
        """Returns all."""
        return directions

    def begin(self, batch: Batch) -> None:
        """Does nothing."""

    def end(self, updates: int) -> int:
        """Returns what it is given."""
        return updates

    def state(self) -> dict[str, Any]:
        """Returns nothing."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Does nothing."""


class EachAlone:
    """Every update moves one adapter: what a language owns by one side.

    Args:
        learner: The model, on its device.
        bridge: The language that all pairs have on one side.
        languages: What the batches' languages refer to.
        seed: Of dropout.

    Raises:
        InputError: If languages share what is trained, the bridge has adapters, or no side picks some of them.
    """

    def __init__(self, learner: Learner, bridge: str, languages: Sequence[str], seed: int) -> None:
        _check(learner, bridge)
        self._bridge, self._languages, self._seed = bridge, tuple(languages), seed
        self._whole = learner.parameters()
        by_memory = {value.untyped_storage().data_ptr(): name for name, value in self._whole.items()}
        self._own: dict[str, dict[str, nn.Parameter]] = {}
        for side in get_args(Side):
            for slot, views in sorted(learner.owned(side).items()):
                names = [by_memory[view.untyped_storage().data_ptr()] for view in views]
                # A parameter over the same memory: its optimizer moves a part of the whole one.
                own = {f"{name}[{slot}]": nn.Parameter(view) for name, view in zip(names, views, strict=True)}
                self._own[adapter_name(side, slot)] = own
        self._numbers = dict.fromkeys(self._own, 0)
        self._turn = ""

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns each adapter's part of the learner's parameters, "encoder.0.fc1.A[sw]"."""
        return {name: value for own in self._own.values() for name, value in own.items()}

    def learning(self, directions: Sequence[Direction]) -> Sequence[Direction]:
        """Returns those in which there is an adapter: an architecture may have none for sources, or for a language."""
        return [one for one in directions if self._own.get(self._adapter(one.src, one.tgt))]

    def begin(self, batch: Batch) -> None:
        """Finds whose turn it is, and draws its dropout by its own count of updates."""
        src, tgt = (self._languages[int(index[0])] for index in (batch.src_lang, batch.tgt_lang))
        self._turn = self._adapter(src, tgt)
        text = f"{self._seed}/{self._turn}/{self._numbers[self._turn]}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]))

    def end(self, updates: int) -> int:
        """Gives the gradients to the adapter whose turn it is; returns its own count of updates."""
        for name, value in self._own[self._turn].items():
            whole = self._whole[name.rpartition("[")[0]]
            value.grad = None if whole.grad is None else _part(whole.grad, value, whole)
        for whole in self._whole.values():
            whole.grad = None
        self._numbers[self._turn] += 1
        return self._numbers[self._turn]

    def state(self) -> dict[str, Any]:
        """Returns each adapter's count of updates."""
        return {"adapter_updates": dict(self._numbers)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes back the counts."""
        self._numbers |= state["adapter_updates"]

    def _adapter(self, src: str, tgt: str) -> str:
        return adapter_name("src", src) if tgt == self._bridge else adapter_name("tgt", tgt)


def turns_of(settings: TrainerSettings, learner: Learner, languages: Sequence[str]) -> Turns:
    """Returns whose turns the updates of a training are. Raises InputError where the learner does not allow it."""
    if settings.modular_bridge is None:
        return AllLearn(learner)
    return EachAlone(learner, settings.modular_bridge, languages, settings.seed)


def _part(grad: Tensor, value: Tensor, whole: Tensor) -> Tensor:
    """Returns what of a gradient is of a part of its parameter."""
    grad = grad.contiguous()
    place = value.storage_offset() - whole.storage_offset() + grad.storage_offset()
    return grad.as_strided(value.shape, value.stride(), place)


def _check(learner: Learner, bridge: str) -> None:
    problems, rule = [], "Modular fine-tuning trains each language's adapters alone, by source or by target"
    slots, owned = learner.slots, {slot: views for slot, views in learner.owned().items() if views}
    if shared := sorted(slot for slot in owned if sum(other == slot for other in slots.values()) != 1):
        problems.append(f"{rule}, but {', '.join(shared)} is shared. Share by language.")
    if slots.get(bridge) in owned:
        problems.append(f"{rule}, without any of the bridge's, but {bridge} has some. Give it rank 0.")
    by_side = sum(view.numel() for side in get_args(Side) for views in learner.owned(side).values() for view in views)
    if not shared and by_side != sum(view.numel() for views in owned.values() for view in views):
        problems.append(f"{rule}, but there is something of both, as tokens of new languages are. Leave it out.")
    if problems:
        raise InputError(problems)
