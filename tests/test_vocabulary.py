import pytest
import torch
from torch import Tensor

from langsearch.evaluate import vocabulary
from langsearch.evaluate.vocabulary import likeliest, most_likely


@pytest.mark.parametrize("vocab", [3, 50, 700, 5000, 6400])
@pytest.mark.parametrize("hyps", [1, 4])
def test_the_likeliest_continuations_are_found_in_chunks_and_blocks(
    hyps: int, vocab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "_BLOCK_ELEMENTS", 20 * vocab)
    generator = torch.Generator().manual_seed(vocab)
    hidden = torch.randn(47, hyps, 8, generator=generator)
    scores, weight = torch.randn(47, hyps, generator=generator), torch.randn(vocab, 8, generator=generator)
    sizes = []

    def head(block: Tensor) -> Tensor:
        sizes.append(block.shape[:-1].numel())
        return block @ weight.T

    best, origin, tokens = likeliest(head, hidden, scores, vocab, 6)
    assert sizes == ([20, 20, 7] if hyps == 1 else [20] * 9 + [8])
    sums = ((hidden @ weight.T).log_softmax(dim=-1) + scores[:, :, None]).flatten(1)
    expected = sums.topk(min(6, hyps * vocab))
    num = expected.values.shape[1]
    torch.testing.assert_close(best[:, :num], expected.values)
    assert torch.equal(origin[:, :num] * vocab + tokens[:, :num], expected.indices)
    assert best.shape == (47, 6) and bool((best[:, num:] == -torch.inf).all())
    assert int(origin.max()) < hyps and int(tokens.max()) < vocab


@pytest.mark.parametrize("vocab", [3, 64, 700, 6400])
def test_the_most_likely_token_is_the_first_of_the_largest(vocab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "_BLOCK_ELEMENTS", 20 * vocab)
    logits = torch.randint(5, (47, vocab), generator=torch.Generator().manual_seed(0)).float()
    found = most_likely(lambda block: block, logits, vocab)
    assert torch.equal(found, (logits == logits.amax(dim=1, keepdim=True)).int().argmax(dim=1))
