"""Low-rank pairs behind a gate: token by token, a language's own pair is taken or the frozen layer alone.

Multilingual DistilWhisper (arXiv 2311.01070, section 3) sets a language's own feed-forward block beside the shared one,
and CLSR (Zhang et al. 2021, openreview Wj4ODo0uyCF, section 3.1) a gate between two projections. With a pair beside the
frozen layer the interpolation of both is

    y = W x + b + g s_l B_l A_l x
    g = sigmoid(G(x) + a_t e) in training, e ~ N(0, 1) a token;    g = 1 where G(x) >= 0, else 0, when decoding

G(x) = w_l . x + c_l, or w_l . relu(V_l x + c_l) with a hidden layer. The noise a_t grows with the progress of training,
so that gates become binary by themselves: without it the pair makes up for half-open gates, which then are closed. A
budget keeps gates from opening where nothing is needed: max(0, mean(g) - budget) over all tokens and layers, one-sided,
since the two-sided one of the papers opens the gates of languages that need none. In some updates a layer's pairs are
skipped for all rows; their gates count for the budget all the same.

A gate depends on the token, so that nothing of this merges into plain layers.

Shapes: rows = sentences of a batch, len = tokens, slots = adapters at a layer, h = hidden units of a gate.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langsearch.adapters.joint import type_of_products
from langsearch.adapters.lora import AroundLoRA, slot_generator
from langsearch.adapters.lora_linear import LanguageLoRALinear
from langsearch.adapters.peft_limits import why_no_peft
from langsearch.adapters.protocol import NOTHING_BELOW, Below, PeftAdapter, Pieces
from langsearch.adapters.routing import Reads, Routing, SlotTable
from langsearch.data.directions import Direction
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Gate, Side, Site
from langsearch.space.kinds import NOT_CUT
from langsearch.space.problems import InputError

_HIDDEN_START = 0.01
"""Standard deviation of a hidden layer's weights as they start; all else of a gate starts at 0, so that g is 1/2."""


class GateLog:
    """How noisy gates are, and how open they were in the forward passes since the last look.

    Args:
        gate: The settings of all gates.
    """

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.noise = 0.0
        """Standard deviation of the noise in this update."""
        self._sums: list[Tensor] = []
        self._counts: list[Tensor] = []

    def clear(self) -> None:
        """Forgets what was noted."""
        self._sums, self._counts = [], []

    def note(self, opened: Tensor, weights: Tensor) -> None:
        """Notes gates (rows, len) of tokens that count so much, (rows, len)."""
        self._sums.append((opened * weights).sum())
        self._counts.append(weights.sum())

    def over_budget(self) -> Tensor | None:
        """Returns how far the mean of what was noted is over the budget, and forgets it; None: nothing was noted."""
        if not self._sums:
            return None
        mean = torch.stack(self._sums).sum() / torch.stack(self._counts).sum().clamp(min=1)
        self.clear()
        excess = mean - self.gate.budget
        return excess.clamp(min=0) if self.gate.is_one_sided else excess.abs()


