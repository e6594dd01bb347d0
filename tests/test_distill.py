"""A teacher's distributions beside the labels: exact, without a trace in the model, resumed to the bit, and of use."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.adapters.peft_export import export_peft
from langsearch.data.batches import Batch, collate
from langsearch.data.directions import all_directions
from langsearch.data.epochs import plan_epoch
from langsearch.data.store import TokenStore
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Pruning
from langsearch.space.loss_settings import ADAPTERS, DistillSettings, LossSettings
from langsearch.space.settings import TrainerSettings
from langsearch.train.checkpoint import read_newest_checkpoint, write_checkpoint
from langsearch.train.cross_entropy import CrossEntropy, smoothed_cross_entropy
from langsearch.train.distill import Distill, OwnBest, divergence
from langsearch.train.forward import ready, run_forward
from langsearch.train.loop import Progress, TrainingData, train
from langsearch.train.terms import make_terms
from langsearch.train.truncated import truncated_divergence

LANGUAGES = ("en", "fr", "de", "sw")
DIRECTIONS = all_directions(LANGUAGES)
SETTINGS = TrainerSettings(epochs=4, pairs_per_epoch=24, tokens_per_batch=200, accumulation=2, dropout=0.1, lr=1e-2)
SEEDS = range(5)
Architect = Callable[..., Architecture]
Kind = Literal["kl", "js"]


def distilled(**settings: Any) -> TrainerSettings:
    return replace(SETTINGS, loss=LossSettings(distill=DistillSettings(**settings)))


@pytest.fixture
def data(tiny_base: Base, quickstart_store: TokenStore) -> TrainingData:
    return TrainingData(quickstart_store, DIRECTIONS, LANGUAGES, tiny_base.vocabulary(LANGUAGES))


@pytest.fixture
def batch(data: TrainingData) -> Batch:
    plan = plan_epoch(
        data.store, DIRECTIONS, epoch=0, seed=0, temperature=5.0, max_tokens=300, pairs_per_epoch=24, max_length=64
    )
    return ready(collate(data.store, DIRECTIONS, plan.microbatches[0], data.vocabulary, LANGUAGES))


@pytest.fixture
def new_learner(new_base: Callable[[], Base], make_architecture: Architect) -> Callable[..., AdaptedModel]:
    """Makes adapters that change something; German has none."""

    def make(seed: int = 0, **fields: Any) -> AdaptedModel:
        learner = adapt(new_base(), make_architecture(**fields), LANGUAGES, seed)
        generator = torch.Generator().manual_seed(seed)
        for value in learner.state().values():
            if value.is_floating_point():
                value.add_(torch.randn(value.shape, generator=generator) * 0.05)
        return learner

    return make


@pytest.mark.parametrize("kind", ["kl", "js"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_divergences_and_their_gradients_are_those_of_plain_pytorch(kind: Kind, temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(150, 16, generator=generator) for _ in range(2))
    weight = torch.randn(40_000, 16, generator=generator)  # 32 tokens at a time
    student.requires_grad_()
    found = divergence(student, teacher, weight, kind, temperature)
    (gradient,) = torch.autograd.grad(found * 0.5, student)

    q = F.softmax(student @ weight.T / temperature, dim=1)
    p = F.softmax(teacher @ weight.T / temperature, dim=1)
    m = p if kind == "kl" else (p + q) / 2

    def kl(one: Tensor, other: Tensor) -> Tensor:
        return (one * (one.clamp(min=1e-38).log() - other.clamp(min=1e-38).log())).sum()

    wanted = kl(p, q) if kind == "kl" else kl(p, m) / 2 + kl(q, m) / 2
    wanted = wanted * temperature**2
    (wanted_gradient,) = torch.autograd.grad(wanted * 0.5, student)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert torch.allclose(gradient, wanted_gradient, rtol=1e-3, atol=1e-5)


def test_the_base_teaches_as_it_is_without_a_trace(
    new_learner: Callable[..., AdaptedModel], tiny_base: Base, batch: Batch, make_architecture: Architect
) -> None:
    learner = new_learner()
    mounted = dict(learner.model.named_modules())
    term = Distill(DistillSettings(), CrossEntropy(0.0), learner)
    learner.model.train()
    taught = term.teacher.decoder_states(batch, torch.float32).decoder
    bare = adapt(tiny_base, make_architecture(ranks={}), LANGUAGES)
    wanted = run_forward(bare, batch, {"decoder"}, torch.float32).decoder
    own = run_forward(learner, batch, {"decoder"}, torch.float32).decoder
    assert taught is not None and wanted is not None and own is not None
    assert torch.equal(taught, wanted)
    assert not torch.allclose(taught, own)
    assert not taught.requires_grad and own.requires_grad
    after = dict(learner.model.named_modules())
    assert all(after[name] is module for name, module in mounted.items()) and len(after) == len(mounted)
    assert all(module.training for module in learner.model.modules())


def test_a_teacher_that_fails_leaves_the_adapters_in_place(
    new_learner: Callable[..., AdaptedModel], batch: Batch
) -> None:
    learner = new_learner()
    term = Distill(DistillSettings(), CrossEntropy(0.0), learner)
    mounted = list(learner.model.modules())
    learner.model.train()
    with pytest.raises(IndexError):
        term.teacher.decoder_states(replace(batch, src_ids=batch.src_ids + 10**6), torch.float32)
    assert [*map(id, learner.model.modules())] == [*map(id, mounted)]
    assert all(module.training for module in learner.model.modules())


@pytest.mark.parametrize("kind", ["kl", "js"])
def test_the_loss_is_a_share_of_the_labels_and_a_share_of_the_teacher(
    kind: Kind, new_learner: Callable[..., AdaptedModel], batch: Batch
) -> None:
    learner = new_learner()
    term = Distill(DistillSettings(weight=0.3, kind=kind, temperature=2.0), CrossEntropy(0.1), learner)
    states = run_forward(learner, batch, term.needs, torch.float32)
    assert states.decoder is not None and states.labels is not None
    taught = term.teacher.decoder_states(batch, torch.float32).decoder
    assert taught is not None
    weight = learner.model.lm_head.weight
    plain = smoothed_cross_entropy(states.decoder, weight, states.labels, 0.1)
    wanted = 0.7 * plain + 0.3 * divergence(states.decoder, taught, weight, kind, 2.0)
    assert term.loss(learner.model, states, batch).item() == pytest.approx(wanted.item(), rel=1e-6)


def test_exported_adapters_teach_the_languages_that_they_know_and_no_others(
    new_learner: Callable[..., AdaptedModel],
    new_base: Callable[[], Base],
    make_architecture: Architect,
    batch: Batch,
    tmp_path: Path,
) -> None:
    branch = ("en", "fr")
    architecture = make_architecture(slots=dict.fromkeys(branch, "en"), ranks={"en": 2})
    taught = adapt(new_base(), architecture, branch, 3)
    for value in taught.state().values():
        value.add_(0.02)
    export_peft(taught, tmp_path / "branch", "tiny", "a branch")
    learner = new_learner()
    settings = DistillSettings(teacher=f"{ADAPTERS}{tmp_path / 'branch'}")
    term = Distill(settings, CrossEntropy(0.0), learner)
    states = run_forward(learner, batch, term.needs, torch.float32)
    assert states.decoder is not None
    (gradient,) = torch.autograd.grad(term.loss(learner.model, states, batch), states.decoder)
    (plain,) = torch.autograd.grad(CrossEntropy(0.0).loss(learner.model, states, batch), states.decoder)
    rows = torch.arange(len(batch.src_lang))[:, None].expand_as(batch.labels)[batch.labels >= 0]
    is_known = (batch.src_lang < 2) & (batch.tgt_lang < 2)
    assert 0 < is_known.sum() < len(is_known)
    assert torch.allclose(gradient[~is_known[rows]], plain[~is_known[rows]])
    assert not torch.allclose(gradient[is_known[rows]], plain[is_known[rows]], atol=1e-3)


def test_the_best_epoch_teaches_once_it_is_more_than_one_epoch_old() -> None:
    best = OwnBest()
    used = []
    for epoch, score in enumerate([1.0, 3.0, 2.0, 3.0, 2.0, 5.0, 1.0], start=1):
        used.append(best.epoch if best.is_old_enough(epoch) else 0)
        best.judged(epoch, score, is_comparable=True)
    assert used == [0, 0, 0, 2, 2, 2, 0]
    best.judged(8, 0.5, is_comparable=False)
    assert (best.epoch, best.score) == (8, 0.5)


def outcome(progress: Progress) -> tuple[object, ...]:
    return progress.epoch, progress.microbatch, progress.updates, progress.train_loss, progress.lr


@pytest.mark.parametrize(
    ("stop", "teacher", "is_pruned"),
    [
        ("end of epoch 1", "own_best", False),
        ("end of epoch 2", "own_best", False),
        ("within epoch 4", "own_best", True),
        ("within epoch 2", "base", False),
    ],
)
def test_a_resumed_training_equals_one_that_never_stopped(
    stop: str,
    teacher: str,
    is_pruned: bool,
    new_learner: Callable[..., AdaptedModel],
    data: TrainingData,
    tmp_path: Path,
) -> None:
    settings = distilled(teacher=teacher, kind="js")
    pruning = Pruning(targets=(("en", 0.5), ("fr", 0.5), ("sw", 0.5)), start=1, duration=2) if is_pruned else None
    scores = {1: 4.0, 2: 3.0, 3: 2.0, 4: 1.0}

    def go(learner: AdaptedModel, resume: bool, until: Callable[[Progress], bool]) -> list[tuple[object, ...]]:
        found = []
        checkpoint = read_newest_checkpoint(tmp_path) if resume else None
        for progress in train(learner, data, settings, resume=checkpoint, updates_between_yields=1):
            found.append(outcome(progress))
            if progress.is_epoch_end:
                progress.judge(scores[progress.epoch], True)
            if until(progress):
                write_checkpoint(tmp_path, progress.checkpoint())
                break
        return found

    epoch = int(stop[-1])
    whole = new_learner(0, pruning=pruning)
    expected = go(whole, False, lambda _: False)
    found = go(
        new_learner(0, pruning=pruning),
        False,
        lambda progress: progress.epoch == epoch and (progress.is_epoch_end or stop.startswith("within")),
    )
    resumed = new_learner(5, pruning=pruning)
    torch.manual_seed(99)
    found += go(resumed, True, lambda _: False)
    assert found == expected
    state = resumed.state()
    assert all(torch.equal(value, state[name]) for name, value in whole.state().items())


def test_the_own_best_changes_nothing_until_it_teaches(
    new_learner: Callable[..., AdaptedModel], data: TrainingData
) -> None:
    found = {}
    for name, settings in {"plain": SETTINGS, "own": distilled(teacher="own_best")}.items():
        losses = []
        for progress in train(new_learner(), data, settings):
            progress.judge(-progress.epoch, True)
            losses.append(progress.train_loss)
        found[name] = losses
    assert found["own"][:2] == found["plain"][:2]
    assert found["own"][2] != found["plain"][2]


def test_without_a_weight_there_is_no_term(new_learner: Callable[..., AdaptedModel], data: TrainingData) -> None:
    learner = new_learner()
    settings = replace(SETTINGS, loss=LossSettings.of({"distill": {"weight": 0.0, "kind": "js"}}))
    assert settings == SETTINGS
    assert make_terms(settings, learner, data.store, data.languages, data.vocabulary) == (
        CrossEntropy(SETTINGS.label_smoothing),
    )


NUM_INPUTS, NUM_CLASSES = 16, 8
EYE = torch.eye(NUM_CLASSES)
"""The output embedding: a toy's states are its logits."""


