"""Weight learning: which side should index a layer, learned by mixing adapters of both.

Every site carries two adapters, one picked by the source language and one by the target language. What they add is
mixed by the softmax of two learned scalars, which the modules of a layer share (or each module has its own):

    y = W x + b + w_src B_s A_s x + w_tgt B_t A_t x,    (w_src, w_tgt) = softmax(z_src, z_tgt)

Learning Language-Specific Layers (Pires et al. 2023, arXiv 2305.02665), section 3, learns the place of whole layers
so; here it is the side of low-rank adapters (METHOD section 3). After a short run the larger weight is kept.

Training must be long enough: what both sides can do, such as no longer to copy, is learned first, by whichever starts
better for it, so that the wrong side's weight can grow for some dozens of updates before the right one's does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from langsearch.adapters.both_sides import BothSides, BothSidesLinear
from langsearch.adapters.lora import merged_linear
from langsearch.adapters.lora_linear import LanguageLoRALinear
from langsearch.adapters.mounting import module_path
from langsearch.adapters.protocol import NOTHING_BELOW, Below, PeftAdapter, Pieces
from langsearch.data.directions import Direction
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Side, Site
from langsearch.space.prior_settings import SURE_MARGIN

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

    @property
    def margin(self) -> float:
        """By how much the larger share is larger, from 0 to 1."""
        return abs(self.src - self.tgt)

    @property
    def is_sure(self) -> bool:
        """Whether that is more than chance often makes of sides that are equally good."""
        return self.margin >= SURE_MARGIN


class MixedLoRALinear(BothSidesLinear):
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
        super().__init__(by_source, by_target)
        self.scalars, self.factor = scalars, factor

    def weights(self) -> SideWeights:
        """Returns the softmax of the scalars as they are now."""
        src, tgt = torch.softmax(self.factor * self.scalars.detach().double(), dim=0).tolist()
        return SideWeights(src, tgt)

    def _counts(self, slots: Sequence[Tensor]) -> Sequence[Tensor]:
        """Returns the softmax of the scalars, with gradients, each ()."""
        return torch.softmax(self.factor * self.scalars, dim=0).unbind()


class MixedSides(BothSides):
    """Adapters of both sides at every site; one of the kinds of `Adapters`.

    Args:
        base: The base; its layers are read, and stay where they are.
        architecture: Sites and ranks of either side's adapters; its own sides are not read, and nothing is pruned.
        languages: The order that the rows' language indices refer to.
        seed: Seed of the adapters' start, which differs between the sides.
        by: layer: the modules of a layer share their weights. module: every site has its own.
        scalar_lr_factor: How many times as fast as the adapters the scalars learn. An optimizer that divides by the
            gradient's size, as Adam does, moves every parameter by about its learning rate; the softmax is taken of
            this factor times the parameter, so its arguments move by the factor times the learning rate.
    """

    def __init__(
        self,
        base: Base,
        architecture: Architecture,
        languages: Sequence[str],
        seed: int = 0,
        *,
        by: Grain = "layer",
        scalar_lr_factor: float = 1.0,
    ) -> None:
        super().__init__(base, architecture, languages, seed, None)
        self.by = by
        self._scalars: dict[str, nn.Parameter] = {}
        self.layers: dict[Site, MixedLoRALinear] = {}
        for site, pairs in self._of_sites().items():
            scalars = self._scalars.setdefault(self.group(site), nn.Parameter(torch.zeros(2, device=base.model.device)))
            self.layers[site] = MixedLoRALinear(*pairs, scalars, scalar_lr_factor)

    def group(self, site: Site) -> str:
        """Returns the name of what shares a site's weights: "encoder.0", or "encoder.0.fc1" by module."""
        return str(site) if self.by == "module" else f"{site.stack}.{site.layer}"

    def weights(self) -> dict[str, SideWeights]:
        """Returns the weights of every group, in the order of the forward pass."""
        return {self.group(site): layer.weights() for site, layer in self.layers.items()}

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns A and B of both sides, then the scalars of every group."""
        return super().parameters() | {f"scalars/{name}": value for name, value in self._scalars.items()}

    def num_parameters(self) -> int:
        """Returns the parameters of both sides and two scalars a group."""
        return super().num_parameters() + 2 * len(self._scalars)

    def pieces(self) -> Pieces:
        """Returns the pairs of both sides, and the scalars, each of which all sites of a group have."""
        return replace(super().pieces(), common={name: value.data for name, value in self._scalars.items()})

    @torch.no_grad()
    def merged(self, direction: Direction, below: Below = NOTHING_BELOW) -> dict[str, nn.Module]:
        """Returns linear layers with W + w_src s B_s A_s + w_tgt s B_t A_t in place of W, computed in float64."""
        slots = dict(self.architecture.slots)
        found: dict[str, nn.Module] = {}
        for entry in self.architecture.adapters:
            layer, products = self.layers[entry.site], []
            weights = layer.weights()
            for adapter, weight, language in (
                (layer.by_source, weights.src, direction.src),
                (layer.by_target, weights.tgt, direction.tgt),
            ):
                if slots[language] in adapter.slots:
                    a, b = adapter.pair(slots[language])
                    products.append(b.double() @ a.double() * self.architecture.scale(a.shape[0]) * weight)
            found[module_path(entry.site)] = merged_linear(layer.by_source.base, products)
        return found

    def to_peft(self, below: Sequence[PeftAdapter] = ()) -> list[PeftAdapter]:
        """Returns an adapter for each slot and side; a side's weight is folded into B."""
        weights = {module_path(site): layer.weights() for site, layer in self.layers.items()}
        return [
            replace(
                adapter, pairs={path: (a, b * getattr(weights[path], side)) for path, (a, b) in adapter.pairs.items()}
            )
            for side, adapters in self._sides.items()
            for adapter in adapters.to_peft()
        ]
