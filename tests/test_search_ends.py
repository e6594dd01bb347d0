"""What ends a search or its run, and what is left running then."""

import dataclasses
import errno
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from optuna.exceptions import StorageInternalError
from ray.tune.search import Searcher
from sqlalchemy.exc import OperationalError

from langsearch.experiment.folder import ExperimentFolder, read_json
from langsearch.experiment.object_store import StorageError
from langsearch.experiment.task import TrialTask
from langsearch.search import phases, tasks
from langsearch.search.search import Ended
from langsearch.search.searcher import TableSearcher
from langsearch.search.stop_reasons import TIME
from langsearch.space.settings import Constraint, Plateau
from langsearch.study.rows import State
from langsearch.study.table import TrialTable
from langsearch.trial.failures import FAILED, PAUSED, Failure
from tests.searcher_fixtures import DIMENSIONS, SearcherMaker, drive, grid, reported, states

if TYPE_CHECKING:
    from tests.search_fixtures import ResultMaker, TableMaker, TaskMaker

pytest_plugins = ["search_fixtures", "searcher_fixtures"]


def test_after_the_deadline_nothing_starts_and_what_tune_stops_stays_running(
    make_searcher: SearcherMaker, table: TrialTable, make_result: "ResultMaker"
) -> None:
    searcher = make_searcher(num_trials=3)
    searcher.suggest("a")
    searcher.suggest("b")
    searcher.stop(TIME)
    assert searcher.suggest("c") == Searcher.FINISHED
    searcher.on_trial_complete("a", reported(make_result(epoch=1)))
    searcher.on_trial_complete("b", reported(make_result()))
    assert states(table) == {"00000": State.RUNNING, "00001": State.COMPLETE}
    assert not searcher.is_done


def test_a_stop_at_the_deadline_without_any_result_leaves_the_trial_to_be_resumed(
    make_searcher: SearcherMaker, table: TrialTable
) -> None:
    searcher = make_searcher()
    searcher.suggest("a")
    searcher.stop(TIME)
    searcher.on_trial_complete("a", {})
    assert states(table) == {"00000": State.RUNNING}


def test_all_trials_given_is_an_end_of_its_own(make_searcher: SearcherMaker, make_result: "ResultMaker") -> None:
    searcher = make_searcher(num_trials=3)
    assert not searcher.is_done
    assert len(drive(searcher, make_result)) == 3
    assert (searcher.ended_by, searcher.stopped_by, searcher.is_done) == ("trials", None, True)


def test_an_exhausted_grid_ends_the_search_without_an_error(
    make_table: "TableMaker", tmp_path: Path, make_task: "TaskMaker", make_result: "ResultMaker"
) -> None:
    def searcher(table: TrialTable) -> TableSearcher:
        def task(number: int, point: dict[str, Any]) -> TrialTask:
            return make_task(f"{number:05d}", **point)

        return TableSearcher(table, ExperimentFolder(tmp_path), task, grid(2, 4, 8), [], 9)

    first = searcher(make_table(tmp_path / "study.db", sampler="grid"))
    assert len(drive(first, make_result)) == 3
    again = searcher(make_table(tmp_path / "study.db", sampler="grid"))
    assert drive(again, make_result) == []
    assert (first.ended_by, again.ended_by, again.is_done) == ("exhausted", "exhausted", True)


def test_a_plateau_ends_the_search(make_searcher: SearcherMaker, make_result: "ResultMaker", table: TrialTable) -> None:
    searcher = make_searcher(num_trials=20, plateau=Plateau(trials=3))
    assert len(drive(searcher, make_result)) == 6, "three to set the measure, three that gain nothing"
    assert (searcher.ended_by, searcher.is_done) == ("plateau", True)
    assert drive(make_searcher(num_trials=20, plateau=Plateau(trials=3)), make_result) == []
    assert len(drive(make_searcher(num_trials=8), make_result)) == 2, "without the rule it goes on"


@pytest.mark.parametrize("left", ["result", "nothing", "error", "paused"])
def test_what_ends_with_a_stopped_run_stays_running_and_nothing_new_is_proposed(
    left: str, make_searcher: SearcherMaker, make_result: "ResultMaker", table: TrialTable
) -> None:
    searcher = make_searcher()
    searcher.suggest("a")
    searcher.stop("interrupted")
    searcher.stop("again")
    results = {"result": reported(make_result(epoch=1)), "paused": {PAUSED: True, "done": True}}
    searcher.on_trial_complete("a", results.get(left), error=left == "error")
    assert states(table) == {"00000": State.RUNNING}
    assert searcher.suggest("b") == Searcher.FINISHED
    assert (searcher.stopped_by, searcher.ended_by, searcher.is_done) == ("interrupted", None, False)


def test_a_failure_stops_the_run_where_the_space_says_so(make_searcher: SearcherMaker, table: TrialTable) -> None:
    searcher = make_searcher()
    searcher.suggest("a")
    searcher.on_trial_complete("a", {FAILED: "disk full: no space", "done": True})
    assert states(table) == {"00000": State.RUNNING}
    assert (searcher.suggest("b"), searcher.stopped_by) == (Searcher.FINISHED, "disk full: no space")
    assert not searcher.is_done


LOSS = Constraint(metric="worst_loss.all", is_upper=True, bound=0.5)


