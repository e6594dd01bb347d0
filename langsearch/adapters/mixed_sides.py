"""Weight learning: which side should index a layer, learned by mixing adapters of both.

Every site carries two adapters, one picked by the source language and one by the target language. What they add is
mixed by the softmax of two learned scalars, which the modules of a layer share (or each module has its own):

    y = W x + b + w_src B_s A_s x + w_tgt B_t A_t x,    (w_src, w_tgt) = softmax(z_src, z_tgt)

Learning Language-Specific Layers (Pires et al. 2023, arXiv 2305.02665), section 3, learns the place of whole layers
so; here it is the side of low-rank adapters (METHOD section 3). After a short run the larger weight is kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from langsearch.adapters.learners import AdaptedModel, module_path
from langsearch.adapters.lora import LanguageLoRALinear, lora_linear
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Side, Site

Grain = Literal["layer", "module"]


@dataclass(frozen=True)
class SideWeights:
    """The learned shares of the two adapters; they sum to 1."""

    src: float
    tgt: float

    @property
    def side(self) -> Side:
        """The side with the larger share; the target's where both are equal."""
        return "src" if self.src > self.tgt else "tgt"


class MixedLoRALinear(nn.Module):
    """A frozen linear layer plus a source- and a target-indexed pair, mixed by a softmax of two scalars.

    Args:
        by_source: The source-indexed adapter of the layer.
        by_target: The target-indexed one, over the same frozen layer.
        scalars: (2,), source first. The softmax is taken of `factor` times these.
        factor: How many times as fast as the adapters the scalars learn; see `MixedSides`.
    """

    def __init__(
        self, by_source: LanguageLoRALinear, by_target: LanguageLoRALinear, scalars: nn.Parameter, factor: float
    ) -> None:
        super().__init__()
        self.by_source, self.by_target = by_source, by_target
        self.scalars, self.factor = scalars, factor

    def forward(self, x: Tensor) -> Tensor:
        """Returns the mixture for x (rows, len, in), as (rows, len, out)."""
        weights = torch.softmax(self.factor * self.scalars, dim=0)
        a_rows, b_rows = [], []
        for layer, weight in zip((self.by_source, self.by_target), weights, strict=True):
            slots = layer.row_slots(x.shape[0])
            a = layer.A if layer.scale is None else layer.A * layer.scale
            a_rows.append(weight * a[slots])
            b_rows.append(layer.B[slots])
        # Two products of rank r are one of rank 2 r; every row now has a pair of its own.
        base, rows = self.by_source.base, torch.arange(x.shape[0], device=x.device)
        return lora_linear(x, base.weight, base.bias, torch.cat(a_rows, dim=1), torch.cat(b_rows, dim=2), rows, None)


class MixedSides:
    """A frozen base whose adapters have both sides at every site; a `Learner`.

    Args:
        base: The base; must carry no adapters. `remove` leaves it as it was.
        architecture: Sites and ranks of either side's adapters; its own sides are not read, and nothing is pruned.
        languages: The order that the rows' language indices refer to.
        by: layer: the modules of a layer share their weights. module: every site has its own.
        seed: Seed of the adapters' start.
        scalar_lr_factor: How many times as fast as the adapters the scalars learn. An optimizer that divides by the
            gradient's size, as Adam does, moves every parameter by about its learning rate; the softmax is taken of
            this factor times the parameter, so its arguments move by the factor times the learning rate.
    """

    def __init__(
        self,
        base: Base,
        architecture: Architecture,
        languages: Sequence[str],
        *,
        by: Grain = "layer",
        seed: int = 0,
        scalar_lr_factor: float = 1.0,
    ) -> None:
        self.model = base.model
        self.by = by
        # Each is built into the base and taken out again: what stays are its layers, to be mixed.
        self._sides: dict[Side, AdaptedModel] = {}
        for side in ("src", "tgt"):
            self._sides[side] = AdaptedModel(base, _with_side(architecture, side), languages, seed)
            self._sides[side].remove()
        device = base.model.device
        self._scalars: dict[str, nn.Parameter] = {}
        self.layers: dict[Site, MixedLoRALinear] = {}
        for site, by_source in self._sides["src"].layers.items():
            scalars = self._scalars.setdefault(self.group(site), nn.Parameter(torch.zeros(2, device=device)))
            layer = MixedLoRALinear(by_source, self._sides["tgt"].layers[site], scalars, scalar_lr_factor)
            self.layers[site] = layer
            self._place(site, layer)

    def group(self, site: Site) -> str:
        """Returns the name of what shares a site's weights: "encoder.0", or "encoder.0.fc1" by module."""
        return str(site) if self.by == "module" else f"{site.stack}.{site.layer}"

    def weights(self) -> dict[str, SideWeights]:
        """Returns the weights of every group, in the order of the forward pass."""
        found = {}
        for site, layer in self.layers.items():
            src, tgt = torch.softmax(layer.factor * layer.scalars.detach().double(), dim=0).tolist()
            found[self.group(site)] = SideWeights(src, tgt)
        return found

    def remove(self) -> None:
        """Takes the adapters out of the base."""
        for site, layer in self.layers.items():
            self._place(site, layer.by_source.base)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns A and B of both sides, then the scalars of every group."""
        named = {
            f"{side}/{name}": value
            for side, adapted in self._sides.items()
            for name, value in adapted.parameters().items()
        }
        return named | {f"scalars/{name}": value for name, value in self._scalars.items()}

    def state(self) -> dict[str, Tensor]:
        """Returns the trained parameters."""
        return {name: value.data for name, value in self.parameters().items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave."""
        for side, adapted in self._sides.items():
            prefix = f"{side}/"
            adapted.load_state({name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)})
        for name, value in self._scalars.items():
            value.copy_(state[f"scalars/{name}"])

    @contextmanager
    def route(self, src_lang: Tensor, tgt_lang: Tensor) -> Iterator[None]:
        """Routes the rows of a batch: language indices, (rows,)."""
        with self._sides["src"].route(src_lang, tgt_lang), self._sides["tgt"].route(src_lang, tgt_lang):
            yield

    def begin_epoch(self, epoch: int) -> None:
        """Does nothing: nothing is pruned."""

    def after_update(self) -> None:
        """Does nothing: nothing is pruned."""

    def num_nonzero(self) -> int:
        """Returns the number of trained parameters; padding does not count."""
        return sum(adapted.num_nonzero() for adapted in self._sides.values()) + 2 * len(self._scalars)

    def _place(self, site: Site, layer: nn.Module) -> None:
        parent, _, name = module_path(site).rpartition(".")
        setattr(self.model.get_submodule(parent), name, layer)


def _with_side(architecture: Architecture, side: Side) -> Architecture:
    adapters = tuple(replace(entry, side=side) for entry in architecture.adapters)
    return replace(architecture, adapters=adapters, pruning=None)
