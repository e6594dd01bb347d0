import dataclasses
import random
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from optuna.distributions import IntDistribution
from optuna.exceptions import StorageInternalError
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from langsearch.space.search_sections import rungs
from langsearch.study.early_stopping import AsyncHalving, RungOrder
from langsearch.study.front import Objective
from langsearch.study.table import TrialTable

if TYPE_CHECKING:
    from tests.search_fixtures import ResultMaker, TableMaker

pytest_plugins = ["search_fixtures"]

SPBLEU, SIZE = Objective("spbleu", True), Objective("trainable_parameters", False)


class Rungs:
    """A scheduler with its table; trials are named as they come."""

    def __init__(self, table: TrialTable, make_result: "ResultMaker", **values: int) -> None:
        given = {"max_epochs": 9, "grace_epochs": 1, "reduction_factor": 3} | values
        self.table, self.make_result, self.given = table, make_result, given
        self.names: dict[str, str] = {}
        self.scheduler = self._open(table)

    def restart(self, table: TrialTable) -> None:
        self.table, self.scheduler = table, self._open(table)

    def _open(self, table: TrialTable) -> AsyncHalving:
        given = self.given
        return AsyncHalving(
            table,
            max_epochs=given["max_epochs"],
            grace_epochs=given["grace_epochs"],
            reduction_factor=given["reduction_factor"],
        )

    def goes_on(self, name: str, epoch: int, spbleu: float, size: int = 100, kind: str = "searched") -> bool:
        if name not in self.names and kind == "searched":
            number, _ = self.table.propose({"x": IntDistribution(0, 9)})
            self.names[name] = f"{number:05d}"
        result = dataclasses.asdict(self.make_result(epoch=epoch, spbleu=spbleu, trainable_parameters=size))
        result |= {"kind": kind, "name": self.names.get(name, name)}
        answer = self.scheduler.on_trial_result(None, SimpleNamespace(trial_id=name), result)
        return bool(answer == TrialScheduler.CONTINUE)


RungsMaker = Callable[..., Rungs]


@pytest.fixture
def halving(make_table: "TableMaker", make_result: "ResultMaker") -> RungsMaker:
    def make(*objectives: Objective, file: Path | None = None, **values: int) -> Rungs:
        table = make_table(file, objectives=objectives or (SPBLEU, SIZE), sampler="random")
        return Rungs(table, make_result, **values)

    return make


@pytest.mark.parametrize(
    ("max_epochs", "grace", "factor", "expected"),
    [(15, 1, 3, [1, 3, 9]), (9, 1, 3, [1, 3]), (1, 1, 3, []), (16, 2, 2, [2, 4, 8]), (3, 3, 2, [])],
)
def test_rungs_are_grace_times_powers_of_the_factor_before_the_last_epoch(
    max_epochs: int, grace: int, factor: int, expected: list[int]
) -> None:
    assert list(rungs(max_epochs, grace, factor)) == expected


def test_the_first_trial_at_a_rung_always_goes_on(halving: RungsMaker) -> None:
    scheduler = halving()
    assert scheduler.goes_on("a", 1, spbleu=0.0, size=10**9)
    assert scheduler.goes_on("a", 3, spbleu=0.0, size=10**9)


def test_a_dominated_trial_stops_and_one_that_dominates_goes_on(halving: RungsMaker) -> None:
    scheduler = halving()
    assert scheduler.goes_on("a", 1, spbleu=10.0, size=100)
    assert not scheduler.goes_on("b", 1, spbleu=9.0, size=101)
    assert scheduler.goes_on("c", 1, spbleu=11.0, size=99)


def test_trials_are_compared_at_rungs_only(halving: RungsMaker) -> None:
    scheduler = halving()
    assert scheduler.goes_on("a", 1, spbleu=10.0)
    assert scheduler.goes_on("a", 2, spbleu=10.0)
    assert scheduler.goes_on("b", 2, spbleu=1.0), "epoch 2 is no rung; what a resumed trial missed stops none"


def test_before_the_grace_epoch_none_stops(halving: RungsMaker) -> None:
    scheduler = halving(grace_epochs=2)
    assert scheduler.goes_on("a", 2, spbleu=10.0)
    assert scheduler.goes_on("b", 1, spbleu=0.0)
    assert not scheduler.goes_on("b", 2, spbleu=0.0)


