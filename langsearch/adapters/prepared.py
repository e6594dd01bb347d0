"""Linear layers as a decoder calls them, hundreds of times with the same rows: what depends on these is made once.

Shapes: rows = sentences in flight, len = tokens, in and out = the layers' sizes; rank = those of all layers together.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PreparedLinear:
    """Layers that read the same input, as one product, with the pairs of the rows in flight gathered once.

    Frozen weights of several layers are copied behind one another, for as long as this lives. A layer is a plain one,
    an adapted one that says its frozen `base` and the `row_pairs` of the rows that are routed, or one that gives itself
    for these rows by `prepare`; beside such a one, each layer makes its own product.

    Args:
        layers: The layers, at least one; all have a bias or none has.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = list(layers) if any(hasattr(layer, "prepare") for layer in layers) else []
        self._calls: list[Callable[[Tensor], Tensor]] = []
        if self._layers:
            return
        bases = [layer if isinstance(layer, nn.Linear) else layer.base for layer in layers]
        self._weight = bases[0].weight if len(bases) == 1 else torch.cat([base.weight for base in bases])
        biases = [base.bias for base in bases]
        self._bias = biases[0] if len(bases) == 1 or biases[0] is None else torch.cat(biases)
        ends = [0]
        for base in bases:
            ends.append(ends[-1] + base.out_features)
        self._adapted = [(layer, ends[index]) for index, layer in enumerate(layers) if not isinstance(layer, nn.Linear)]
        self._pairs: tuple[Tensor, Tensor] | None = None

    def route(self, num_rows: int) -> None:
        """Gathers the pairs of so many rows, whose languages must be routed; they serve until the next call."""
        if self._layers:
            self._calls = [_prepared(layer, num_rows) for layer in self._layers]
            return
        if not self._adapted:
            return
        dtype = self._weight.dtype
        found = [(*layer.row_pairs(num_rows), begin) for layer, begin in self._adapted]
        a = torch.cat([a for a, _, _ in found], dim=1).to(dtype)
        if len(found) == 1 and found[0][1].shape[2] == len(self._weight):
            b = found[0][1].to(dtype)
        else:
            b = a.new_zeros(num_rows, a.shape[1], len(self._weight))
            rank = 0
            for of_layer, b_of_layer, begin in found:
                b[:, rank : rank + of_layer.shape[1], begin : begin + b_of_layer.shape[2]] = b_of_layer
                rank += of_layer.shape[1]
        self._pairs = a.transpose(1, 2), b

    def __call__(self, x: Tensor, source_of: Tensor | None = None) -> Tensor:
        """Returns the layers' outputs side by side, (rows, len, in) -> (rows, len, sum of out).

        Args:
            x: The input; of sources where several rows have the same, (sources, len, in).
            source_of: (rows,) the source of each row. None: each row has its own.
        """
        if self._layers:
            if source_of is not None:
                x = x.index_select(0, source_of)
            return torch.cat([call(x) for call in self._calls], dim=-1)
        y = F.linear(x, self._weight, self._bias)
        if source_of is not None:
            y = y.index_select(0, source_of)
        if self._pairs is None:
            return y
        a, b = self._pairs
        if source_of is not None:
            x = x.index_select(0, source_of)
        return y.baddbmm_(torch.bmm(x[..., : a.shape[1]], a), b)


def _prepared(layer: Any, num_rows: int) -> Callable[[Tensor], Tensor]:
    """Returns a layer for so many rows: as it gives itself, or by itself alone."""
    if hasattr(layer, "prepare"):
        given: Callable[[Tensor], Tensor] = layer.prepare(num_rows)
        return given
    alone = PreparedLinear([layer])
    alone.route(num_rows)
    return alone
