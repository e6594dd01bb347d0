"""A searcher whose Tune is the test.

A test module asks for it by `pytest_plugins = ["search_fixtures", "searcher_fixtures"]`.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from ray.tune.search import Searcher

from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.task import TrialTask
from langsearch.search.searcher import TableSearcher
from langsearch.study.results import TrialResult
from langsearch.study.rows import State
from langsearch.study.table import TrialTable

if TYPE_CHECKING:
    from tests.search_fixtures import ResultMaker, TableMaker, TaskMaker


DIMENSIONS: dict[str, BaseDistribution] = {
    "rank": CategoricalDistribution((2, 4)),
    "lr": FloatDistribution(1e-3, 1e-2, log=True),
}
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


def grid(*ranks: int) -> dict[str, BaseDistribution]:
    return {"rank": CategoricalDistribution(ranks)}


def drive(searcher: TableSearcher, make_result: "ResultMaker", **values: Any) -> list[str]:
    """Runs one trial after the other to its end; returns their names."""
    names: list[str] = []
    while (given := searcher.suggest(f"t{len(names)}")) != Searcher.FINISHED:
        names.append(given["name"])
        searcher.on_trial_complete(f"t{len(names) - 1}", reported(make_result(**values)))
    return names
