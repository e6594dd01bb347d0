"""Layer norms of a language: a scale and an offset of its own in every norm of a stack.

Zhang et al. 2020 (arXiv 2004.11867, section 4.2): LN_l(x) = g_l * (x - mean) / sqrt(var + eps) + o_l, indexed there by
the target. Stored as what is added to the frozen g and o, which starts at 0, so that new adapters change nothing.

Shapes: rows = sentences of a batch, len = tokens, slots = languages that have norms of their own, d = d_model.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langsearch.adapters.protocol import NOTHING_BELOW, Below, PeftAdapter, Pieces, Unscheduled, by_owner, zero_pair
from langsearch.adapters.routing import Routing, SlotTable
from langsearch.data.directions import Direction
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Side
from langsearch.space.nesting import Drawn
from langsearch.space.sites import Stack

_NORMS: dict[Stack, tuple[str, ...]] = {
    "encoder": ("self_attn_layer_norm", "final_layer_norm"),
    "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
}


class LanguageLayerNorm(nn.Module):
    """A frozen layer norm, and what each slot adds to its scale and offset.

    Args:
        base: The frozen norm, weight and bias (d,).
        routing: Where the rows' languages stand.
        side: Which of the two picks a row's slot.
        slots: Those that have one.
        slot_of_language: For each language its slot's name.
    """

    def __init__(
        self, base: nn.LayerNorm, routing: Routing, side: Side, slots: Sequence[str], slot_of_language: Sequence[str]
    ) -> None:
        super().__init__()
        self.base = base
        device = base.weight.device
        self.table = SlotTable(routing, side, slots, slot_of_language, device)
        self.scale = nn.Parameter(torch.zeros(len(slots), base.weight.shape[0], device=device))
        self.offset = nn.Parameter(torch.zeros(len(slots), base.weight.shape[0], device=device))
        self.is_used = True
        """Whether it is computed with; an update of a nested training may be without."""

    @property
    def sides(self) -> frozenset[Side]:
        """Whose language picks a row's scale and offset."""
        return frozenset({self.table.side})

    def forward(self, x: Tensor) -> Tensor:
        """Returns the norm of x (rows, len, d) with each row's own scale and offset."""
        scale, offset = (self.table.take(part, x.shape[0])[:, None] for part in (self.scale, self.offset))
        if not self.is_used:
            scale, offset = scale * 0, offset * 0
        y: Tensor = self.base(x)
        normed = F.layer_norm(x, self.base.normalized_shape, eps=self.base.eps)
        # The frozen norm's own sum first: adding zero to it leaves its bits.
        return y + (normed * scale + offset).to(y.dtype)


