"""A sentence that is encoded once for several targets teaches what it does when it is encoded for each."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from langsearch.adapters import lora_linear
from langsearch.adapters.learners import AdaptedModel, FullModel, Learner, adapt
from langsearch.adapters.mixed_sides import MixedSides
from langsearch.data.batches import Batch, collate
from langsearch.data.directions import all_directions
from langsearch.data.embedded import read_embedded
from langsearch.data.store import TokenStore
from langsearch.model.base import Base, load_base
from langsearch.space.architecture import MODULES, Architecture, Side, Site, uniform_ranks
from langsearch.space.settings import TrainerSettings
from langsearch.train import forward
from langsearch.train.cross_entropy import CrossEntropy
from langsearch.train.forward import EncoderSides, by_target, ready, run_forward
from langsearch.train.loop import TrainingData, train
from tests.family_fixtures import LANGUAGES as FAMILY_LANGUAGES

pytest_plugins = ["family_fixtures"]

LANGUAGES = ("en", "fr", "de", "es", "nl", "id", "sw", "cy")
DIRECTIONS = all_directions(LANGUAGES)
SETTINGS = TrainerSettings(
    epochs=1, pairs_per_epoch=168, tokens_per_batch=2400, accumulation=3, dropout=0.0, lr=1e-2, encode_once=True
)


@pytest.fixture(autouse=True)
def few_tokens_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_linear, "_MIN_WORK", 0)


@pytest.fixture(scope="module")
def store(_loaded_base: Base, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    tokenizer = _loaded_base.tokenizer
    text = read_embedded("quickstart", "validation", LANGUAGES)
    return TokenStore.build(text, tokenizer.encode, tokenizer.fingerprint, tmp_path_factory.mktemp("store"))


@pytest.fixture
def batch(store: TokenStore, tiny_base: Base) -> Batch:
    """Three sentences in each of 56 directions, in a random order."""
    rows = [[index, row] for index in range(len(DIRECTIONS)) for row in range(3)]
    mixed = np.random.default_rng(0).permutation(np.array(rows, np.int32))
    return collate(store, DIRECTIONS, mixed, tiny_base.vocabulary(LANGUAGES), LANGUAGES, with_sources=True)


def architecture(num_by_source: int, languages: Sequence[str] = LANGUAGES) -> Architecture:
    """Adapters in two encoder and two decoder layers; so many of the encoder's are indexed by the source."""
    sites: list[tuple[Site, Side]] = [
        (Site.parse(f"{stack}.{layer}.{module}"), "src" if stack == "encoder" and layer < num_by_source else "tgt")
        for stack, modules in MODULES.items()
        for layer in range(2)
        for module in modules
    ]
    ranks = {language: 2 + index % 3 for index, language in enumerate(languages) if language != "de"}
    return Architecture(slots=tuple((name, name) for name in languages), adapters=uniform_ranks(sites, ranks))


def randomised(learner: AdaptedModel) -> AdaptedModel:
    generator = torch.Generator().manual_seed(0)
    for layer in learner.model.modules():
        if isinstance(layer, lora_linear.LanguageLoRALinear):
            for slot in layer.slots:  # what fills smaller ranks up stays zero
                for matrix in layer.pair(slot):
                    matrix.copy_(torch.randn(matrix.shape, generator=generator) * 0.2)
    return learner


def loss_and_gradients(learner: Learner, batches: Sequence[Batch]) -> tuple[float, dict[str, Tensor]]:
    """Of an update of several microbatches."""
    total = 0.0
    for one in batches:
        states = run_forward(learner, one, frozenset({"decoder"}), torch.float32)
        loss = CrossEntropy(0.1).loss(learner.model, states, one)
        torch.autograd.backward(loss)
        total += float(loss.detach())
    gradients = {}
    for name, parameter in learner.parameters().items():
        if parameter.grad is not None:
            gradients[name], parameter.grad = parameter.grad, None
    return total, gradients


def halves(batch: Batch) -> list[Batch]:
    """A batch as two microbatches."""
    middle = len(batch.src_ids) // 2
    found = []
    for rows in (slice(None, middle), slice(middle, None)):
        moved: dict[str, Any] = {name: value[rows] for name, value in vars(batch).items() if isinstance(value, Tensor)}
        of_sources = np.unique(moved["source_of"].numpy(), return_inverse=True)[1]
        found.append(replace(batch, **moved | {"source_of": torch.from_numpy(of_sources)}))
    return found


def make_learner(kind: str, base: Base) -> Learner:
    if kind == "full":
        return FullModel(base)
    if kind == "mixed":
        return randomised(AdaptedModel(base, MixedSides(base, architecture(0), LANGUAGES)))
    return randomised(adapt(base, architecture(int(kind)), LANGUAGES))


@pytest.mark.parametrize(
    ("kind", "rows_by_layer"),
    [
        ("2", [24, 24]),  # all by the source
        ("1", [24, 168]),
        ("0", [168, 168]),  # all by the target
        ("mixed", [168, 168]),  # by both
        ("full", [24, 24]),  # by neither
    ],
)
def test_losses_and_gradients_are_those_of_rows_encoded_one_by_one(
    kind: str, rows_by_layer: list[int], tiny_base: Base, batch: Batch
) -> None:
    learner = make_learner(kind, tiny_base)
    loss, gradients = loss_and_gradients(learner, [replace(batch, source_of=None)])
    encoder: Any = learner.model.model.encoder
    seen: list[int] = []
    for layer in encoder.layers:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    for microbatches in ([batch], halves(batch)):
        seen.clear()
        once_loss, once = loss_and_gradients(learner, [by_target(one) for one in microbatches])
        if len(microbatches) == 1:
            assert seen == rows_by_layer
        assert once_loss == pytest.approx(loss, rel=1e-6)
        assert once.keys() == gradients.keys()
        largest = max(float(gradient.abs().max()) for gradient in gradients.values())
        for name, gradient in gradients.items():
            # Biases of keys have a gradient of rounding alone.
            scale = max(float(gradient.abs().max()), 1e-3 * largest)
            torch.testing.assert_close(once[name] / scale, gradient / scale, atol=5e-5, rtol=0)


