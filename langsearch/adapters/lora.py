"""Language-specific LoRA: a low-rank pair for each language at each site (Cao et al. 2024, arXiv 2409.05224).

Which languages share a pair, whether the source or the target picks it, its rank and its pruning are the
architecture's. Checkpoints name a site's matrices "encoder.3.fc1.A" and ".B", and their masks ".alive".
"""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from langsearch.adapters.lora_linear import JointInput, LanguageLoRALinear
from langsearch.adapters.mounting import linear_at, module_path
from langsearch.adapters.protocol import NOTHING_BELOW, Below, PeftAdapter, Pieces, Unscheduled
from langsearch.adapters.pruning import PrunedPairs, PruningMasks
from langsearch.adapters.routing import Routing
from langsearch.data.directions import Direction
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Side, Site, Stack
from langsearch.space.nesting import Drawn

_SAME_INPUT: tuple[tuple[Stack, tuple[str, ...]], ...] = (
    ("encoder", ("q_proj", "k_proj", "v_proj")),
    ("decoder", ("q_proj", "k_proj", "v_proj")),
    ("decoder", ("cross_k_proj", "cross_v_proj")),
)
"""Modules of a layer that read the same input, by stack."""


class LanguageLoRA(PrunedPairs):
    """The pairs of all sites and slots of an architecture; one of the kinds of `Adapters`.

    Args:
        base: The base; its layers are read, and stay where they are.
        architecture: Which adapters it gets.
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
        self.architecture = architecture
        self.languages = tuple(languages)
        self.routing = routing or Routing()
        self._shape = base.shape
        slots = dict(architecture.slots)
        slot_of_language = [slots[language] for language in languages]
        self.layers: dict[Site, LanguageLoRALinear] = {}
        for entry in architecture.adapters:
            ranks = dict(entry.ranks)
            layer = lora_layer(base, architecture, entry.site, entry.side, ranks, slot_of_language, self.routing)
            layer.reset(architecture.init, {slot: slot_generator(seed, entry.site, slot) for slot in ranks})
            self.layers[entry.site] = layer
        for stack, modules in _SAME_INPUT:
            for number in range(base.shape.num_layers(stack)):
                self._join([Site(stack, number, module) for module in modules])
        self.masks = PruningMasks(self.layers, architecture.pruning) if architecture.pruning else None

    def _join(self, sites: Sequence[Site]) -> None:
        """Has the adapted layers among sites that read the same input computed as one, where one side indexes them."""
        layers = [self.layers[site] for site in sites if site in self.layers]
        if len(layers) > 1 and len({layer.side for layer in layers}) == 1:
            JointInput(layers)

    def modules(self) -> dict[str, nn.Module]:
        """Returns the adapted layer of every site."""
        return {module_path(site): layer for site, layer in self.layers.items()}

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns A and B of every site, padded to the site's largest rank."""
        return {f"{site}.{name}": getattr(layer, name) for site, layer in self.layers.items() for name in ("A", "B")}

    def owned(self, side: Side | None = None) -> dict[str, list[Tensor]]:
        """Returns each slot's A and B of every site, or of those that a side indexes."""
        found: dict[str, list[Tensor]] = {}
        for layer in self.layers.values():
            for slot in layer.slots if side in (None, layer.side) else ():
                found.setdefault(slot, []).extend(layer.pair(slot))
        return found

    def num_parameters(self) -> int:
        """Returns the sum of rank * (in + out) over sites and slots."""
        return self.architecture.num_site_parameters(self._shape)

    def use(self, drawn: Drawn | None) -> None:
        """Has an update compute with the first columns of pairs alone, at some sites with none; None: with all."""
        for site, layer in self.layers.items():
            use_drawn(layer, site, drawn)

    def pieces(self) -> Pieces:
        """Returns the pairs of all sites."""
        return Pieces(pairs={("own", site): layer for site, layer in self.layers.items()})

    @torch.no_grad()
    def merged(self, direction: Direction, below: Below = NOTHING_BELOW) -> dict[str, nn.Module]:
        """Returns linear layers with W + s B A of the direction's adapters in place of W, computed in float64."""
        slots = dict(self.architecture.slots)
        found: dict[str, nn.Module] = {}
        for entry in self.architecture.adapters:
            layer = self.layers[entry.site]
            slot = slots[direction.src if entry.side == "src" else direction.tgt]
            pairs = [layer.pair(slot)] if slot in dict(entry.ranks) else []
            products = [b.double() @ a.double() * self.architecture.scale(a.shape[0]) for a, b in pairs]
            found[module_path(entry.site)] = merged_linear(layer.base, products)
        return found

    def to_peft(self, below: Sequence[PeftAdapter] = ()) -> list[PeftAdapter]:
        """Returns an adapter for each slot and side, sorted. They stand at the bottom: nothing is below."""
        return [self._to_peft(side, slot, sites) for (side, slot), sites in sites_by_adapter(self.architecture).items()]

    def _to_peft(self, side: Side, slot: str, sites: Sequence[Site]) -> PeftAdapter:
        pairs = {}
        for site in sites:
            layer = self.layers[site]
            a, b = layer.pair(slot)
            pairs[module_path(site)] = full_pair(layer.base, a, b * self.architecture.scale(a.shape[0]))
        return PeftAdapter(side, slot, pairs)


