import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ray.tune.search import Searcher

from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.task import TrialTask
from langsearch.search.searcher import TableSearcher
from langsearch.space.settings import Constraint
from langsearch.study.constraints import Constraints
from langsearch.study.results import parse_result
from langsearch.study.rows import State
from langsearch.study.table import TrialTable
from langsearch.trial.failures import FAILED
from tests.searcher_fixtures import DIMENSIONS, SearcherMaker, drive, reported, states

if TYPE_CHECKING:
    from tests.search_fixtures import ResultMaker, TableMaker, TaskMaker

pytest_plugins = ["search_fixtures", "searcher_fixtures"]


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
    table.record_rung(name, 1, [10.0, 1000.0], goes_on=False)
    searcher.on_trial_complete("t", reported(make_result(epoch=1)))
    assert states(table) == {name: State.PRUNED}
    assert not checkpoint.exists()


@pytest.mark.parametrize(
    ("result", "error", "cause"),
    [
        (None, True, "worker lost: the worker of trial 00000 ended"),
        ({"epoch": 1}, True, "worker lost: the worker of trial 00000 ended"),
        (None, False, "no result: no result was reported"),
        ({}, False, "no result: no result was reported"),
        ({"training_iteration": 1}, False, "no result: no result was reported"),
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
    assert (row.state, row.result) == (State.FAILED, make_result(epoch=1))
    assert row.cause == "worker lost: the worker of trial 00000 ended"


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


def test_no_more_trials_are_proposed_than_can_run(make_searcher: SearcherMaker, make_result: "ResultMaker") -> None:
    room = [2]
    searcher = make_searcher(num_trials=4, max_running=lambda: room[0])
    assert [searcher.suggest(trial) for trial in ("a", "b", "c")] == [{"name": "00000"}, {"name": "00001"}, None]
    searcher.on_trial_complete("a", reported(make_result()))
    assert searcher.suggest("d") == {"name": "00002"}
    assert searcher.suggest("e") is None
    room[0] = 3
    assert searcher.suggest("f") == {"name": "00003"}
    assert searcher.suggest("g") is None
    searcher.on_trial_complete("b", reported(make_result()))
    assert searcher.suggest("h") == Searcher.FINISHED


def test_tune_pickles_nothing_of_the_searcher(make_searcher: SearcherMaker) -> None:
    assert pickle.loads(pickle.dumps(make_searcher())).__dict__ == {}  # noqa: S301 # our own bytes


def test_a_result_without_one_of_our_columns_is_none(make_result: "ResultMaker") -> None:
    values = reported(make_result())
    assert parse_result(values) == make_result()
    del values["spbleu_low"]
    assert parse_result(values) is None


def test_a_lost_worker_is_explained_by_who_knows(make_searcher: SearcherMaker, table: TrialTable) -> None:
    searcher = make_searcher(explain=lambda name: f"stalled: {name} made no progress")
    searcher.suggest("a")
    searcher.on_trial_complete("a", error=True)
    assert table.row("00000").cause == "stalled: 00000 made no progress"


def test_a_failed_trial_is_tried_again_under_a_new_number_from_where_it_was(
    tmp_path: Path, make_searcher: SearcherMaker, make_result: "ResultMaker", table: TrialTable
) -> None:
    searcher = make_searcher(num_trials=2)
    failed = searcher.suggest("a")["name"]
    old = ExperimentFolder(tmp_path).trial(failed)
    for folder in (old.checkpoint, old.weights):
        folder.mkdir()
        (folder / "file").write_text(folder.name)
    old.scores.write_text("scores")
    searcher.on_trial_complete("a", {FAILED: "out of memory: no"})
    other = searcher.suggest("b")["name"]
    searcher.on_trial_complete("b", reported(make_result()))
    again = make_searcher(num_trials=2, retry=[failed, other, failed])
    assert again.suggest("c") == {"name": "00002"}
    new = ExperimentFolder(tmp_path).trial("00002")
    assert [(folder / "file").read_text() for folder in (new.checkpoint, new.weights)] == ["checkpoint", "weights"]
    assert (new.scores.read_text(), old.checkpoint.exists()) == ("scores", False)
    again.on_trial_complete("c", reported(make_result(spbleu=11.0)))
    assert again.suggest("d") == Searcher.FINISHED, "the failed one does not count any more"
    assert again.is_done
    row = table.row("00002")
    assert (row.retry_of, row.params, row.state) == (failed, table.row(failed).params, State.COMPLETE)
    assert table.row(failed).retried_as == "00002"


def test_a_driver_killed_before_it_moved_the_checkpoint_moves_it_when_it_goes_on(
    tmp_path: Path, make_searcher: SearcherMaker, table: TrialTable, make_task: "TaskMaker"
) -> None:
    _, point = table.propose(DIMENSIONS)
    table.fail("00000", "lost")
    table.add(1, point, fingerprint="f", retry_of="00000")
    checkpoint = ExperimentFolder(tmp_path).trial("00000").checkpoint
    checkpoint.mkdir(parents=True)
    searcher = make_searcher(num_trials=1, unfinished=[make_task("00001", **point)], retry=["00000"])
    assert searcher.suggest("a") == {"name": "00001"}
    assert not checkpoint.exists()
    assert ExperimentFolder(tmp_path).trial("00001").checkpoint.exists()
    assert searcher.suggest("b") == Searcher.FINISHED


def test_a_trial_that_early_stopping_had_ended_is_pruned_when_the_search_goes_on(
    make_searcher: SearcherMaker, table: TrialTable, make_task: "TaskMaker", make_result: "ResultMaker"
) -> None:
    _, point = table.propose(DIMENSIONS)
    table.report("00000", make_result(epoch=1))
    table.record_rung("00000", 1, [10.0, 1000.0], goes_on=False)
    searcher = make_searcher(num_trials=1, unfinished=[make_task("00000", **point)])
    assert searcher.suggest("a") == Searcher.FINISHED
    assert states(table) == {"00000": State.PRUNED}
    assert searcher.is_done


@pytest.mark.parametrize("metric", ["trainable_parameters", "nonzero_parameters"])
def test_a_proposal_that_is_too_large_is_not_trained_and_does_not_count(
    metric: str, make_table: "TableMaker", tmp_path: Path, make_task: "TaskMaker", make_result: "ResultMaker"
) -> None:
    def searcher(unfinished: Sequence[str] = (), num_trials: int = 4) -> tuple[TableSearcher, TrialTable]:
        small = Constraint(metric=metric, is_upper=True, bound=3.0)
        table = make_table(tmp_path / "study.db", sampler="random", constraints=[small])

        def task(number: int, point: dict[str, Any]) -> TrialTask:
            return make_task(f"{number:05d}", **point)

        tasks = [task(int(name), dict(table.row(name).params)) for name in unfinished]
        found = TableSearcher(
            table,
            ExperimentFolder(tmp_path),
            task,
            DIMENSIONS,
            tasks,
            num_trials,
            num_trainable=lambda task: task.architecture.adapters[0].ranks[0][1] if task.architecture else 0,
        )
        return found, table

    first, table = searcher()
    names = drive(first, make_result, trainable_parameters=2)
    assert len(names) == 4
    small = {row.name for row in table.rows() if row.params["rank"] == 2}
    assert small == set(names) < {row.name for row in table.rows()}
    for row in table.rows():
        if row.name not in small:
            assert (row.state, row.cause, row.result) == (State.PRUNED, f"violates {metric} <= 3", None)
    # A driver that was killed between the two writes left one that runs.
    table.add(table.num_searched, {"rank": 4, "lr": 0.005}, fingerprint="x")
    left = table.rows()[-1].name
    again, table = searcher([left])
    assert drive(again, make_result) == []
    assert table.row(left).is_rejected
    assert again.is_done


def test_what_pruning_will_leave_is_not_known_before_the_training() -> None:
    few = Constraint(metric="nonzero_parameters", is_upper=True, bound=3.0)
    constraints = Constraints(all=(few,))
    assert constraints.violated_by_size(6, is_pruned=True) == {}
    assert constraints.violated_by_size(6, is_pruned=False) == {"nonzero_parameters <= 3": 1.0}


def test_a_trial_whose_warm_worker_died_before_it_began_is_given_once_more(
    make_searcher: "SearcherMaker", make_result: "ResultMaker", table: TrialTable
) -> None:
    asked: list[str] = []

    def begins_again(name: str) -> bool:
        asked.append(name)
        return len(asked) == 1

    searcher = make_searcher(num_trials=2, begins_again=begins_again)
    assert [searcher.suggest(trial) for trial in ("a", "b", "c")] == [{"name": "00000"}, {"name": "00001"}, None]
    searcher.on_trial_complete("b", error=True)
    assert states(table) == {"00000": State.RUNNING, "00001": State.RUNNING}
    assert searcher.suggest("d") == {"name": "00001"}, "though all had been given"
    searcher.on_trial_complete("a", reported(make_result()))
    assert (searcher.suggest("e"), searcher.is_done) == (None, False)
    searcher.on_trial_complete("d", error=True)
    assert states(table) == {"00000": State.COMPLETE, "00001": State.FAILED}
    assert searcher.suggest("f") == Searcher.FINISHED
    assert searcher.is_done
    assert asked == ["00001", "00001"]