def test_a_trial_that_ends_before_the_pretrained_base_is_kept_back_until_it_has(
    make_table: "TableMaker", tmp_path: Path, make_task: "TaskMaker", make_result: "ResultMaker"
) -> None:
    table = make_table(sampler="random", constraints=[LOSS])
    table.add_baseline("pretrained")
    baseline = dataclasses.replace(make_task("pretrained"), kind="baseline")

    def task(number: int, point: dict[str, Any]) -> TrialTask:
        return make_task(f"{number:05d}", **point)

    searcher = TableSearcher(table, ExperimentFolder(tmp_path), task, DIMENSIONS, [baseline], 1)
    assert [searcher.suggest(name) for name in "ab"] == [{"name": "pretrained"}, {"name": "00000"}]
    searcher.on_trial_complete("b", reported(make_result(direction_spbleu=(("en-fr", 10.0),))))
    assert searcher.suggest("c") == Searcher.FINISHED
    assert table.row("00000").state is State.RUNNING
    assert not searcher.is_done
    searcher.on_trial_complete("a", reported(make_result(direction_spbleu=(("en-fr", 10.2),))))
    assert table.row("00000").state is State.COMPLETE
    assert table.row("00000").violations == pytest.approx({"worst_loss.all <= 0.5": -0.6})
    assert searcher.is_done


def test_without_the_pretrained_base_that_a_constraint_needs_the_search_stops(
    make_table: "TableMaker", tmp_path: Path, make_task: "TaskMaker"
) -> None:
    table = make_table(sampler="random", constraints=[LOSS])
    table.add_baseline("pretrained")
    baseline = dataclasses.replace(make_task("pretrained"), kind="baseline")
    searcher = TableSearcher(table, ExperimentFolder(tmp_path), lambda *_: baseline, DIMENSIONS, [baseline], 1)
    searcher.suggest("a")
    searcher.on_trial_complete("a", {FAILED: "ValueError: no"})
    assert searcher.stopped_by == "the baseline pretrained, which a constraint needs, failed: ValueError: no"


@pytest.mark.parametrize("what", ["suggest", "result", "complete"])
def test_a_study_that_cannot_be_written_stops_the_search_and_loses_nothing(
    what: str,
    make_searcher: SearcherMaker,
    table: TrialTable,
    make_result: "ResultMaker",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searcher = make_searcher()
    searcher.suggest("a")

    def full(*_: Any, **__: Any) -> None:
        raise StorageInternalError("not written") from OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        for name in ("add", "report", "complete"):
            patch.setattr(table, name, full)
        if what == "suggest":
            assert searcher.suggest("b") == Searcher.FINISHED
        elif what == "result":
            searcher.on_trial_result("a", reported(make_result(epoch=1)))
        else:
            searcher.on_trial_complete("a", reported(make_result()))
    assert searcher.stopped_by == "disk full: [Errno 28] No space left on device"
    assert states(table) == {"00000": State.RUNNING}
    assert not searcher.is_done


def test_a_task_that_cannot_be_written_stops_the_search(
    make_searcher: SearcherMaker, table: TrialTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TrialTask, "write", full)
    searcher = make_searcher()
    assert searcher.suggest("a") == Searcher.FINISHED
    assert searcher.stopped_by == "disk full: [Errno 28] No space left on device"
    assert states(table) == {"00000": State.RUNNING}, "to be trained when the search goes on"


FULL = OSError(errno.ENOSPC, "No space left on device", "/experiments/tiny/trial.json")
GONE = StorageInternalError("no")
GONE.__cause__ = OperationalError("SELECT 1", {}, Exception("server closed the connection unexpectedly"))
FAULTS: dict[str, tuple[Exception, str]] = {
    "a full disk": (FULL, "disk full: [Errno 28] No space left on device: '/experiments/tiny/trial.json'"),
    "a database that goes": (
        GONE,
        "the trial table could not be written: server closed the connection unexpectedly",
    ),
    "a storage that goes": (
        StorageError("s3://b could not be written: no"),
        "storage: s3://b could not be written: no",
    ),
}


@pytest.mark.parametrize("phase", ["_learn_priors", "run_trials", "evaluate_candidates", "train_seeds", "test_front"])
@pytest.mark.parametrize(("error", "told"), FAULTS.values(), ids=FAULTS)
def test_a_fault_in_any_phase_stops_the_run_by_a_sentence(
    phase: str, error: Exception, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    seeding = SimpleNamespace(points=())
    monkeypatch.setattr(phases, "_learn_priors", lambda _: seeding)
    monkeypatch.setattr(phases, "run_trials", lambda *_, **__: Ended(True, "trials", None))
    monkeypatch.setattr(phases, "train_seeds", lambda *_: Ended(True, None, None))
    for name in ("evaluate_candidates", "test_front"):
        monkeypatch.setattr(phases, name, lambda _: True)
    search: Any = SimpleNamespace(cuts=None, space=SimpleNamespace(search=SimpleNamespace(max_hours=None)))
    assert phases.run_phases(search, (), {}) == (Ended(True, "trials", None), True)
    monkeypatch.setattr(phases, phase, fail)
    ended, is_complete = phases.run_phases(search, (), {})
    assert (ended.is_done, ended.stopped_by, is_complete) == (False, told, False)


def test_what_stops_the_learning_of_priors_is_told_and_kept_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise FULL

    monkeypatch.setattr(tasks, "attached", lambda *_: None)
    monkeypatch.setattr(tasks, "learn", fail)
    task: Any = SimpleNamespace(kind="sides", trainer=SimpleNamespace(precision="fp32"))
    environment: Any = SimpleNamespace(compute=SimpleNamespace(resident=lambda _: None))
    failure = tasks.learn_on_worker(cast(Any, None), environment, tmp_path, task, 1)
    assert isinstance(failure, Failure)
    assert failure.text == f"disk full: {FULL}"
    kept = read_json(tmp_path / "priors" / "sides" / "failure.json")
    assert (kept["cause"], "raise FULL" in kept["traceback"]) == ("disk full", True)
