import dataclasses
import errno
import pickle
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler, PartialFixedSampler
from ray.tune.search import Searcher

from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.task import TrialTask
from langsearch.search.searcher import AT_RANDOM_AFTER, TIME, TableSearcher
from langsearch.space.settings import Constraint, Plateau
from langsearch.study.constraints import Constraints
from langsearch.study.results import TrialResult, parse_result
from langsearch.study.rows import State
from langsearch.study.samplers import make_sampler
from langsearch.study.table import TrialTable
from langsearch.trial.failures import FAILED, PAUSED

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
    searcher.on_trial_complete("b", {FAILED: "non-finite loss: nan"})
    trained = {row.name: row for row in table.rows() if row.name in names}
    for row in (row for row in table.rows() if row.same_as):
        twin = trained[str(row.same_as)]
        assert (row.state, row.result, row.cause) == (twin.state, twin.result, twin.cause)
    assert all(row.state.is_finished for row in table.rows())
    assert searcher.is_done


def waiting_pair(table: TrialTable, make_task: "TaskMaker") -> tuple[TrialTask, str]:
    """A running trial and one that waits for it, as a killed driver leaves them."""
    task = make_task("00000")
    table.propose(ONLY_RANK, fingerprint=task.fingerprint)
    table.add(1, table.row("00000").params, fingerprint=task.fingerprint, same_as="00000")
    return task, "00001"


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


def test_a_sampler_that_repeats_itself_is_helped_out_by_random_proposals(
    tmp_path: Path,
    make_table: "TableMaker",
    make_task: "TaskMaker",
    make_result: "ResultMaker",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []

    def make_stubborn(name: str, seed: int, number: int, num_trials: int) -> BaseSampler:
        made.append(name)
        sampler = make_sampler("random", seed, number, num_trials)
        return sampler if name == "random" else PartialFixedSampler({"rank": 2}, sampler)

    monkeypatch.setattr("langsearch.study.mirror.make_sampler", make_stubborn)
    searcher = TableSearcher(
        make_table(sampler="gp"),
        ExperimentFolder(tmp_path),
        lambda number, point: make_task(f"{number:05d}", **point),
        dict(ONLY_RANK),
        [],
        2,
    )
    for trial in ("a", "b"):
        assert searcher.suggest(trial) != Searcher.FINISHED
        searcher.on_trial_complete(trial, reported(make_result()))
    assert searcher.ended_by is None
    assert made[: AT_RANDOM_AFTER + 2] == ["gp"] * (AT_RANDOM_AFTER + 1) + ["random"]


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


def test_tune_pickles_nothing_of_the_searcher(make_searcher: SearcherMaker) -> None:
    assert pickle.loads(pickle.dumps(make_searcher())).__dict__ == {}  # noqa: S301 # our own bytes


def test_a_result_without_one_of_our_columns_is_none(make_result: "ResultMaker") -> None:
    values = reported(make_result())
    assert parse_result(values) == make_result()
    del values["spbleu_low"]
    assert parse_result(values) is None


def grid(*ranks: int) -> dict[str, BaseDistribution]:
    return {"rank": CategoricalDistribution(ranks)}


def drive(searcher: TableSearcher, make_result: "ResultMaker", **values: Any) -> list[str]:
    """Runs one trial after the other to its end; returns their names."""
    names: list[str] = []
    while (given := searcher.suggest(f"t{len(names)}")) != Searcher.FINISHED:
        names.append(given["name"])
        searcher.on_trial_complete(f"t{len(names) - 1}", reported(make_result(**values)))
    return names


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