def test_every_family_says_the_same(family_folder: Path, tmp_path: Path) -> None:
    base = load_base(str(family_folder))
    text = read_embedded("quickstart", "validation", FAMILY_LANGUAGES).select(range(4))
    store = TokenStore.build(text, base.tokenizer.encode, base.tokenizer.fingerprint, tmp_path)
    learner = randomised(adapt(base, architecture(1, FAMILY_LANGUAGES), FAMILY_LANGUAGES))
    directions, vocabulary = all_directions(FAMILY_LANGUAGES), base.vocabulary(FAMILY_LANGUAGES)
    rows = np.array([[index, row] for row in range(4) for index in range(12)], np.int32)
    batch = collate(store, directions, rows, vocabulary, FAMILY_LANGUAGES, with_sources=True)
    plain = run_forward(learner, by_target(replace(batch, source_of=None)), frozenset({"decoder"}), torch.float32)
    sorted_batch = by_target(batch)
    once = run_forward(learner, sorted_batch, frozenset({"decoder"}), torch.float32)
    assert plain.decoder is not None and once.decoder is not None
    torch.testing.assert_close(once.decoder, plain.decoder, atol=1e-5, rtol=1e-5)
    # SMaLL-100's source begins with its target, so that no two rows have the same.
    is_small = base.tokenizer.family.name == "small100"
    assert (sorted_batch.first_rows is None) == is_small
    assert sorted_batch.source_of is not None
    sources = zip(sorted_batch.source_of.tolist(), sorted_batch.src_ids.tolist(), strict=True)
    assert len({(number, *ids) for number, ids in sources}) == (48 if is_small else 16)


@pytest.fixture
def losses(store: TokenStore, new_base: Callable[[], Base]) -> Callable[..., list[float]]:
    """Trains from the same start and returns the loss after each update."""

    def run(settings: TrainerSettings, **options: Any) -> list[float]:
        base = new_base()
        data = TrainingData(store, DIRECTIONS, LANGUAGES, base.vocabulary(LANGUAGES))
        learner = adapt(base, architecture(1), LANGUAGES)
        return [found.train_loss for found in train(learner, data, settings, updates_between_yields=1, **options)]

    return run


def test_a_training_goes_as_it_does_on_the_same_batches_encoded_one_by_one(
    losses: Callable[..., list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    once = forward._encoded_once

    def counting(
        learner: Learner, batch: Batch, sides: EncoderSides, with_by_source: bool
    ) -> tuple[Tensor, Tensor | None]:
        assert batch.first_rows is not None
        counted.append(len(batch.src_ids) - len(batch.first_rows))
        return once(learner, batch, sides, with_by_source)

    with monkeypatch.context() as patched:
        patched.setattr(forward, "_encoded_once", counting)
        found = losses(SETTINGS)
    assert sum(counted) > 0.7 * 168, "six of seven rows, but for those at either end of what is drawn"
    monkeypatch.setattr(forward, "num_by_source", lambda _: 0)
    expected = losses(SETTINGS)
    assert found == pytest.approx(expected, rel=1e-4)
    assert losses(SETTINGS, num_parts=3) == pytest.approx(expected, rel=1e-4)


def test_products_in_bf16_are_near_those_in_fp32(losses: Callable[..., list[float]]) -> None:
    assert losses(replace(SETTINGS, precision="bf16")) == pytest.approx(losses(SETTINGS), rel=0.02)


def test_rows_of_a_source_share_the_dropout_of_what_is_encoded_once(tiny_base: Base, batch: Batch) -> None:
    forward_of = {}
    for num_by_source in (2, 1):
        learner = randomised(adapt(tiny_base, architecture(num_by_source), LANGUAGES))
        encoder: Any = learner.model.model.encoder
        encoder.train()
        for stack in (encoder, *encoder.layers):
            stack.dropout = 0.3
        states = run_forward(learner, by_target(batch), frozenset({"encoder"}), torch.float32).encoder
        assert states is not None
        source_of = by_target(batch).source_of
        assert source_of is not None
        forward_of[num_by_source] = states[source_of == 0]
        encoder.eval()
        learner.remove()
    assert torch.equal(forward_of[2][0], forward_of[2][1])
    assert not torch.equal(forward_of[1][0], forward_of[1][1])


def test_a_model_is_looked_through_once_a_training(
    losses: Callable[..., list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Learner] = []
    of = EncoderSides.of

    def counting(learner: Learner) -> EncoderSides:
        looked.append(learner)
        return of(learner)

    monkeypatch.setattr(EncoderSides, "of", counting)
    assert len(losses(replace(SETTINGS, encode_once=False))) > 1
    assert len(looked) == 1


def test_batches_keep_their_sources_when_they_are_sorted_again(batch: Batch) -> None:
    once = ready(batch)
    rows = torch.randperm(len(batch.src_ids), generator=torch.Generator().manual_seed(1))
    moved: dict[str, Any] = {
        name: value[rows]
        for name, value in vars(once).items()
        if isinstance(value, Tensor) and name not in ("first_rows", "counted")
    }
    again = by_target(replace(once, **moved))
    assert again.counted is None and once.counted is not None
    assert again.first_rows is not None and again.source_of is not None
    assert torch.equal(again.source_of[again.first_rows], torch.arange(24))
    assert again.src_lang[again.first_rows].tolist() == sorted(again.src_lang[again.first_rows].tolist())
