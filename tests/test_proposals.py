"""The same history gives the same proposals, whether the driver was restarted, killed, or neither."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from langsearch.study.front import Objective
from langsearch.study.rows import State
from langsearch.study.table import TrialTable
from tests.table_fixtures import DIMENSIONS, LARGE, TEST, KilledError, count_writes, propose, study

if TYPE_CHECKING:
    from tests.search_fixtures import ResultMaker, TableMaker

pytest_plugins = ["search_fixtures", "table_fixtures"]
pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


def test_reopening_gives_equal_rows_and_equal_proposals(
    tmp_path: Path, make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    table = make_table(tmp_path / "study.db", num_trials=4)
    table.add_baseline("pretrained")
    for index in range(6):
        name = f"{table.propose(DIMENSIONS, fingerprint=f'fingerprint {index}')[0]:05d}"
        if index < 5:
            table.complete(name, make_result(spbleu=float(index), trainable_parameters=index * 10))
    table.record_test("00004", TEST)
    before = table.rows()
    copies = [tmp_path / "one.db", tmp_path / "two.db"]
    for copy in copies:
        copy.write_bytes((tmp_path / "study.db").read_bytes())
    assert make_table(copies[0], num_trials=4).rows() == before
    # The model is fitted by now (4 random trials first), and a table that stayed open proposes the same.
    proposals = [make_table(copy, num_trials=4).propose(DIMENSIONS) for copy in copies]
    assert table.propose(DIMENSIONS) == proposals[0] == proposals[1]


def test_the_seed_decides_the_proposals(make_table: "TableMaker") -> None:
    points = [make_table(seed=seed).propose(DIMENSIONS) for seed in (0, 0, 1)]
    assert points[0] == points[1] != points[2]


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "gp"])
def test_every_sampler_proposes_points_of_the_space_after_every_kind_of_trial(
    sampler: str, make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    table = make_table(sampler=sampler, num_trials=4)
    for index, name in enumerate(propose(table, 7)):
        if index < 5:
            table.complete(name, make_result(spbleu=float(index)))
        elif index == 5:
            table.prune(name, make_result(epoch=1))
        else:
            table.fail(name, "lost")
    _, point = table.propose(DIMENSIONS)
    assert point["rank"] in (0, 2, 4, 8)
    assert 1e-4 <= point["lr"] <= 1e-2


def test_asking_twice_for_the_next_point_gives_the_same(make_table: "TableMaker", make_result: "ResultMaker") -> None:
    table = make_table(num_trials=4)
    for name in propose(table, 5):
        table.complete(name, make_result(spbleu=float(name)))
    assert table.next_point(DIMENSIONS) == table.next_point(DIMENSIONS) == table.propose(DIMENSIONS)


GRID: dict[str, BaseDistribution] = {
    "rank": CategoricalDistribution((0, 2, 4, 8)),
    "layers": IntDistribution(1, 3),
    "dropout": FloatDistribution(0.0, 0.4, step=0.2),
}


def search(table: TrialTable, dimensions: Mapping[str, BaseDistribution], num: int, make_result: Any) -> None:
    """Goes on with a search of one trial at a time, as a driver does; every fourth is pruned, one fails."""
    while True:
        running = [found for found in table.rows() if found.state is State.RUNNING]
        if not running:
            if table.num_searched == num:
                return
            found = table.next_point(dimensions)
            assert found is not None
            table.add(*found, fingerprint=str(found[0]))
            continue
        (current,) = running
        number, point = int(current.name), current.params
        result = make_result(spbleu=float(point["rank"]) + number / 100, trainable_parameters=1 + point["rank"] ** 2)
        if number == 2:
            table.fail(current.name, "lost")
        elif number % 4 == 3:
            table.prune(current.name, dataclasses.replace(result, epoch=1, finished=False))
        else:
            table.report(current.name, dataclasses.replace(result, epoch=1, finished=False))
            table.complete(current.name, result)


def found(table: TrialTable) -> list[Any]:
    return [dataclasses.replace(row, started=None, finished=None) for row in table.rows()]


@pytest.mark.parametrize(
    ("sampler", "objectives", "num"),
    [("tpe", 1, 9), ("tpe", 2, 9), ("gp", 2, 7), ("nsga2", 2, 11), ("random", 2, 5), ("grid", 2, 5)],
)
def test_a_driver_that_is_restarted_between_any_two_proposals_makes_the_same_ones(
    sampler: str, objectives: int, num: int, tmp_path: Path, make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    given: dict[str, Any] = {"sampler": sampler, "num_trials": 8, "constraints": [LARGE]}
    given["objectives"] = (Objective("spbleu", True), Objective("trainable_parameters", False))[:objectives]
    dimensions = GRID if sampler == "grid" else GRID | DIMENSIONS
    undisturbed = make_table(**given)
    search(undisturbed, dimensions, num, make_result)
    for ended in range(1, num + 1):
        search(make_table(tmp_path / "study.db", **given), dimensions, ended, make_result)
    assert found(make_table(tmp_path / "study.db", **given)) == found(undisturbed)


@pytest.mark.parametrize(
    ("sampler", "num", "step"), [("random", 4, 1), ("tpe", 7, 7), ("gp", 6, 15), ("nsga2", 9, 9), ("grid", 4, 4)]
)
def test_a_driver_that_is_killed_at_a_write_is_gone_on_with_as_if_it_was_not(
    sampler: str, num: int, step: int, tmp_path: Path, make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    given: dict[str, Any] = {"sampler": sampler, "num_trials": 4, "constraints": [LARGE]}
    empty = tmp_path / "empty.db"
    make_table(empty, **given)
    undisturbed = make_table(**given)
    with pytest.MonkeyPatch.context() as monkeypatch:
        writes = count_writes(monkeypatch)
        search(undisturbed, GRID, num, make_result)
    # One sampler is killed at every write, before or after it by turns; the others, for the time it takes, at some.
    for last in range(1, len(writes) + 1, step):
        copy = tmp_path / f"{last}.db"
        copy.write_bytes(empty.read_bytes())
        with pytest.MonkeyPatch.context() as monkeypatch:
            table = make_table(copy, **given)
            count_writes(monkeypatch, last, is_written=last % 2 == 0)
            with pytest.raises(KilledError, match=r"^$"):
                search(table, GRID, num, make_result)
        table = make_table(copy, **given)
        search(table, GRID, num, make_result)
        assert found(table) == found(undisturbed)


def test_a_changed_space_goes_on_in_the_same_study_with_what_lies_in_both(
    tmp_path: Path, make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    table = make_table(tmp_path / "study.db", num_trials=4)
    for name in propose(table, 5):
        table.complete(name, make_result(spbleu=float(table.row(name).params["rank"])))
    wider = DIMENSIONS | {"rank": CategoricalDistribution((0, 2, 4, 8, 16))}
    changed = make_table(tmp_path / "study.db", num_trials=4, space_version=2)
    number, point = changed.propose(wider)
    assert number == 5
    assert point["rank"] in (0, 2, 4, 8, 16)
    assert [row.space_version for row in changed.rows()] == [1] * 5 + [2]
    other: dict[str, BaseDistribution] = {"rank": CategoricalDistribution((1, 3))}
    assert changed.propose(other)[1]["rank"] in (1, 3)
    again = make_table(tmp_path / "study.db", num_trials=4, space_version=2)
    assert again.rows() == changed.rows()
    assert all(row.params.keys() <= DIMENSIONS.keys() for row in again.rows())
    assert again.propose(wider) == changed.propose(wider), "the version that was left is taken up again"


def test_what_optunas_own_ask_left_half_done_is_passed_over(tmp_path: Path, make_table: "TableMaker") -> None:
    make_table(tmp_path / "study.db")
    study(tmp_path / "study.db").enqueue_trial({"rank": 4})
    study(tmp_path / "study.db", "small/baselines").ask()
    table = make_table(tmp_path / "study.db")
    assert table.rows() == []
    assert propose(table) == ["00001"]
