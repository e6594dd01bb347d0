"""Encodings are pulled to those of a pivot language: exact, by the source alone, resumed to the bit, and of use."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.data.batches import Batch, SentenceForm, collate
from langsearch.data.directions import all_directions
from langsearch.data.parallel import ParallelText
from langsearch.data.store import TokenStore
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture
from langsearch.space.loss_settings import AlignSettings, LossSettings
from langsearch.space.problems import InputError
from langsearch.space.settings import TrainerSettings
from langsearch.train.align import Align, contrast, squared_error
from langsearch.train.checkpoint import read_newest_checkpoint, write_checkpoint
from langsearch.train.cross_entropy import CrossEntropy
from langsearch.train.forward import EncoderSides, ready, run_forward
from langsearch.train.loop import TrainingData, train
from langsearch.train.pooling import pooled, tokens_of_rows
from langsearch.train.terms import make_terms

LANGUAGES = ("en", "fr", "de", "sw")
DIRECTIONS = all_directions(LANGUAGES)
SETTINGS = TrainerSettings(epochs=2, pairs_per_epoch=24, tokens_per_batch=200, accumulation=2, dropout=0.1, lr=1e-2)
SEEDS = range(5)
Architect = Callable[..., Architecture]
Kind = Literal["mse", "contrastive"]
ROWS = np.array([[index, row] for index in range(len(DIRECTIONS)) for row in (3, 7)], np.int32)


@pytest.fixture
def data(tiny_base: Base, quickstart_store: TokenStore) -> TrainingData:
    return TrainingData(quickstart_store, DIRECTIONS, LANGUAGES, tiny_base.vocabulary(LANGUAGES))


@pytest.fixture
def collated(data: TrainingData) -> Callable[..., Batch]:
    def make(rows: Any = ROWS, **options: Any) -> Batch:
        return ready(
            collate(
                data.store, DIRECTIONS, rows, data.vocabulary, LANGUAGES, with_sentences=True, pivot="en", **options
            )
        )

    return make


@pytest.fixture
def learner(new_base: Callable[[], Base], make_architecture: Architect) -> AdaptedModel:
    """Adapters that change something: by the source in the first encoder layer, by the target in the second."""
    learner = adapt(new_base(), make_architecture(), LANGUAGES)
    for value in learner.state().values():
        value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(0)) * 0.05)
    return learner


def term_of(learner: AdaptedModel, data: TrainingData, **settings: Any) -> Align:
    settings = {"warmup": 0.0, "weight": 1.0} | settings
    term = Align(AlignSettings(**settings), "en", learner, data.store, data.vocabulary, torch.float32)
    term.before_update(1, 0.0)
    return term


@pytest.mark.parametrize("encode_once", [False, True])
def test_each_row_has_its_own_line_in_the_pivot_language(
    encode_once: bool, collated: Callable[..., Batch], data: TrainingData
) -> None:
    batch = collated(np.random.default_rng(0).permutation(ROWS), with_sources=encode_once)
    assert batch.pivot_ids is not None and batch.pivot_mask is not None and batch.pivot_of is not None
    assert batch.sentences is not None
    assert len(batch.pivot_ids) == 2  # each line once
    for src, row, pivot in zip(batch.src_lang.tolist(), batch.sentences.tolist(), batch.pivot_of.tolist(), strict=True):
        assert (pivot == -1) == (LANGUAGES[src] == "en")
        if pivot >= 0:
            tokens = batch.pivot_ids[pivot][batch.pivot_mask[pivot] == 1].tolist()
            assert tokens[0] == data.vocabulary.language_ids["en"]
            assert tokens[1:-1] == data.store.tokens("en", row).tolist()


def test_pivots_that_begin_with_their_target_are_told_apart(data: TrainingData) -> None:
    vocabulary = replace(data.vocabulary, form=SentenceForm(src_mark="tgt", has_tgt_mark=False))
    batch = ready(collate(data.store, DIRECTIONS, ROWS, vocabulary, LANGUAGES, with_sentences=True, pivot="en"))
    assert batch.pivot_ids is not None and batch.pivot_of is not None
    for row, pivot in enumerate(batch.pivot_of.tolist()):
        if pivot >= 0:
            assert batch.pivot_ids[pivot, 0] == batch.src_ids[row, 0]


def test_a_line_that_the_pivot_language_lacks_is_no_pivot(tiny_base: Base, tmp_path: Path) -> None:
    languages = ("en", "fr", "sw")
    rows: dict[str, Any] = {"en": ("a b", None), "fr": ("c", "d"), "sw": ("e", "f")}
    text = ParallelText(languages, {name: tuple(value) for name, value in rows.items()}, "partly")
    tokenizer = tiny_base.tokenizer
    store = TokenStore.build(text, tokenizer.encode, tokenizer.fingerprint, tmp_path)
    vocabulary = tiny_base.vocabulary(languages)
    directions = [direction for direction in all_directions(languages) if str(direction) in ("fr-sw", "sw-fr")]
    both = np.array([[0, 0], [0, 1], [1, 0]], np.int32)
    batch = collate(store, directions, both, vocabulary, languages, with_sentences=True, pivot="en")
    assert batch.pivot_of is not None and batch.pivot_of.tolist() == [0, -1, 0]
    none = collate(store, directions, both[1:2], vocabulary, languages, with_sentences=True, pivot="en")
    assert none.pivot_ids is None and none.pivot_of is None
    learner = adapt(tiny_base, Architecture(slots=tuple((name, name) for name in languages), adapters=()), languages)
    with pytest.raises(InputError, match="needs sentences in its pivot en to train on, but has 1"):
        Align(AlignSettings(), "en", learner, store, vocabulary, torch.float32)


@pytest.mark.parametrize("encode_once", [False, True])
def test_states_by_the_source_are_those_below_the_first_layer_that_looks_at_the_target(
    encode_once: bool, collated: Callable[..., Batch], learner: AdaptedModel
) -> None:
    batch = collated(with_sources=encode_once)
    assert EncoderSides.of(learner).num_by_source == 1
    needs = frozenset({"encoder", "by_source", "decoder"})
    states = run_forward(learner, batch, needs, torch.float32)  # type: ignore[arg-type]
    plain = run_forward(learner, collated(), frozenset({"encoder", "decoder"}), torch.float32)
    assert states.by_source is not None and states.encoder is not None and plain.encoder is not None
    assert torch.allclose(states.encoder, plain.encoder, atol=1e-5)
    hooked = []
    first = learner.model.model.encoder.layers[0]
    handle = first.register_forward_hook(lambda *_: hooked.append(_[-1]))
    with learner.route(batch.src_lang, batch.tgt_lang):
        learner.model.model.encoder(input_ids=batch.src_ids, attention_mask=batch.src_mask)
    handle.remove()
    found = hooked[0][0] if isinstance(hooked[0], tuple) else hooked[0]
    mask = batch.src_mask[..., None]
    assert torch.allclose(states.by_source * mask, found * mask, atol=1e-5)


def test_padding_and_the_language_token_do_not_count() -> None:
    states = torch.randn(2, 4, 3)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    states[0, 3] = torch.nan
    found = pooled(states, mask)
    assert torch.allclose(found[0], states[0, 1:3].mean(dim=0))
    assert torch.allclose(found[1], states[1, 1:].mean(dim=0))
    assert mask[0, 0] == 1


def test_the_contrast_is_that_of_plain_pytorch_and_leaves_false_negatives_out() -> None:
    generator = torch.Generator().manual_seed(0)
    found, wanted = (torch.randn(5, 8, generator=generator) for _ in range(2))
    every, lines = torch.ones(5, dtype=torch.bool), torch.arange(5)
    similar = 20 * F.cosine_similarity(found[:, None], wanted[None], dim=2)
    each = (F.cross_entropy(similar, lines, reduction="none") + F.cross_entropy(similar.T, lines, reduction="none")) / 2
    assert torch.allclose(contrast(found, wanted, lines, every, 20.0), each, atol=1e-5)
    # Rows 3 and 4 are of one line: each is left out of the other's, and of those two, one at a time.
    twice = torch.tensor([0, 1, 2, 3, 3])
    without = [contrast(found[keep], wanted[keep], lines[:4], every[:4], 20.0) for keep in ([0, 1, 2, 3], [0, 1, 2, 4])]
    both = contrast(found, wanted, twice, every, 20.0)
    assert both[3] == pytest.approx(without[0][3].item(), abs=1e-5)
    assert both[4] == pytest.approx(without[1][3].item(), abs=1e-5)
    # A row that has no pivot is as if it were not there, and has a gradient that is a number.
    is_aligned = torch.tensor([True, True, True, True, False])
    found.requires_grad_()
    partly = contrast(found, wanted, lines, is_aligned, 20.0)
    assert torch.allclose(partly[:4], without[0], atol=1e-5)
    (gradient,) = torch.autograd.grad((partly * is_aligned).sum(), found)
    assert torch.isfinite(gradient).all() and not gradient[4].any()


def test_the_term_is_the_distance_to_the_base_s_own_encoding_over_its_variance(
    collated: Callable[..., Batch], learner: AdaptedModel, new_base: Callable[[], Base], data: TrainingData
) -> None:
    batch, term = collated(), term_of(learner, data)
    learner.model.train()
    states = run_forward(learner, batch, term.needs, torch.float32)
    loss = term.loss(learner.model, states, batch)
    assert batch.pivot_ids is not None and batch.pivot_of is not None and states.by_source is not None
    encoder: Any = new_base().model.model.encoder
    hooked: list[Tensor] = []
    encoder.layers[0].register_forward_hook(lambda *_: hooked.append(_[-1]))
    encoder(input_ids=batch.pivot_ids, attention_mask=batch.pivot_mask)
    wanted = pooled(hooked[0], batch.pivot_mask)  # type: ignore[arg-type]
    found = pooled(states.by_source, batch.src_mask)
    each = squared_error(found, wanted[batch.pivot_of], term.variance) * tokens_of_rows(batch)
    assert loss.item() == pytest.approx(each[batch.pivot_of >= 0].sum().item(), rel=1e-4)
    (gradient,) = torch.autograd.grad(loss, states.by_source)
    rows = gradient.abs().sum(dim=(1, 2)) > 0
    assert rows.tolist() == (batch.pivot_of >= 0).tolist()
    assert all(module.training for module in learner.model.modules())


def test_the_squared_error_of_a_batch_is_that_of_its_parts(
    collated: Callable[..., Batch], learner: AdaptedModel, data: TrainingData
) -> None:
    term = term_of(learner, data)
    learner.model.eval()

    def loss(rows: Any) -> float:
        batch = collated(rows)
        return term.loss(learner.model, run_forward(learner, batch, term.needs, torch.float32), batch).item()

    assert loss(ROWS) == pytest.approx(sum(loss(part) for part in np.array_split(ROWS, 5)), rel=1e-4)


def test_the_weight_grows_over_the_warmup(
    collated: Callable[..., Batch], learner: AdaptedModel, data: TrainingData
) -> None:
    term = term_of(learner, data, warmup=0.2, weight=0.3)
    batch = collated()
    states = run_forward(learner, batch, term.needs, torch.float32)
    found = []
    for progress in (0.0, 0.1, 0.2, 0.9):
        term.before_update(1, progress)
        found.append(term.loss(learner.model, states, batch).item())
    assert found[0] == 0
    assert found[1] == pytest.approx(found[2] / 2, rel=1e-5) and found[2] == found[3] > 0


@pytest.mark.parametrize("kind", ["mse", "contrastive"])
def test_a_resumed_training_equals_one_that_never_stopped(
    kind: Kind, new_base: Callable[[], Base], make_architecture: Architect, data: TrainingData, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, loss=LossSettings(align=AlignSettings(kind=kind, warmup=0.5)))
    expected, found = [], []
    whole, resumed = (adapt(new_base(), make_architecture(), LANGUAGES, seed) for seed in (0, 5))
    for progress in train(whole, data, settings, updates_between_yields=1):
        expected.append((progress.updates, progress.train_loss))
        if progress.updates == 3:
            write_checkpoint(tmp_path, progress.checkpoint())
    for progress in train(resumed, data, settings, resume=read_newest_checkpoint(tmp_path), updates_between_yields=1):
        found.append((progress.updates, progress.train_loss))
    assert len(found) > 3 and found == expected[3:]
    state = resumed.state()
    assert all(torch.equal(value, state[name]) for name, value in whole.state().items())


def test_training_brings_sentences_nearer_to_their_pivots(
    new_base: Callable[[], Base], make_architecture: Architect, data: TrainingData, collated: Callable[..., Batch]
) -> None:
    distances = {}
    for weight in (0.0, 1.0):
        learner = adapt(new_base(), make_architecture(), LANGUAGES)
        loss = LossSettings.of({"align": {"weight": weight, "warmup": 0.0}})
        for _ in train(learner, data, replace(SETTINGS, dropout=0.0, loss=loss)):
            pass
        batch, term = collated(), term_of(learner, data)
        distances[weight] = term.loss(learner.model, run_forward(learner, batch, term.needs, torch.float32), batch)
    assert distances[1.0] <= 0.9 * distances[0.0]


def test_where_nothing_is_learned_by_the_source_the_term_is_left_out_with_a_word(
    new_base: Callable[[], Base], make_architecture: Architect, data: TrainingData, caplog: pytest.LogCaptureFixture
) -> None:
    by_source = make_architecture()
    sites = [replace(entry, side="tgt") for entry in by_source.adapters]
    learner = adapt(new_base(), replace(by_source, adapters=tuple(sites)), LANGUAGES)
    settings = replace(SETTINGS, loss=LossSettings(align=AlignSettings()))
    assert make_terms(settings, learner, data.store, data.languages, data.vocabulary) == (
        CrossEntropy(SETTINGS.label_smoothing),
    )
    assert "would teach nothing, and is left out" in caplog.text


D, NUM_PAIRS, CLASSES = 32, 512, 16


class Toy:
    """Pivot states of 16 classes with a frozen head; a language has them distorted in 4 directions, and moved."""

    def __init__(self, seed: int) -> None:
        self.generator = generator = torch.Generator().manual_seed(seed)
        self.centers = torch.randn(CLASSES, D, generator=generator)
        distortion = torch.randn(D, 4, generator=generator) @ torch.randn(4, D, generator=generator) * (2 / D**0.5)
        self.distort = torch.eye(D) + distortion
        self.offset = torch.randn(D, generator=generator) * 4
        self.down = nn.Parameter(torch.randn(8, D, generator=generator) * D**-0.5)
        self.up, self.bias = nn.Parameter(torch.zeros(D, 8)), nn.Parameter(torch.zeros(D))

    def sample(self, num: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the classes of sentences, their states in the pivot language, and in the other one."""
        classes = torch.randint(CLASSES, (num,), generator=self.generator)
        pivot = self.centers[classes] + torch.randn(num, D, generator=self.generator)
        return classes, pivot, pivot @ self.distort.T + self.offset

    def adapted(self, states: Tensor) -> Tensor:
        return states + states @ self.down.T @ self.up.T + self.bias

    def train(self, kind: Kind | None) -> None:
        """Trains the adapter by alignment alone."""
        _, pivot, other = self.sample(NUM_PAIRS)
        variance = pivot.var(dim=0).mean()
        trained = [self.down, self.up, self.bias]
        optimizer = torch.optim.Adam(trained, lr=0.01)
        for step in range(0 if kind is None else 800):
            rows = torch.randperm(NUM_PAIRS, generator=self.generator)[:64]
            wanted = pivot[rows]
            if kind == "mse":
                each = squared_error(self.adapted(other[rows]), wanted, variance)
            else:
                is_aligned = torch.ones(len(rows), dtype=torch.bool)
                each = contrast(self.adapted(other[rows]), wanted, rows, is_aligned, 20.0)
            optimizer.zero_grad()
            torch.autograd.backward(each.mean())
            optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 800)
            optimizer.step()

    def variance_left(self, *, is_pivot_still: bool) -> float:
        """Trains a whole matrix by alignment alone; returns the variance of what it says over that before.

        Args:
            is_pivot_still: Whether the pivot is what the matrix said before; else it says both, with gradients to both.
        """
        _, pivot, other = self.sample(NUM_PAIRS)
        other = other + torch.randn(other.shape, generator=self.generator)  # no translation says quite the same
        matrix, variance = nn.Parameter(torch.eye(D)), pivot.var(dim=0).mean()
        optimizer = torch.optim.Adam([matrix], lr=0.03)
        for _ in range(600):
            wanted = pivot if is_pivot_still else pivot @ matrix
            optimizer.zero_grad()
            torch.autograd.backward(squared_error(other @ matrix, wanted, variance).mean())
            optimizer.step()
        with torch.no_grad():
            return float((pivot @ matrix).var(dim=0).mean() / variance)

    def measures(self) -> tuple[float, float]:
        """Returns the frozen head's accuracy, and retrieval@1 of pivots among 256."""
        classes, pivot, other = self.sample(256)
        with torch.no_grad():
            states = self.adapted(other)
            accuracy = (torch.cdist(states, self.centers).argmin(dim=1) == classes).float().mean()
            near = F.normalize(states, dim=1) @ F.normalize(pivot, dim=1).T
            retrieval = (near.argmax(dim=1) == torch.arange(256)).float().mean()
            return float(accuracy), float(retrieval)


@pytest.mark.parametrize("kind", ["mse", "contrastive"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_head_of_the_pivot_language_reads_an_aligned_one(seed: int, kind: Kind) -> None:
    accuracy, retrieval = Toy(seed).measures()
    toy = Toy(seed)
    toy.train(kind)
    aligned = toy.measures()
    assert retrieval <= 0.2 and aligned[1] >= 0.95
    assert aligned[0] >= accuracy + 0.4


@pytest.mark.parametrize("seed", SEEDS)
def test_without_a_pivot_that_stands_still_all_encodings_collapse(seed: int) -> None:
    assert Toy(seed).variance_left(is_pivot_still=True) >= 0.3
    assert Toy(seed).variance_left(is_pivot_still=False) <= 0.05
