"""A pair by the source and one by the target at every site: one matrix gets the sum of both.

    y = W x + b + r_src s B_s A_s x + r_tgt s B_t A_t x

where both languages have a pair; where one alone has, it counts in full. The ratio (r_src, r_tgt) is 1, or what a trial
finds after modular training, by evaluation alone: what both pairs have learned of the domain and the style would count
twice in the sum (Cao et al., Findings of EACL 2026). Of ranks r_s and r_t the sum is one pair of rank r_s + r_t.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from langsearch.adapters.both_sides import BothSides, BothSidesLinear
from langsearch.adapters.lora import merged_linear
from langsearch.adapters.lora_linear import LanguageLoRALinear
from langsearch.adapters.mounting import module_path
from langsearch.adapters.peft_limits import why_no_peft
from langsearch.adapters.protocol import NOTHING_BELOW, Below, PeftAdapter, Pieces
from langsearch.adapters.routing import Routing
from langsearch.data.directions import Direction
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Site
from langsearch.space.problems import InputError

RATIO = "merge_ratio"
"""The ratio's name in a checkpoint."""


class TwoSidedLoRALinear(BothSidesLinear):
    """A frozen linear layer plus a source- and a target-indexed pair.

    Args:
        by_source: The source-indexed adapter of the layer.
        by_target: The target-indexed one, over the same frozen layer.
        ratio: (2,), source first: what a pair counts where both are; all layers of a model have the same tensor.
    """

    def __init__(self, by_source: LanguageLoRALinear, by_target: LanguageLoRALinear, ratio: Tensor) -> None:
        super().__init__(by_source, by_target)
        self.ratio = ratio

    def _counts(self, slots: Sequence[Tensor]) -> Sequence[Tensor]:
        """Returns the ratio for rows that have both pairs, 1 for the others, each (rows, 1, 1)."""
        layers = (self.by_source, self.by_target)
        both = torch.stack([of < len(layer.ranks) for of, layer in zip(slots, layers, strict=True)]).all(0)
        return [torch.where(both, ratio, 1.0)[:, None, None] for ratio in self.ratio]


class TwoSided(BothSides):
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
        super().__init__(base, architecture, languages, seed, routing)
        self.ratio = torch.ones(2, device=base.model.lm_head.weight.device)
        """(2,): what a pair counts where both are, source first; changed in place."""
        self.layers: dict[Site, TwoSidedLoRALinear] = {
            site: TwoSidedLoRALinear(*pairs, self.ratio) for site, pairs in self._of_sites().items()
        }

    def state(self) -> dict[str, Tensor]:
        """Returns the parameters and the ratio, which is not trained."""
        return super().state() | {RATIO: self.ratio}

    def pieces(self) -> Pieces:
        """Returns the pairs of both sides, and the ratio."""
        return replace(super().pieces(), common={RATIO: self.ratio})

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
