"""What a rung decides where the search has constraints: trials that keep them come first."""

import dataclasses
import random
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from optuna.distributions import IntDistribution
from ray import cloudpickle
from ray.tune.schedulers import TrialScheduler

from langsearch.space.settings import Constraint
from langsearch.study.early_stopping import AsyncHalving, RungOrder
from langsearch.study.front import Objective
from langsearch.study.table import TrialTable

if TYPE_CHECKING:
    from tests.search_fixtures import ResultMaker, TableMaker

pytest_plugins = ["search_fixtures"]

SPBLEU = Objective("spbleu", True)
SMALL = Constraint(metric="nonzero_parameters", is_upper=True, bound=100.0)
Decide = Callable[..., bool]


@pytest.fixture
def open_table(make_table: "TableMaker", tmp_path: Path) -> Callable[..., TrialTable]:
    """Opens the table of one study by some constraints; again, as a new driver does."""

    def open_it(*constraints: Constraint, **given: Any) -> TrialTable:
        values: dict[str, Any] = {"objectives": [SPBLEU], "sampler": "random", "constraints": constraints} | given
        return make_table(tmp_path / "study.db", **values)

    return open_it


@pytest.fixture
def decide(make_result: "ResultMaker") -> Decide:
    """Has a new trial come to the first rung of nine epochs; returns whether it goes on."""

    def decide_on(scheduler: AsyncHalving, table: TrialTable, **values: Any) -> bool:
        number, _ = table.propose({"x": IntDistribution(0, 9)})
        result = dataclasses.asdict(make_result(epoch=1, **values)) | {"kind": "searched", "name": f"{number:05d}"}
        answer = scheduler.on_trial_result(None, SimpleNamespace(trial_id=str(number)), result)
        return bool(answer == TrialScheduler.CONTINUE)

    return decide_on


def halving(table: TrialTable, **given: Any) -> AsyncHalving:
    return AsyncHalving(table, **{"max_epochs": 9, "grace_epochs": 1, "reduction_factor": 3} | given)


def test_trials_that_cannot_be_on_the_front_stop_none_that_can(
    open_table: Callable[..., TrialTable], decide: Decide
) -> None:
    # Ordered by spBLEU alone, all nine that violate the constraint went on, and the three that keep it were stopped.
    table = open_table(SMALL)
    scheduler = halving(table)
    large = [decide(scheduler, table, spbleu=10.0 + index, nonzero_parameters=200 + index) for index in range(9)]
    small = [decide(scheduler, table, spbleu=5.0 + index, nonzero_parameters=90) for index in range(3)]
    assert small == [True, True, True]
    assert large[0] and sum(large) < 5, "the first has no rival; later ones violate more than it"
    assert decide(scheduler, table, spbleu=0.0, nonzero_parameters=101), "five of 13 may go on: it comes fourth"
    assert not decide(scheduler, table, spbleu=99.0, nonzero_parameters=300)


def test_of_those_that_violate_the_less_violating_go_on(open_table: Callable[..., TrialTable], decide: Decide) -> None:
    table = open_table(SMALL)
    scheduler = halving(table)
    assert decide(scheduler, table, spbleu=5.0, nonzero_parameters=200)
    assert not decide(scheduler, table, spbleu=50.0, nonzero_parameters=300)
    assert decide(scheduler, table, spbleu=1.0, nonzero_parameters=150)
    # Two of four may go on: of two that violate as much the better one is second.
    assert decide(scheduler, table, spbleu=2.0, nonzero_parameters=150)
    assert not decide(scheduler, table, spbleu=0.5, nonzero_parameters=150)


def test_what_pruning_will_leave_counts_before_it_begins(open_table: Callable[..., TrialTable], decide: Decide) -> None:
    size = Objective("nonzero_parameters", False)
    table = open_table(SMALL, objectives=[SPBLEU, size])
    left = {"00000": 120, "00001": 60, "00002": 40}
    scheduler = halving(table, num_nonzero=left.__getitem__)
    # None is pruned yet at the rung; in the end the first will violate the constraint, the others will not.
    assert decide(scheduler, table, spbleu=9.0, nonzero_parameters=130)
    assert decide(scheduler, table, spbleu=5.0, nonzero_parameters=600)
    assert decide(scheduler, table, spbleu=4.0, nonzero_parameters=800), "the smallest in the end"
    rows = table.rows()
    assert [row.rungs[0].values for row in rows] == [(9.0, 120.0), (5.0, 60.0), (4.0, 40.0)]
    assert [row.rungs[0].violations for row in rows] == [{str(SMALL): x} for x in (0.2, -0.4, -0.6)]
    assert [row.result.nonzero_parameters for row in rows if row.result] == [130, 600, 800], "results stay as they are"


def test_times_count_as_they_will_be_after_the_last_epoch(
    open_table: Callable[..., TrialTable], decide: Decide
) -> None:
    table = open_table(Constraint(metric="train_seconds", is_upper=True, bound=60.0))
    scheduler = halving(table)
    assert decide(scheduler, table, spbleu=9.0, train_seconds=10.0)
    assert decide(scheduler, table, spbleu=5.0, train_seconds=6.0), "nine epochs of 6 s keep it, of 10 s do not"
    assert not decide(scheduler, table, spbleu=99.0, train_seconds=7.0)


