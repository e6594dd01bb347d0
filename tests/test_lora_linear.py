from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from langsearch.adapters.lora_linear import LanguageLoRALinear, lora_linear
from langsearch.adapters.routing import Routing
from langsearch.space.architecture import Side

LANGUAGES = ["en", "fr", "de", "sw", "cy"]
IN, OUT = 12, 10


def random_tensor(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def dense_reference(
    x: Tensor, base: nn.Linear, pairs: dict[str, tuple[Tensor, Tensor]], scales: dict[str, float], languages: list[str]
) -> Tensor:
    """A loop over the rows: W x + bias + s B A x, with matrices that are not padded."""
    rows = []
    for row, language in zip(x, languages, strict=True):
        y = nn.functional.linear(row, base.weight, base.bias)
        if language in pairs:
            a, b = pairs[language]
            update = scales[language] * row[:, : a.shape[1]] @ a.T @ b.T
            y = y + nn.functional.pad(update, (0, y.shape[1] - b.shape[0]))
        rows.append(y)
    return torch.stack(rows)


def random_layer(
    side: Side,
    ranks: dict[str, int],
    *,
    in_features: int = IN,
    out_features: int = OUT,
    scales: dict[str, float] | None = None,
    bias: bool = True,
) -> LanguageLoRALinear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        base = nn.Linear(IN, OUT, bias=bias).requires_grad_(False)
    layer = LanguageLoRALinear(
        base,
        Routing(),
        side,
        ranks,
        LANGUAGES,
        in_features=in_features,
        out_features=out_features,
        scales=scales or dict.fromkeys(ranks, 1.0),
    )
    for index, slot in enumerate(ranks):
        a, b = layer.pair(slot)
        a.copy_(random_tensor(*a.shape, seed=2 * index))
        b.copy_(random_tensor(*b.shape, seed=2 * index + 1))
    return layer


CASES: dict[str, dict[str, Any]] = {
    "one rank": {"ranks": dict.fromkeys(LANGUAGES, 3)},
    "mixed ranks": {"ranks": {"en": 1, "fr": 2, "de": 8, "sw": 4, "cy": 3}},
    "rank 0 for two languages": {"ranks": {"en": 2, "de": 4, "cy": 1}},
    "no bias": {"ranks": {"en": 2, "de": 4}, "bias": False},
    "narrow in": {"ranks": {"en": 2, "de": 4}, "in_features": 7},
    "narrow out": {"ranks": {"en": 2, "de": 4}, "out_features": 6},
    "scales": {"ranks": {"en": 2, "de": 4}, "scales": {"en": 0.5, "de": 0.25}},
    "all at once": {"ranks": {"en": 2, "sw": 5}, "scales": {"en": 4.0, "sw": 0.3}, "in_features": 5, "out_features": 9},
}


@pytest.mark.parametrize("side", ["src", "tgt"])
@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("case", CASES)
def test_the_routed_layer_equals_a_loop_over_the_rows(
    case: str, precision: torch.dtype, tolerance: float, side: Side
) -> None:
    layer = random_layer(side, **CASES[case])
    languages = ["de", "en", "en", "cy", "sw", "fr", "de"]
    x = random_tensor(len(languages), 5, IN, seed=50).requires_grad_()
    picked, other = torch.tensor([LANGUAGES.index(language) for language in languages]), torch.zeros(7, dtype=torch.int)
    layer.routing.src, layer.routing.tgt = (picked, other) if side == "src" else (other, picked)
    pairs = {}
    for slot in layer.slots:
        a, b = layer.pair(slot)
        pairs[slot] = (a.clone().requires_grad_(), b.clone().requires_grad_())
    scales = CASES[case].get("scales") or dict.fromkeys(layer.slots, 1.0)

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision is torch.bfloat16):
        y = layer(x)
    assert y.dtype is precision
    grad_y = random_tensor(*y.shape, seed=51)
    torch.autograd.backward(y, grad_y.to(precision))
    assert x.grad is not None
    grad_x = x.grad.clone()
    x.grad = None
    expected = dense_reference(x, layer.base, pairs, scales, languages)
    torch.autograd.backward(expected, grad_y)

    def check(got: Tensor, wanted: Tensor | None) -> None:
        assert wanted is not None
        torch.testing.assert_close(
            got.float() / wanted.abs().max(), wanted / wanted.abs().max(), atol=tolerance, rtol=0
        )

    check(y.detach(), expected.detach())
    check(grad_x, x.grad)
    assert layer.A.grad is not None and layer.B.grad is not None
    for index, slot in enumerate(layer.slots):
        rank = layer.ranks[index]
        if slot in languages:
            check(layer.A.grad[index, :rank], pairs[slot][0].grad)
            check(layer.B.grad[index, :, :rank], pairs[slot][1].grad)
        # What pads a slot to the largest rank gets no gradient, so it stays zero.
        assert not layer.A.grad[index, rank:].any() and not layer.B.grad[index, :, rank:].any()
    assert not layer.A.grad[len(layer.slots) :].any() and not layer.B.grad[len(layer.slots) :].any()


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_gradients_by_hand_pass_gradcheck(narrow: bool, scaled: bool) -> None:
    def value(*shape: int, seed: int) -> Tensor:
        return random_tensor(*shape, seed=seed, dtype=torch.float64)

    x = value(3, 2, 4, seed=0).requires_grad_()
    a = value(2, 2, 3 if narrow else 4, seed=1).requires_grad_()
    b = value(2, 2 if narrow else 5, 2, seed=2).requires_grad_()
    weight, bias = value(5, 4, seed=3), value(5, seed=4)
    scale = torch.tensor([0.5, 3.0], dtype=torch.float64).view(-1, 1, 1) if scaled else None
    slots = torch.tensor([1, 0, 1])
    assert torch.autograd.gradcheck(lambda *t: lora_linear(t[0], weight, bias, t[1], t[2], slots, scale), (x, a, b))


