import errno
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from langsearch.model.base import Base, share_base
from langsearch.search import worker
from langsearch.search.environment import Environment
from langsearch.search.folder import ExperimentFolder, read_json, read_rows
from langsearch.search.searcher import FAILED, parse_result
from langsearch.search.worker import TrialTrainable, failure_cause, test_on_worker
from langsearch.train.loop import NonFiniteLossError

if TYPE_CHECKING:
    from tests.search_fixtures import TaskMaker

pytest_plugins = ["search_fixtures"]

evaluate_on_worker = test_on_worker
del test_on_worker


class _Trainable(TrialTrainable):
    """The trainable without Tune around it."""

    def __init__(self) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path) -> ExperimentFolder:
    return ExperimentFolder(tmp_path)


@pytest.fixture
def started(
    folder: ExperimentFolder,
    base: Base,
    environment: Environment,
    make_task: "TaskMaker",
    monkeypatch: pytest.MonkeyPatch,
) -> TrialTrainable:
    monkeypatch.setattr(worker, "_bases", {})
    make_task().write(folder.trial("00000"))
    trainable = _Trainable()
    trainable.setup({"name": "00000"}, share_base(base), environment, folder.path, torch.get_num_threads())
    return trainable


def test_every_step_is_an_epoch_and_the_last_one_is_done(started: TrialTrainable) -> None:
    steps = [started.step() for _ in range(2)]
    assert [(step["epoch"], step["done"], step["kind"], step["name"]) for step in steps] == [
        (1, False, "searched", "00000"),
        (2, True, "searched", "00000"),
    ]
    assert all(step["rung_value"] == step["spbleu"] for step in steps)
    assert all(parse_result(step) is not None for step in steps)


def test_a_warm_worker_gives_a_new_trial_the_result_of_a_cold_one(
    started: TrialTrainable, folder: ExperimentFolder, make_task: "TaskMaker"
) -> None:
    started.step()  # the first trial is stopped in the middle
    for name in ("00001", "00002"):
        make_task(name, lr=2e-3).write(folder.trial(name))
    losses = []
    for name in ("00001", "00002"):
        assert started.reset_config({"name": name})
        losses.append(started.step()["train_loss"])
        started.cleanup()
    assert losses[0] == losses[1]


def test_baselines_have_no_rung_value(
    started: TrialTrainable, folder: ExperimentFolder, make_task: "TaskMaker"
) -> None:
    replace(make_task("published"), kind="baseline").write(folder.trial("published"))
    started.reset_config({"name": "published"})
    assert "rung_value" not in started.step()
    started.cleanup()


def test_a_failure_becomes_a_result_and_a_file_and_the_worker_goes_on(
    started: TrialTrainable, folder: ExperimentFolder, make_task: "TaskMaker"
) -> None:
    make_task("00001", lr=1e30).write(folder.trial("00001"))
    started.reset_config({"name": "00001"})
    step: dict[str, Any] = {}
    while not step.get("done"):
        step = started.step()
    assert step[FAILED].startswith("non-finite loss: The loss must stay finite, but it is nan at update ")
    failure = read_json(folder.trial("00001").failure)
    assert failure["cause"] == "non-finite loss"
    assert "Traceback" in failure["traceback"]
    assert f"{failure['cause']}: {failure['message']}" == step[FAILED]
    started.reset_config({"name": "00000"})
    assert started.step()["epoch"] == 1
    started.cleanup()


def test_a_trial_that_starts_again_drops_its_old_failure(started: TrialTrainable, folder: ExperimentFolder) -> None:
    folder.trial("00000").failure.write_text("{}")
    started.reset_config({"name": "00000"})
    assert not folder.trial("00000").failure.exists()
    started.cleanup()


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (NonFiniteLossError("nan"), "non-finite loss"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk full"),
        (OSError(errno.EACCES, "Permission denied"), "PermissionError"),
        (KeyError("x"), "KeyError"),
    ],
)
def test_causes_are_named_in_words(error: Exception, cause: str) -> None:
    assert failure_cause(error) == cause


def test_the_test_set_is_scored_with_the_final_settings(
    started: TrialTrainable, folder: ExperimentFolder, base: Base, environment: Environment
) -> None:
    while not started.step()["done"]:
        pass
    started.cleanup()
    values = evaluate_on_worker(share_base(base), environment, folder.path, "00000", torch.get_num_threads())
    assert (values["test_num_sentences"], values["test_num_directions"]) == (4, 2)
    assert values["test_spbleu_low"] <= values["test_spbleu"] <= values["test_spbleu_high"]
    assert len(read_rows(folder.trial("00000").translations)) == 8
