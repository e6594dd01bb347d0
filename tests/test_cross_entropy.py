import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from langsearch.train import cross_entropy as cross_entropy_module
from langsearch.train.cross_entropy import smoothed_cross_entropy

TOKENS, D, VOCAB = 37, 16, 211


def values(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = (0.5 * torch.randn(TOKENS, D, generator=generator)).to(dtype).requires_grad_()
    weight = torch.randn(VOCAB, D, generator=generator).requires_grad_()
    return hidden, weight, torch.randint(VOCAB, (TOKENS,), generator=generator)


@pytest.mark.parametrize("chunk", [1, 5, TOKENS - 1, TOKENS, TOKENS + 1, 10_000])
@pytest.mark.parametrize("eps", [0.0, 0.2])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_the_loss_and_its_gradients_equal_pytorchs(
    dtype: torch.dtype, tolerance: float, eps: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy_module, "_CHUNK_ELEMENTS", chunk * VOCAB)
    monkeypatch.setattr(cross_entropy_module, "_MIN_CHUNK", 1)
    hidden, weight, labels = values(dtype)
    loss = smoothed_cross_entropy(hidden, weight, labels, eps)
    torch.autograd.backward(loss * 0.5)
    wanted_hidden = hidden.detach().float().requires_grad_()
    wanted_weight = weight.detach().clone().requires_grad_()
    wanted = F.cross_entropy(wanted_hidden @ wanted_weight.T, labels, reduction="sum", label_smoothing=eps)
    torch.autograd.backward(wanted * 0.5)
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(wanted.item(), rel=tolerance)
    for tensor, reference in ((hidden, wanted_hidden), (weight, wanted_weight)):
        assert tensor.grad is not None and reference.grad is not None
        assert tensor.grad.dtype is tensor.dtype
        scale = reference.grad.abs().max()
        torch.testing.assert_close(tensor.grad.float() / scale, reference.grad / scale, atol=tolerance, rtol=0)


def test_a_large_vocabulary_is_read_once_for_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy_module, "_CHUNK_ELEMENTS", VOCAB)
    hidden, weight, labels = values(torch.float32)
    chunks: list[int] = []
    softmax = cross_entropy_module._softmax

    def counting(logits: Tensor) -> Tensor:
        chunks.append(len(logits))
        return softmax(logits)

    monkeypatch.setattr(cross_entropy_module, "_softmax", counting)
    several = hidden.detach().repeat(4, 1)
    smoothed_cross_entropy(several, weight.detach(), labels.repeat(4), 0.1)
    assert chunks == [64, 64, 4 * TOKENS - 128]


def test_a_frozen_embedding_gets_no_gradient() -> None:
    hidden, weight, labels = values(torch.float32)
    torch.autograd.backward(smoothed_cross_entropy(hidden, weight.detach(), labels, 0.1))
    assert hidden.grad is not None and weight.grad is None


def test_huge_logits_stay_finite() -> None:
    hidden, weight, labels = values(torch.float32)
    loss = smoothed_cross_entropy(hidden * 1e4, weight, labels, 0.1)
    assert torch.isfinite(loss)
    wanted = F.cross_entropy((hidden * 1e4) @ weight.T, labels, reduction="sum", label_smoothing=0.1)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_a_nan_in_the_hidden_states_is_seen_in_the_loss() -> None:
    hidden, weight, labels = values(torch.float32)
    broken = hidden.detach().clone()
    broken[3, 2] = torch.nan
    assert torch.isnan(smoothed_cross_entropy(broken, weight, labels, 0.1))


def test_the_mean_of_a_frozen_embedding_is_made_anew_only_where_it_has_changed() -> None:
    hidden, weight, labels = torch.randn(5, 4), torch.randn(20, 4), torch.randint(20, (5,))

    def losses() -> tuple[float, float]:
        expected = torch.nn.functional.cross_entropy(hidden @ weight.T, labels, label_smoothing=0.3, reduction="sum")
        return float(smoothed_cross_entropy(hidden, weight, labels, 0.3)), float(expected)

    for _ in range(2):
        found, expected = losses()
        assert found == pytest.approx(expected, rel=1e-5)
        assert cross_entropy_module._mean(weight) is cross_entropy_module._mean(weight)
        weight[3] += 2.0  # what is frozen may still be loaded
    trained = weight.clone().requires_grad_()
    assert cross_entropy_module._mean(trained) is not cross_entropy_module._mean(trained)
