"""`tokens_per_batch: auto`, with memory that runs out at given sizes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.data.directions import all_directions
from langsearch.data.store import TokenStore
from langsearch.experiment.environment import Environment
from langsearch.experiment.folder import TrialFolder, read_json
from langsearch.model.base import Base
from langsearch.model.positions import num_positions
from langsearch.space.schema import load_space
from langsearch.space.settings import TrainerSettings
from langsearch.train import fitting
from langsearch.train.fitting import MAX_TOKENS, find_tokens_per_batch
from langsearch.train.loop import TrainingData, _Run, train
from langsearch.trial.trial import run_trial
from tests.conftest import LANGUAGES

if TYPE_CHECKING:
    from tests.search_fixtures import TaskMaker

pytest_plugins = ["search_fixtures"]

SETTINGS = TrainerSettings(epochs=1, tokens_per_batch=None, accumulation=4, max_length=64)


@pytest.fixture
def learner(tiny_base: Base, make_architecture: Callable[..., Any]) -> AdaptedModel:
    return adapt(tiny_base, make_architecture(), LANGUAGES)


@pytest.fixture
def data(tiny_base: Base, quickstart_store: TokenStore) -> TrainingData:
    return TrainingData(quickstart_store, all_directions(LANGUAGES), LANGUAGES, tiny_base.vocabulary(LANGUAGES))


@pytest.mark.parametrize(
    ("room", "found"),
    # 100 tokens would have room for 62, but those would not hold the longest pair
    [(10**9, MAX_TOKENS), (4000, MAX_TOKENS), (3999, 8000), (100, 4 * 64), (1, 4 * 64)],
)
def test_the_largest_batch_that_fits_is_found_by_halves_down_to_the_longest_pair(
    room: int, found: int, learner: AdaptedModel, data: TrainingData
) -> None:
    assert find_tokens_per_batch(learner, data, SETTINGS, lambda tokens: tokens <= room) == found


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    ],
)
def test_batches_are_tried_forward_and_back_until_one_has_room_and_nothing_is_learned(
    error: Exception, learner: AdaptedModel, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, tried = _Run._loss, []

    def loss(self: Any, batch: Any) -> Any:
        tried.append(batch.src_ids.numel())
        if batch.src_ids.numel() > 900:
            raise type(error)(*error.args)
        return whole(self, batch)

    before = {name: parameter.clone() for name, parameter in learner.parameters().items()}
    with monkeypatch.context() as patch:
        patch.setattr(_Run, "_loss", loss)
        found = find_tokens_per_batch(learner, data, SETTINGS, fitting._trying(learner, data, SETTINGS))
    assert max(tried) > 900 and found < MAX_TOKENS
    assert all(torch.equal(before[name], parameter) for name, parameter in learner.parameters().items())
    assert all(parameter.grad is None for parameter in learner.parameters().values())
    assert list(train(learner, data, replace(SETTINGS, tokens_per_batch=found, pairs_per_epoch=8)))


def test_an_error_that_is_not_for_memory_is_not_taken_for_one(
    learner: AdaptedModel, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(*_: Any) -> Any:
        raise RuntimeError("odd")

    monkeypatch.setattr(_Run, "_loss", loss)
    with pytest.raises(RuntimeError, match=r"^odd$"):
        find_tokens_per_batch(learner, data, SETTINGS, fitting._trying(learner, data, SETTINGS))


def test_on_a_cpu_half_of_what_is_available_is_taken(
    learner: AdaptedModel, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for available in (1 << 40, 100 << 20, 60 << 20, 1):
        monkeypatch.setattr(fitting, "available_bytes", lambda device, available=available: available)
        found.append(find_tokens_per_batch(learner, data, SETTINGS))
    assert found[0] == MAX_TOKENS > found[1] > found[2] >= found[3]
    assert found[3] == 4 * min(64, num_positions(learner.model.config)), "the longest pair has room always"


def test_training_without_a_number_is_refused(learner: AdaptedModel, data: TrainingData) -> None:
    with pytest.raises(ValueError, match=r"^`tokens_per_batch` must be found before training"):
        next(train(learner, data, SETTINGS))


def test_a_trial_writes_what_it_found_and_goes_on_with_it_where_there_is_other_room(
    base: Base, environment: Environment, make_task: "TaskMaker", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finds(number: int) -> None:
        monkeypatch.setattr("langsearch.trial.batch_size.find_tokens_per_batch", lambda *_: number)

    task, folder = make_task(tokens_per_batch=None), TrialFolder(tmp_path / "auto")
    finds(600)
    run = run_trial(base, environment, task, folder)
    first = next(run)
    run.close()
    assert read_json(folder.path / "batch.json") == {"tokens_per_batch": 600}
    assert first.note == "tokens_per_batch 600, the most that the device has room for"
    finds(200)
    again, last = run_trial(base, environment, task, folder)
    *_, wanted = run_trial(base, environment, make_task(tokens_per_batch=600), TrialFolder(tmp_path / "600"))
    assert (again.epoch, last.train_loss, last.updates) == (1, wanted.train_loss, wanted.updates)


def test_a_space_may_say_auto_also_as_a_choice(space_file: Path) -> None:
    space = load_space(space_file, ["trainer.tokens_per_batch=auto"])
    assert space.trainer({"rank.high": 0, "rank.low": 2, "trainer.lr": 0.01}).tokens_per_batch is None
    assert "tokens_per_batch: auto" in space.text
    chosen = load_space(space_file, ["trainer.tokens_per_batch={choice: [auto, 600]}"])
    point = {"rank.high": 0, "rank.low": 2, "trainer.lr": 0.01, "trainer.tokens_per_batch": None}
    assert chosen.trainer(point).tokens_per_batch is None
