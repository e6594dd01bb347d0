"""The likeliest tokens of a vocabulary, some rows at a time: what is computed of logits stays in a CPU's cache.

The largest of many values are found in chunks: they lie in the chunks whose largest are largest. So all values are read
once, where `topk` and `argmax` on a CPU take several times as long.

Shapes: rows = sentences, hyps = hypotheses of each, d = d_model, vocab = rows of the output embedding.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK = 64
"""Of the vocabulary."""

_BLOCK_ELEMENTS = 1 << 19
"""Logits at once: 2 MB of fp32. On a GPU all are made at once."""

_MIN_BLOCK = 16
"""Hypotheses at once at least: every block reads the whole embedding."""

Head = Callable[[Tensor], Tensor]
"""Makes logits in fp32 of hidden states, (…, d) -> (…, vocab)."""


def likeliest(head: Head, hidden: Tensor, scores: Tensor, vocab: int, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the likeliest continuations of each row's hypotheses, (rows, num) each, the likeliest first.

    Args:
        head: Makes the logits.
        hidden: (rows, hyps, d).
        scores: (rows, hyps) the log-probability of each so far.
        vocab: Rows of the output embedding.
        num: How many are wanted. Where there are fewer, what is missing has a score of minus infinity.

    Returns:
        Log-probabilities with that of the token, the numbers of the hypotheses that go on, and the tokens.
    """
    size = _block_size(hidden, hidden.shape[1], vocab)
    blocks = [
        _likeliest(head(hidden[rows]).log_softmax(dim=-1), scores[rows], num) for rows in _blocks(len(hidden), size)
    ]
    best, places = (torch.cat(found) for found in zip(*blocks, strict=True))
    return best, places // vocab, places % vocab


def most_likely(head: Head, hidden: Tensor, vocab: int) -> Tensor:
    """Returns the ids of the likeliest tokens, (rows, d) -> (rows,)."""
    size = _block_size(hidden, 1, vocab)
    return torch.cat([_largest(head(hidden[rows])) for rows in _blocks(len(hidden), size)])


def _block_size(hidden: Tensor, hyps: int, vocab: int) -> int:
    """Returns how many rows of so many hypotheses each are looked at together."""
    if hidden.is_cuda:
        return len(hidden)
    return max(_BLOCK_ELEMENTS // (hyps * vocab), _MIN_BLOCK // hyps, 1)


def _blocks(num_rows: int, size: int) -> list[slice]:
    return [slice(begin, begin + size) for begin in range(0, num_rows, size)]


def _likeliest(log_probs: Tensor, scores: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Returns the largest sums and their places among hyps * vocab, (rows, num) each."""
    _, hyps, vocab = log_probs.shape
    maxima = (_maxima(log_probs) + scores[:, :, None]).flatten(1)
    if maxima.shape[1] <= 2 * num:
        sums = (log_probs + scores[:, :, None]).flatten(1)
        sums = F.pad(sums, (0, max(num - sums.shape[1], 0)), value=-torch.inf)
        best, places = sums.topk(num)
        return best, places.clamp_max(hyps * vocab - 1)
    chunks_of_hyp = maxima.shape[1] // hyps
    chosen = maxima.topk(num).indices
    hyp, chunk = chosen // chunks_of_hyp, chosen % chunks_of_hyp
    values, ids = _chunks(log_probs.flatten(1), hyp * vocab, chunk, vocab)
    best, places = (values + scores.gather(1, hyp)[:, :, None]).flatten(1).topk(num)
    return best, ids.flatten(1).gather(1, places)


def _largest(logits: Tensor) -> Tensor:
    """Returns where the largest of each row is, the first of equal ones, (rows, vocab) -> (rows,)."""
    chunk = _maxima(logits).argmax(dim=-1, keepdim=True)
    values, ids = _chunks(logits, torch.zeros_like(chunk), chunk, logits.shape[1])
    return ids[:, 0].gather(1, values[:, 0].argmax(dim=-1, keepdim=True))[:, 0]


def _maxima(values: Tensor) -> Tensor:
    """Returns the largest of each chunk, (…, vocab) -> (…, chunks)."""
    num = values.shape[-1] // _CHUNK
    whole = values[..., : num * _CHUNK].view(*values.shape[:-1], num, _CHUNK).amax(dim=-1)
    if num * _CHUNK == values.shape[-1]:
        return whole
    return torch.cat([whole, values[..., num * _CHUNK :].amax(dim=-1, keepdim=True)], dim=-1)


def _chunks(values: Tensor, begin: Tensor, chunk: Tensor, vocab: int) -> tuple[Tensor, Tensor]:
    """Returns the values of chunks and their places, (rows, n, chunk size) each.

    Args:
        values: (rows, n * vocab).
        begin: (rows, n) where the vocabulary begins that a chunk is of.
        chunk: (rows, n).
        vocab: A last chunk that goes on behind it has minus infinity there.
    """
    within = chunk[:, :, None] * _CHUNK + torch.arange(_CHUNK, device=values.device)
    ids = begin[:, :, None] + within.clamp_max(vocab - 1)
    found = values.gather(1, ids.flatten(1)).view(ids.shape)
    return found.masked_fill(within >= vocab, -torch.inf), ids
