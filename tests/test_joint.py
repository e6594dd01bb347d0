"""Adapted layers as one over sorted rows are what they are one by one, each row with its own pair."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from langsearch.adapters import lora_linear
from langsearch.adapters.joint import Part, Segment, joint_lora
from langsearch.adapters.joint_rows import lora_of_rows, masked_lora, other_slots
from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.adapters.lora_linear import JointInput
from langsearch.adapters.routing import Routing, Run
from langsearch.data.batches import Batch, collate
from langsearch.data.directions import all_directions
from langsearch.data.store import TokenStore
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture
from langsearch.train.cross_entropy import CrossEntropy
from langsearch.train.forward import by_target, run_forward
from tests.benchmarks.launches import launches_by_step

LANGUAGES = ("en", "fr", "de", "sw")
DIRECTIONS = all_directions(LANGUAGES)
Architect = Callable[..., Architecture]


@pytest.fixture(autouse=True)
def few_tokens_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_linear, "_MIN_WORK", 0)


@pytest.fixture
def batch(quickstart_store: TokenStore, tiny_base: Base) -> Batch:
    """Two sentences in each of twelve directions, in a random order."""
    rows = [[index, row] for index in range(len(DIRECTIONS)) for row in range(2)]
    mixed = np.random.default_rng(0).permutation(np.array(rows, np.int32))
    return collate(quickstart_store, DIRECTIONS, mixed, tiny_base.vocabulary(LANGUAGES), LANGUAGES)


def randomised(learner: AdaptedModel) -> AdaptedModel:
    generator = torch.Generator().manual_seed(0)
    for layer in learner.lora.layers.values():
        for slot in layer.slots:
            for matrix in layer.pair(slot):
                matrix.copy_(torch.randn(matrix.shape, generator=generator) * 0.2)
    return learner


def loss_and_gradients(learner: AdaptedModel, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    states = run_forward(learner, batch, frozenset({"decoder"}), torch.float32)
    loss = CrossEntropy(0.1).loss(learner.model, states, batch)
    torch.autograd.backward(loss)
    gradients = {}
    for name, parameter in learner.parameters().items():
        assert parameter.grad is not None
        gradients[name], parameter.grad = parameter.grad, None
    return float(loss.detach()), gradients


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, name: str = "joint_lora") -> Iterator[list[int]]:
    """Gives how many layers each joint product is of."""
    found: list[int] = []

    def joint(x: Tensor, weights: Any, *rest: Any) -> tuple[Tensor, ...]:
        found.append(len(weights))
        return product(x, weights, *rest)

    product: Callable[..., tuple[Tensor, ...]] = getattr(lora_linear, name)
    with monkeypatch.context() as patched:
        patched.setattr(lora_linear, name, joint)
        yield found


@pytest.mark.parametrize(
    ("fields", "num_layers"),
    [
        # The first encoder layer is indexed by the source; the second by the target, whose rows are not sorted there.
        ({}, 1 + 2),
        ({"scaling": "alpha/r", "alpha": 3.0, "ffn_slice": 40}, 1 + 2),
        # One slot for all languages has no side.
        ({"slots": dict.fromkeys(LANGUAGES, "all"), "ranks": {"all": 3}}, 2 + 2),
    ],
)
def test_losses_and_gradients_are_those_of_rows_one_by_one(
    fields: dict[str, Any],
    num_layers: int,
    tiny_base: Base,
    batch: Batch,
    make_architecture: Architect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learner = randomised(adapt(tiny_base, make_architecture(**fields), LANGUAGES))
    with counted(monkeypatch) as sizes:
        loss, gradients = loss_and_gradients(learner, by_target(batch))
    assert sizes.count(3) == num_layers and sizes.count(2) == 2, "q, k and v are one, as are the encoder's k and v"
    one_by_one(learner)
    monkeypatch.setattr(Routing, "runs", lambda *_: None)
    with counted(monkeypatch) as sizes, counted(monkeypatch, "lora_of_rows") as of_rows:
        expected_loss, expected = loss_and_gradients(learner, batch)
    assert not sizes and set(of_rows) == {1}
    assert_same((loss, gradients), (expected_loss, expected))


@pytest.mark.parametrize(
    "fields",
    [
        {"ranks": {"en": 2, "fr": 1}},
        {"ranks": {"en": 2, "fr": 1}, "scaling": "alpha/r", "alpha": 3.0},
        {"slots": dict.fromkeys(LANGUAGES, "all"), "ranks": {"all": 2}},
    ],
)
def test_rows_in_any_order_and_with_few_launches_learn_the_same(
    fields: dict[str, Any],
    tiny_base: Base,
    batch: Batch,
    make_architecture: Architect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learner = randomised(adapt(tiny_base, make_architecture(**fields), LANGUAGES))
    monkeypatch.setattr(Routing, "runs", lambda *_: None)
    with counted(monkeypatch, "lora_of_rows") as sizes:
        copies = loss_and_gradients(learner, batch)
    assert sizes.count(3) == 4 and sizes.count(2) == 2, "q, k and v are one in each of four layers"
    monkeypatch.setattr(lora_linear, "_wants_few_launches", lambda _: True)
    with counted(monkeypatch, "masked_lora") as sizes, counted(monkeypatch, "lora_of_rows") as of_rows:
        masked = loss_and_gradients(learner, batch)
    assert sizes.count(3) == 4 and not of_rows
    one_by_one(learner)
    monkeypatch.setattr(lora_linear, "_wants_few_launches", lambda _: False)
    expected = loss_and_gradients(learner, batch)
    assert_same(copies, expected)
    assert_same(masked, expected)


def test_wide_slots_are_copied_where_few_launches_are_wanted(
    tiny_base: Base, batch: Batch, make_architecture: Architect, monkeypatch: pytest.MonkeyPatch
) -> None:
    width = tiny_base.shape.d_model
    learner = adapt(tiny_base, make_architecture(ranks={"en": width // 8, "fr": width // 8}), LANGUAGES)
    monkeypatch.setattr(Routing, "runs", lambda *_: None)
    monkeypatch.setattr(lora_linear, "_wants_few_launches", lambda _: True)
    with counted(monkeypatch, "masked_lora") as masked, counted(monkeypatch, "lora_of_rows") as of_rows:
        loss_and_gradients(learner, batch)
    # Two slots and the one of rows without any: three eighths of the width, but less than a quarter of fc2's input.
    assert of_rows and set(masked) == {1}


def test_a_gpu_is_given_fewer_operations_than_by_plain_peft() -> None:
    found = launches_by_step(num_layers=2)
    assert found["langsearch, 12 languages"] == found["langsearch, 1 language"]
    assert found["langsearch, 12 languages"] < 0.8 * found["PEFT, one shared LoRA"]


def one_by_one(learner: AdaptedModel) -> None:
    """Takes layers that read the same input apart."""
    for layer in learner.lora.layers.values():
        JointInput([layer])


def assert_same(found: tuple[float, dict[str, Tensor]], expected: tuple[float, dict[str, Tensor]]) -> None:
    (loss, gradients), (expected_loss, expected_gradients) = found, expected
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for name, gradient in expected_gradients.items():
        scale = gradient.abs().max()
        torch.testing.assert_close(gradients[name] / scale, gradient / scale, atol=2e-5, rtol=0)


def test_rows_are_sorted_by_target_and_all_of_them_stay_pairs(batch: Batch) -> None:
    ordered = by_target(batch)
    assert ordered.tgt_lang.tolist() == sorted(batch.tgt_lang.tolist())

    def pairs(one: Batch) -> list[Any]:
        columns = one.src_ids, one.src_mask, one.decoder_input_ids, one.labels, one.src_lang, one.tgt_lang
        return sorted(zip(*(column.tolist() for column in columns), strict=True))

    assert pairs(ordered) == pairs(batch) and ordered.num_tgt_tokens == batch.num_tgt_tokens
    assert by_target(ordered) is ordered


def test_the_encoders_states_stand_in_the_order_of_the_batch(
    tiny_base: Base, batch: Batch, make_architecture: Architect, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = randomised(adapt(tiny_base, make_architecture(num_layers=1), LANGUAGES))
    states = run_forward(learner, batch, frozenset({"encoder"}), torch.float32)
    monkeypatch.setattr(Routing, "runs", lambda *_: None)
    with learner.route(batch.src_lang, batch.tgt_lang):
        encoder: Any = learner.model.model.encoder
        expected = encoder(input_ids=batch.src_ids, attention_mask=batch.src_mask).last_hidden_state
    assert states.encoder is not None
    is_token = batch.src_mask > 0
    torch.testing.assert_close(states.encoder[is_token], expected[is_token], atol=1e-5, rtol=1e-5)


def test_runs_are_told_where_each_languages_rows_stand_together() -> None:
    routing = Routing()
    with routing.languages(torch.tensor([2, 2, 0, 1]), torch.tensor([0, 1, 0, 1])):
        assert routing.runs("src", 4) == (Run(2, 0, 2), Run(0, 2, 3), Run(1, 3, 4))
        assert routing.runs("src", 4) is routing.runs("src", 4)
        assert routing.runs("tgt", 4) is None
        assert routing.runs("src", 8) is None, "rows are repeated for beams"
    with routing.languages(torch.tensor([1]), torch.tensor([0])):
        assert routing.runs("src", 1) == (Run(1, 0, 1),)


def test_layers_that_are_joined_see_new_languages_and_new_weights(
    tiny_base: Base, make_architecture: Architect
) -> None:
    learner = randomised(adapt(tiny_base, make_architecture(), LANGUAGES))
    attention: Any = tiny_base.model.model.encoder.layers[0].self_attn
    x = torch.randn(1, 3, 32)
    found = []
    for language in (0, 1):
        with learner.route(torch.tensor([language]), torch.tensor([2])):
            attention.q_proj(x)  # the others of this input are not asked for
            found.append(attention.q_proj(x))
    assert not torch.equal(*found)
    attention.q_proj.B.data.zero_()
    with learner.route(torch.tensor([1]), torch.tensor([2])):
        assert torch.equal(attention.q_proj(x), attention.q_proj.base(x))


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_gradients_by_hand_pass_gradcheck(scale: float) -> None:
    def value(*shape: int, seed: int) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    x = value(4, 2, 4, seed=0).requires_grad_()
    a = [value(2, 3, 4, seed=1 + index).requires_grad_() for index in range(2)]
    b = [value(2, 5, 3, seed=5 + index).requires_grad_() for index in range(2)]
    weights, biases = [value(5, 4, seed=8), value(5, 4, seed=9)], [value(5, seed=10), None]
    segments = [
        Segment(0, 2, (Part(0, 1, 3, scale, 0), Part(1, 1, 2, 1.0, 3))),
        Segment(3, 4, (Part(1, 0, 1, scale, 0),)),
    ]
    assert torch.autograd.gradcheck(
        lambda x, *pairs: joint_lora(x, weights, biases, pairs[:2], pairs[2:], segments), (x, *a, *b)
    )


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("same_slots", [True, False])
@pytest.mark.parametrize("is_masked", [False, True])
def test_the_gradients_of_rows_in_any_order_pass_gradcheck(is_masked: bool, same_slots: bool, narrow: bool) -> None:
    def value(*shape: int, seed: int) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    x = value(4, 2, 4, seed=0).requires_grad_()
    a = [value(2, 1 + index, 3 if narrow else 4, seed=1 + index).requires_grad_() for index in range(2)]
    b = [value(2, 3 if narrow else 5, 1 + index, seed=5 + index).requires_grad_() for index in range(2)]
    weights, biases = [value(5, 4, seed=8), value(5, 4, seed=9)], [value(5, seed=10), None]
    scales = [None, torch.tensor([0.5, 3.0], dtype=torch.float64).view(-1, 1, 1)]
    slots = [torch.tensor([1, 0, 1, 1])] * 2 if same_slots else [torch.tensor([1, 0, 1, 1]), torch.tensor([0, 0, 1, 1])]

    def product(x: Tensor, *pairs: Tensor) -> tuple[Tensor, ...]:
        if is_masked:
            return masked_lora(x, weights, biases, pairs[:2], pairs[2:], other_slots(slots, pairs[:2]), scales)
        return lora_of_rows(x, weights, biases, pairs[:2], pairs[2:], slots, scales)

    assert torch.autograd.gradcheck(product, (x, *a, *b))


@pytest.mark.parametrize("is_masked", [False, True])
def test_gradients_have_the_layout_of_what_they_are_of(is_masked: bool) -> None:
    """Others are copied once more where they are kept, and a fused optimizer would refuse them."""
    a, b = torch.nn.Parameter(torch.randn(2, 3, 8)), torch.nn.Parameter(torch.randn(2, 8, 3))
    x, weight, slots = torch.randn(4, 2, 8), torch.randn(8, 8), torch.tensor([1, 0, 1, 1])
    if is_masked:
        (y,) = masked_lora(x, [weight], [None], [a], [b], other_slots([slots], [a]), [None])
    else:
        (y,) = lora_of_rows(x, [weight], [None], [a], [b], [slots], [None])
    torch.autograd.backward(y.square().sum())
    assert a.grad is not None and a.grad.is_contiguous() and b.grad is not None and b.grad.is_contiguous()


def test_what_overflows_in_another_rows_slot_spoils_no_row() -> None:
    a = torch.stack([torch.full((1, 4), torch.finfo(torch.float32).max), torch.ones(1, 4)]).requires_grad_()
    b, x, slots = torch.ones(2, 4, 1, requires_grad=True), torch.full((1, 2, 4), 2.0), torch.tensor([1])
    (y,) = masked_lora(x, [torch.eye(4)], [None], [a], [b], other_slots([slots], [a]), [None])
    torch.autograd.backward(y.sum())
    assert torch.equal(y, torch.full_like(y, 10.0))
    assert a.grad is not None and b.grad is not None
    assert a.grad.isfinite().all() and b.grad.isfinite().all()
    assert not a.grad[0].any() and not b.grad[0].any()
