"""A bridge between the stacks: what the encoder says is mapped by a matrix of the target language.

Zhang et al. 2020 (arXiv 2004.11867, section 4.3) map it by a full matrix for each target language, drawn at random. A
frozen decoder reads raw states, so here it is the identity plus a matrix that starts at 0, full or of a low rank:

    h' = h + M_t h,    M_t (d, d)  or  M_t = B_t A_t

It is one product a sentence, and folds exactly into what reads it, the decoder's cross-attention: W_k (I + M_t). Of a
low rank that is a LoRA with one A for all of these layers, W_k + (W_k B_t) A_t, which plain PEFT holds.

Shapes: rows = sentences of a batch, len = tokens, slots = languages that have a bridge, d = d_model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from langsearch.adapters.lora import merged_linear, slot_generator
from langsearch.adapters.mounting import ENCODER_NORM, linear_at, module_path
from langsearch.adapters.peft_limits import why_no_peft
from langsearch.adapters.protocol import NOTHING_BELOW, Below, PeftAdapter, Pieces, Unscheduled, by_owner
from langsearch.adapters.routing import Routing, SlotTable
from langsearch.data.directions import Direction
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Side, Site
from langsearch.space.problems import InputError


class BridgedNorm(nn.Module):
    """The encoder's last norm with each slot's map behind it.

    Args:
        base: The norm, frozen or a language's own.
        routing: Where the rows' languages stand.
        slots: Those that have a bridge.
        slot_of_language: For each language its slot's name.
        d_model: The states' width.
        rank: Of the maps. None: full.
        seed: Of A's start.
        device: Where the maps are.
    """

    def __init__(
        self,
        base: nn.Module,
        routing: Routing,
        slots: Sequence[str],
        slot_of_language: Sequence[str],
        *,
        d_model: int,
        rank: int | None,
        seed: int,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.base = base
        self.table = SlotTable(routing, "tgt", slots, slot_of_language, device)
        self.A: nn.Parameter | None = None
        if rank is not None:
            # Within +-1/sqrt(d), as PEFT starts A; a slot's start depends on no other slot.
            values = [torch.rand(rank, d_model, generator=slot_generator(seed, "bridge", slot)) for slot in slots]
            bound = d_model**-0.5
            self.A = nn.Parameter(torch.stack(values).mul_(2 * bound).sub_(bound).to(device))
        width = d_model if rank is None else rank
        self.B = nn.Parameter(torch.zeros(len(slots), d_model, width, device=device))

    @property
    def sides(self) -> frozenset[Side]:
        """Whose language picks a row's map."""
        return frozenset({"tgt"})

    def forward(self, x: Tensor) -> Tensor:
        """Returns h + M h of h, the norm of x (rows, len, d), with each row's own M."""
        h: Tensor = self.base(x)
        with torch.autocast(h.device.type, enabled=False):
            runs = self.table.routing.runs("tgt", h.shape[0])
            if runs is None:
                index, has = self.table.rows(h.shape[0])
                within = h if self.A is None else torch.bmm(h, self.A[index].to(h.dtype).transpose(1, 2))
                b = self.B[index] * has[:, None, None]
                return torch.baddbmm(h, within, b.to(h.dtype).transpose(1, 2))
            parts = []
            for run in runs:
                part, slot = h[run.begin : run.end], self.table.slot_of_language[run.language]
                if slot is not None:
                    within = part if self.A is None else part @ self.A[slot].to(h.dtype).T
                    part = part + within @ self.B[slot].to(h.dtype).T
                parts.append(part)
        return torch.cat(parts)

    def matrix(self, slot: str) -> Tensor | None:
        """Returns a slot's M in float64, (d, d); None if it has none."""
        if slot not in self.table.slots:
            return None
        index = self.table.slots.index(slot)
        b = self.B.data[index].double()
        return b if self.A is None else b @ self.A.data[index].double()


