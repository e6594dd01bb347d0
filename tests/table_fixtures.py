"""Trials of a table, and its writes.

A test module asks for the fixture by `pytest_plugins = ["table_fixtures"]`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from langsearch.space.settings import Constraint
from langsearch.study.results import TestResult
from langsearch.study.table import TrialTable


@pytest.fixture
def no_waiting_for_the_disk() -> Iterator[None]:
    """SQLite without waiting for the disk: no test pulls the plug."""

    def hurry(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "connect", hurry)
    yield
    sqlalchemy.event.remove(sqlalchemy.engine.Engine, "connect", hurry)


DIMENSIONS: dict[str, BaseDistribution] = {
    "rank": CategoricalDistribution((0, 2, 4, 8)),
    "lr": FloatDistribution(1e-4, 1e-2, log=True),
}


def propose(table: TrialTable, num: int = 1) -> list[str]:
    return [f"{table.propose(DIMENSIONS)[0]:05d}" for _ in range(num)]


def study(path: Path, name: str = "small") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{path}")


WRITES = (
    "create_new_trial",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "set_trial_intermediate_value",
    "set_trial_state_values",
    "set_study_user_attr",
    "set_study_system_attr",
)


class KilledError(BaseException):
    pass


def count_writes(monkeypatch: pytest.MonkeyPatch, last: int | None = None, is_written: bool = True) -> list[str]:
    """Notes every write to the database; the process "dies" at the last, before or after it."""
    writes: list[str] = []

    def replace(name: str, do: Any) -> None:
        def write(*given: Any, **more: Any) -> Any:
            writes.append(name)
            if len(writes) != last:
                return do(*given, **more)
            if is_written:
                do(*given, **more)
            raise KilledError

        monkeypatch.setattr(optuna.storages.RDBStorage, name, write)

    for name in WRITES:
        replace(name, getattr(optuna.storages.RDBStorage, name))
    return writes


LARGE = Constraint(metric="trainable_parameters", is_upper=True, bound=20.0)


TEST = TestResult(
    test_spbleu=9.0, test_spbleu_low=8.0, test_spbleu_high=10.0, test_num_sentences=4, test_num_directions=2
)


def row(table: TrialTable, name: str) -> Any:
    (found,) = [found for found in table.rows() if found.name == name]
    return found
