"""A linear layer with language-specific LoRA: every row picks its own pair of matrices, without a loop over languages.

Shapes: rows = sentences of a batch, len = tokens, slots = adapters at this layer, rank = the largest rank here.

For a linear layer with frozen W and a row of language l:  y = W x + b + s_l B_l A_l x  (METHOD: Cao et al. 2024,
arXiv 2409.05224). A slot of smaller rank is padded with zeros. Padding stays zero by itself: where A and B are
both zero, so are both gradients.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from langsearch.adapters.joint import Part, Segment, joint_lora, type_of_products
from langsearch.adapters.joint_rows import lora_of_rows, masked_lora, other_slots, rows_of_a, rows_of_b
from langsearch.adapters.routing import Routing, Run
from langsearch.space.architecture import Init, Side

_MIN_WORK = 1 << 18
"""Tokens of a run of rows times the rank times the inputs, on average, from which on a product for each run costs no
more than one of all rows with a copy of each row's pair. Measured at d 256: 192 tokens of rank 8 cost a hair less, 77
of rank 8 an eighth of a step more, 192 of rank 32 a quarter of a step less."""

_MIN_WORK_BF16 = 1 << 20
"""The same where products are made in bf16: there a CPU also compiles a product for each number of tokens that it has
not seen lately, half a millisecond each. At d 256, 192 tokens of rank 8 cost a fifth of a step more, of rank 32 a
seventh less; at d 1024, 77 of rank 8 cost a thirtieth more, 192 of rank 8 the same, of rank 32 a quarter less."""

_MIN_WIDTHS = 4
"""On a GPU all slots are multiplied with all tokens where the input is so many times as wide as their ranks together.
"""


class LanguageLoRALinear(nn.Module):
    """A frozen linear layer plus one low-rank pair for each slot.

    Args:
        base: The frozen layer, weight (out, in).
        routing: Where the rows' languages stand: indices into the languages, (rows,).
        side: "src" or "tgt": which of the two indexes this layer.
        ranks: Rank of each language's slot, keyed by slot; slots without an adapter are absent.
        slot_of_language: For each language its slot's name.
        in_features: Adapters read only the first so many inputs; None: all.
        out_features: Adapters add only to the first so many outputs; None: all.
        scales: Factor on B A x for each slot.
    """

    slot_index: Tensor
    scale: Tensor | None
    is_used: Tensor | None

    def __init__(
        self,
        base: nn.Linear,
        routing: Routing,
        side: Side,
        ranks: dict[str, int],
        slot_of_language: list[str],
        *,
        in_features: int,
        out_features: int,
        scales: dict[str, float],
    ) -> None:
        super().__init__()
        self.base = base
        self.routing = routing
        self.side = side
        self.slots = list(ranks)
        self.ranks = list(ranks.values())
        self.used_ranks = self.ranks
        """How much of each pair is computed with; `use` says otherwise for an update."""
        self.register_buffer("is_used", None, persistent=False)
        self.in_features, self.out_features = in_features, out_features
        # Rows whose language has no adapter here pick a last slot of zeros.
        num_slots = len(ranks) + (not set(slot_of_language) <= set(ranks))
        index = [self.slots.index(slot) if slot in ranks else len(ranks) for slot in slot_of_language]
        rank = max(self.ranks)
        device = base.weight.device
        self.A = nn.Parameter(torch.zeros(num_slots, rank, in_features, device=device))
        self.B = nn.Parameter(torch.zeros(num_slots, out_features, rank, device=device))
        self.register_buffer("slot_index", torch.tensor(index, device=device), persistent=False)
        self.slot_of_language = index
        self.slot_key = (num_slots, *index)
        """Layers of the same have the same slots for the same languages."""
        self.scales = [scales[slot] for slot in self.slots]
        self.joint = JointInput([self])
        values = [*self.scales] + [1.0] * (num_slots - len(ranks))
        scale = torch.tensor(values, device=device).view(-1, 1, 1) if set(values) != {1.0} else None
        self.register_buffer("scale", scale, persistent=False)

    @torch.no_grad()
    def reset(self, init: Init, generators: dict[str, torch.Generator]) -> None:
        """Starts every slot anew: A uniform, B zero, so that a new adapter changes nothing.

        Args:
            init: "published": A within +-1/sqrt(rank), since the release stores A as (in, rank) and Kaiming's
                fan-in is then the rank (METHOD section 2). "peft": A within +-1/sqrt(in), PEFT's default.
            generators: A generator for each slot, so that a slot's start does not depend on the other slots.
        """
        self.A.zero_()
        self.B.zero_()
        for index, (slot, rank) in enumerate(zip(self.slots, self.ranks, strict=True)):
            bound = (rank if init == "published" else self.in_features) ** -0.5
            values = torch.rand(rank, self.in_features, generator=generators[slot])
            self.A[index, :rank] = values.mul_(2 * bound).sub_(bound).to(self.A.device)

    def use(self, ranks: Sequence[int] | None) -> None:
        """Has the layer compute with the first so many columns of each slot's pair alone; None: with all.

        Args:
            ranks: In the order of the slots.
        """
        self.used_ranks, self.is_used = self.ranks, None
        if ranks is not None and list(ranks) != self.ranks:
            self.used_ranks = list(ranks)
            limits = torch.tensor([*ranks, *[0] * (self.A.shape[0] - len(ranks))])
            used = torch.arange(self.A.shape[1]) < limits[:, None]
            self.is_used = used[..., None].to(self.A.device, self.A.dtype)

    @property
    def used_a(self) -> Tensor:
        """What of A is computed with, (slots, rank, in).

        Where A is zero, so is what B's columns would be multiplied with, and their gradient.
        """
        return self.A if self.is_used is None else self.A * self.is_used

    def pair(self, slot: str) -> tuple[Tensor, Tensor]:
        """Returns views (A, B) of one slot without its padding: (rank, in) and (out, rank)."""
        index = self.slots.index(slot)
        rank = self.ranks[index]
        return self.A.data[index, :rank], self.B.data[index, :, :rank]

    def pair_of(self, slot: str) -> tuple[Tensor, Tensor]:
        """Returns (A, scaled B) of one slot without its padding, with gradients: (rank, in) and (out, rank)."""
        index = self.slots.index(slot)
        rank = self.ranks[index]
        return self.used_a[index, :rank], self.B[index, :, :rank] * self.scales[index]

    def forward(self, x: Tensor) -> Tensor:
        """Returns W x + b + s B A x, with each row's own A and B.

        Args:
            x: (rows, len, in). With beam search the rows are the batch's rows, each repeated beams times.
        """
        return self.joint.output(self, x)

    @property
    def sides(self) -> frozenset[Side]:
        """Whose language picks a row's pair."""
        return frozenset({self.side})

    def row_slots(self, num_rows: int) -> Tensor:
        """Returns the index of each row's slot, (rows,), for so many rows in flight."""
        return self.routing.once(
            (self.side, num_rows, self.slot_key), lambda: self.slot_index[self.routing.rows(self.side, num_rows)]
        )

    def row_pairs(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """Returns each row's scaled A and its B transposed, (rows, rank, adapted in) and (rows, rank, adapted out)."""
        slots = self.row_slots(num_rows)
        return rows_of_a([self.used_a], [self.scale], [slots], self.A.dtype), rows_of_b(self.B, slots, self.B.dtype)


class JointInput:
    """Adapted layers that read the same input: the first that is called with it computes what all of them say.

    Args:
        layers: The layers, indexed by the same side; each is in one joint input alone.
    """

    def __init__(self, layers: Sequence[LanguageLoRALinear]) -> None:
        self._layers = tuple(layers)
        self._rank = max(max(layer.ranks) for layer in layers)
        self._is_narrow = all(
            _MIN_WIDTHS * layer.A.shape[0] * layer.A.shape[1] <= layer.in_features for layer in layers
        )
        for layer in layers:
            layer.joint = self
        self._x: Tensor | None = None
        self._context: object = None
        self._outputs: dict[LanguageLoRALinear, Tensor] = {}

    def output(self, layer: LanguageLoRALinear, x: Tensor) -> Tensor:
        """Returns what a layer says to x (rows, len, in), as (rows, len, out).

        Args:
            layer: One of the layers.
            x: The input.
        """
        context = layer.routing.context
        if context is None or self._context is not context or self._x is not x or layer not in self._outputs:
            outputs = dict(zip(self._layers, self._computed(x), strict=True))
            if context is None:  # nothing says when the languages change
                return outputs[layer]
            self._x, self._context, self._outputs = x, context, outputs
        y = self._outputs.pop(layer)
        if not self._outputs:
            self._x = None
        return y

    def _computed(self, x: Tensor) -> tuple[Tensor, ...]:
        """Returns what all layers say, in the way that is the fastest for these rows."""
        layers, num_rows = self._layers, x.shape[0]
        routing, side = layers[0].routing, layers[0].side
        weights, biases = [layer.base.weight for layer in layers], [layer.base.bias for layer in layers]
        b, scales = [layer.B for layer in layers], [layer.scale for layer in layers]
        runs = routing.runs(side, num_rows)
        if runs is not None and self._are_long(x, runs):
            segments = routing.once(("segments", self), lambda: self._segments_of(runs))
            return joint_lora(x, weights, biases, [layer.A for layer in layers], b, segments)
        a, slots = [layer.used_a for layer in layers], [layer.row_slots(num_rows) for layer in layers]
        if _wants_few_launches(x) and self._is_narrow:
            key = (side, num_rows, *((layer.slot_key, layer.A.shape[1]) for layer in layers))
            is_other = routing.once(key, lambda: other_slots(slots, a))
            return masked_lora(x, weights, biases, a, b, is_other, scales)
        return lora_of_rows(x, weights, biases, a, b, slots, scales)

    def _are_long(self, x: Tensor, runs: tuple[Run, ...]) -> bool:
        """Returns whether runs of rows are long enough, and ranks large enough, to be multiplied one by one."""
        least = _MIN_WORK_BF16 if type_of_products(x) is torch.bfloat16 else _MIN_WORK
        return x.numel() * self._rank >= least * len(runs)

    def _segments_of(self, runs: tuple[Run, ...]) -> tuple[Segment, ...]:
        """Returns the rows that have pairs; adjacent ones of languages that share their slots are one segment."""
        found: list[Segment] = []
        for run in runs:
            parts = self._parts(run.language)
            if found and found[-1].parts == parts and found[-1].end == run.begin:
                found[-1] = Segment(found[-1].begin, run.end, parts)
            elif parts:
                found.append(Segment(run.begin, run.end, parts))
        return tuple(found)

    def _parts(self, language: int) -> tuple[Part, ...]:
        parts: list[Part] = []
        for index, layer in enumerate(self._layers):
            slot = layer.slot_of_language[language]
            if slot < len(layer.ranks) and layer.used_ranks[slot]:
                begin = sum(part.rank for part in parts)
                parts.append(Part(index, slot, layer.used_ranks[slot], layer.scales[slot], begin))
        return tuple(parts)


def lora_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, slots: Tensor | None, scale: Tensor | None
) -> Tensor:
    """Returns W x + bias + B A x with each row's A and B, adding in place; gradients go to x, A and B only.

    Args:
        x: (rows, len, in).
        weight: (out, in), frozen.
        bias: (out,), frozen, or None.
        a: (slots, rank, adapted in); adapted in <= in.
        b: (slots, adapted out, rank); adapted out <= out.
        slots: (rows,) index of each row's slot. None: each row has a slot of its own.
        scale: (slots, 1, 1) or None for 1.

    Returns:
        (rows, len, out) in x's type, or in autocast's type where it is on.
    """
    return lora_of_rows(x, [weight], [bias], [a], [b], [slots], [scale])[0]


def _wants_few_launches(x: Tensor) -> bool:
    """Returns whether a product's start costs more than its operations, as on a GPU it does."""
    return x.is_cuda
