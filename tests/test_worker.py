from typing import TYPE_CHECKING, Any

import pytest
import torch

from langsearch.experiment.environment import Environment
from langsearch.experiment.folder import ExperimentFolder, read_json, read_rows
from langsearch.model.base import Base, share_base
from langsearch.search import tasks, worker
from langsearch.search.tasks import evaluate_on_worker
from langsearch.search.worker import TrialTrainable
from langsearch.study.results import parse_result
from langsearch.trial.evaluating import evaluate_trial
from langsearch.trial.failures import FAILED, PAUSED
from tests.worker_fixtures import BareTrainable, Start, steps_of

if TYPE_CHECKING:
    from tests.search_fixtures import TaskMaker

pytest_plugins = ["search_fixtures", "worker_fixtures"]


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
    trainable = BareTrainable()
    trainable.setup({"name": "00000"}, share_base(base), environment, folder.path, torch.get_num_threads())
    return trainable


def test_every_step_is_an_epoch_and_the_last_one_is_done(started: TrialTrainable) -> None:
    steps = [started.step() for _ in range(2)]
    assert [(step["epoch"], step["done"], step["kind"], step["name"]) for step in steps] == [
        (1, False, "searched", "00000"),
        (2, True, "searched", "00000"),
    ]
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


@pytest.mark.parametrize("which", ["experiment", "trial"])
def test_a_stop_file_pauses_a_trial_behind_a_checkpoint_and_is_left_there(
    which: str, start: Start, folder: ExperimentFolder, make_task: "TaskMaker"
) -> None:
    wanted = steps_of(start(make_task("00009")))
    trainable = start(make_task())
    stop = folder.stop_request if which == "experiment" else folder.trial("00000").stop_request
    stop.touch()
    assert trainable.step() == {"name": "00000", "kind": "searched", PAUSED: True, "done": True}
    trainable.cleanup()
    assert stop.exists() and list(folder.trial("00000").checkpoint.iterdir())
    stop.unlink()
    steps = steps_of(start(make_task()))
    assert [step["train_loss"] for step in steps] == [step["train_loss"] for step in wanted]


def test_a_restarted_worker_reports_the_last_epoch_again(start: Start, make_task: "TaskMaker") -> None:
    trainable = start(make_task())
    first = trainable.step()
    trainable.cleanup()
    again, last = steps_of(start(make_task()))
    del first["worker"], again["worker"]
    assert (again, last["epoch"]) == (first, 2)


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


def test_a_trial_without_a_task_fails_and_the_worker_goes_on(started: TrialTrainable, folder: ExperimentFolder) -> None:
    assert started.reset_config({"name": "00077"})
    step = started.step()
    assert step[FAILED].startswith("FileNotFoundError: ")
    assert (step["name"], step["kind"], step["done"]) == ("00077", "searched", True)
    assert started.reset_config({"name": "00000"})
    assert started.step()["epoch"] == 1
    started.cleanup()


def test_a_trial_that_starts_again_drops_its_old_failure(started: TrialTrainable, folder: ExperimentFolder) -> None:
    folder.trial("00000").failure.write_text("{}")
    started.reset_config({"name": "00000"})
    assert not folder.trial("00000").failure.exists()
    started.cleanup()


def test_the_test_set_is_scored_with_the_final_settings(
    started: TrialTrainable, folder: ExperimentFolder, base: Base, environment: Environment
) -> None:
    while not started.step()["done"]:
        pass
    started.cleanup()
    values = evaluate_on_worker(share_base(base), environment, folder.path, "00000", "test", torch.get_num_threads())
    assert (values["test_num_sentences"], values["test_num_directions"]) == (4, 2)
    assert values["test_spbleu_low"] <= values["test_spbleu"] <= values["test_spbleu_high"]
    assert len(read_rows(folder.trial("00000").translations)) == 8


def test_the_whole_validation_part_is_scored_with_the_final_settings(
    started: TrialTrainable, folder: ExperimentFolder, base: Base, environment: Environment
) -> None:
    while not started.step()["done"]:
        pass
    started.cleanup()
    values = evaluate_on_worker(share_base(base), environment, folder.path, "00000", "full", torch.get_num_threads())
    assert (values["full_num_sentences"], values["full_num_directions"], values["full_chrf"]) == (4, 2, None)
    assert values["full_spbleu_low"] <= values["full_spbleu"] <= values["full_spbleu_high"]
    assert {row["split"] for row in read_rows(folder.trial("00000").scores)} == {"validation", "full"}


def test_an_evaluation_that_runs_out_of_memory_is_done_again_with_half_the_rows(
    started: TrialTrainable,
    folder: ExperimentFolder,
    base: Base,
    environment: Environment,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    while not started.step()["done"]:
        pass
    started.cleanup()
    parts = []

    def short(*values: Any) -> Any:
        parts.append(values[-1])
        if values[-1] == 1:
            raise torch.OutOfMemoryError("no")
        return evaluate_trial(*values)

    wanted = evaluate_on_worker(share_base(base), environment, folder.path, "00000", "test", 1)
    monkeypatch.setattr(tasks, "evaluate_trial", short)
    found = evaluate_on_worker(share_base(base), environment, folder.path, "00000", "test", 1)
    assert found == wanted | {"test_note": "out of memory: decoded with 1/2 of a batch at once"}
    assert parts == [1, 2]
