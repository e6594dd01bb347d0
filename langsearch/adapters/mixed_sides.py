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
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from langsearch.adapters.lora import LanguageLoRA, merged_linear
from langsearch.adapters.lora_linear import LanguageLoRALinear, lora_linear
from langsearch.adapters.mounting import module_path
from langsearch.adapters.protocol import NOTHING_BELOW, Below, PeftAdapter, Unscheduled
from langsearch.adapters.routing import Routing
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

    def weights(self) -> SideWeights:
        """Returns the softmax of the scalars as they are now."""
        src, tgt = torch.softmax(self.factor * self.scalars.detach().double(), dim=0).tolist()
        return SideWeights(src, tgt)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the mixture for x (rows, len, in), as (rows, len, out)."""
        a, b = self._pairs(x.shape[0])
        base, rows = self.base, torch.arange(x.shape[0], device=x.device)
        return lora_linear(x, base.weight, base.bias, a, b, rows, None)

    @property
    def base(self) -> nn.Linear:
        """The frozen layer."""
        return self.by_source.base

    @property
    def sides(self) -> frozenset[Side]:
        """Whose languages pick a row's pair."""
        return frozenset({"src", "tgt"})

    def row_pairs(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """Returns each row's mixed A and its B transposed, (rows, rank, in) and (rows, rank, out)."""
        a, b = self._pairs(num_rows)
        return a, b.transpose(1, 2)

    def _pairs(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """Returns each row's A (rows, rank, in) and B (rows, out, rank); two products of rank r are one of 2 r."""
        weights = torch.softmax(self.factor * self.scalars, dim=0)
        a_rows, b_rows = [], []
        for layer, weight in zip((self.by_source, self.by_target), weights, strict=True):
            slots = layer.row_slots(num_rows)
            a = layer.A if layer.scale is None else layer.A * layer.scale
            a_rows.append(weight * a[slots])
            b_rows.append(layer.B[slots])
        return torch.cat(a_rows, dim=1), torch.cat(b_rows, dim=2)


class MixedSides(Unscheduled):
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
        self.architecture = architecture
        self.languages = tuple(languages)
        self.by = by
        self.routing = Routing()
        self._sides: dict[Side, LanguageLoRA] = {
            side: LanguageLoRA(base, _with_side(architecture, side), languages, 2 * seed + number, routing=self.routing)
            for number, side in enumerate(get_args(Side))
        }
        self._scalars: dict[str, nn.Parameter] = {}
        self.layers: dict[Site, MixedLoRALinear] = {}
        for site, by_source in self._sides["src"].layers.items():
            scalars = self._scalars.setdefault(self.group(site), nn.Parameter(torch.zeros(2, device=base.model.device)))
            self.layers[site] = MixedLoRALinear(by_source, self._sides["tgt"].layers[site], scalars, scalar_lr_factor)

    def group(self, site: Site) -> str:
        """Returns the name of what shares a site's weights: "encoder.0", or "encoder.0.fc1" by module."""
        return str(site) if self.by == "module" else f"{site.stack}.{site.layer}"

    def weights(self) -> dict[str, SideWeights]:
        """Returns the weights of every group, in the order of the forward pass."""
        return {self.group(site): layer.weights() for site, layer in self.layers.items()}

    def modules(self) -> dict[str, nn.Module]:
        """Returns the mixed layer of every site."""
        return {module_path(site): layer for site, layer in self.layers.items()}

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns A and B of both sides, then the scalars of every group."""
        named = {
            f"{side}/{name}": value
            for side, adapters in self._sides.items()
            for name, value in adapters.parameters().items()
        }
        return named | {f"scalars/{name}": value for name, value in self._scalars.items()}

    def owned(self, side: Side | None = None) -> dict[str, list[Tensor]]:
        """Returns each slot's A and B of every site, by either side or by one."""
        found: dict[str, list[Tensor]] = {}
        for adapters in self._sides.values():
            for slot, views in adapters.owned(side).items():
                found.setdefault(slot, []).extend(views)
        return found

    def num_parameters(self) -> int:
        """Returns the parameters of both sides and two scalars a group."""
        return sum(adapters.num_parameters() for adapters in self._sides.values()) + 2 * len(self._scalars)

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


def _with_side(architecture: Architecture, side: Side) -> Architecture:
    adapters = tuple(replace(entry, side=side) for entry in architecture.adapters)
    return replace(architecture, adapters=adapters, pruning=None)
