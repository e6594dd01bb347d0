"""Encoders hide their language: the reversal is exact, resumes to the bit, and a fresh probe finds that it worked."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langsearch.adapters.learners import adapt
from langsearch.data.batches import collate
from langsearch.data.directions import all_directions
from langsearch.data.store import TokenStore
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture
from langsearch.space.loss_settings import LanguageAdversarySettings, LossSettings
from langsearch.space.settings import TrainerSettings
from langsearch.train.checkpoint import read_newest_checkpoint, write_checkpoint
from langsearch.train.forward import ready, run_forward
from langsearch.train.language_adversary import Classifier, LanguageAdversary, reversal
from langsearch.train.loop import TrainingData, train
from langsearch.train.pooling import pooled, tokens_of_rows
from langsearch.train.probe import fresh_probe_accuracy

LANGUAGES = ("en", "fr", "de", "sw")
DIRECTIONS = all_directions(LANGUAGES)
LOSS = LossSettings(language_adversary=LanguageAdversarySettings())
SETTINGS = TrainerSettings(
    epochs=2, pairs_per_epoch=24, tokens_per_batch=200, accumulation=2, dropout=0.1, lr=1e-2, clip_norm=1.0, loss=LOSS
)
SEEDS = range(5)
Architect = Callable[..., Architecture]


@pytest.fixture
def data(tiny_base: Base, quickstart_store: TokenStore) -> TrainingData:
    return TrainingData(quickstart_store, DIRECTIONS, LANGUAGES, tiny_base.vocabulary(LANGUAGES))


def test_the_reversal_sets_in_as_published() -> None:
    assert reversal(0, 10) == 0
    assert [round(reversal(p, 10), 2) for p in (0.05, 0.1, 0.25)] == [0.24, 0.46, 0.85]
    assert [round(reversal(p, 20), 2) for p in (0.05, 0.1, 0.25)] == [0.46, 0.76, 0.99]


@pytest.mark.parametrize("amount", [0.0, 0.4])
def test_the_encoder_gets_the_reversed_gradient_and_the_classifier_its_own(amount: float) -> None:
    generator = torch.Generator().manual_seed(0)
    states, languages = torch.randn(6, 8, generator=generator).requires_grad_(), torch.arange(6) % 3
    classifier = Classifier(3, 8, 3.0, torch.tensor(2.0), seed=1)
    loss = classifier.losses(states, languages, amount).sum()
    found = torch.autograd.grad(loss, [states, classifier.weight, classifier.bias])
    factor = 3 * 100 / 8
    plain = states / 2 @ (factor * classifier.weight).T + factor * classifier.bias
    wanted_loss = F.cross_entropy(plain, languages, reduction="sum")
    wanted = torch.autograd.grad(wanted_loss, [states, classifier.weight, classifier.bias])
    assert loss.item() == pytest.approx(wanted_loss.item(), rel=1e-5)
    assert torch.allclose(found[0], -amount * wanted[0], atol=1e-6)
    assert torch.allclose(found[1], wanted[1], atol=1e-4) and torch.allclose(found[2], wanted[2], atol=1e-4)


def test_the_classifier_learns_faster_by_its_factor() -> None:
    moved = {}
    for factor in (1.0, 3.0):
        classifier = Classifier(3, 8, factor, torch.ones(()), seed=1)
        start = (classifier.factor * classifier.weight).detach().clone()
        optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-3)
        states = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
        torch.autograd.backward(classifier.losses(states, torch.arange(6) % 3, 1.0).sum())
        optimizer.step()
        moved[factor] = start, (classifier.factor * classifier.weight - start).abs().mean().item()
    assert torch.allclose(moved[1.0][0], moved[3.0][0])
    assert moved[3.0][1] == pytest.approx(3 * moved[1.0][1], rel=1e-3)


def test_the_term_is_a_sum_over_target_tokens_and_over_parts_of_a_batch(
    tiny_base: Base, make_architecture: Architect, data: TrainingData
) -> None:
    learner = adapt(tiny_base, make_architecture(), LANGUAGES)
    settings = LanguageAdversarySettings(weight=0.5)
    term = LanguageAdversary(settings, learner, data.store, data.vocabulary, torch.float32, seed=0)
    rows = np.array([[index, row] for index in range(len(DIRECTIONS)) for row in (3, 7)], np.int32)

    def loss(part: Any) -> float:
        batch = ready(collate(data.store, DIRECTIONS, part, data.vocabulary, LANGUAGES))
        states = run_forward(learner, batch, term.needs, torch.float32)
        found = term.loss(learner.model, states, batch)
        assert states.by_source is not None
        each = term.classifier.losses(pooled(states.by_source, batch.src_mask), batch.src_lang, 0.0)
        assert found.item() == pytest.approx(0.5 * (each * tokens_of_rows(batch)).sum().item(), rel=1e-5)
        return found.item()

    assert loss(rows) == pytest.approx(sum(loss(part) for part in np.array_split(rows, 4)), rel=1e-4)


def test_a_resumed_training_equals_one_that_never_stopped_and_leaves_the_classifier_out_of_the_adapters(
    new_base: Callable[[], Base], make_architecture: Architect, data: TrainingData, tmp_path: Path
) -> None:
    expected, found = [], []
    whole, resumed = (adapt(new_base(), make_architecture(), LANGUAGES, seed) for seed in (0, 5))
    for progress in train(whole, data, SETTINGS, updates_between_yields=1):
        expected.append((progress.updates, progress.train_loss))
        if progress.updates == 3:
            write_checkpoint(tmp_path, progress.checkpoint())
    checkpoint = read_newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.tensors["terms/language_adversary.weight"].shape == (4, 32)
    assert "optimizer/language_adversary.weight/exp_avg" in checkpoint.tensors
    for progress in train(resumed, data, replace(SETTINGS, seed=0), resume=checkpoint, updates_between_yields=1):
        found.append((progress.updates, progress.train_loss))
    assert len(found) > 3 and found == expected[3:]
    state = resumed.state()
    assert all(torch.equal(value, state[name]) for name, value in whole.state().items())
    assert not any("adversary" in name for name in state)
    assert resumed.num_nonzero() == adapt(new_base(), make_architecture(), LANGUAGES).num_nonzero()


def test_a_fresh_probe_reads_what_is_there_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    languages = torch.arange(400) % 4
    noise = torch.randn(400, 16, generator=generator)
    told = noise + 3 * torch.randn(4, 16, generator=generator)[languages]
    assert fresh_probe_accuracy(told, languages) >= 0.95
    assert fresh_probe_accuracy(noise, languages) <= 0.35
    # States as large as those below a norm, and one feature that never changes.
    assert fresh_probe_accuracy(torch.cat([1e4 * told, torch.ones(400, 1)], dim=1), languages) >= 0.95


D, CLASSES, NUM_ROWS, LR = 16, 8, 512, 0.001


class Toy:
    """Sentences of 8 classes in two languages that lie apart, each with a pair of rank 4 and a bias; a frozen head."""

    def __init__(self, seed: int) -> None:
        self.generator = generator = torch.Generator().manual_seed(seed)
        self.centers = 2 * torch.randn(CLASSES, D, generator=generator)
        self.offset = 4.8 * F.normalize(torch.randn(D, generator=generator), dim=0)
        self.down = nn.Parameter(torch.randn(2, 4, D, generator=generator) * D**-0.5)
        self.up, self.bias = nn.Parameter(torch.zeros(2, D, 4)), nn.Parameter(torch.zeros(2, D))

    def sample(self, num: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns classes, languages and states."""
        classes = torch.randint(CLASSES, (num,), generator=self.generator)
        languages = torch.randint(2, (num,), generator=self.generator)
        noise = torch.randn(num, D, generator=self.generator)
        return classes, languages, self.centers[classes] + languages[:, None] * self.offset + noise

    def encoded(self, states: Tensor, languages: Tensor) -> Tensor:
        inner = torch.einsum("nd,nrd->nr", states, self.down[languages])
        return states + torch.einsum("nr,ndr->nd", inner, self.up[languages]) + self.bias[languages]

    def train(self, weight: float, lr_factor: float = LanguageAdversarySettings.lr_factor) -> None:
        """Trains by the frozen head's classes, and against the classifier as a training of 1,200 updates does."""
        size = self.sample(NUM_ROWS)[2].square().mean().sqrt()
        classifier = Classifier(2, D, lr_factor, size, seed=0)
        trained = [self.down, self.up, self.bias, *classifier.parameters()]
        optimizer = torch.optim.Adam(trained, lr=LR, betas=(0.9, 0.98))
        for step in range(1200):
            classes, languages, states = self.sample(128)
            encoded = self.encoded(states, languages)
            loss = F.cross_entropy(self.head(encoded), classes)
            if weight:
                loss = loss + weight * classifier.losses(encoded, languages, reversal(step / 1200, 10.0)).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.param_groups[0]["lr"] = LR * (1 - step / 1200)
            optimizer.step()

    def head(self, states: Tensor) -> Tensor:
        """Returns the logits of classes by their centers."""
        return states @ self.centers.T - self.centers.square().sum(dim=1) / 2

    def measures(self) -> tuple[float, float]:
        """Returns what a fresh probe reads, and the accuracy of the task."""
        classes, languages, states = self.sample(2000)
        with torch.no_grad():
            encoded = self.encoded(states, languages)
            accuracy = (self.head(encoded).argmax(dim=1) == classes).float().mean()
        return fresh_probe_accuracy(encoded, languages), float(accuracy)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fresh_probe_no_longer_reads_the_language_and_the_task_is_done_as_well(seed: int) -> None:
    plain, hidden, slow = Toy(seed), Toy(seed), Toy(seed)
    plain.train(0.0)
    hidden.train(0.33)
    slow.train(0.33, lr_factor=0.15)
    (read, accuracy), (read_hidden, accuracy_hidden) = plain.measures(), hidden.measures()
    assert read >= 0.9
    assert read_hidden <= 0.65
    assert slow.measures()[0] >= read_hidden + 0.05, "a classifier that is as slow as the encoder is outrun"
    assert accuracy_hidden >= accuracy - 0.03
