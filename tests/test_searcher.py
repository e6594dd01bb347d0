import pickle
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from ray.tune.search import Searcher

from langsearch.search.folder import ExperimentFolder
from langsearch.search.searcher import FAILED, TableSearcher, parse_result
from langsearch.search.table import State, TrialTable
from langsearch.search.task import TrialTask
from langsearch.search.trial import TrialResult

if TYPE_CHECKING:
    from tests.search_fixtures import ResultMaker, TableMaker, TaskMaker

pytest_plugins = ["search_fixtures"]

DIMENSIONS: dict[str, BaseDistribution] = {
    "rank": CategoricalDistribution((2, 4)),
    "lr": FloatDistribution(1e-3, 1e-2, log=True),
}
ONLY_RANK = {"rank": DIMENSIONS["rank"]}
SearcherMaker = Callable[..., TableSearcher]


@pytest.fixture
def table(make_table: "TableMaker") -> TrialTable:
    return make_table(sampler="random")


@pytest.fixture
def make_searcher(tmp_path: Path, table: TrialTable, make_task: "TaskMaker") -> SearcherMaker:
    def task(number: int, point: dict[str, Any]) -> TrialTask:
        return make_task(f"{number:05d}", **point)

    def make(num_trials: int = 3, dimensions: dict[str, BaseDistribution] = DIMENSIONS, **values: Any) -> TableSearcher:
        unfinished = values.pop("unfinished", [])
        return TableSearcher(
            table, ExperimentFolder(tmp_path), task, dict(dimensions), unfinished, num_trials, **values
        )

    return make


def reported(result: TrialResult) -> dict[str, Any]:
    """What Tune hands on: ours, and keys of its own."""
    return {**asdict(result), "training_iteration": result.epoch, "done": result.finished, "kind": "searched"}


def states(table: TrialTable) -> dict[str, State]:
    return {row.name: row.state for row in table.rows()}


def test_suggest_gives_the_asked_number_and_then_ends(make_searcher: SearcherMaker, table: TrialTable) -> None:
    searcher = make_searcher(num_trials=3)
    given = [searcher.suggest(f"t{index}") for index in range(4)]
    assert given == [{"name": "00000"}, {"name": "00001"}, {"name": "00002"}, Searcher.FINISHED]
    assert list(states(table).values()) == [State.RUNNING] * 3
    assert not searcher.is_done


def test_a_task_lies_in_its_folder_before_tune_starts_it(tmp_path: Path, make_searcher: SearcherMaker) -> None:
    searcher = make_searcher()
    name = searcher.suggest("t")["name"]
    assert TrialTask.read(ExperimentFolder(tmp_path).trial(name)) == searcher.task(name)


def test_unfinished_tasks_come_first_and_are_not_proposed_again(
    make_searcher: SearcherMaker, table: TrialTable, make_task: "TaskMaker"
) -> None:
    number, point = table.propose(DIMENSIONS)
    left = make_task(f"{number:05d}", **point)
    searcher = make_searcher(num_trials=2, unfinished=[left])
    assert [searcher.suggest("a"), searcher.suggest("b")] == [{"name": "00000"}, {"name": "00001"}]
    assert searcher.task("00000") == left
    assert searcher.suggest("c") == Searcher.FINISHED


def test_results_move_the_table_and_the_last_one_completes(
    make_searcher: SearcherMaker, table: TrialTable, make_result: "ResultMaker"
) -> None:
    searcher = make_searcher(num_trials=1)
    searcher.suggest("t")
    searcher.on_trial_result("t", reported(make_result(epoch=1)))
    (row,) = table.rows()
    assert (row.state, row.result) == (State.RUNNING, make_result(epoch=1))
    searcher.on_trial_complete("t", reported(make_result()))
    (row,) = table.rows()
    assert (row.state, row.result) == (State.COMPLETE, make_result())
    assert searcher.suggest("u") == Searcher.FINISHED
    assert searcher.is_done


def test_a_trial_that_the_scheduler_stops_is_pruned_and_loses_its_checkpoints(
    tmp_path: Path, make_searcher: SearcherMaker, table: TrialTable, make_result: "ResultMaker"
) -> None:
    searcher = make_searcher()
    name = searcher.suggest("t")["name"]
    checkpoint = ExperimentFolder(tmp_path).trial(name).checkpoint
    checkpoint.mkdir()
    searcher.on_trial_result("t", reported(make_result(epoch=1)))
    searcher.on_trial_complete("t", reported(make_result(epoch=1)))
    assert states(table) == {name: State.PRUNED}
    assert not checkpoint.exists()