class AroundLoRA(Unscheduled):
    """The answers of a kind that adds something to each language's own pairs, which is never pruned.

    Args:
        base: The base; its layers are read, and stay where they are.
        architecture: Which pairs it gets.
        languages: The order that the rows' language indices refer to.
        seed: Seed of the adapters' start.
        routing: To share the rows' languages with other adapters. None: their own.
        num_added: The parameters beside those of the pairs.
    """

    layers: Mapping[Site, nn.Module]

    def __init__(
        self,
        base: Base,
        architecture: Architecture,
        languages: Sequence[str],
        seed: int,
        routing: Routing | None,
        num_added: int,
    ) -> None:
        self.architecture = architecture
        self.languages = tuple(languages)
        self.own = LanguageLoRA(base, architecture, languages, seed, routing=routing)
        self.routing = self.own.routing
        self._num_added = num_added

    def modules(self) -> dict[str, nn.Module]:
        """Returns the adapted layer of every site."""
        return {module_path(site): layer for site, layer in self.layers.items()}

    def state(self) -> dict[str, Tensor]:
        """Returns the parameters and, where there is pruning, the masks of the languages' own pairs."""
        return self.own.state() | super().state()

    def num_parameters(self) -> int:
        """Returns those of the pairs and of what is added."""
        return self.own.num_parameters() + self._num_added

    def num_nonzero(self) -> int:
        """Returns the stored parameters that no mask has pruned."""
        return self.own.num_nonzero() + self._num_added

    def begin_epoch(self, epoch: int) -> None:
        """Sets the pruning masks of the epoch."""
        self.own.begin_epoch(epoch)

    def after_update(self) -> None:
        """Keeps pruned entries at zero."""
        self.own.after_update()


def use_drawn(layer: LanguageLoRALinear, site: Site, drawn: Drawn | None) -> None:
    """Has the pairs of a site compute with what was drawn for an update; None: with all."""
    pairs = zip(layer.slots, layer.ranks, strict=True)
    layer.use(None if drawn is None else [drawn.rank(site, slot, rank) for slot, rank in pairs])


def full_pair(linear: nn.Linear, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a pair of all features of a layer as PEFT has it, zero where nothing is adapted, fp32 on the CPU.

    Args:
        linear: The layer.
        a: (rank, up to in).
        b: (up to out, rank), any factor folded in.
    """
    full_a, full_b = torch.zeros(len(a), linear.in_features), torch.zeros(linear.out_features, len(a))
    full_a[:, : a.shape[1]], full_b[: b.shape[0]] = a, b
    return full_a, full_b


def sites_by_adapter(architecture: Architecture) -> dict[tuple[Side, str], list[Site]]:
    """Returns the sites of each adapter that PEFT knows, by its side and slot, sorted by these."""
    found: dict[tuple[Side, str], list[Site]] = {}
    for entry in architecture.adapters:
        for slot, _ in entry.ranks:
            found.setdefault((entry.side, slot), []).append(entry.site)
    return dict(sorted(found.items()))


@torch.no_grad()
def merged_linear(base: nn.Linear, products: Sequence[Tensor]) -> nn.Linear:
    """Returns a copy of a frozen layer with the sum of products added to its weight.

    Args:
        base: The layer, weight (out, in).
        products: float64, each (up to out, up to in): what is smaller adds to the first rows and columns.
    """
    weight = base.weight.double()
    for product in products:
        weight[: product.shape[0], : product.shape[1]] += product
    linear = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.to(base.weight.dtype) if products else base.weight.clone(), requires_grad=False)
    if base.bias is not None:
        linear.bias = nn.Parameter(base.bias.clone(), requires_grad=False)
    return linear.train(base.training)


def lora_layer(
    base: Base,
    architecture: Architecture,
    site: Site,
    side: Side,
    ranks: Mapping[str, int],
    slot_of_language: Sequence[str],
    routing: Routing,
) -> LanguageLoRALinear:
    """Returns the pairs of one site, all of them zero, around the base's own layer.

    Args:
        base: The base.
        architecture: Says what of a layer is adapted, and the factor on a pair.
        site: The place.
        side: Which of the two indexes it.
        ranks: The rank of each slot that has a pair there.
        slot_of_language: For each language its slot's name.
        routing: Where the rows' languages stand.
    """
    in_features, out_features = base.shape.features(site.stack, site.module, architecture.ffn_slice)
    return LanguageLoRALinear(
        linear_at(base.model, site),
        routing,
        side,
        dict(ranks),
        list(slot_of_language),
        in_features=in_features,
        out_features=out_features,
        scales={slot: architecture.scale(rank) for slot, rank in ranks.items()},
    )


def slot_generator(seed: int, place: object, slot: str) -> torch.Generator:
    """Returns the generator of a slot's start at a place, such as a site: it depends on no other slot or place."""
    digest = hashlib.sha256(f"{seed}/{place}/{slot}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
