"""Adapted layers that read the same input, as one, where rows stand in any order: each row picks its pairs.

Shapes: rows = sentences of a batch, len = tokens, slots = pairs of a layer, rank = the largest of them, ranks = those
of all layers together, in and out = as much of a layer's inputs and outputs as has adapters.

Two ways, which say the same:

- *by copies*: each row's pairs are copied next to each other and multiplied as a batch of small products. The cost does
  not depend on the number of slots.
- *masked*: all slots are multiplied with all tokens, and of the result each row keeps what its own slot says. These
  are few large products without a copy, a gather or a scatter, which is what a GPU wants as long as all slots' ranks
  together are few beside the layer's own width.

Either way a pair's gradient is a product, never a scatter: on a GPU too it is the same each time.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from langsearch.adapters.joint import fourths, frozen_outputs, grad_of_input, type_of_products


def lora_of_rows(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    slots: Sequence[Tensor | None],
    scales: Sequence[Tensor | None],
) -> tuple[Tensor, ...]:
    """Returns W x + bias + s B A x of each layer, by copies of the rows' pairs; gradients go to x, A and B only.

    Args:
        x: (rows, len, all in).
        weights: Of each layer, (all out, all in), frozen.
        biases: (all out,) of each, frozen, or None.
        a: (slots, rank, in) of each; the same in for all layers.
        b: (slots, out, rank) of each.
        slots: (rows,) index of each row's slot, of each layer; the same tensor where layers have the same slots. None:
            each row has a slot of its own.
        scales: (slots, 1, 1) of each, or None for 1.

    Returns:
        (rows, len, all out) of each, in x's type, or in autocast's type where it is on.
    """
    dtype = type_of_products(x)
    with torch.autocast(x.device.type, enabled=False):
        y: tuple[Tensor, ...] = _ByCopies.apply(x, dtype, slots, scales, *weights, *biases, *a, *b)  # type: ignore[no-untyped-call]
    return y


def masked_lora(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    is_other: Tensor,
    scales: Sequence[Tensor | None],
) -> tuple[Tensor, ...]:
    """Returns the same, by products with all slots.

    Args:
        x: As in `lora_of_rows`, and so are the others.
        weights: Of each layer.
        biases: Of each.
        a: Of each.
        b: Of each.
        is_other: (rows, sum over layers of slots * rank) bool: True where a slot is not a row's own; see `other_slots`.
        scales: Of each.
    """
    dtype = type_of_products(x)
    with torch.autocast(x.device.type, enabled=False):
        y: tuple[Tensor, ...] = _Masked.apply(x, dtype, is_other, scales, *weights, *biases, *a, *b)  # type: ignore[no-untyped-call]
    return y


def other_slots(slots: Sequence[Tensor], a: Sequence[Tensor]) -> Tensor:
    """Returns which columns of all slots are not each row's own, (rows, sum over layers of slots * rank), bool.

    Args:
        slots: (rows,) index of each row's slot, of each layer.
        a: (slots, rank, in) of each.
    """
    found = [
        (of_rows[:, None] != _numbers(len(of_layer), of_rows)).repeat_interleave(of_layer.shape[1], dim=1)
        for of_rows, of_layer in zip(slots, a, strict=True)
    ]
    return torch.cat(found, dim=1)


class _ByCopies(torch.autograd.Function):
    """The products and their gradients by hand: no intermediate of the frozen layers is kept, sums go in place.

    B is taken transposed, (slots, rank, out): a batch of products with the long side last is two to six times as fast
    as with the rank last, in the forward pass and for both gradients that B has a part in.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dtype: torch.dtype,
        slots: Sequence[Tensor | None],
        scales: Sequence[Tensor | None],
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        weights, biases, a, b = fourths(tensors)
        x, weights = x.to(dtype), tuple(weight.to(dtype) for weight in weights)
        outputs = frozen_outputs(x, weights, biases)
        x_in = _first(x, a[0].shape[2])
        hidden = torch.bmm(x_in, rows_of_a(a, scales, slots, dtype).transpose(1, 2))
        for y, of_layer, of_rows, h in zip(outputs, b, slots, torch.split(hidden, _ranks(a), dim=2), strict=True):
            _add_bmm(y, h, rows_of_b(of_layer, of_rows, dtype))
        ctx.save_for_backward(x_in, hidden, *weights, *a, *b)
        ctx.slots, ctx.scales, ctx.dtype = slots, scales, dtype
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        num, slots, scales, dtype = len(ctx.slots), ctx.slots, ctx.scales, ctx.dtype
        x_in, hidden, *saved = ctx.saved_tensors
        weights, a, b = saved[:num], saved[num : 2 * num], saved[2 * num :]
        grads = tuple(grad.to(dtype) for grad in grads)
        adapted = [_first(grad, of_layer.shape[1]) for grad, of_layer in zip(grads, b, strict=True)]
        grad_hidden = _beside(
            [
                torch.bmm(grad, rows_of_b(of_layer, of_rows, dtype).transpose(1, 2))
                for grad, of_layer, of_rows in zip(adapted, b, slots, strict=True)
            ]
        )
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad_of_input(grads, weights)
            _add_bmm(grad_x, grad_hidden, rows_of_a(a, scales, slots, dtype))
        grad_a: list[Tensor | None] = [None] * num
        grad_b: list[Tensor | None] = [None] * num
        is_trained = ctx.needs_input_grad[4 + 2 * num :]
        if any(is_trained[:num]):
            of_rows_a = torch.bmm(grad_hidden.transpose(1, 2), x_in).to(a[0].dtype)
            sums = _sums_by_slot(of_rows_a, a, slots)
            grad_a = [_scaled(of_layer, scale) for of_layer, scale in zip(sums, scales, strict=True)]
        if any(is_trained[num:]):
            for index, h in enumerate(torch.split(hidden, _ranks(a), dim=2)):
                of_rows_b = torch.bmm(h.transpose(1, 2), adapted[index]).to(b[index].dtype)
                grad_b[index] = _sum_by_slot(of_rows_b, slots[index], len(b[index])).transpose(1, 2)
        return (grad_x, None, None, None, *[None] * 2 * num, *grad_a, *grad_b)


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dtype: torch.dtype, is_other: Tensor, scales: Sequence[Tensor | None], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        weights, biases, a, b = fourths(tensors)
        x, weights = x.to(dtype), tuple(weight.to(dtype) for weight in weights)
        outputs = frozen_outputs(x, weights, biases)
        x_in = _first(x, a[0].shape[2])
        each_a = [_scaled(of_layer, scale).flatten(0, 1) for of_layer, scale in zip(a, scales, strict=True)]
        all_a = (each_a[0] if len(each_a) == 1 else torch.cat(each_a)).to(dtype)
        all_b = [_transposed(of_layer, dtype).flatten(0, 1) for of_layer in b]
        widths = [len(of_layer) for of_layer in all_b]
        hidden = F.linear(x_in, all_a).masked_fill_(is_other[:, None], 0.0)  # what overflows there is no NaN here
        for y, of_layer, h in zip(outputs, all_b, torch.split(hidden, widths, dim=2), strict=True):
            _first(y, of_layer.shape[1]).flatten(0, 1).addmm_(h.flatten(0, 1), of_layer)
        ctx.save_for_backward(x_in, hidden, is_other, all_a, *weights, *all_b)
        ctx.scales, ctx.dtype, ctx.kept_dtype = scales, dtype, a[0].dtype
        ctx.sizes = [of_layer.shape[:2] for of_layer in a]
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        num, dtype = len(ctx.sizes), ctx.dtype
        x_in, hidden, is_other, all_a, *saved = ctx.saved_tensors
        weights, all_b = saved[:num], saved[num:]
        widths = [len(of_layer) for of_layer in all_b]
        grads = tuple(grad.to(dtype) for grad in grads)
        adapted = [_first(grad, of_layer.shape[1]) for grad, of_layer in zip(grads, all_b, strict=True)]
        grad_hidden = _beside([F.linear(grad, of_layer) for grad, of_layer in zip(adapted, all_b, strict=True)])
        grad_hidden.masked_fill_(is_other[:, None], 0.0)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad_of_input(grads, weights)
            _first(grad_x, all_a.shape[1]).flatten(0, 1).addmm_(grad_hidden.flatten(0, 1), all_a)
        grad_a: list[Tensor | None] = [None] * num
        grad_b: list[Tensor | None] = [None] * num
        is_trained = ctx.needs_input_grad[4 + 2 * num :]
        if any(is_trained[:num]):
            of_all = (grad_hidden.flatten(0, 1).T @ x_in.flatten(0, 1)).to(ctx.kept_dtype)
            grad_a = [
                _scaled(of_layer.view(*size, -1), scale)
                for of_layer, size, scale in zip(torch.split(of_all, widths), ctx.sizes, ctx.scales, strict=True)
            ]
        if any(is_trained[num:]):
            for index, h in enumerate(torch.split(hidden, widths, dim=2)):
                of_layer = h.flatten(0, 1).T @ adapted[index].flatten(0, 1)
                # In B's own layout and type at once: another one would be copied again where gradients are kept.
                grad_b[index] = _transposed(of_layer.view(*ctx.sizes[index], -1), ctx.kept_dtype)
        return (grad_x, None, None, None, *[None] * 2 * num, *grad_a, *grad_b)