@pytest.mark.parametrize(
    ("result", "error", "cause"),
    [
        (None, True, "the worker was lost"),
        ({"epoch": 1}, True, "the worker was lost"),
        (None, False, "no result was reported"),
        ({}, False, "no result was reported"),
        ({"training_iteration": 1}, False, "no result was reported"),
        ({FAILED: "out of memory: 12 GB", "done": True}, False, "out of memory: 12 GB"),
        ({FAILED: "non-finite loss: nan", "done": True}, True, "non-finite loss: nan"),
    ],
)
def test_a_trial_without_a_result_fails_with_its_cause(
    result: dict[str, Any] | None, error: bool, cause: str, make_searcher: SearcherMaker, table: TrialTable
) -> None:
    searcher = make_searcher()
    searcher.suggest("t")
    searcher.on_trial_complete("t", result, error=error)
    (row,) = table.rows()
    assert (row.state, row.cause) == (State.FAILED, cause)


def test_an_error_fails_a_trial_though_it_had_reported(
    make_searcher: SearcherMaker, table: TrialTable, make_result: "ResultMaker"
) -> None:
    searcher = make_searcher()
    searcher.suggest("t")
    searcher.on_trial_result("t", reported(make_result(epoch=1)))
    searcher.on_trial_complete("t", reported(make_result(epoch=1)), error=True)
    (row,) = table.rows()
    assert (row.state, row.cause, row.result) == (State.FAILED, "the worker was lost", make_result(epoch=1))


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_fails_the_trial(
    score: float, make_searcher: SearcherMaker, table: TrialTable, make_result: "ResultMaker"
) -> None:
    searcher = make_searcher()
    searcher.suggest("t")
    searcher.on_trial_complete("t", reported(make_result(spbleu=score)))
    (row,) = table.rows()
    assert row.state is State.FAILED
    assert row.cause == f"a score must be finite, but got [{score}, 1000.0]"


def test_equal_tasks_train_once_and_share_the_result(
    make_searcher: SearcherMaker, table: TrialTable, make_result: "ResultMaker"
) -> None:
    searcher = make_searcher(num_trials=2, dimensions=ONLY_RANK)
    first = searcher.suggest("a")["name"]
    searcher.on_trial_complete("a", reported(make_result()))
    second = searcher.suggest("b")["name"]
    searcher.on_trial_complete("b", reported(make_result(spbleu=3.0)))
    rows = {row.name: row for row in table.rows()}
    assert searcher.suggest("c") == Searcher.FINISHED
    assert rows[first].params != rows[second].params
    for row in rows.values():
        twin = rows[row.same_as] if row.same_as else row
        assert (row.params, row.fingerprint, row.result) == (twin.params, twin.fingerprint, twin.result)
    assert searcher.is_done


