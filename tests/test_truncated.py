"""The divergence from a teacher's most likely tokens: exact, a lower bound, and the whole one where all are kept."""

from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from langsearch.train.distill import divergence
from langsearch.train.truncated import truncated_divergence

Kind = Literal["kl", "js"]


def drawn(vocab: int = 300, tokens: int = 50) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(tokens, 16, generator=generator) for _ in range(2))
    return student.requires_grad_(), teacher, torch.randn(vocab, 16, generator=generator)


def top(teacher: Tensor, weight: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor]:
    found = F.log_softmax(teacher @ weight.T / temperature, dim=1).topk(k, dim=1)
    return found.indices.to(torch.int32), found.values


@pytest.mark.parametrize("kind", ["kl", "js"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_of_the_whole_vocabulary_it_is_the_whole_divergence(kind: Kind, temperature: float) -> None:
    student, teacher, weight = drawn()
    ids, log_probs = top(teacher, weight, len(weight), temperature)
    for kept in (log_probs, log_probs.half().float()):
        found = truncated_divergence(student, ids, kept, weight, kind, temperature)
        wanted = divergence(student, teacher, weight, kind, temperature)
        (gradient,), (wanted_gradient,) = torch.autograd.grad(found, student), torch.autograd.grad(wanted, student)
        is_exact = kept is log_probs
        assert found.item() == pytest.approx(wanted.item(), rel=1e-5 if is_exact else 1e-3)
        assert torch.allclose(gradient, wanted_gradient, rtol=1e-3, atol=1e-5 if is_exact else 1e-2)


@pytest.mark.parametrize("kind", ["kl", "js"])
@pytest.mark.parametrize(("vocab", "temperature"), [(300, 2.5), (40_000, 1.0)])
def test_it_and_its_gradient_are_those_of_plain_pytorch_over_k_and_the_rest(
    kind: Kind, vocab: int, temperature: float
) -> None:
    student, teacher, weight = drawn(vocab)
    ids, log_probs = top(teacher, weight, 8, temperature)
    found = truncated_divergence(student, ids, log_probs, weight, kind, temperature)
    (gradient,) = torch.autograd.grad(found * 0.5, student)

    def outcomes(probs: Tensor) -> Tensor:
        kept = probs.gather(1, ids.long())
        return torch.cat([kept, 1 - kept.sum(dim=1, keepdim=True)], dim=1).clamp(min=1e-30)

    q = outcomes(F.softmax(student.double() @ weight.double().T / temperature, dim=1))
    p = outcomes(F.softmax(teacher.double() @ weight.double().T / temperature, dim=1))
    m = p if kind == "kl" else (p + q) / 2

    def kl(one: Tensor, other: Tensor) -> Tensor:
        return (one * (one.log() - other.log())).sum()

    wanted = (kl(p, q) if kind == "kl" else kl(p, m) / 2 + kl(q, m) / 2) * temperature**2
    (wanted_gradient,) = torch.autograd.grad(wanted * 0.5, student)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert torch.allclose(gradient, wanted_gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["kl", "js"])
def test_the_more_is_kept_the_nearer_it_comes_to_the_whole_from_below(kind: Kind) -> None:
    student, teacher, weight = drawn()
    whole = divergence(student, teacher, weight, kind, 1.0).item()
    found = [
        truncated_divergence(student, *top(teacher, weight, k, 1.0), weight, kind, 1.0).item()
        for k in (1, 4, 16, 64, 299)
    ]
    assert found == sorted(found) and found[0] > 0 and found[-1] <= whole * (1 + 1e-5)
    assert found[2] > 0.8 * whole


@pytest.mark.parametrize("kind", ["kl", "js"])
def test_a_student_that_says_the_same_has_nothing_to_learn(kind: Kind) -> None:
    student, _, weight = drawn()
    found = truncated_divergence(student, *top(student.detach(), weight, 8, 1.0), weight, kind, 1.0)
    (gradient,) = torch.autograd.grad(found, student)
    assert found.item() == pytest.approx(0, abs=1e-4)
    assert gradient.abs().max() < 1e-5


def test_probabilities_that_half_precision_makes_more_than_one_are_put_right() -> None:
    student, _, weight = drawn(tokens=1)
    ids = torch.tensor([[3, 5]])
    found = truncated_divergence(student, ids, torch.tensor([[-0.001, -0.1]]), weight, "kl", 1.0)
    assert torch.isfinite(found) and torch.isfinite(torch.autograd.grad(found, student)[0]).all()