def test_a_trial_that_passed_a_rung_unheard_is_not_compared_there(halving: RungsMaker) -> None:
    scheduler = halving()
    assert scheduler.goes_on("resumed", 4, spbleu=10.0)
    assert scheduler.goes_on("b", 1, spbleu=9.0), "a score of epoch 4 is none of epoch 1"
    assert not scheduler.goes_on("c", 1, spbleu=8.0)
    assert scheduler.goes_on("b", 3, spbleu=9.0)


def test_baselines_never_stop_and_stop_none(halving: RungsMaker) -> None:
    scheduler = halving()
    assert scheduler.goes_on("published", 1, spbleu=50.0, size=1, kind="baseline")
    assert scheduler.goes_on("a", 1, spbleu=10.0)
    assert not scheduler.goes_on("b", 1, spbleu=9.0, size=101)
    assert scheduler.goes_on("shared_lora", 1, spbleu=0.0, size=10**9, kind="baseline")


def test_a_failure_passes_through(halving: RungsMaker) -> None:
    result = {"failed": "out of memory", "done": True}
    scheduler = halving().scheduler
    assert scheduler.on_trial_result(None, SimpleNamespace(trial_id="a"), result) == TrialScheduler.CONTINUE


def is_best(costs: list[float], seen: list[list[float]], factor: int) -> bool:
    """Whether the last of all that were seen is among the best."""
    order, others = RungOrder(), list(seen)
    others.remove(costs)
    for other in others:
        order.add(other, 0.0)
    return order.is_among_best(costs, 0.0, factor)


def test_what_none_dominates_goes_on_however_many_there_are() -> None:
    seen = [[float(x), float(9 - x)] for x in range(10)]
    assert all(is_best(costs, seen, 3) for costs in seen)


def test_ties_within_a_rank_go_to_the_less_crowded() -> None:
    # Behind the best, six points of one rank, two of which may go on: the ends, whose distance is infinite
    # (Deb et al. 2002, III-B).
    best = [-1.0, -1.0]
    seen = [best] + [[float(x), float(5 - x)] for x in range(6)]
    assert [is_best(costs, seen, 3) for costs in seen] == [True, True, False, False, False, False, True]
    # One more may go on: the widest gap decides, here that around 8.
    seen = [best] + [[x, 10.0 - x] for x in (0.0, 1.0, 2.0, 3.0, 8.0, 10.0, 2.5)]
    assert [costs[0] for costs in seen if is_best(costs, seen, 2)] == [-1.0, 0.0, 8.0, 10.0]


