"""Pairs of both sides at a site, one by the source and one by the target; kinds of it say what either counts."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor, nn

from langsearch.adapters.lora import LanguageLoRA
from langsearch.adapters.lora_linear import LanguageLoRALinear, lora_linear
from langsearch.adapters.mounting import module_path
from langsearch.adapters.protocol import Pieces, Unscheduled
from langsearch.adapters.routing import Routing
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Side, Site
from langsearch.space.nesting import Drawn


class BothSidesLinear(nn.Module):
    """A frozen linear layer plus a source- and a target-indexed pair, each times what it counts.

    Args:
        by_source: The source-indexed adapter of the layer.
        by_target: The target-indexed one, over the same frozen layer.
    """

    def __init__(self, by_source: LanguageLoRALinear, by_target: LanguageLoRALinear) -> None:
        super().__init__()
        self.by_source, self.by_target = by_source, by_target

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
        return lora_linear(x, self.base.weight, self.base.bias, a, b, None, None)

    def row_pairs(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """Returns each row's A and its B transposed, (rows, both ranks, in) and (rows, both ranks, out)."""
        a, b = self._pairs(num_rows)
        return a, b.transpose(1, 2)

    @abstractmethod
    def _counts(self, slots: Sequence[Tensor]) -> Sequence[Tensor]:
        """Returns what the source's pair counts, and what the target's does: each () or (rows, 1, 1).

        Args:
            slots: The rows' slots by the source and by the target, each (rows,).
        """

    def _pairs(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """Returns each row's A (rows, both ranks, in) and B (rows, out, both ranks): two products are one of both."""
        layers = (self.by_source, self.by_target)
        slots = [layer.row_slots(num_rows) for layer in layers]
        a_rows, b_rows = [], []
        for layer, of, count in zip(layers, slots, self._counts(slots), strict=True):
            a = layer.used_a if layer.scale is None else layer.used_a * layer.scale
            a_rows.append(count * a[of])
            b_rows.append(layer.B[of])
        return torch.cat(a_rows, dim=1), torch.cat(b_rows, dim=2)


class BothSides(Unscheduled):
    """The answers of a kind that has pairs of both sides at every site, which are never pruned.

    Args:
        base: The base; its layers are read, and stay where they are.
        architecture: Sites and ranks of either side's pairs; its own sides are not read.
        languages: The order that the rows' language indices refer to.
        seed: Seed of the adapters' start, which differs between the sides.
        routing: To share the rows' languages with other adapters. None: their own.
    """

    layers: Mapping[Site, BothSidesLinear]

    def __init__(
        self, base: Base, architecture: Architecture, languages: Sequence[str], seed: int, routing: Routing | None
    ) -> None:
        self.architecture = architecture
        self.languages = tuple(languages)
        self.routing = routing or Routing()
        self._sides: dict[Side, LanguageLoRA] = {
            side: LanguageLoRA(base, _of_side(architecture, side), languages, 2 * seed + number, routing=self.routing)
            for number, side in enumerate(get_args(Side))
        }

    def _of_sites(self) -> dict[Site, tuple[LanguageLoRALinear, LanguageLoRALinear]]:
        """Returns the source-indexed and the target-indexed adapter of every site."""
        by_source, by_target = (self._sides[side].layers for side in get_args(Side))
        return {site: (layer, by_target[site]) for site, layer in by_source.items()}

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

    def owned(self, side: Side | None = None) -> dict[str, list[Tensor]]:
        """Returns each slot's A and B of every site, by either side or by one."""
        found: dict[str, list[Tensor]] = {}
        for adapters in self._sides.values():
            for slot, views in adapters.owned(side).items():
                found.setdefault(slot, []).extend(views)
        return found

    def use(self, drawn: Drawn | None) -> None:
        """Has an update compute with the first columns of a language's pairs of both sides alone; None: with all."""
        for adapters in self._sides.values():
            adapters.use(drawn)

    def pieces(self) -> Pieces:
        """Returns the pairs of both sides."""
        return Pieces(
            pairs={(side, site): layer for side, own in self._sides.items() for site, layer in own.layers.items()}
        )

    def num_parameters(self) -> int:
        """Returns the parameters of both sides."""
        return sum(adapters.num_parameters() for adapters in self._sides.values())


def _of_side(architecture: Architecture, side: Side) -> Architecture:
    adapters = tuple(replace(entry, side=side) for entry in architecture.adapters)
    return replace(architecture, kind="lora", adapters=adapters, pruning=None)