def test_a_proposal_whose_twin_is_running_waits_for_its_result(
    make_searcher: SearcherMaker,
    table: TrialTable,
    make_result: "ResultMaker",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("langsearch.search.searcher.MAX_REPEATS", 12)
    searcher = make_searcher(num_trials=3, dimensions=ONLY_RANK)
    names = [searcher.suggest(trial)["name"] for trial in ("a", "b")]
    assert searcher.suggest("c") == Searcher.FINISHED, "only two ranks are there, and both are in training"
    waiting = [row for row in table.rows() if row.same_as]
    assert {row.same_as for row in waiting} == set(names)
    assert {row.state for row in waiting} == {State.RUNNING}
    assert not searcher.is_done
    searcher.on_trial_complete("a", reported(make_result(spbleu=1.0)))
    searcher.on_trial_complete("b", {FAILED: "disk full: no space"})
    trained = {row.name: row for row in table.rows() if row.name in names}
    for row in (row for row in table.rows() if row.same_as):
        twin = trained[str(row.same_as)]
        assert (row.state, row.result, row.cause) == (twin.state, twin.result, twin.cause)
    assert all(row.state.is_finished for row in table.rows())
    assert searcher.is_done


def waiting_pair(table: TrialTable, make_task: "TaskMaker") -> tuple[TrialTask, str]:
    """A running trial and one that waits for it, as a killed driver leaves them."""
    first, second = (table.propose(ONLY_RANK)[0] for _ in range(2))
    task = make_task(f"{first:05d}")
    for number in (first, second):
        table.describe(f"{number:05d}", task.fingerprint)
    table.wait_for(f"{second:05d}", task.name)
    return task, f"{second:05d}"


def test_a_new_driver_shares_the_result_with_a_trial_that_an_earlier_one_left_waiting(
    make_searcher: SearcherMaker, table: TrialTable, make_task: "TaskMaker", make_result: "ResultMaker"
) -> None:
    task, waiting = waiting_pair(table, make_task)
    searcher = make_searcher(num_trials=1, unfinished=[task])
    assert searcher.suggest("a") == {"name": task.name}
    searcher.on_trial_complete("a", reported(make_result()))
    assert states(table) == {task.name: State.COMPLETE, waiting: State.COMPLETE}


def test_a_new_driver_ends_a_trial_that_waits_for_one_that_has_ended(
    make_searcher: SearcherMaker, table: TrialTable, make_task: "TaskMaker", make_result: "ResultMaker"
) -> None:
    task, waiting = waiting_pair(table, make_task)
    table.complete(task.name, make_result())
    searcher = make_searcher(num_trials=1)
    assert searcher.suggest("a") == Searcher.FINISHED
    assert states(table) == {task.name: State.COMPLETE, waiting: State.COMPLETE}
    assert searcher.is_done


def test_a_failed_twin_is_not_shared_but_trained_again(
    make_searcher: SearcherMaker, table: TrialTable, make_result: "ResultMaker"
) -> None:
    dimensions: dict[str, BaseDistribution] = {"rank": CategoricalDistribution((2,))}
    searcher = make_searcher(num_trials=2, dimensions=dimensions)
    searcher.suggest("a")
    searcher.on_trial_complete("a", {FAILED: "out of memory: no"})
    assert searcher.suggest("b") == {"name": "00001"}
    searcher.on_trial_complete("b", reported(make_result()))
    assert states(table) == {"00000": State.FAILED, "00001": State.COMPLETE}


def test_an_exhausted_space_ends(
    make_searcher: SearcherMaker,
    table: TrialTable,
    make_result: "ResultMaker",
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("langsearch.search.searcher.MAX_REPEATS", 12)
    searcher = make_searcher(num_trials=9, dimensions=ONLY_RANK)
    names = []
    for index in range(9):
        given = searcher.suggest(str(index))
        if given == Searcher.FINISHED:
            break
        names.append(given["name"])
        searcher.on_trial_complete(str(index), reported(make_result()))
    assert len(names) == 2, "two ranks are all there is"
    assert searcher.is_done
    assert all(row.state is State.COMPLETE for row in table.rows())
    assert "the space is exhausted" in caplog.text


def test_after_the_deadline_nothing_starts_and_what_tune_stops_stays_running(
    make_searcher: SearcherMaker, table: TrialTable, make_result: "ResultMaker"
) -> None:
    searcher = make_searcher(num_trials=3)
    searcher.suggest("a")
    searcher.suggest("b")
    searcher._deadline = 0.0
    assert searcher.suggest("c") == Searcher.FINISHED
    searcher.on_trial_complete("a", reported(make_result(epoch=1)))
    searcher.on_trial_complete("b", reported(make_result()))
    assert states(table) == {"00000": State.RUNNING, "00001": State.COMPLETE}
    assert not searcher.is_done


def test_a_stop_at_the_deadline_without_any_result_leaves_the_trial_to_be_resumed(
    make_searcher: SearcherMaker, table: TrialTable
) -> None:
    searcher = make_searcher(deadline=0.0)
    searcher._deadline = None
    searcher.suggest("a")
    searcher._deadline = 0.0
    searcher.on_trial_complete("a", {})
    assert states(table) == {"00000": State.RUNNING}


def test_tune_pickles_nothing_of_the_searcher(make_searcher: SearcherMaker) -> None:
    assert pickle.loads(pickle.dumps(make_searcher())).__dict__ == {}  # noqa: S301 # our own bytes


def test_a_result_without_one_of_our_columns_is_none(make_result: "ResultMaker") -> None:
    values = reported(make_result())
    assert parse_result(values) == make_result()
    del values["spbleu_low"]
    assert parse_result(values) is None
