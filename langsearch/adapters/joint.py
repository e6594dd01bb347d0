"""Adapted layers that read the same input, as one, where the rows of a batch stand sorted by their language.

Shapes: rows = sentences of a batch, len = tokens, tokens = rows * len; a segment = adjacent rows of one language.

Each segment is multiplied with its own pairs, of their own ranks: no row's pair is copied, padding costs nothing, and a
pair's gradient is a product over its segment, without a scatter. A of all layers is one product, and so is what the
layers' gradients bring back to their common input. The frozen weights stay where they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """The pair of one layer for a segment."""

    layer: int
    slot: int
    rank: int
    scale: float

    begin: int
    """Where its rank begins among those of the segment's parts."""


@dataclass(frozen=True)
class Segment:
    """Adjacent rows that have the same pairs."""

    begin: int
    end: int
    """Rows."""

    parts: tuple[Part, ...]
    """Of the layers that have a pair for these."""


def joint_lora(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    segments: Sequence[Segment],
) -> tuple[Tensor, ...]:
    """Returns W x + bias + s B A x of each layer; gradients go to x, A and B only.

    Args:
        x: (rows, len, in).
        weights: Of each layer, (out, in), frozen.
        biases: (out,) of each, frozen, or None.
        a: (slots, rank, adapted in) of each; adapted in <= in, the same for all layers.
        b: (slots, adapted out, rank) of each; adapted out <= out.
        segments: Rows with pairs; no row is in two.

    Returns:
        (rows, len, out) of each, in x's type, or in autocast's type where it is on.
    """
    dtype = type_of_products(x)
    with torch.autocast(x.device.type, enabled=False):
        y: tuple[Tensor, ...] = _JointLoRA.apply(x, dtype, segments, *weights, *biases, *a, *b)  # type: ignore[no-untyped-call]
    return y


def type_of_products(x: Tensor) -> torch.dtype:
    """Returns the type that products of x are made in: its own, or autocast's where it is on."""
    device_type = x.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else x.dtype


class _JointLoRA(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dtype: torch.dtype, segments: Sequence[Segment], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        weights, biases, a, b = fourths(tensors)
        x, weights = x.to(dtype), tuple(weight.to(dtype) for weight in weights)
        flat = x.reshape(-1, x.shape[2])
        outputs = frozen_outputs(flat, weights, biases)
        hidden = []
        for segment in segments:
            tokens = slice(segment.begin * x.shape[1], segment.end * x.shape[1])
            h = flat[tokens, : a[0].shape[2]] @ _stacked(a, segment, dtype).T
            for part in segment.parts:
                pair_b = b[part.layer][part.slot, :, : part.rank].to(dtype)
                outputs[part.layer][tokens, : len(pair_b)].addmm_(_of(h, part), pair_b.T)
            hidden.append(h)
        ctx.save_for_backward(x, *weights, *a, *b, *hidden)
        ctx.segments, ctx.num_layers = segments, len(weights)
        return tuple(output.view(*x.shape[:2], -1) for output in outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        num = ctx.num_layers
        x, *saved = ctx.saved_tensors
        weights, a, b, hidden = saved[:num], saved[num : 2 * num], saved[2 * num : 3 * num], saved[3 * num :]
        flat = x.reshape(-1, x.shape[2])
        of_outputs = [grad.to(x.dtype).reshape(len(flat), -1) for grad in grads]
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad_of_input(of_outputs, weights)
        is_trained = any(ctx.needs_input_grad[3 + 2 * num :])
        grad_a = [torch.zeros_like(matrix) for matrix in a] if is_trained else []
        # Transposed: a product whose long side is last is the faster one.
        grad_b = [b_.new_zeros(b_.shape[0], b_.shape[2], b_.shape[1]) for b_ in b] if is_trained else []
        for segment, h in zip(ctx.segments, hidden, strict=True):
            tokens = slice(segment.begin * x.shape[1], segment.end * x.shape[1])
            grad_h = torch.empty_like(h)
            for part in segment.parts:
                pair_b = b[part.layer][part.slot, :, : part.rank].to(x.dtype)
                of_part = of_outputs[part.layer][tokens, : len(pair_b)]
                torch.mm(of_part, pair_b, out=_of(grad_h, part))
                if is_trained:
                    grad_b[part.layer][part.slot, : part.rank].add_(_of(h, part).T @ of_part)
            if is_trained:
                of_a = grad_h.T @ flat[tokens, : a[0].shape[2]]
                for part in segment.parts:
                    rows = of_a[part.begin : part.begin + part.rank]
                    grad_a[part.layer][part.slot, : part.rank].add_(rows, alpha=part.scale)
            if grad_x is not None:
                grad_x[tokens, : a[0].shape[2]].addmm_(grad_h, _stacked(a, segment, x.dtype))
        of_pairs = [*grad_a, *(grad.transpose(1, 2) for grad in grad_b)] if is_trained else [None] * 2 * num
        return (None if grad_x is None else grad_x.view(x.shape), None, None, *[None] * 2 * num, *of_pairs)


def fourths(tensors: Sequence[Any]) -> tuple[Sequence[Any], ...]:
    """Returns tensors that stand behind one another as one sequence of each kind: weights, biases, A and B."""
    num = len(tensors) // 4
    return tuple(tensors[begin : begin + num] for begin in range(0, 4 * num, num))


def frozen_outputs(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> list[Tensor]:
    """Returns W x + bias of each layer, (…, all in) -> (…, all out), in the type of x and the weights."""
    return [
        F.linear(x, weight, None if bias is None else bias.to(x.dtype))
        for weight, bias in zip(weights, biases, strict=True)
    ]


def grad_of_input(grads: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Returns what the outputs' gradients, (…, all out), bring back through the frozen weights, (…, all in)."""
    grad_x = grads[0] @ weights[0]
    flat = grad_x.view(-1, grad_x.shape[-1])
    for grad, weight in zip(grads[1:], weights[1:], strict=True):
        flat.addmm_(grad.reshape(len(flat), -1), weight)
    return grad_x


def _of(hidden: Tensor, part: Part) -> Tensor:
    """Returns a part's columns, (tokens, rank)."""
    return hidden[:, part.begin : part.begin + part.rank]


def _stacked(a: Sequence[Tensor], segment: Segment, dtype: torch.dtype) -> Tensor:
    """Returns the scaled A of a segment's parts below one another, (sum of ranks, adapted in)."""
    found = [a[part.layer][part.slot, : part.rank] for part in segment.parts]
    scaled = [
        matrix if part.scale == 1.0 else matrix * part.scale for matrix, part in zip(found, segment.parts, strict=True)
    ]
    return (scaled[0] if len(scaled) == 1 else torch.cat(scaled)).to(dtype)