def test_a_better_rank_comes_before_a_less_crowded_place() -> None:
    seen = [[0.0, 0.0], [1.0, 2.0], [2.0, 1.0], [1.5, 9.0], [9.0, 1.5]]
    assert [is_best(costs, seen, 2) for costs in seen] == [True, True, True, False, False]


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_one_objective_goes_on_as_the_best_of_all_seen(factor: int) -> None:
    rng = random.Random(factor)
    for _ in range(20):
        order, seen = RungOrder(), list[float]()
        for _ in range(25):
            score = rng.random()
            seen.append(score)
            expected = score in sorted(seen, reverse=True)[: -(-len(seen) // factor)]
            assert order.is_among_best([-score], 0.0, factor) == expected


@pytest.mark.parametrize("factor", [2, 3])
def test_one_objective_decides_as_rays_asha_except_between_the_scores_that_asha_interpolates(
    factor: int, halving: RungsMaker
) -> None:
    """Ray's cutoff is the percentile 1 - 1/factor of the scores before, linear between its two nearest ones.

    Random curves are drawn without scores right between these two: there the paper's rule, the best ceil(n / factor),
    is ours, and Ray's depends on the interpolation. Everywhere else they agree by definition.
    """
    rng, max_epochs, num_stopped = random.Random(factor), factor + 2, 0
    ours = halving(SPBLEU, max_epochs=max_epochs, reduction_factor=factor)
    asha = ASHAScheduler(
        time_attr="epoch", metric="spbleu", mode="max", max_t=max_epochs, grace_period=1, reduction_factor=factor
    )
    seen: dict[int, list[float]] = {epoch: [] for epoch in rungs(max_epochs, 1, factor)}
    for index in range(20):
        trial, level = SimpleNamespace(trial_id=str(index)), rng.random()
        asha.on_trial_add(None, trial)
        for epoch in range(1, max_epochs):
            score = level + 0.3 * rng.random()
            if epoch in seen:
                percent = 100 * (1 - 1 / factor)
                before = seen[epoch] or [0.0]
                low, high = (np.percentile(before, percent, method=method) for method in ("lower", "higher"))
                while low < score < high:
                    score = level + rng.random()
                seen[epoch].append(score)
            mine = ours.goes_on(str(index), epoch, score)
            theirs = asha.on_trial_result(None, trial, {"epoch": epoch, "spbleu": score})
            assert mine == (theirs == TrialScheduler.CONTINUE)
            if not mine:
                num_stopped += 1
                break
    assert 0 < num_stopped < 20


def curves(num: int) -> list[tuple[str, int, float, int]]:
    """Results of some trials, those of several at once between each other."""
    rng = random.Random(0)
    epochs = {f"t{index}": iter(range(1, 10)) for index in range(num)}
    found = []
    while epochs:
        name = rng.choice(sorted(epochs)[:4])
        if (epoch := next(epochs[name], None)) is None:
            del epochs[name]
        else:
            found.append((name, epoch, rng.random(), rng.randrange(100, 110)))
    return found


@pytest.mark.parametrize("objectives", [(SPBLEU,), (SPBLEU, SIZE)])
def test_a_new_driver_decides_as_one_that_never_stopped(
    objectives: tuple[Objective, ...], tmp_path: Path, halving: RungsMaker, make_table: "TableMaker"
) -> None:
    undisturbed, restarted = halving(*objectives), halving(*objectives, file=tmp_path / "study.db")
    stopped: set[str] = set()
    for index, (name, epoch, spbleu, size) in enumerate(curves(6)):
        if name in stopped:
            continue
        expected = undisturbed.goes_on(name, epoch, spbleu, size)
        assert restarted.goes_on(name, epoch, spbleu, size) == expected
        if index % 6 == 0:
            restarted.restart(make_table(tmp_path / "study.db", objectives=objectives, sampler="random"))
            # The worker was restarted too, and gives its last result again.
            assert restarted.goes_on(name, epoch, spbleu, size) == expected
        if not expected:
            stopped.add(name)
    assert 0 < len(stopped) < 6


def test_a_result_that_comes_again_changes_nothing(halving: RungsMaker) -> None:
    scheduler = halving(SPBLEU)
    assert scheduler.goes_on("a", 1, 10.0)
    assert not scheduler.goes_on("b", 1, 9.0)
    rows = scheduler.table.rows()
    assert scheduler.goes_on("a", 1, 10.0)
    assert not scheduler.goes_on("b", 1, 9.0)
    assert not scheduler.goes_on("b", 2, 99.0), "what was stopped stays stopped"
    assert scheduler.table.rows() == rows


def test_the_decision_is_in_the_table_with_the_result_that_it_was_made_by(halving: RungsMaker) -> None:
    scheduler = halving()
    assert scheduler.goes_on("a", 1, 10.0, 100)
    assert not scheduler.goes_on("b", 1, 9.0, 101)
    first, second = scheduler.table.rows()
    assert [(rung.epoch, rung.values, rung.goes_on, rung.order) for rung in (*first.rungs, *second.rungs)] == [
        (1, (10.0, 100.0), True, 0),
        (1, (9.0, 101.0), False, 1),
    ]
    assert (second.result.spbleu if second.result else None) == 9.0
    assert second.is_pruned_at_rung


def test_a_score_that_is_not_finite_is_no_member_of_a_rung(halving: RungsMaker) -> None:
    scheduler = halving(SPBLEU)
    assert scheduler.goes_on("a", 1, float("nan"))
    assert scheduler.goes_on("b", 1, 1.0)
    assert [row.rungs != () for row in scheduler.table.rows()] == [False, True]


def test_a_decision_that_cannot_be_written_stops_no_trial(halving: RungsMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = halving(SPBLEU)
    assert scheduler.goes_on("a", 1, 10.0)

    def full(*_: Any) -> None:
        raise StorageInternalError("database or disk is full")

    scheduler.names["b"] = f"{scheduler.table.propose({'x': IntDistribution(0, 9)})[0]:05d}"
    monkeypatch.setattr(scheduler.table, "report", full)
    assert scheduler.goes_on("b", 1, 9.0)


def test_the_time_of_a_decision_does_not_grow_with_the_trials_before() -> None:
    rng = random.Random(0)
    for num_objectives in (1, 2, 4):
        order, seconds = RungOrder(), []
        for _ in range(1000):
            costs = [rng.random() for _ in range(num_objectives)]
            started = time.perf_counter()
            order.is_among_best(costs, max(rng.uniform(-0.5, 0.5), 0.0), 3)
            seconds.append(time.perf_counter() - started)
        assert float(np.median(seconds[-200:])) < 0.01
