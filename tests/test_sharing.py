"""Trials that train the same: one is trained, and the others share its result."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler
from ray.tune.search import Searcher

from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.task import TrialTask
from langsearch.search.searcher import AT_RANDOM_AFTER, TableSearcher
from langsearch.study.rows import State
from langsearch.study.samplers import make_sampler
from langsearch.study.table import TrialTable
from langsearch.trial.failures import FAILED
from tests.searcher_fixtures import DIMENSIONS, SearcherMaker, reported, states

if TYPE_CHECKING:
    from tests.search_fixtures import ResultMaker, TableMaker, TaskMaker

pytest_plugins = ["search_fixtures", "searcher_fixtures"]

ONLY_RANK = {"rank": DIMENSIONS["rank"]}


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
