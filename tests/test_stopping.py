"""A trial that somebody asks to stop, from the file in its folder to its row in the table."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from langsearch.experiment.folder import ExperimentFolder, read_rows
from langsearch.experiment.lock import clear_leftovers
from langsearch.experiment.results_parquet import ResultsFile
from langsearch.experiment.task import TrialTask
from langsearch.search.late_nodes import PlacedFifo
from langsearch.search.searcher import TableSearcher
from langsearch.search.tuning import _Between
from langsearch.space.settings import Constraint
from langsearch.study.results import TrialResult
from langsearch.study.rows import STOP_REQUESTED, State
from langsearch.study.table import TrialTable
from langsearch.trial.failures import PAUSED
from tests.benchmarks.simulated_tune import run_simulated, scripted_result

if TYPE_CHECKING:
    from tests.search_fixtures import ResultMaker, TableMaker, TaskMaker

pytest_plugins = ["search_fixtures"]

DIMENSIONS: dict[str, BaseDistribution] = {
    "rank": CategoricalDistribution((2, 4)),
    "lr": FloatDistribution(1e-3, 1e-2, log=True),
}
PAUSE = {PAUSED: True, "done": True}


class Driver:
    """A search's table, folder and searcher, as a driver has them; made again, it is a new driver."""

    def __init__(self, path: Path, table: TrialTable, make_task: "TaskMaker", **values: Any) -> None:
        def task(number: int, point: dict[str, Any]) -> TrialTask:
            return make_task(f"{number:05d}", **point)

        self.table, self.folder = table, ExperimentFolder(path)
        left = [row for row in table.rows() if not row.state.is_finished and row.same_as is None]
        unfinished = [task(int(row.name), dict(row.params)) for row in left if row.kind == "searched"]
        unfinished += [make_task(row.name) for row in left if row.kind == "baseline"]
        dimensions = values.pop("dimensions", DIMENSIONS)
        self.searcher = TableSearcher(
            table, self.folder, task, dict(dimensions), unfinished, values.pop("num_trials", 3), **values
        )

    def ask_to_stop(self, name: str) -> Path:
        trial = self.folder.trial(name)
        trial.checkpoint.mkdir(parents=True, exist_ok=True)
        trial.stop_request.touch()
        return trial.stop_request


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tmp_path / "study.db"


@pytest.fixture
def driver(tmp_path: Path, study: Path, make_table: "TableMaker", make_task: "TaskMaker") -> Driver:
    return Driver(tmp_path, make_table(study, sampler="random"), make_task)


def reported(result: TrialResult) -> dict[str, Any]:
    return {**asdict(result), "done": result.finished, "kind": "searched"}


def test_a_trial_that_is_asked_to_stop_is_pruned_at_the_epoch_it_reached(
    driver: Driver, make_result: "ResultMaker", make_table: "TableMaker", study: Path
) -> None:
    name = driver.searcher.suggest("t")["name"]
    driver.searcher.on_trial_result("t", reported(make_result(epoch=2)))
    stop = driver.ask_to_stop(name)
    driver.searcher.on_trial_complete("t", dict(PAUSE))
    row = driver.table.row(name)
    assert (row.state, row.cause, row.result) == (State.PRUNED, STOP_REQUESTED, make_result(epoch=2))
    assert not stop.exists() and not driver.folder.trial(name).checkpoint.exists()
    assert make_table(study, sampler="random").rows() == driver.table.rows()


def test_a_trial_that_is_stopped_in_its_first_epoch_was_trained_all_the_same(driver: Driver) -> None:
    name = driver.searcher.suggest("t")["name"]
    driver.ask_to_stop(name)
    driver.searcher.on_trial_complete("t", dict(PAUSE))
    row = driver.table.row(name)
    assert (row.state, row.result, row.cause) == (State.PRUNED, None, STOP_REQUESTED)
    assert (row.is_rejected, row.counts, row.violations) == (False, True, None)


def test_a_trial_that_stops_with_its_run_goes_on_later(driver: Driver, make_result: "ResultMaker") -> None:
    name = driver.searcher.suggest("t")["name"]
    driver.searcher.on_trial_result("t", reported(make_result(epoch=1)))
    driver.searcher.stop("requested")
    driver.searcher.on_trial_complete("t", dict(PAUSE))
    assert driver.table.row(name).state is State.RUNNING


def test_a_request_that_comes_too_late_changes_nothing_and_is_taken_away(
    driver: Driver, make_result: "ResultMaker"
) -> None:
    name = driver.searcher.suggest("t")["name"]
    stop = driver.ask_to_stop(name)
    driver.searcher.on_trial_complete("t", reported(make_result(epoch=3)))
    row = driver.table.row(name)
    assert (row.state, row.cause) == (State.COMPLETE, None)
    assert not stop.exists()


@pytest.mark.parametrize("epoch", [0, 2])
def test_a_twin_of_a_stopped_trial_ends_with_it(
    epoch: int,
    tmp_path: Path,
    study: Path,
    make_table: "TableMaker",
    make_task: "TaskMaker",
    make_result: "ResultMaker",
) -> None:
    only = {"rank": CategoricalDistribution((2,))}
    driver = Driver(tmp_path, make_table(study, sampler="random"), make_task, dimensions=only)
    assert driver.searcher.suggest("a") == {"name": "00000"}
    if epoch:
        driver.searcher.on_trial_result("a", reported(make_result(epoch=epoch)))
    assert driver.searcher.suggest("b") == Searcher.FINISHED  # all other proposals are its twins
    driver.ask_to_stop("00000")
    driver.searcher.on_trial_complete("a", dict(PAUSE))
    twins = driver.table.rows()[1:]
    assert twins and {row.state for row in twins} == {State.PRUNED}
    assert {row.result for row in twins} == {make_result(epoch=epoch) if epoch else None}
    assert not any(row.is_rejected for row in twins)


