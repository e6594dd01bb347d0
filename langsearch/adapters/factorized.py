"""Factorized weights: the frozen matrix scaled by a pattern of rank one for each language, plus a low-rank pair.

Pham et al. 2021 (arXiv 2105.03010, section 3): W_l = W * (r_l s_l^T) + sum_k r_k s_k^T with * entry by entry. Its first
part is diag(r_l) W diag(s_l), so that no matrix is made:

    y = r_l * (W (s_l * x)) + b + c_l B_l A_l x

The scales are stored as deltas from 1 and start at 0, and B at 0, so that new adapters change nothing; the release
draws both vectors of the sum at random, which disturbs a pretrained base. With `ffn_slice` only that part of W is
scaled. A rank of r is the scales and a pair of rank r - 1: as many parameters as a LoRA of rank r.

Shapes: rows = sentences of a batch, len = tokens, slots = adapters at a layer; in and out = the adapted features.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langsearch.adapters.joint import type_of_products
from langsearch.adapters.lora import lora_layer, merged_linear, slot_generator
from langsearch.adapters.lora_linear import LanguageLoRALinear
from langsearch.adapters.mounting import linear_at, module_path
from langsearch.adapters.peft_limits import why_no_peft
from langsearch.adapters.protocol import NOTHING_BELOW, Below, PairKey, PeftAdapter, Pieces, by_owner
from langsearch.adapters.pruning import PrunedPairs, PruningMasks
from langsearch.adapters.routing import Routing, SlotTable
from langsearch.data.directions import Direction
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Side, Site
from langsearch.space.nesting import Drawn
from langsearch.space.problems import InputError


class FactorizedLinear(nn.Module):
    """A frozen linear layer with scales, and where its rank is above 1 a low-rank pair, for each slot.

    Args:
        base: The frozen layer, weight (all out, all in).
        routing: Where the rows' languages stand.
        side: Which of the two indexes this layer.
        slots: Those that have an adapter here.
        slot_of_language: For each language its slot's name.
        in_features: The first so many inputs are scaled.
        out_features: The first so many outputs are scaled.
        pair: The low-rank pairs of the slots that have one. None: no slot has.
    """

    def __init__(
        self,
        base: nn.Linear,
        routing: Routing,
        side: Side,
        slots: Sequence[str],
        slot_of_language: Sequence[str],
        *,
        in_features: int,
        out_features: int,
        pair: LanguageLoRALinear | None,
    ) -> None:
        super().__init__()
        self.base = base
        self.in_features, self.out_features = in_features, out_features
        self.table = SlotTable(routing, side, slots, slot_of_language, base.weight.device)
        device = base.weight.device
        self.in_scale = nn.Parameter(torch.zeros(len(slots), in_features, device=device))
        self.out_scale = nn.Parameter(torch.zeros(len(slots), out_features, device=device))
        self.pair = pair
        self._is_used: Tensor | None = None

    def use(self, ranks: Sequence[int] | None) -> None:
        """Has the layer compute with what each slot's adapter is at these ranks, 0 for none; None: with all.

        Args:
            ranks: In the order of the slots; the scales count as one.
        """
        used = None if ranks is None else torch.tensor([[float(rank > 0)] for rank in ranks])
        self._is_used = None if used is None else used.to(self.in_scale.device)
        if self.pair is not None:
            of_slots = dict(zip(self.table.slots, ranks, strict=True)) if ranks is not None else {}
            self.pair.use(None if ranks is None else [max(of_slots[slot] - 1, 0) for slot in self.pair.slots])

    @property
    def sides(self) -> frozenset[Side]:
        """Whose language picks a row's adapter."""
        return frozenset({self.table.side})

    def forward(self, x: Tensor) -> Tensor:
        """Returns (rows, len, all out) of x (rows, len, all in), with each row's own adapter."""
        return self.prepare(x.shape[0], x)(x)

    def prepare(self, num_rows: int, like: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """Returns the layer for so many rows, whose languages are routed, with what is theirs gathered once.

        Args:
            num_rows: Rows in flight.
            like: Says the type that products are made in. None: the frozen weight does.
        """
        dtype = type_of_products(self.base.weight if like is None else like)
        used = [scale if self._is_used is None else scale * self._is_used for scale in (self.in_scale, self.out_scale)]
        gains_in, gains_out = (1 + self.table.take(scale, num_rows) for scale in used)
        gains = gains_in[:, None].to(dtype), gains_out[:, None].to(dtype)
        pairs = None if self.pair is None else self.pair.row_pairs(num_rows)
        a, b = (None, None) if pairs is None else (pairs[0].to(dtype).transpose(1, 2), pairs[1].to(dtype))

        def apply(x: Tensor) -> Tensor:
            x = x.to(dtype)
            with torch.autocast(x.device.type, enabled=False):
                y = self._scaled(x, *gains)
                if a is not None and b is not None:
                    added = torch.bmm(torch.bmm(x[..., : a.shape[1]], a), b)
                    y = y + F.pad(added, (0, y.shape[2] - added.shape[2]))
            return y

        return apply

    def _scaled(self, x: Tensor, gains_in: Tensor, gains_out: Tensor) -> Tensor:
        """Returns r * (W (s * x)) + b, the rest of W as it is; the gains are (rows, 1, in) and (rows, 1, out)."""
        weight = self.base.weight.to(x.dtype)
        num_in, num_out = self.in_features, self.out_features
        y = F.linear(x[..., :num_in] * gains_in, weight[:num_out, :num_in]) * gains_out
        if num_in < weight.shape[1]:
            y = y + F.linear(x[..., num_in:], weight[:num_out, num_in:])
        if num_out < weight.shape[0]:
            y = torch.cat([y, F.linear(x, weight[num_out:])], dim=-1)
        return y if self.base.bias is None else y + self.base.bias.to(x.dtype)


class Factorized(PrunedPairs):
    """The scales and pairs of all sites and slots of an architecture; one of the kinds of `Adapters`.

    Args:
        base: The base; its layers are read, and stay where they are.
        architecture: Which adapters it gets; ranks count the scales as one.
        languages: The order that the rows' language indices refer to.
        seed: Seed of the pairs' start.
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
        self._shape = base.shape
        slots = dict(architecture.slots)
        slot_of_language = [slots[language] for language in languages]
        self.layers: dict[Site, FactorizedLinear] = {}
        for entry in architecture.adapters:
            site = entry.site
            in_features, out_features = base.shape.features(site.stack, site.module, architecture.ffn_slice)
            of_pairs = {slot: rank - 1 for slot, rank in entry.ranks if rank > 1}
            pair = None
            if of_pairs:
                pair = lora_layer(base, architecture, site, entry.side, of_pairs, slot_of_language, self.routing)
                pair.reset(architecture.init, {slot: slot_generator(seed, site, slot) for slot in of_pairs})
            self.layers[site] = FactorizedLinear(
                linear_at(base.model, site),
                self.routing,
                entry.side,
                [slot for slot, _ in entry.ranks],
                slot_of_language,
                in_features=in_features,
                out_features=out_features,
                pair=pair,
            )
        pairs = {site: layer.pair for site, layer in self.layers.items() if layer.pair is not None}
        self.masks = PruningMasks(pairs, architecture.pruning) if architecture.pruning else None

    def modules(self) -> dict[str, nn.Module]:
        """Returns the adapted linear layers by their paths."""
        return {module_path(site): layer for site, layer in self.layers.items()}

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns the scales' deltas, and A and B, of every site."""
        found: dict[str, nn.Parameter] = {}
        for site, layer in self.layers.items():
            found |= {f"{site}.in_scale": layer.in_scale, f"{site}.out_scale": layer.out_scale}
            if layer.pair is not None:
                found |= {f"{site}.A": layer.pair.A, f"{site}.B": layer.pair.B}
        return found

    def owned(self, side: Side | None = None) -> dict[str, list[Tensor]]:
        """Returns each slot's scales and pair of every site, or of those that a side indexes."""
        found: dict[str, list[Tensor]] = {}
        for layer in self.layers.values():
            if side not in (None, layer.table.side):
                continue
            for index, slot in enumerate(layer.table.slots):
                found.setdefault(slot, []).extend([layer.in_scale.data[index], layer.out_scale.data[index]])
            for slot in layer.pair.slots if layer.pair is not None else ():
                found[slot].extend(layer.pair.pair(slot) if layer.pair is not None else ())
        return found

    def num_parameters(self) -> int:
        """Returns the sum of rank * (in + out) over sites and slots."""
        return self.architecture.num_site_parameters(self._shape)

    def use(self, drawn: Drawn | None) -> None:
        """Has an update compute with adapters of smaller ranks alone, of which the scales count as one; None: all."""
        ranks = {entry.site: dict(entry.ranks) for entry in self.architecture.adapters}
        for site, layer in self.layers.items():
            of = ranks[site]
            layer.use(None if drawn is None else [drawn.rank(site, slot, of[slot]) for slot in layer.table.slots])

    def pieces(self) -> Pieces:
        """Returns the pairs, and the scales, which an adapter of any rank has."""
        pairs: dict[PairKey, LanguageLoRALinear] = {
            ("own", site): layer.pair for site, layer in self.layers.items() if layer.pair is not None
        }
        scales: dict[str, dict[str, Tensor]] = {}
        for site, layer in self.layers.items():
            both = {f"{site}.in_scale": layer.in_scale, f"{site}.out_scale": layer.out_scale}
            scales |= by_owner(layer.table.slots, both)
        return Pieces(pairs=pairs, of_slots=scales)

    @torch.no_grad()
    def merged(self, direction: Direction, below: Below = NOTHING_BELOW) -> dict[str, nn.Module]:
        """Returns linear layers with the direction's own weights, computed in float64."""
        slots = dict(self.architecture.slots)
        found: dict[str, nn.Module] = {}
        for entry in self.architecture.adapters:
            layer = self.layers[entry.site]
            slot = slots[direction.src if entry.side == "src" else direction.tgt]
            products = []
            if slot in layer.table.slots:
                index = layer.table.slots.index(slot)
                weight = layer.base.weight[: layer.out_features, : layer.in_features].double()
                pattern = (1 + layer.out_scale[index].double())[:, None] * (1 + layer.in_scale[index].double())
                products.append(weight * (pattern - 1))
            if layer.pair is not None and slot in layer.pair.slots:
                a, b = layer.pair.pair(slot)
                products.append(b.double() @ a.double() * self.architecture.scale(a.shape[0]))
            found[module_path(entry.site)] = merged_linear(layer.base, products)
        return found

    def to_peft(self, below: Sequence[PeftAdapter] = ()) -> list[PeftAdapter]:
        """Refuses: a scaled matrix differs from the frozen one by no low rank.

        Raises:
            InputError: Always.
        """
        raise InputError(why_no_peft(self.architecture) or "")
