"""Nested pairs: one wide training whose parts can be cut out of it, each as if it had been trained by itself.

In each update every slot computes with the first b columns of its pairs only, b drawn anew: DyLoRA (Valipour et al.
2023, arXiv 2210.07558, section 3.1), where b is one for the whole model. Here each slot draws its own, since a cut may
give each its own rank. Layers and modules that a cut may leave out are left out of whole updates at random, as depth is
dropped in LayerDrop (Fan et al. 2020, arXiv 1909.11556). Between updates all of it is there.
"""

from collections.abc import Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor

from langsearch.adapters.learners import AdaptedModel
from langsearch.adapters.lora import LanguageLoRA
from langsearch.adapters.lora_linear import LanguageLoRALinear, lora_linear
from langsearch.adapters.routing import Routing
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture
from langsearch.space.nesting import Nesting


class NestedLoRALinear(LanguageLoRALinear):
    """A frozen linear layer with pairs, of each of which the first so many columns are computed with."""

    is_used: Tensor

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.register_buffer("is_used", torch.ones(*self.A.shape[:2], 1, device=self.A.device), persistent=False)

    def use(self, ranks: Sequence[int]) -> None:
        """Has the layer compute with the first so many columns of each slot's pair, in the order of the slots."""
        self.used_ranks = list(ranks)
        columns = torch.arange(self.A.shape[1])
        limits = torch.tensor([*ranks, *[0] * (self.A.shape[0] - len(ranks))])
        self.is_used.copy_((columns < limits[:, None])[..., None])

    def forward(self, x: Tensor) -> Tensor:
        """Returns W x + b + s B A x of (rows, len, in), with that part of each row's own A and B."""
        runs = self.routing.runs(self.side, x.shape[0])
        if runs is not None and self.joint.suits(x, runs):
            return self.joint.output(self, x, runs)
        # Where A is zero, so is what B's columns would be multiplied with, and their gradient.
        a = self.A * self.is_used
        return lora_linear(x, self.base.weight, self.base.bias, a, self.B, self.row_slots(x.shape[0]), self.scale)


class NestedLoRA(LanguageLoRA):
    """The pairs of an architecture, of which each update trains a part; between updates they are `LanguageLoRA`.

    Args:
        base: The base; its layers are read, and stay where they are.
        architecture: Which adapters it gets.
        languages: The order that the rows' language indices refer to.
        seed: Seed of the adapters' start and of what is drawn.
        nesting: What is drawn.
        routing: To share the rows' languages with other adapters. None: their own.
    """

    layer_class = NestedLoRALinear

    def __init__(
        self,
        base: Base,
        architecture: Architecture,
        languages: Sequence[str],
        seed: int = 0,
        *,
        nesting: Nesting,
        routing: Routing | None = None,
    ) -> None:
        super().__init__(base, architecture, languages, seed, routing=routing)
        self._nesting, self._seed = nesting, seed

    def before_update(self, progress: float) -> None:
        """Draws what the update trains; an update draws the same in a resumed run."""
        drawn = self._nesting.draw(Random(f"{self._seed}/{progress!r}"))
        for site, layer in self.layers.items():
            assert isinstance(layer, NestedLoRALinear)
            is_there = drawn.has(site)
            layer.use(
                [
                    min(rank, drawn.ranks.get(slot, rank)) if is_there else 0
                    for slot, rank in zip(layer.slots, layer.ranks, strict=True)
                ]
            )

    def after_update(self) -> None:
        """Brings all of the pairs back."""
        super().after_update()
        for layer in self.layers.values():
            assert isinstance(layer, NestedLoRALinear)
            layer.use(layer.ranks)


def nested_model(
    base: Base, architecture: Architecture, languages: Sequence[str], seed: int, nesting: Nesting
) -> AdaptedModel:
    """Returns the base with nested pairs in it; arguments as in `NestedLoRA`."""
    return AdaptedModel(base, NestedLoRA(base, architecture, languages, seed, nesting=nesting))
