"""The loss term that every training has: label-smoothed cross-entropy, a chunk of tokens at a time.

With a vocabulary of 256k the logits of one 4,000-token batch take 4 GB, their gradient 4 GB more. Here they exist
only for a chunk: the gradient of the hidden states is made in the forward pass, when the chunk's logits are at hand.
The idea is that of Liger Kernel's fused linear cross-entropy (arXiv 2410.10989, section 3.2).

Shapes: tokens = target tokens that count, d = d_model, vocab = rows of the output embedding.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from langsearch.data.batches import Batch
from langsearch.train.term import Need, Plain, States

_CHUNK_ELEMENTS = 1 << 21
"""Logits in flight: 8 MB of fp32, which stays in a CPU's cache; a GPU takes sixteen times as many."""

_MIN_CHUNK = 64
"""Tokens at least: every chunk reads the whole embedding twice. With a vocabulary of 256k and d 1024, which is 1 GB in
fp32, 8 tokens at a time took 2.3 times as long as 64 (2.6 in bf16), whose logits are 66 MB."""


@dataclass(frozen=True)
class CrossEntropy(Plain):
    """The label-smoothed cross-entropy of the target; a `Term`."""

    label_smoothing: float

    @property
    def needs(self) -> frozenset[Need]:
        """The decoder's states."""
        return frozenset({"decoder"})

    def loss(self, model: Any, states: States, batch: Batch) -> Tensor:
        """Returns the sum over target tokens, nats."""
        assert states.decoder is not None and states.labels is not None
        return smoothed_cross_entropy(states.decoder, model.lm_head.weight, states.labels, self.label_smoothing)


def smoothed_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Returns the label-smoothed cross-entropy summed over tokens, in nats, a scalar.

    (1 - eps) of the probability on the label, eps spread evenly over the vocabulary (Szegedy et al. 2016,
    arXiv 1512.00567, section 7); equal to `torch.nn.functional.cross_entropy` of the logits (shown by a test).

    Args:
        hidden: (tokens, d), the decoder's output where labels count.
        weight: (vocab, d), the output embedding. Gets a gradient if it wants one.
        labels: (tokens,) int64.
        label_smoothing: eps.
    """
    loss: Tensor = _FusedCrossEntropy.apply(hidden, weight, labels, label_smoothing)  # type: ignore[no-untyped-call]
    return loss


def tokens_in_flight(vocab: int, *, is_cuda: bool) -> int:
    """Returns of how many tokens there are logits at once."""
    return max(_CHUNK_ELEMENTS * (16 if is_cuda else 1) // vocab, _MIN_CHUNK)


_MEANS: MutableMapping[Tensor, tuple[int, Tensor]] = WeakTensorKeyDictionary()
"""Of frozen embeddings, (version, mean): it is the same in every step."""


def _mean(weight: Tensor) -> Tensor:
    """Returns the mean embedding in fp32, (d,)."""
    if weight.requires_grad or weight.is_inference():
        return weight.mean(dim=0, dtype=torch.float32)
    if weight not in _MEANS or _MEANS[weight][0] != weight._version:
        _MEANS[weight] = weight._version, weight.mean(dim=0, dtype=torch.float32)
    return _MEANS[weight][1]


def _softmax(logits: Tensor) -> Tensor:
    """Returns probabilities in fp32, (tokens, vocab); in place on a CPU, whose cache has no room for both."""
    if logits.dtype is torch.float32 and not logits.is_cuda:
        return torch.softmax(logits, dim=1, out=logits)
    return torch.softmax(logits, dim=1, dtype=torch.float32)


class _FusedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, eps: float) -> Tensor:
        num_tokens, vocab = hidden.shape[0], weight.shape[0]
        dtype = hidden.dtype
        weight_cast = weight.to(dtype)
        # eps of every label's gradient and loss is spread evenly: it needs only the mean embedding.
        mean_weight = _mean(weight)
        chunk = tokens_in_flight(vocab, is_cuda=hidden.is_cuda)
        grad_hidden = torch.empty_like(hidden, dtype=torch.float32)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        # Of each token the largest logit, its probability and the label's logit; all else waits until all are there, so
        # that a chunk is few operations.
        top, share, picked = torch.empty(3, num_tokens, device=hidden.device, dtype=torch.float32)
        for start in range(0, num_tokens, chunk):
            rows = slice(start, start + chunk)
            logits = hidden[rows] @ weight_cast.T
            top[rows] = logits.amax(dim=1)
            picked[rows] = logits.gather(1, labels[rows, None]).squeeze(1)
            probabilities = _softmax(logits)
            torch.amax(probabilities, dim=1, out=share[rows])
            grad_hidden[rows] = probabilities.to(dtype) @ weight_cast
            if grad_weight is not None:
                grad_weight.addmm_(probabilities.T, hidden[rows].float())
        grad_hidden -= torch.add(eps * mean_weight, weight[labels].float(), alpha=1 - eps)
        if grad_weight is not None:
            grad_weight.index_add_(0, labels, hidden.float(), alpha=-(1 - eps))
            grad_weight -= (eps / vocab) * hidden.float().sum(dim=0)
        log_normalizer = top - share.log()
        loss: Tensor = (log_normalizer - (1 - eps) * picked - eps * (hidden.float() @ mean_weight)).sum()
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtypes = (hidden.dtype, weight.dtype)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.dtypes
        # The factor goes in before the cast, so that a loss scale for fp16 is not lost to rounding.
        hidden_out = (grad_hidden * grad).to(hidden_dtype)
        return hidden_out, None if grad_weight is None else (grad_weight * grad).to(weight_dtype), None, None