def test_a_driver_killed_while_it_ended_a_trial_ends_it_when_it_goes_on(
    tmp_path: Path,
    driver: Driver,
    study: Path,
    make_table: "TableMaker",
    make_task: "TaskMaker",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = driver.searcher.suggest("t")["name"]
    driver.ask_to_stop(name)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(driver.table, "_end_early", die)
        with pytest.raises(KeyboardInterrupt):
            driver.searcher.on_trial_complete("t", dict(PAUSE))
    second = Driver(tmp_path, make_table(study, sampler="random"), make_task)
    assert (second.table.row(name).state, second.table.row(name).cause) == (State.PRUNED, STOP_REQUESTED)
    assert second.searcher.suggest("u") != {"name": name}


def test_a_request_that_a_killed_driver_had_not_carried_out_is_carried_out_by_the_next(
    tmp_path: Path,
    driver: Driver,
    study: Path,
    make_table: "TableMaker",
    make_task: "TaskMaker",
    make_result: "ResultMaker",
) -> None:
    name = driver.searcher.suggest("t")["name"]
    driver.searcher.on_trial_result("t", reported(make_result(epoch=1)))
    stop = driver.ask_to_stop(name)
    clear_leftovers(driver.folder)
    second = Driver(tmp_path, make_table(study, sampler="random"), make_task)
    row = second.table.row(name)
    assert (row.state, row.cause, row.result) == (State.PRUNED, STOP_REQUESTED, make_result(epoch=1))
    assert not stop.exists() and not second.folder.trial(name).checkpoint.exists()
    assert second.searcher.suggest("u") != {"name": name}


def test_the_search_stops_with_the_pretrained_base_that_a_constraint_needs(
    tmp_path: Path, study: Path, make_table: "TableMaker", make_task: "TaskMaker"
) -> None:
    loss = Constraint(metric="worst_loss.all", is_upper=True, bound=1.0)
    table = make_table(study, sampler="random", constraints=[loss], classes={"high": ("en",)})
    table.add_baseline("pretrained")
    driver = Driver(tmp_path, table, make_task)
    assert driver.searcher.suggest("t") == {"name": "pretrained"}
    driver.ask_to_stop("pretrained")
    driver.searcher.on_trial_complete("t", dict(PAUSE))
    assert driver.searcher.stopped_by == "the baseline pretrained, which a constraint needs, was stopped on request"


def test_a_scripted_search_ends_with_all_its_trials_though_some_were_stopped(
    tmp_path: Path, study: Path, make_table: "TableMaker", make_task: "TaskMaker"
) -> None:
    driver = Driver(tmp_path, make_table(study, sampler="random"), make_task, num_trials=6)

    def script(task: TrialTask) -> Iterator[tuple[float, TrialResult | None]]:
        """Looks for its stop file after every epoch, as a worker does; somebody asks two trials to stop."""
        for epoch in (1, 2, 3):
            if driver.folder.trial(task.name).stop_request.exists():
                yield 0.1, None
                return
            if (task.name, epoch) in {("00001", 2), ("00004", 1)}:
                driver.ask_to_stop(task.name)
            yield 1.0, scripted_result(epoch, 3, 10.0 + epoch, 1000)

    run_simulated(driver.searcher, FIFOScheduler(), script, num_slots=2)
    assert driver.searcher.is_done
    found = {row.name: (row.state, row.cause, row.result and row.result.epoch) for row in driver.table.rows()}
    stopped = {"00001": (State.PRUNED, STOP_REQUESTED, 2), "00004": (State.PRUNED, STOP_REQUESTED, 1)}
    assert found == {f"{number:05d}": (State.COMPLETE, None, 3) for number in range(6)} | stopped
    assert {row.name for row in driver.table.front()}.isdisjoint(stopped)
    ResultsFile(driver.folder, 10**6).write(driver.table)
    rows = {row["name"]: row for row in read_rows(driver.folder.results)}
    assert (rows["00001"]["state"], rows["00001"]["cause"], rows["00001"]["epochs"]) == ("pruned", STOP_REQUESTED, 2)


def test_a_trial_that_paused_before_the_driver_saw_the_request_stops_the_run(
    tmp_path: Path, make_table: "TableMaker", make_task: "TaskMaker"
) -> None:
    driver = Driver(tmp_path, make_table(), make_task, num_trials=1, may_come_back=True)
    config = driver.searcher.suggest("a")
    assert driver.searcher.suggest("b") is None, "the running trial may come back, so Tune asks again and again"
    said: list[str] = []
    search: Any = SimpleNamespace(
        folder=driver.folder,
        table=driver.table,
        display=SimpleNamespace(message=said.append),
        space=SimpleNamespace(checkpoints=None),
        address=None,
        copy=None,
    )
    losses: Any = SimpleNamespace(trials={})
    between = _Between(search, driver.searcher, losses, PlacedFifo())
    between._written = float("inf")  # nothing but the end of the trial is looked at here
    driver.searcher.on_trial_complete("a", PAUSE)
    between.on_trial_complete(1, [], SimpleNamespace(config=config, last_result=PAUSE))
    assert driver.searcher.stopped_by == "requested"
    assert driver.searcher.suggest("b") == Searcher.FINISHED
    assert driver.table.row(config["name"]).state is State.RUNNING, "it goes on with the next run"
    assert said == [f"{config['name']:<15} stopped behind a checkpoint"]