class LanguageBridge(Unscheduled):
    """The bridges of an architecture's slots; one of the kinds of `Adapters`.

    Args:
        base: The base; its modules are read, and stay where they are.
        architecture: Has `bridge`.
        languages: The order that the rows' language indices refer to.
        seed: Seed of A's start.
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
        assert architecture.bridge is not None, "the architecture must have a bridge"
        self.architecture = architecture
        self.languages = tuple(languages)
        self.routing = routing or Routing()
        self._own = architecture.bridge
        self._count = self._own.num_parameters(base.shape)
        slots = dict(architecture.slots)
        self.layer = BridgedNorm(
            base.model.get_submodule(ENCODER_NORM),
            self.routing,
            self._own.slots,
            [slots[language] for language in languages],
            d_model=base.shape.d_model,
            rank=self._own.rank,
            seed=seed,
            device=base.model.lm_head.weight.device,
        )
        readers = [
            Site("decoder", number, module)
            for number in range(base.shape.decoder_layers)
            for module in ("cross_k_proj", "cross_v_proj")
        ]
        self._readers = {module_path(site): linear_at(base.model, site) for site in readers}

    def modules(self) -> dict[str, nn.Module]:
        """Returns the encoder's last norm with the bridge behind it, by its path."""
        return {ENCODER_NORM: self.layer}

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns B, which is M itself where it is full, and A."""
        return {"bridge.B": self.layer.B} | ({} if self.layer.A is None else {"bridge.A": self.layer.A})

    def owned(self, side: Side | None = None) -> dict[str, list[Tensor]]:
        """Returns each slot's B, and A, which the target picks."""
        if side == "src":
            return {}
        return {
            slot: [part.data[index] for part in (self.layer.B, self.layer.A) if part is not None]
            for index, slot in enumerate(self._own.slots)
        }

    def num_parameters(self) -> int:
        """Returns d squared, or twice rank times d, for every slot."""
        return len(self._own.slots) * self._count

    def pieces(self) -> Pieces:
        """Returns each slot's map, whole."""
        return Pieces(of_slots=by_owner(self._own.slots, self.parameters()))

    @torch.no_grad()
    def merged(self, direction: Direction, below: Below = NOTHING_BELOW) -> dict[str, nn.Module]:
        """Returns the decoder's cross k and v with W (I + M), of whatever W has been merged there before."""
        matrix = self.layer.matrix(dict(self.architecture.slots)[direction.tgt])
        found: dict[str, nn.Module] = {}
        for path, own in self._readers.items():
            linear = below.get(path, own)
            assert isinstance(linear, nn.Linear), f"{path} must be plain"
            found[path] = merged_linear(linear, [] if matrix is None else [linear.weight.double() @ matrix])
        return found

    @torch.no_grad()
    def to_peft(self, below: Sequence[PeftAdapter] = ()) -> list[PeftAdapter]:
        """Returns the adapters below with the bridge in them: pairs A and W B of every cross k and v, sorted.

        Beside a pair (A2, B2) of the target there it is one of the sum of both ranks: W B + B2 A2 B over A, B2 over A2.

        Raises:
            InputError: If the bridge is full, or pairs that the source picks stand where it is read.
        """
        if why_not := why_no_peft(self.architecture):
            raise InputError(why_not)
        known = {(adapter.side, adapter.slot): adapter for adapter in below}
        assert self.layer.A is not None
        for index, slot in enumerate(self._own.slots):
            mine = known.get(("tgt", slot), PeftAdapter("tgt", slot, {}))
            a, b = self.layer.A.data[index].float().cpu(), self.layer.B.data[index].float().cpu()
            pairs = dict(mine.pairs)
            for path, linear in self._readers.items():
                frozen = linear.weight.float().cpu()
                of_bridge = frozen @ b
                if path in pairs:
                    a2, b2 = pairs[path]
                    pairs[path] = torch.cat([a, a2]), torch.cat([of_bridge + b2 @ (a2 @ b), b2], dim=1)
                else:
                    pairs[path] = a.clone(), of_bridge
            known["tgt", slot] = PeftAdapter("tgt", slot, pairs, mine.norms)
        return [known[key] for key in sorted(known)]