def _first(x: Tensor, num: int) -> Tensor:
    """Returns the first so many columns; x itself where they are all."""
    return x[..., :num] if num < x.shape[2] else x


def _add_bmm(y: Tensor, h: Tensor, matrices: Tensor) -> None:
    """Adds each row's product (rows, len, n) x (rows, n, out) to the first columns of y."""
    if matrices.shape[2] < y.shape[2]:
        y[..., : matrices.shape[2]] += torch.bmm(h, matrices)
    else:
        y.baddbmm_(h, matrices)


def _beside(found: list[Tensor]) -> Tensor:
    return found[0] if len(found) == 1 else torch.cat(found, dim=2)


def _scaled(matrix: Tensor, scale: Tensor | None) -> Tensor:
    return matrix if scale is None else matrix * scale


def _ranks(a: Sequence[Tensor]) -> list[int]:
    return [of_layer.shape[1] for of_layer in a]


def _transposed(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns (slots, n, m) as (slots, m, n) in one piece and in a type: one copy."""
    size, num_rows, num_columns = matrices.shape
    kept = torch.empty(size, num_columns, num_rows, dtype=dtype, device=matrices.device)
    return kept.copy_(matrices.transpose(1, 2))


def rows_of_a(
    a: Sequence[Tensor], scales: Sequence[Tensor | None], slots: Sequence[Tensor | None], dtype: torch.dtype
) -> Tensor:
    """Returns each row's scaled A of all layers, (rows, ranks, in)."""
    found = [_scaled(of_layer, scale).to(dtype) for of_layer, scale in zip(a, scales, strict=True)]
    if all(of_layer is slots[0] for of_layer in slots):
        stacked = found[0] if len(found) == 1 else torch.cat(found, dim=1)
        return _picked(stacked, slots[0])
    return torch.cat([_picked(of_layer, of_rows) for of_layer, of_rows in zip(found, slots, strict=True)], dim=1)


def rows_of_b(b: Tensor, slots: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Returns each row's B transposed, (rows, rank, out)."""
    return _picked(_transposed(b, dtype), slots)


def _picked(of_slots: Tensor, slots: Tensor | None) -> Tensor:
    return of_slots if slots is None else of_slots.index_select(0, slots)


def _sums_by_slot(of_rows: Tensor, a: Sequence[Tensor], slots: Sequence[Tensor | None]) -> Sequence[Tensor]:
    """Returns the sum over each slot's rows, (slots, rank, in) of each layer, of (rows, ranks, in)."""
    if all(of_layer is slots[0] for of_layer in slots):
        return torch.split(_sum_by_slot(of_rows, slots[0], len(a[0])), _ranks(a), dim=1)
    parts = torch.split(of_rows, _ranks(a), dim=1)
    return [_sum_by_slot(part, of, len(of_layer)) for part, of, of_layer in zip(parts, slots, a, strict=True)]


def _sum_by_slot(of_rows: Tensor, slots: Tensor | None, num_slots: int) -> Tensor:
    if slots is None:
        return of_rows
    is_own = (slots == _numbers(num_slots, slots)[:, None]).to(of_rows.dtype)
    return (is_own @ of_rows.flatten(1)).view(num_slots, *of_rows.shape[1:])


def _numbers(num_slots: int, slots: Tensor) -> Tensor:
    """Returns the numbers of slots, (slots,); PyTorch's own `one_hot` would wait for a GPU."""
    return torch.arange(num_slots, device=slots.device)