class LanguageLayerNorms(Unscheduled):
    """The layer norms of an architecture's slots; one of the kinds of `Adapters`.

    Args:
        base: The base; its norms are read, and stay where they are.
        architecture: Has `layer_norm`.
        languages: The order that the rows' language indices refer to.
        seed: Not used: all start at 0.
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
        assert architecture.layer_norm is not None, "the architecture must have layer norms"
        self.architecture = architecture
        self.languages = tuple(languages)
        self.routing = routing or Routing()
        self._own = architecture.layer_norm
        self._d_model = base.shape.d_model
        self._count = self._own.num_parameters(base.shape)
        slots = dict(architecture.slots)
        slot_of_language = [slots[language] for language in languages]
        self.layers = {
            path: LanguageLayerNorm(norm, self.routing, self._own.side, self._own.slots, slot_of_language)
            for stack in self._own.stacks
            for path, norm in norms_of(base, stack)
        }

    def modules(self) -> dict[str, nn.Module]:
        """Returns the adapted norms by their paths."""
        return dict(self.layers)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns what is added to scale and offset of every norm."""
        found: dict[str, nn.Parameter] = {}
        for path, layer in self.layers.items():
            name = path.removeprefix("model.").replace(".layers.", ".")
            found |= {f"{name}.scale": layer.scale, f"{name}.offset": layer.offset}
        return found

    def owned(self, side: Side | None = None) -> dict[str, list[Tensor]]:
        """Returns each slot's part of every norm's scale and offset, if a side picks it."""
        if side not in (None, self._own.side):
            return {}
        return {
            slot: [part.data[index] for layer in self.layers.values() for part in (layer.scale, layer.offset)]
            for index, slot in enumerate(self._own.slots)
        }

    def num_parameters(self) -> int:
        """Returns twice d for every norm and slot."""
        return len(self._own.slots) * self._count

    def use(self, drawn: Drawn | None) -> None:
        """Has an update compute with the norms of some stacks alone; None: with all."""
        for path, layer in self.layers.items():
            layer.is_used = drawn is None or drawn.has_norms(
                "encoder" if path.startswith("model.encoder.") else "decoder"
            )

    def pieces(self) -> Pieces:
        """Returns each slot's part of every norm."""
        return Pieces(of_slots=by_owner(self._own.slots, self.parameters()))

    @torch.no_grad()
    def merged(self, direction: Direction, below: Below = NOTHING_BELOW) -> dict[str, nn.Module]:
        """Returns norms with the direction's own scale and offset."""
        slot = self._slot(direction)
        return {path: self._merged(layer, slot) for path, layer in self.layers.items()}

    def to_peft(self, below: Sequence[PeftAdapter] = ()) -> list[PeftAdapter]:
        """Returns the adapters below with norms to them, as modules that PEFT stores whole, sorted."""
        known = {(adapter.side, adapter.slot): adapter for adapter in below}
        for slot in self._own.slots:
            key = (self._own.side, slot)
            mine = known.get(key, PeftAdapter(*key, zero_pair(self._d_model)))
            norms = {path: self._merged(layer, slot) for path, layer in self.layers.items()}
            known[key] = PeftAdapter(*key, mine.pairs, norms)
        return [known[key] for key in sorted(known)]

    def _slot(self, direction: Direction) -> str:
        return dict(self.architecture.slots)[direction.src if self._own.side == "src" else direction.tgt]

    @torch.no_grad()
    def _merged(self, layer: LanguageLayerNorm, slot: str) -> nn.LayerNorm:
        base = layer.base
        weight, bias = base.weight.clone(), base.bias.clone()
        if slot in layer.table.slots:
            index = layer.table.slots.index(slot)
            weight += layer.scale[index].to(weight.dtype)
            bias += layer.offset[index].to(bias.dtype)
        return plain_norm(base, weight, bias)


def stack_of(name: str) -> Stack | None:
    """Returns the stack of a norm by the name of its scale or offset; None: it is the name of something else."""
    if name.split(".")[-2] not in (*_NORMS["decoder"], "layer_norm"):
        return None
    return "encoder" if name.startswith("encoder.") else "decoder"


def plain_norm(like: nn.LayerNorm, weight: Tensor, bias: Tensor) -> nn.LayerNorm:
    """Returns a frozen norm as another is, with a scale and an offset of its own, (d,) each."""
    norm = nn.LayerNorm(like.normalized_shape, eps=like.eps, device="meta")
    norm.weight = nn.Parameter(weight.to(like.weight.dtype), requires_grad=False)
    norm.bias = nn.Parameter(bias.to(like.bias.dtype), requires_grad=False)
    return norm.train(like.training)


def norms_of(base: Base, stack: Stack) -> Iterator[tuple[str, nn.LayerNorm]]:
    """Yields the layer norms of a stack with their paths, in the order of the forward pass."""
    names = [f"layers.{number}.{name}" for number in range(base.shape.num_layers(stack)) for name in _NORMS[stack]]
    for name in (*names, "layer_norm"):
        path = f"model.{stack}.{name}"
        norm = base.model.get_submodule(path)
        assert isinstance(norm, nn.LayerNorm), f"{path} is adapted already"
        yield path, norm
