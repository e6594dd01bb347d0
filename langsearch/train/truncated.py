"""The divergence of a student from a teacher of whom only the most likely next tokens are known.

All that is not among a place's k tokens is one outcome, whose probability is what the k leave, of the teacher and of
the student alike. Both are then distributions over k + 1 outcomes, and their divergence is at most that of the whole
ones (data processing inequality), and equal to it where k is the vocabulary. So the student learns how much lies
outside, and among what lies outside it keeps its own proportions.

Shapes: tokens = target tokens that count, d = d_model, vocab = rows of the output embedding.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from langsearch.train.distill import summed_divergence

Kind = Literal["kl", "js"]


def truncated_divergence(
    student: Tensor, ids: Tensor, log_probs: Tensor, weight: Tensor, kind: Kind, temperature: float
) -> Tensor:
    """Returns temperature^2 KL(P || Q), or JS(P, Q), over k + 1 outcomes, summed over tokens, in nats, a scalar.

    Q is softmax(states @ weight.T / temperature) of the student; JS as in `distill.divergence`. Logits are there for a
    chunk of tokens at a time; gradients go to the student's states.

    Args:
        student: (tokens, d), the decoder's output where labels count.
        ids: (tokens, k), the teacher's most likely tokens, each once.
        log_probs: (tokens, k), the logarithms of their probabilities at the temperature, nats.
        weight: (vocab, d), the student's frozen output embedding.
        kind: Which divergence.
        temperature: Above 0.
    """
    is_whole = ids.shape[1] == weight.shape[0]
    log_p = _outcomes_of(log_probs.float(), is_whole=is_whole)

    def diverged(_: Tensor, rows: slice, log_q: Tensor) -> tuple[Tensor, Tensor]:
        top = ids[rows].long()
        outside = log_q.scatter(1, top, -torch.inf)
        log_rest = outside.logsumexp(dim=1, keepdim=True)
        outcomes = torch.cat([log_q.gather(1, top), log_rest], dim=1)
        divergences, grad = (_kl if kind == "kl" else _js)(log_p[rows], outcomes)
        # What goes to the outcome outside, each of its tokens gets its share of.
        of_logits = torch.zeros_like(outside) if is_whole else (outside - log_rest).exp_().mul_(grad[:, -1:])
        return divergences, of_logits.scatter_(1, top, grad[:, :-1])

    return summed_divergence(student, weight, temperature, diverged)


def _outcomes_of(log_probs: Tensor, *, is_whole: bool) -> Tensor:
    """Returns the logarithms of the k probabilities and of what they leave, (tokens, k + 1); rounding is put right."""
    total = log_probs.logsumexp(dim=1, keepdim=True)
    # Kept in half precision they may come to a little more than 1, or of the whole vocabulary to a little less.
    log_probs = log_probs - (total if is_whole else total.clamp(min=0))
    rest = -torch.expm1(total.clamp(max=0))
    return torch.cat([log_probs, torch.full_like(total, -torch.inf) if is_whole else rest.log()], dim=1)


def _kl(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Returns KL(P || Q), (tokens,), and its gradient by the logits of outcomes, (tokens, outcomes)."""
    p = log_p.exp()
    return _times(p, log_p - log_q).sum(dim=1), log_q.exp() - p


def _js(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    p, q = log_p.exp(), log_q.exp()
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    half = torch.where(q > 0, 0.5 * (log_q - log_m), 0)
    of_q = (q * half).sum(dim=1, keepdim=True)
    return 0.5 * _times(p, log_p - log_m).sum(dim=1) + of_q.squeeze(1), q * (half - of_q)


def _times(p: Tensor, logs: Tensor) -> Tensor:
    """Returns p logs, 0 where p is."""
    return torch.where(p > 0, p * logs, 0)
