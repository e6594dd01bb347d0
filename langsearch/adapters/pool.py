"""A pool of K pairs at every site, and a learned map from languages to its members.

After HLT-MT (arXiv 2207.04906): each language has a distribution p over K modules, learned while their outputs are
mixed by it; later each language has the one that it gives most, and the others are out of its way. There the modules
are bottlenecks behind the decoder, and the distribution is read off the language's frozen embedding; here they are
LoRA at any site, and the logits are learned themselves:

    y = W x + b + s sum_k p_lk B_k A_k x,    p_l = softmax(z_l)

A language has one map as a source and one as a target, for all sites that its side indexes. While training is in its
soft part, half of the updates, drawn at random, have each language's first choice alone, as in the release; these teach
the map nothing. What a language has is a LoRA at any time: of rank K r while soft, of rank r then.

Shapes: rows = sentences of a batch, len = tokens, K = members of the pool; in and out = the adapted features.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langsearch.adapters.joint import type_of_products
from langsearch.adapters.lora import full_pair, lora_layer, merged_linear, slot_generator
from langsearch.adapters.lora_linear import LanguageLoRALinear, lora_linear
from langsearch.adapters.mounting import module_path
from langsearch.adapters.protocol import NOTHING_BELOW, Below, PeftAdapter, Pieces, Unscheduled
from langsearch.adapters.routing import Routing
from langsearch.data.directions import Direction
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Side, Site
from langsearch.space.kinds import NOT_CUT
from langsearch.space.problems import InputError

_HARD_SHARE = 0.5
"""Of the updates of the soft part (HLT-MT's `--hard-adapter`)."""

_START = 0.1
"""Standard deviation of the logits as they start."""

_SPEED = 5.0
"""How many times as fast as the pairs the logits learn: the parameter is the logit over this, as that of the sides."""


class PoolMap:
    """Which members of the pool the languages have, as sources or as targets.

    Args:
        num_languages: Languages.
        size: Members of the pool.
        generator: Of the logits' start.
        device: Where the logits are.
    """

    def __init__(self, num_languages: int, size: int, generator: torch.Generator, device: torch.device) -> None:
        start = torch.randn(num_languages, size, generator=generator) * (_START / _SPEED)
        self.weight = nn.Parameter(start.to(device))
        # On the CPU, where it is read: a GPU would have to be waited for.
        self.is_over = torch.zeros((), dtype=torch.bool)
        """Whether the soft part has ended; a checkpoint has it."""

        self.is_hard = False
        """Whether this update has first choices alone."""

    def shares(self) -> Tensor:
        """Returns p, (languages, K)."""
        return torch.softmax(_SPEED * self.weight, dim=-1)

    def choices(self) -> Tensor:
        """Returns each language's first choice, (languages,)."""
        return self.weight.detach().argmax(dim=-1)


class PooledLoRALinear(nn.Module):
    """A frozen linear layer with a pool of pairs.

    Args:
        lora: The layer with the K pairs as its slots.
        pool_map: Says which a row has.
    """

    def __init__(self, lora: LanguageLoRALinear, pool_map: PoolMap) -> None:
        super().__init__()
        self.lora, self.map = lora, pool_map
        # Registered, so that the model knows what of it is trained.
        self.map_weight = pool_map.weight

    @property
    def base(self) -> nn.Linear:
        """The frozen layer."""
        return self.lora.base

    @property
    def sides(self) -> frozenset[Side]:
        """Whose language picks a row's share of the members."""
        return self.lora.sides

    @property
    def has_choices(self) -> bool:
        """Whether each language has its first choice alone."""
        return bool(self.map.is_over) or (self.training and self.map.is_hard)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (rows, len, all out) of x (rows, len, all in)."""
        lora, languages = self.lora, self.lora.routing.rows(self.lora.side, x.shape[0])
        base, scale = self.base, lora.scales[0]
        if self.has_choices:
            slots = self.map.choices()[languages]
            return lora_linear(x, base.weight, base.bias, lora.A, lora.B, slots, lora.scale)
        dtype = type_of_products(x)
        x = x.to(dtype)
        size, rank, num_in = lora.A.shape
        with torch.autocast(x.device.type, enabled=False):
            y = F.linear(x, base.weight.to(dtype), None if base.bias is None else base.bias.to(dtype))
            hidden = F.linear(x[..., :num_in], lora.A.reshape(size * rank, num_in).to(dtype))
            share = (scale * self.map.shares()[languages]).repeat_interleave(rank, dim=1)
            added = F.linear(hidden * share[:, None].to(dtype), lora.B.permute(1, 0, 2).flatten(1).to(dtype))
        return y + F.pad(added, (0, y.shape[-1] - added.shape[-1]))

    def row_pairs(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """Returns each row's scaled A and its B transposed, (rows, rank or K rank, in) and (…, out)."""
        languages = self.lora.routing.rows(self.lora.side, num_rows)
        pairs = [self.pair(language) for language in range(len(self.map.weight))]
        a, b = (torch.stack([pair[index] for pair in pairs]) for index in (0, 1))
        return a[languages], b.transpose(1, 2)[languages]

    def pair(self, language: int) -> tuple[Tensor, Tensor]:
        """Returns a language's A and scaled B as they are decoded: (rank, in) and (out, rank), or of K ranks."""
        lora = self.lora
        if self.map.is_over:
            member = int(self.map.choices()[language])
            return lora.A[member], lora.scales[0] * lora.B[member]
        share = lora.scales[0] * self.map.shares()[language]
        return lora.A.flatten(0, 1), (share[:, None, None] * lora.B).permute(1, 0, 2).flatten(1)


class PooledLoRA(Unscheduled):
    """The pools of all sites of an architecture and the maps to them; one of the kinds of `Adapters`.

    Args:
        base: The base; its layers are read, and stay where they are.
        architecture: Has a `pool`, and one slot for all languages.
        languages: The order that the rows' language indices refer to.
        seed: Seed of the start of pairs and maps.
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
        assert architecture.pool is not None, "the architecture must have a pool"
        self.architecture = architecture
        self.languages = tuple(languages)
        self.routing = routing or Routing()
        self._own, self._shape = architecture.pool, base.shape
        device = base.model.lm_head.weight.device
        members = [f"member {number}" for number in range(self._own.size)]
        self.maps = {
            side: PoolMap(len(languages), self._own.size, slot_generator(seed, "pool", side), device)
            for side in sorted({entry.side for entry in architecture.adapters})
        }
        self.layers: dict[Site, PooledLoRALinear] = {}
        for entry in architecture.adapters:
            ((_, rank),) = entry.ranks
            ranks = dict.fromkeys(members, rank)
            first = members[:1] * len(languages)
            layer = lora_layer(base, architecture, entry.site, entry.side, ranks, first, self.routing)
            layer.reset(architecture.init, {name: slot_generator(seed, entry.site, name) for name in members})
            self.layers[entry.site] = PooledLoRALinear(layer, self.maps[entry.side])

    def modules(self) -> dict[str, nn.Module]:
        """Returns the adapted layer of every site."""
        return {module_path(site): layer for site, layer in self.layers.items()}

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns A and B of every site, and each side's logits over `_SPEED`."""
        found: dict[str, nn.Parameter] = {}
        for site, layer in self.layers.items():
            found |= {f"{site}.A": layer.lora.A, f"{site}.B": layer.lora.B}
        return found | {f"pool.{side}.map": pool_map.weight for side, pool_map in self.maps.items()}

    def state(self) -> dict[str, Tensor]:
        """Returns the parameters, and whether the soft part has ended."""
        return super().state() | {f"pool.{side}.is_over": pool_map.is_over for side, pool_map in self.maps.items()}

    def owned(self, side: Side | None = None) -> dict[str, list[Tensor]]:
        """Returns all of it under "all": every language may have any member. No side has any by itself."""
        return {} if side else {"all": [value.data for value in self.parameters().values()]}

    def num_parameters(self) -> int:
        """Returns K times rank * (in + out) over the sites, and K logits a language for each side."""
        return self.architecture.num_site_parameters(self._shape)

    def before_update(self, progress: float) -> None:
        """Ends the soft part where it is over; within it, draws whether this update has first choices alone."""
        is_over = progress >= self._own.soft_share
        is_hard = is_over or float(torch.rand(())) < _HARD_SHARE
        for pool_map in self.maps.values():
            pool_map.is_over.fill_(is_over)
            pool_map.is_hard = is_hard

    def penalty(self) -> Tensor | None:
        """Returns what keeps languages from one member; nothing where this update has first choices alone.

        HLT-MT's disparity, sum over pairs of languages of p_i . p_j = |sum_i p_i|^2, over the number of languages L and
        times the pool's `disparity`: from L/K where all members are used alike to L where one is.
        """
        if not self._own.disparity or any(bool(one.is_over) or one.is_hard for one in self.maps.values()):
            return None
        found = [one.shares().sum(dim=0).square().sum() / len(self.languages) for one in self.maps.values()]
        return self._own.disparity * sum(found[1:], found[0])

    def pieces(self) -> Pieces:
        """Refuses: languages find their member while all members have all of their columns.

        Raises:
            InputError: Always.
        """
        raise InputError(f"A pool cannot be cut: {NOT_CUT['pool']}.")

    @torch.no_grad()
    def merged(self, direction: Direction, below: Below = NOTHING_BELOW) -> dict[str, nn.Module]:
        """Returns linear layers with the direction's own mixture, or member, added to W, computed in float64."""
        found: dict[str, nn.Module] = {}
        for entry in self.architecture.adapters:
            layer = self.layers[entry.site]
            a, b = layer.pair(self.languages.index(direction.src if entry.side == "src" else direction.tgt))
            found[module_path(entry.site)] = merged_linear(layer.base, [b.double() @ a.double()])
        return found

    @torch.no_grad()
    def to_peft(self, below: Sequence[PeftAdapter] = ()) -> list[PeftAdapter]:
        """Returns an adapter for each language and side with its own mixture, or member, sorted."""
        found = []
        for side in sorted(self.maps):
            for index, language in enumerate(self.languages):
                pairs = {}
                for entry in self.architecture.adapters:
                    if entry.side == side:
                        layer = self.layers[entry.site]
                        pairs[module_path(entry.site)] = full_pair(layer.base, *layer.pair(index))
                found.append(PeftAdapter(side, language, pairs))
        return sorted(found, key=lambda adapter: (adapter.side, adapter.slot))
