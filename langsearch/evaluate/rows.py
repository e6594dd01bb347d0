"""What a decoder keeps of the sentences in flight.

Shapes as in `incremental`; room = nodes that the caches have room for, of which the first `used` are there.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

_ROOM = 16
"""Steps that the caches have room for at least when they grow; for one hypothesis it is half of what is there, if that
is more."""

_ROOM_BEAMS = 8
"""Steps likewise where there are several hypotheses: after so many steps nodes that nobody needs are thrown away."""

KeysAndValues = tuple[Tensor, Tensor]


@dataclass
class RowsInFlight:
    """Rows, and keys and values of each layer."""

    src_lang: Tensor
    """(rows,)"""

    tgt_lang: Tensor
    """(rows,)"""

    src_mask: Tensor
    """(rows, src len), True at tokens."""

    src_bias: Tensor | None
    """(rows, 1, 1, src len), minus infinity at padding. None where there is none."""

    lengths: Tensor
    """(rows,) tokens that were read of each hypothesis."""

    cross: list[KeysAndValues]
    """Of the source, (rows, src len, d)."""

    own: list[KeysAndValues]
    """Of the nodes, (rows, room, d)."""

    apart: Tensor
    """(beams, beams) minus infinity but for 0 on the diagonal: each hypothesis sees its own new node."""

    hidden: Tensor
    """(rows, beams, room) minus infinity at nodes that a hypothesis has not come by, else 0."""

    used: int

    is_even: bool
    """Whether every hypothesis has come by all nodes."""

    @property
    def beams(self) -> int:
        """Hypotheses of a row."""
        return self.hidden.shape[1]

    def make_room(self, num: int) -> None:
        """Sees to it that so many more nodes fit."""
        if self.used + num > self.hidden.shape[2]:
            more = self._compacted(None)
            self.own, self.hidden, self.used, self.is_even = more.own, more.hidden, more.used, more.is_even

    def take_in(self) -> None:
        """Shows each hypothesis the node that it is going to be given."""
        self.hidden[:, :, self.used : self.used + self.beams] = self.apart

    def seen(self, num: int) -> Tensor | None:
        """Returns what attention adds to the nodes with so many more, (rows, 1, beams, nodes); None where all count."""
        # In one piece: a GPU's kernels want the rows of a mask to begin at round addresses.
        return None if self.is_even else self.hidden[:, None, :, : self.used + num].contiguous()

    def took(self, num: int, steps: int | None = None) -> None:
        """Notes that so many nodes were written, of so many tokens of each hypothesis; None: of as many."""
        self.used += num
        self.lengths = self.lengths + (num if steps is None else steps)

    def follow(self, beams: Tensor) -> None:
        """Has each row's hypotheses go on from those of these numbers, (rows, beams)."""
        self.hidden = self.hidden.gather(1, beams[:, :, None].expand(-1, -1, self.hidden.shape[2]))

    def select(self, rows: Tensor) -> "RowsInFlight":
        """Returns these rows alone, (kept,)."""
        mask = self.src_mask[rows]
        width = int(mask.sum(dim=-1).max())
        return replace(
            self._compacted(rows),
            src_lang=self.src_lang[rows],
            tgt_lang=self.tgt_lang[rows],
            lengths=self.lengths[rows],
            src_mask=mask[:, :width],
            src_bias=None if self.src_bias is None else self.src_bias[rows, :, :, :width].contiguous(),
            cross=[(keys[rows, :width], values[rows, :width]) for keys, values in self.cross],
        )

    def with_more(self, new: "RowsInFlight") -> "RowsInFlight":
        """Returns these rows and more."""
        width = max(self.src_mask.shape[1], new.src_mask.shape[1])
        room = max(self.hidden.shape[2], new.hidden.shape[2])
        bias = None
        if not (self.src_bias is None and new.src_bias is None and self.src_mask.shape == new.src_mask.shape):
            bias = torch.cat([_bias(rows, width) for rows in (self, new)])
        is_even = self.is_even and new.is_even and self.used == new.used
        used = max(self.used, new.used)
        return RowsInFlight(
            src_lang=torch.cat([self.src_lang, new.src_lang]),
            tgt_lang=torch.cat([self.tgt_lang, new.tgt_lang]),
            src_mask=torch.cat([_padded(rows.src_mask, width) for rows in (self, new)]),
            src_bias=bias,
            lengths=torch.cat([self.lengths, new.lengths]),
            cross=_joined(self.cross, new.cross, width),
            own=_joined(self.own, new.own, room),
            apart=self.apart,
            hidden=torch.cat([rows._hidden_up_to(used, room) for rows in (self, new)]),
            used=used,
            is_even=is_even,
        )

    def _hidden_up_to(self, used: int, room: int) -> Tensor:
        """Returns `hidden` for caches in which more nodes, which are not this row's, are used."""
        wide = F.pad(self.hidden, (0, room - self.hidden.shape[2]))
        wide[:, :, self.used : used] = -torch.inf
        return wide

    def _compacted(self, rows: Tensor | None) -> "RowsInFlight":
        """Returns rows, (kept,) or all, without the nodes that none of their hypotheses has come by, and with room."""
        hidden = self.hidden if rows is None else self.hidden[rows]
        num_rows, beams, _ = hidden.shape
        is_needed = (hidden[:, :, : self.used] == 0).any(dim=1)
        counts = is_needed.sum(dim=1)
        used = int(counts.max()) if num_rows else 0
        room = used + (beams * _ROOM_BEAMS if beams > 1 else max(_ROOM, used // 2))
        # Those that are needed first, in their order; what fills the room behind them is there already, and hidden.
        order = is_needed.logical_not().byte().argsort(dim=1, stable=True)[:, :used]
        order = F.pad(order, (0, room - used))
        at = order[:, None].expand(-1, beams, -1)
        hidden = hidden.gather(2, at) if self.used else hidden.new_zeros(num_rows, beams, room)
        is_even = beams == 1 and bool((counts == used).all())
        own = [(_taken(keys, rows, order), _taken(values, rows, order)) for keys, values in self.own]
        return replace(self, own=own, hidden=hidden, used=used, is_even=is_even)


def _taken(cached: Tensor, rows: Tensor | None, nodes: Tensor) -> Tensor:
    """Returns the nodes of rows, (rows, room, d) by (kept, more) -> (kept, more, d)."""
    num_rows, room, d = cached.shape
    if room == 0:
        return cached.new_zeros(*nodes.shape, d)
    places = torch.arange(num_rows, device=nodes.device) if rows is None else rows
    flat = (places[:, None] * room + nodes).flatten()
    return cached.reshape(num_rows * room, d).index_select(0, flat).view(*nodes.shape, d)


def _bias(rows: RowsInFlight, width: int) -> Tensor:
    bias = rows.hidden.new_zeros(rows.src_mask.shape) if rows.src_bias is None else rows.src_bias[:, 0, 0]
    return F.pad(bias, (0, width - bias.shape[1]), value=-torch.inf)[:, None, None]


def _joined(first: list[KeysAndValues], second: list[KeysAndValues], size: int) -> list[KeysAndValues]:
    def side(one: KeysAndValues, other: KeysAndValues, index: int) -> Tensor:
        return torch.cat([_padded(one[index], size), _padded(other[index], size)])

    return [(side(one, other, 0), side(one, other, 1)) for one, other in zip(first, second, strict=True)]


def _padded(tensor: Tensor, size: int) -> Tensor:
    """Returns a tensor with zeros behind the end of its second dimension: what is hidden still meets a weight of 0."""
    if tensor.shape[1] == size:
        return tensor
    return torch.cat([tensor, tensor.new_zeros(tensor.shape[0], size - tensor.shape[1], *tensor.shape[2:])], dim=1)