def test_a_loss_counts_as_kept_until_it_can_be_measured(open_table: Callable[..., TrialTable], decide: Decide) -> None:
    table = open_table(Constraint(metric="worst_loss.all", is_upper=True, bound=0.5), SMALL)
    scheduler = halving(table)
    assert decide(scheduler, table, spbleu=9.0, nonzero_parameters=90, direction_spbleu=(("en-fr", 1.0),))
    assert not decide(scheduler, table, spbleu=8.0, nonzero_parameters=90, direction_spbleu=(("en-fr", 9.0),))
    assert not decide(scheduler, table, spbleu=99.0, nonzero_parameters=300)


def test_a_loss_against_the_pretrained_base_is_held_at_the_rung(
    open_table: Callable[..., TrialTable], decide: Decide, make_result: "ResultMaker"
) -> None:
    table = open_table(Constraint(metric="worst_loss.all", is_upper=True, bound=0.5))
    table.add_baseline("pretrained")
    table.complete("pretrained", make_result(spbleu=4.0, direction_spbleu=(("en-fr", 4.0), ("fr-en", 4.0))))
    scheduler = halving(table)
    losing, keeping = (("en-fr", 20.0), ("fr-en", 2.0)), (("en-fr", 5.0), ("fr-en", 3.8))
    assert decide(scheduler, table, spbleu=11.0, direction_spbleu=losing)
    assert decide(scheduler, table, spbleu=4.4, direction_spbleu=keeping)
    assert not decide(scheduler, table, spbleu=12.0, direction_spbleu=losing)


def test_a_new_driver_goes_on_with_the_same_order(open_table: Callable[..., TrialTable], decide: Decide) -> None:
    table = open_table(SMALL)
    given = [(9.0, 150), (3.0, 90), (8.0, 120), (2.0, 90), (9.0, 300), (4.0, 80), (5.0, 110), (3.5, 70)]
    left = dict.fromkeys((f"{index:05d}" for index in range(20)), 0)
    scheduler, found = halving(table, num_nonzero=left.__getitem__), []
    for index, (spbleu, size) in enumerate(given):
        left[f"{index:05d}"] = size
        found.append(decide(scheduler, table, spbleu=spbleu, nonzero_parameters=1000))
        table = open_table(SMALL)
        scheduler = halving(table, num_nonzero=left.__getitem__)
    assert found == decisions(given, 100)


def test_other_constraints_than_a_rung_was_decided_by_are_measured_by_what_is_known(
    open_table: Callable[..., TrialTable], decide: Decide
) -> None:
    table = open_table()
    scheduler = halving(table)
    assert decide(scheduler, table, spbleu=9.0, nonzero_parameters=500)
    assert decide(scheduler, table, spbleu=10.0, nonzero_parameters=600)
    table = open_table(SMALL)
    assert decide(halving(table), table, spbleu=1.0, nonzero_parameters=90), "both that were there before violate it"


def decisions(given: list[tuple[float, int]], bound: int) -> list[bool]:
    """Returns what a rung decides by Deb's order, by sorting all that came so far each time (one objective)."""
    found, seen = [], list[tuple[float, float]]()
    for spbleu, size in given:
        key = max(size - bound, 0) / bound, -spbleu
        seen.append(key)
        found.append(sorted(seen).index(key) < -(-len(seen) // 3))
    return found


def test_the_order_is_that_of_sorting_by_violation_then_by_costs() -> None:
    rng = random.Random(0)
    for _ in range(20):
        given = [(rng.random(), rng.choice((50, 90, 110, 150, 200))) for _ in range(30)]
        order = RungOrder()
        found = [order.is_among_best([-spbleu], max(size - 100, 0) / 100, 3) for spbleu, size in given]
        assert found == decisions(given, 100)


def test_of_several_objectives_what_none_that_keeps_them_dominates_goes_on() -> None:
    rng = random.Random(1)
    order, kept = RungOrder(), list[list[float]]()
    for _ in range(200):
        costs, violation = [rng.random(), rng.random()], rng.choice((0.0, 0.0, rng.random()))
        goes_on = order.is_among_best(costs, violation, 3)
        if violation == 0:
            is_beaten = any(all(x <= y for x, y in zip(other, costs, strict=True)) for other in kept)
            kept.append(costs)
            assert goes_on or is_beaten


def test_tune_can_pickle_what_it_schedules_by(open_table: Callable[..., TrialTable]) -> None:
    lock = threading.RLock()  # as a search's display has one

    def num_nonzero(name: str) -> int:
        with lock:
            return 1

    halving = AsyncHalving(open_table(SMALL), max_epochs=9, grace_epochs=1, reduction_factor=3, num_nonzero=num_nonzero)
    assert len(cloudpickle.dumps(halving)) < 10_000
