"""A pair by the source and one by the target at every site: one matrix gets the sum of both.

    y = W x + b + r_src s B_s A_s x + r_tgt s B_t A_t x

where both languages have a pair; where one alone has, it counts in full. The ratio (r_src, r_tgt) is 1, or what a trial
finds after modular training, by evaluation alone: what both pairs have learned of the domain and the style would count
twice in the sum (Cao et al., Findings of EACL 2026). Of ranks r_s and r_t the sum is one pair of rank r_s + r_t.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor, nn

from langsearch.adapters.lora import LanguageLoRA, merged_linear
from langsearch.adapters.lora_linear import LanguageLoRALinear, lora_linear
from langsearch.adapters.mounting import module_path
from langsearch.adapters.peft_limits import why_no_peft
from langsearch.adapters.protocol import NOTHING_BELOW, Below, PeftAdapter, Unscheduled
from langsearch.adapters.routing import Routing
from langsearch.data.directions import Direction
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Side, Site
from langsearch.space.problems import InputError

RATIO = "merge_ratio"
"""The ratio's name in a checkpoint."""


class TwoSidedLoRALinear(nn.Module):
    """A frozen linear layer plus a source- and a target-indexed pair.

    Args:
        by_source: The source-indexed adapter of the layer.
        by_target: The target-indexed one, over the same frozen layer.
        ratio: (2,), source first: what a pair counts where both are; all layers of a model have the same tensor.
    """

    def __init__(self, by_source: LanguageLoRALinear, by_target: LanguageLoRALinear, ratio: Tensor) -> None:
        super().__init__()
        self.by_source, self.by_target, self.ratio = by_source, by_target, ratio

    @property
    def base(self) -> nn.Linear:
        """The frozen layer."""
        return self.by_source.base

    @property
    def sides(self) -> frozenset[Side]:
        """Whose languages pick a row's pair."""
        return frozenset({"src", "tgt"})

    def forward(self, x: Tensor) -> Tensor:
        """Returns the sum for x (rows, len, in), as (rows, len, out)."""
        a, b = self._pairs(x.shape[0])
        rows = torch.arange(x.shape[0], device=x.device)
        return lora_linear(x, self.base.weight, self.base.bias, a, b, rows, None)

    def row_pairs(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """Returns each row's A and its B transposed, (rows, both ranks, in) and (rows, both ranks, out)."""
        a, b = self._pairs(num_rows)
        return a, b.transpose(1, 2)

    def _pairs(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """Returns each row's A (rows, both ranks, in) and B (rows, out, both ranks)."""
        layers = (self.by_source, self.by_target)
        slots = [layer.row_slots(num_rows) for layer in layers]
        both = torch.stack([of < len(layer.ranks) for of, layer in zip(slots, layers, strict=True)]).all(0)
        a_rows, b_rows = [], []
        for layer, of, ratio in zip(layers, slots, self.ratio, strict=True):
            a = layer.A if layer.scale is None else layer.A * layer.scale
            a_rows.append(a[of] * torch.where(both, ratio, 1.0)[:, None, None])
            b_rows.append(layer.B[of])
        return torch.cat(a_rows, dim=1), torch.cat(b_rows, dim=2)


class TwoSided(Unscheduled):
    """Pairs of both sides at every site; one of the kinds of `Adapters`.

    Args:
        base: The base; its layers are read, and stay where they are.
        architecture: Sites and ranks of either side's pairs; its own sides are not read.
        languages: The order that the rows' language indices refer to.
        seed: Seed of the adapters' start, which differs between the sides.
        routing: To share the rows' languages with other adapters. None: their own.
    """

    def __init__(
        self,
        base: Base,
        architecture: Architecture,
        languages: Sequence[str],
        seed: int = 0,
        *,
        routing: Routing | None = None,
    ) -> None:
        self.architecture = architecture
        self.languages = tuple(languages)
        self.routing = routing or Routing()
        self._sides: dict[Side, LanguageLoRA] = {
            side: LanguageLoRA(base, _of_side(architecture, side), languages, 2 * seed + number, routing=self.routing)
            for number, side in enumerate(get_args(Side))
        }
        self.ratio = torch.ones(2, device=base.model.lm_head.weight.device)
        """(2,): what a pair counts where both are, source first; changed in place."""
        self.layers: dict[Site, TwoSidedLoRALinear] = {
            site: TwoSidedLoRALinear(layer, self._sides["tgt"].layers[site], self.ratio)
            for site, layer in self._sides["src"].layers.items()
        }

    def modules(self) -> dict[str, nn.Module]:
        """Returns the layer with both pairs of every site."""
        return {module_path(site): layer for site, layer in self.layers.items()}

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns A and B of every site by either side, "src/encoder.0.fc1.A"."""
        return {
            f"{side}/{name}": value
            for side, adapters in self._sides.items()
            for name, value in adapters.parameters().items()
        }

    def state(self) -> dict[str, Tensor]:
        """Returns the parameters and the ratio, which is not trained."""
        return super().state() | {RATIO: self.ratio}

    def owned(self, side: Side | None = None) -> dict[str, list[Tensor]]:
        """Returns each slot's A and B of every site, by either side or by one."""
        found: dict[str, list[Tensor]] = {}
        for own, adapters in self._sides.items():
            for slot, views in adapters.owned().items() if side in (None, own) else ():
                found.setdefault(slot, []).extend(views)
        return found

    def num_parameters(self) -> int:
        """Returns the parameters of both sides."""
        return sum(adapters.num_parameters() for adapters in self._sides.values())

    @torch.no_grad()
    def merged(self, direction: Direction, below: Below = NOTHING_BELOW) -> dict[str, nn.Module]:
        """Returns linear layers with both products added to W by the ratio, computed in float64."""
        slots = dict(self.architecture.slots)
        found: dict[str, nn.Module] = {}
        for entry in self.architecture.adapters:
            layer, ranks = self.layers[entry.site], dict(entry.ranks)
            pairs = [
                (own, float(ratio), slots[language])
                for own, ratio, language in zip(
                    (layer.by_source, layer.by_target), self.ratio, (direction.src, direction.tgt), strict=True
                )
                if slots[language] in ranks
            ]
            products = []
            for own, ratio, slot in pairs:
                a, b = own.pair(slot)
                factor = self.architecture.scale(a.shape[0]) * (ratio if len(pairs) == 2 else 1.0)
                products.append(b.double() @ a.double() * factor)
            found[module_path(entry.site)] = merged_linear(layer.base, products)
        return found

    def to_peft(self, below: Sequence[PeftAdapter] = ()) -> list[PeftAdapter]:
        """Raises InputError: PEFT cannot hold them, as `peft_limits` says."""
        raise InputError(why_no_peft(self.architecture) or "PEFT cannot hold pairs of both sides.")


def _of_side(architecture: Architecture, side: Side) -> Architecture:
    adapters = tuple(replace(entry, side=side) for entry in architecture.adapters)
    return replace(architecture, kind="lora", adapters=adapters)
