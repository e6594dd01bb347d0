"""A LoRA of all languages under the language's own: what all of them need is learned once.

As the language-general and language-specific LoRA of MLAS-LoRA (ACL 2025, paper 762): y = W x + b + s B_0 A_0 x +
s_l B_l A_l x, the first pair common to all. Their sum is a LoRA of the sum of both ranks.

Shapes: rows = sentences of a batch, len = tokens; in and out = the adapted features.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langsearch.adapters.joint import type_of_products
from langsearch.adapters.lora import AroundLoRA, full_pair, lora_layer, merged_linear, slot_generator, use_drawn
from langsearch.adapters.lora_linear import LanguageLoRALinear
from langsearch.adapters.mounting import module_path
from langsearch.adapters.protocol import NOTHING_BELOW, Below, PairKey, PeftAdapter, Pieces
from langsearch.adapters.routing import Routing
from langsearch.data.directions import Direction
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Side, Site
from langsearch.space.nesting import SHARED, Drawn


class SharedLoRALinear(nn.Module):
    """A linear layer with a language's own pair and one that all rows have.

    Args:
        own: The frozen layer with each language's own pairs.
        shared: The same frozen layer with one pair for all; its forward pass is not used.
    """

    def __init__(self, own: LanguageLoRALinear, shared: LanguageLoRALinear) -> None:
        super().__init__()
        self.own, self.shared = own, shared

    @property
    def base(self) -> nn.Linear:
        """The frozen layer."""
        return self.own.base

    @property
    def sides(self) -> frozenset[Side]:
        """Whose language picks a row's own pair."""
        return self.own.sides

    def forward(self, x: Tensor) -> Tensor:
        """Returns W x + b and what both pairs add, (rows, len, all in) -> (rows, len, all out)."""
        y: Tensor = self.own(x)
        dtype = type_of_products(x)
        a, b = self.shared.pair_of(SHARED)
        with torch.autocast(x.device.type, enabled=False):
            hidden = F.linear(x[..., : a.shape[1]].to(dtype), a.to(dtype))
            added = F.linear(hidden, b.to(dtype))
        return y + F.pad(added, (0, y.shape[-1] - added.shape[-1]))

    def row_pairs(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """Returns each row's A and its B transposed, (rows, both ranks, in) and (rows, both ranks, out)."""
        pairs = zip(self.own.row_pairs(num_rows), self.shared.row_pairs(num_rows), strict=True)
        a, b = (torch.cat(both, dim=1) for both in pairs)
        return a, b


class SharedLoRA(AroundLoRA):
    """Both pairs of all sites of an architecture; one of the kinds of `Adapters`.

    Args:
        base: The base; its layers are read, and stay where they are.
        architecture: Has a `shared_rank`.
        languages: The order that the rows' language indices refer to.
        seed: Seed of the adapters' start.
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
        assert architecture.shared_rank, "the architecture must have a shared rank"
        super().__init__(base, architecture, languages, seed, routing, architecture.num_shared_parameters(base.shape))
        self.layers: dict[Site, SharedLoRALinear] = {}
        ranks = {SHARED: architecture.shared_rank}
        for entry in architecture.adapters:
            everybody = [SHARED] * len(languages)
            shared = lora_layer(base, architecture, entry.site, entry.side, ranks, everybody, self.routing)
            shared.reset(architecture.init, {SHARED: slot_generator(seed, f"{entry.site}/shared", SHARED)})
            self.layers[entry.site] = SharedLoRALinear(self.own.layers[entry.site], shared)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns A and B of every site, the languages' own first."""
        found = self.own.parameters()
        for site, layer in self.layers.items():
            found |= {f"{site}.shared.A": layer.shared.A, f"{site}.shared.B": layer.shared.B}
        return found

    def owned(self, side: Side | None = None) -> dict[str, list[Tensor]]:
        """Returns each slot's own A and B of every site, and under "all" what is shared, which no side picks."""
        if side is not None:
            return self.own.owned(side)
        shared = [view for layer in self.layers.values() for view in layer.shared.pair(SHARED)]
        return {**self.own.owned(), SHARED: shared}

    def use(self, drawn: Drawn | None) -> None:
        """Has an update compute with the first columns of both pairs alone; None: with all."""
        self.own.use(drawn)
        for site, layer in self.layers.items():
            use_drawn(layer.shared, site, drawn)

    def pieces(self) -> Pieces:
        """Returns both pairs of every site; what is shared is cut by itself."""
        shared: dict[PairKey, LanguageLoRALinear] = {
            ("shared", site): layer.shared for site, layer in self.layers.items()
        }
        return Pieces(pairs={**self.own.pieces().pairs, **shared})

    @torch.no_grad()
    def merged(self, direction: Direction, below: Below = NOTHING_BELOW) -> dict[str, nn.Module]:
        """Returns linear layers with both products added to W, computed in float64."""
        found: dict[str, nn.Module] = {}
        for path, linear in self.own.merged(direction).items():
            assert isinstance(linear, nn.Linear), f"{path} must be plain"
            a, b = self._shared[path]
            found[path] = merged_linear(linear, [b.double() @ a.double()])
        return found

    @torch.no_grad()
    def to_peft(self, below: Sequence[PeftAdapter] = ()) -> list[PeftAdapter]:
        """Returns an adapter for each slot and side with the shared pair in each, of the sum of both ranks, sorted.

        A direction activates one adapter of a side, so the shared pair is stored with each of them.
        """
        known = {(adapter.side, adapter.slot): adapter for adapter in self.own.to_peft()}
        for entry in self.architecture.adapters:
            path = module_path(entry.site)
            full_a, full_b = full_pair(self.layers[entry.site].base, *self._shared[path])
            for slot in dict.fromkeys(dict(self.architecture.slots).values()):
                mine = known.get((entry.side, slot), PeftAdapter(entry.side, slot, {}))
                own = mine.pairs.get(path)
                pair = (full_a, full_b)
                if own is not None:
                    pair = torch.cat([own[0], full_a]), torch.cat([own[1], full_b], dim=1)
                known[entry.side, slot] = PeftAdapter(entry.side, slot, {**mine.pairs, path: pair}, mine.norms)
        return [known[key] for key in sorted(known)]

    @property
    def _shared(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The shared A and scaled B of every site by its path, without gradients."""
        found = {}
        for site, layer in self.layers.items():
            a, b = layer.shared.pair_of(SHARED)
            found[module_path(site)] = a.detach(), b.detach()
        return found