class Toy:
    """16 inputs, 8 classes, 60 sampled labels, and a net of 64 hidden units that can learn them by heart."""

    def __init__(self, seed: int, num_labels: int = 60) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.truth = F.log_softmax(3 * torch.randn(NUM_INPUTS, NUM_CLASSES, generator=generator), dim=1)
        self.inputs, self.labels = self.sampled(num_labels, generator)
        self.validation = self.sampled(200, generator)
        self.unrelated = F.log_softmax(3 * torch.randn(NUM_INPUTS, NUM_CLASSES, generator=generator), dim=1)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Linear(NUM_INPUTS, 64), nn.ReLU(), nn.Linear(64, NUM_CLASSES))

    def sampled(self, num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        inputs = torch.randint(NUM_INPUTS, (num,), generator=generator)
        return inputs, torch.multinomial(self.truth[inputs].exp(), 1, generator=generator).squeeze(1)

    def logits(self) -> Tensor:
        found: Tensor = self.net(torch.eye(NUM_INPUTS))
        return found

    def cross_entropy(self) -> float:
        """Returns that of the truth."""
        with torch.no_grad():
            return float(-(self.truth.exp() * F.log_softmax(self.logits(), dim=1)).sum(dim=1).mean())

    def train(
        self, weight: float = 0.0, kind: Kind = "kl", teacher: Tensor | None = None, top_k: int | None = None
    ) -> float:
        """Trains for 60 epochs of 10 updates, with a teacher's logits (inputs, classes), or with its own best.

        Of the teacher all classes are known, or the most likely ones.

        Returns:
            The cross-entropy to the truth.
        """
        optimizer = torch.optim.Adam(self.net.parameters(), lr=0.01)
        self.best, self.first_taught = OwnBest(), 0
        own: Tensor | None = None
        for epoch in range(1, 61):
            taught = teacher if teacher is not None else own if self.best.is_old_enough(epoch) else None
            if taught is not None and weight > 0 and not self.first_taught:
                self.first_taught, self.best_then = epoch, self.best.epoch
            for _ in range(10):
                states = self.logits()[self.inputs]
                loss = smoothed_cross_entropy(states, EYE, self.labels, 0.0)
                if taught is not None and weight > 0:
                    if top_k is None:
                        teaching = divergence(states, taught[self.inputs], EYE, kind, 1.0)
                    else:
                        top = F.log_softmax(taught[self.inputs], dim=1).topk(top_k, dim=1)
                        teaching = truncated_divergence(states, top.indices, top.values.half(), EYE, kind, 1.0)
                    loss = (1 - weight) * loss + weight * teaching
                optimizer.zero_grad()
                torch.autograd.backward(loss / len(self.inputs))
                optimizer.step()
            with torch.no_grad():
                inputs, labels = self.validation
                score = -float(F.cross_entropy(self.logits()[inputs], labels))
                if self.best.judged(epoch, score, is_comparable=True):
                    own = self.logits()
        return self.cross_entropy()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_teacher_that_knows_the_truth_helps_where_labels_are_few(seed: int) -> None:
    plain = Toy(seed).train()
    assert Toy(seed).train(0.5, "kl", Toy(seed).truth) <= 0.5 * plain
    assert Toy(seed).train(0.9, "js", Toy(seed).truth) <= 0.5 * plain


@pytest.mark.parametrize("seed", SEEDS)
def test_half_of_the_classes_of_such_a_teacher_and_the_rest_help_as_well(seed: int) -> None:
    plain = Toy(seed).train()
    assert Toy(seed).train(0.5, "kl", Toy(seed).truth, top_k=4) <= 0.5 * plain
    assert Toy(seed).train(0.9, "js", Toy(seed).truth, top_k=4) <= 0.5 * plain
    toy = Toy(seed, 2000)
    assert toy.train(0.5, "kl", toy.unrelated, top_k=4) >= 1.3 * Toy(seed, 2000).train()


@pytest.mark.parametrize("seed", SEEDS)
def test_an_unrelated_teacher_harms_where_labels_are_enough(seed: int) -> None:
    # Of few labels, which are learned by heart, any distribution beside them is better than none.
    toy = Toy(seed, 2000)
    assert toy.train(0.5, "kl", toy.unrelated) >= 1.3 * Toy(seed, 2000).train()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_own_best_keeps_a_training_from_forgetting_what_it_knew(seed: int) -> None:
    toy = Toy(seed)
    assert toy.train(0.5) <= 0.7 * Toy(seed).train()
    assert toy.first_taught >= toy.best_then + 2
    assert math.isfinite(toy.best.score)
