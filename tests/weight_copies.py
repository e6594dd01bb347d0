"""What a training step copies of a base's weights: a resident base is neither cast nor kept a second time."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from langsearch.adapters.learners import Learner
from langsearch.data.batches import Batch
from langsearch.train.cross_entropy import CrossEntropy
from langsearch.train.forward import run_forward


class _Casts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which of the watched tensors are copied into another type."""

    def __init__(self, watched: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watched = watched
        self.found: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].untyped_storage().data_ptr() in self._watched:
            self.found.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


@dataclass
class WeightCopies:
    """Shapes of weights of the base."""

    cast: list[tuple[int, ...]] = field(default_factory=list)
    """Copied into another type, in the forward or the backward pass."""

    kept: list[tuple[int, ...]] = field(default_factory=list)
    """Of the size of a weight and kept for the backward pass, but not a weight itself."""


def copies_in_a_step(learner: Learner, batch: Batch, precision: torch.dtype) -> WeightCopies:
    """Makes a forward and a backward pass, which leaves gradients, and returns what it copied of frozen weights.

    Args:
        learner: The model, in training mode.
        batch: On its device.
        precision: As `run_forward` has it.
    """
    trained = {id(parameter) for parameter in learner.parameters().values()}
    weights = [value for value in learner.model.parameters() if id(value) not in trained]
    storages = {value.untyped_storage().data_ptr() for value in weights}
    sizes = {value.numel() for value in weights if value.dim() == 2}
    copies = WeightCopies()

    def note(saved: Tensor) -> Tensor:
        if saved.untyped_storage().data_ptr() not in storages and saved.numel() in sizes and saved.dim() == 2:
            copies.kept.append(tuple(saved.shape))
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved), _Casts(storages) as casts:
        states = run_forward(learner, batch, frozenset({"decoder"}), precision)
        torch.autograd.backward(CrossEntropy(0.1).loss(learner.model, states, batch))
    copies.cast = casts.found
    return copies