def test_the_input_is_not_changed_and_may_need_no_gradient() -> None:
    layer = random_layer("src", {"en": 2})
    layer.routing.src = torch.tensor([0, 1])
    x = random_tensor(2, 3, IN)
    before = x.clone()
    torch.autograd.backward(layer(x).sum())
    assert torch.equal(x, before)
    assert x.grad is None and layer.base.weight.grad is None and layer.base.bias.grad is None
    assert layer.A.grad is not None


def test_rows_repeated_for_beams_keep_their_language() -> None:
    layer = random_layer("tgt", {"en": 2, "fr": 3})
    x = random_tensor(2, 3, IN)
    layer.routing.tgt = torch.tensor([1, 0])
    single = layer(x)
    torch.testing.assert_close(layer(x.repeat_interleave(4, dim=0)), single.repeat_interleave(4, dim=0))


@pytest.mark.parametrize(
    ("init", "bound"), [("published", lambda rank: rank**-0.5), ("peft", lambda rank: IN**-0.5)]
)  # METHOD section 2: the release's fan-in is the rank, PEFT's is the layer's width
def test_a_starts_uniform_within_its_bound_and_b_at_zero(init: str, bound: Callable[[int], float]) -> None:
    layer = random_layer("src", {"en": 2, "fr": 50})
    generators = {slot: torch.Generator().manual_seed(seed) for seed, slot in enumerate(layer.slots)}
    layer.reset("published" if init == "published" else "peft", generators)
    for slot, rank in zip(layer.slots, layer.ranks, strict=True):
        a, b = layer.pair(slot)
        assert a.abs().max() <= bound(rank)
        assert a.abs().max() > 0.8 * bound(rank)
        assert abs(float(a.mean())) < 0.3 * bound(rank)
        assert not b.any()
    assert not layer.A[0, 2:].any() and not layer.A[2].any()


def test_a_layer_without_its_rows_languages_says_so() -> None:
    with pytest.raises(AssertionError, match="must be routed"):
        random_layer("src", {"en": 2})(random_tensor(1, 1, IN))