class GatedLoRALinear(nn.Module):
    """A frozen linear layer with a gated pair for each slot.

    Args:
        pair: The layer with its pairs.
        slot_of_language: For each language its slot's name.
        reads: Whose tokens the layer reads.
        log: Of all gates of the model.
        generators: For each slot, of the start of its hidden layer.
    """

    def __init__(
        self,
        pair: LanguageLoRALinear,
        slot_of_language: Sequence[str],
        reads: Reads,
        log: GateLog,
        generators: dict[str, torch.Generator],
    ) -> None:
        super().__init__()
        self.pair, self.reads, self.log = pair, reads, log
        device, num_in, hidden = pair.base.weight.device, pair.in_features, log.gate.hidden
        num_slots = len(pair.slots)
        self.table = SlotTable(pair.routing, pair.side, pair.slots, slot_of_language, device)
        self.V: nn.Parameter | None = None
        if hidden:
            start = [torch.randn(hidden, num_in, generator=generators[slot]) for slot in pair.slots]
            self.V = nn.Parameter((torch.stack(start) * _HIDDEN_START).to(device))
        self.w = nn.Parameter(torch.zeros(num_slots, hidden or num_in, device=device))
        self.c = nn.Parameter(torch.zeros(num_slots, hidden or 1, device=device))

    @property
    def base(self) -> nn.Linear:
        """The frozen layer."""
        return self.pair.base

    @property
    def sides(self) -> frozenset[Side]:
        """Whose language picks a row's pair and gate."""
        return self.pair.sides

    def forward(self, x: Tensor) -> Tensor:
        """Returns (rows, len, all out) of x (rows, len, all in)."""
        return self._of_rows(x.shape[0], x)(x)

    def prepare(self, num_rows: int) -> Callable[[Tensor], Tensor]:
        """Returns the layer for so many rows, whose languages are routed, with what is theirs gathered once."""
        return self._of_rows(num_rows, self.base.weight)

    def gates(self, x: Tensor) -> Tensor:
        """Returns G of x (rows, len, all in), (rows, len) in fp32, with each row's own gate."""
        return self._gates(x.shape[0], type_of_products(x))(x)

    def _gates(self, num_rows: int, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        index, _ = self.table.rows(num_rows)
        w, c = self.w[index][:, :, None].to(dtype), self.c[index][:, None].to(dtype)
        v = None if self.V is None else self.V[index].to(dtype).transpose(1, 2)

        def gates(x: Tensor) -> Tensor:
            x = x[..., : self.pair.in_features].to(dtype)
            if v is None:
                return (torch.bmm(x, w) + c).squeeze(-1).float()
            return torch.bmm(F.relu(torch.bmm(x, v) + c), w).squeeze(-1).float()

        return gates

    def _of_rows(self, num_rows: int, like: Tensor) -> Callable[[Tensor], Tensor]:
        dtype, base = type_of_products(like), self.base
        a, b = (matrix.to(dtype) for matrix in self.pair.row_pairs(num_rows))
        gates = self._gates(num_rows, dtype)

        def apply(x: Tensor) -> Tensor:
            with torch.autocast(x.device.type, enabled=False):
                x = x.to(dtype)
                y = F.linear(x, base.weight.to(dtype), None if base.bias is None else base.bias.to(dtype))
                opened = self._opened(gates(x))
                added = opened[..., None].to(dtype) * torch.bmm(torch.bmm(x[..., : a.shape[2]], a.transpose(1, 2)), b)
            return y + F.pad(added, (0, y.shape[-1] - added.shape[-1]))

        return apply

    def _opened(self, gates: Tensor) -> Tensor:
        """Returns g, (rows, len), and notes it while training."""
        if not self.training:
            return (gates >= 0).float()
        if self.log.noise:
            gates = gates + self.log.noise * torch.randn_like(gates)
        opened = torch.sigmoid(gates)
        weights = self.pair.routing.token_weights(self.reads)
        if weights is not None:
            _, has = self.table.rows(len(gates))
            self.log.note(opened, weights * has[:, None])
        if self.log.gate.skip and float(torch.rand(())) < self.log.gate.skip:
            return torch.zeros_like(opened)
        return opened


class GatedLoRA(AroundLoRA):
    """The gated pairs of all sites and slots of an architecture; one of the kinds of `Adapters`.

    Args:
        base: The base; its layers are read, and stay where they are.
        architecture: Has a `gate`.
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
        assert architecture.gate is not None, "the architecture must have gates"
        super().__init__(base, architecture, languages, seed, routing, architecture.num_gate_parameters(base.shape))
        self.log = GateLog(architecture.gate)
        slots = dict(architecture.slots)
        slot_of_language = [slots[language] for language in languages]
        self.layers: dict[Site, GatedLoRALinear] = {}
        for entry in architecture.adapters:
            of_source = entry.site.stack == "encoder" or entry.site.module in ("cross_k_proj", "cross_v_proj")
            self.layers[entry.site] = GatedLoRALinear(
                self.own.layers[entry.site],
                slot_of_language,
                "src" if of_source else "tgt",
                self.log,
                {slot: slot_generator(seed, f"{entry.site}/gate", slot) for slot, _ in entry.ranks},
            )

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns A and B of every site, then the gates."""
        found = self.own.parameters()
        for site, layer in self.layers.items():
            found |= {f"{site}.gate.w": layer.w, f"{site}.gate.c": layer.c}
            found |= {} if layer.V is None else {f"{site}.gate.V": layer.V}
        return found

    def owned(self, side: Side | None = None) -> dict[str, list[Tensor]]:
        """Returns each slot's pairs and gates of every site, or of those that a side indexes."""
        found = self.own.owned(side)
        for layer in self.layers.values():
            for index, slot in enumerate(layer.pair.slots if side in (None, layer.pair.side) else ()):
                found[slot] += [part.data[index] for part in (layer.w, layer.c, layer.V) if part is not None]
        return found

    def before_update(self, progress: float) -> None:
        """Sets the noise: in proportion to the progress, as both papers have it."""
        self.log.noise = self.log.gate.noise * progress
        self.log.clear()

    def penalty(self) -> Tensor | None:
        """Returns how far the gates of the last forward pass were open beyond the budget."""
        return self.log.over_budget()

    def pieces(self) -> Pieces:
        """Refuses: a gate is open where the whole pair is worth it.

        Raises:
            InputError: Always.
        """
        raise InputError(f"Gated adapters cannot be cut: {NOT_CUT['gated']}.")

    def merged(self, direction: Direction, below: Below = NOTHING_BELOW) -> dict[str, nn.Module]:
        """Refuses: what a gate adds depends on the token.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "Gated adapters cannot be merged into plain layers: a gate opens or not by the token. Export them in "
            "langsearch's own format: --format peft writes it where PEFT cannot hold them."
        )

    def to_peft(self, below: Sequence[PeftAdapter] = ()) -> list[PeftAdapter]:
        """Refuses: PEFT has no gates.

        Raises:
            InputError: Always.
        """
        raise InputError(why_no_peft(self.architecture) or "")
