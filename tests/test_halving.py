import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from langsearch.search.halving import ParetoHalving, is_among_best, rungs
from langsearch.search.table import Objective

SPBLEU, SIZE = Objective("spbleu", True), Objective("trainable_parameters", False)


def halving(*objectives: Objective, max_epochs: int = 9, grace_epochs: int = 1, factor: int = 3) -> ParetoHalving:
    return ParetoHalving(
        objectives or (SPBLEU, SIZE), max_epochs=max_epochs, grace_epochs=grace_epochs, reduction_factor=factor
    )


def goes_on(
    scheduler: ParetoHalving, name: str, epoch: int, spbleu: float, size: int = 100, kind: str = "searched"
) -> bool:
    result: dict[str, Any] = {"kind": kind, "epoch": epoch, "spbleu": spbleu, "trainable_parameters": size}
    return scheduler.on_trial_result(None, SimpleNamespace(trial_id=name), result) == str(TrialScheduler.CONTINUE)


@pytest.mark.parametrize(
    ("max_epochs", "grace", "factor", "expected"),
    [(15, 1, 3, [1, 3, 9]), (9, 1, 3, [1, 3]), (1, 1, 3, []), (16, 2, 2, [2, 4, 8]), (3, 3, 2, [])],
)
def test_rungs_are_grace_times_powers_of_the_factor_before_the_last_epoch(
    max_epochs: int, grace: int, factor: int, expected: list[int]
) -> None:
    assert rungs(max_epochs, grace, factor) == expected


def test_the_first_trial_at_a_rung_always_goes_on() -> None:
    scheduler = halving()
    assert goes_on(scheduler, "a", 1, spbleu=0.0, size=10**9)
    assert goes_on(scheduler, "a", 3, spbleu=0.0, size=10**9)


def test_a_dominated_trial_stops_and_one_that_dominates_goes_on() -> None:
    scheduler = halving()
    assert goes_on(scheduler, "a", 1, spbleu=10.0, size=100)
    assert not goes_on(scheduler, "b", 1, spbleu=9.0, size=101)
    assert goes_on(scheduler, "c", 1, spbleu=11.0, size=99)


def test_trials_are_compared_at_rungs_only() -> None:
    scheduler = halving()
    assert goes_on(scheduler, "a", 1, spbleu=10.0)
    assert goes_on(scheduler, "a", 2, spbleu=10.0)
    assert goes_on(scheduler, "b", 2, spbleu=1.0), "epoch 2 is no rung; what a resumed trial missed stops none"


def test_before_the_grace_epoch_none_stops() -> None:
    scheduler = halving(grace_epochs=2)
    assert goes_on(scheduler, "a", 2, spbleu=10.0)
    assert goes_on(scheduler, "b", 1, spbleu=0.0)
    assert not goes_on(scheduler, "b", 2, spbleu=0.0)


def test_a_resumed_trial_counts_at_the_rungs_that_this_driver_has_not_seen() -> None:
    scheduler = halving()
    assert goes_on(scheduler, "resumed", 4, spbleu=10.0)
    assert not goes_on(scheduler, "b", 1, spbleu=9.0)
    assert goes_on(scheduler, "c", 1, spbleu=11.0)
    assert goes_on(scheduler, "c", 3, spbleu=11.0)


def test_baselines_never_stop_and_stop_none() -> None:
    scheduler = halving()
    assert goes_on(scheduler, "published", 1, spbleu=50.0, size=1, kind="baseline")
    assert goes_on(scheduler, "a", 1, spbleu=10.0)
    assert not goes_on(scheduler, "b", 1, spbleu=9.0, size=101)
    assert goes_on(scheduler, "shared_lora", 1, spbleu=0.0, size=10**9, kind="baseline")


def test_a_failure_passes_through() -> None:
    result = {"failed": "out of memory", "done": True}
    assert halving().on_trial_result(None, SimpleNamespace(trial_id="a"), result) == TrialScheduler.CONTINUE


def test_what_none_dominates_goes_on_however_many_there_are() -> None:
    seen = [[float(x), float(9 - x)] for x in range(10)]
    assert all(is_among_best(costs, seen, 3) for costs in seen)


def test_ties_within_a_rank_go_to_the_less_crowded() -> None:
    # Behind the best, six points of one rank, two of which may go on: the ends, whose distance is infinite
    # (Deb et al. 2002, III-B).
    best = [-1.0, -1.0]
    seen = [best] + [[float(x), float(5 - x)] for x in range(6)]
    assert [is_among_best(costs, seen, 3) for costs in seen] == [True, True, False, False, False, False, True]
    # One more may go on: the widest gap decides, here that around 8.
    seen = [best] + [[x, 10.0 - x] for x in (0.0, 1.0, 2.0, 3.0, 8.0, 10.0, 2.5)]
    assert [costs[0] for costs in seen if is_among_best(costs, seen, 2)] == [-1.0, 0.0, 8.0, 10.0]


def test_a_better_rank_comes_before_a_less_crowded_place() -> None:
    seen = [[0.0, 0.0], [1.0, 2.0], [2.0, 1.0], [1.5, 9.0], [9.0, 1.5]]
    assert [is_among_best(costs, seen, 2) for costs in seen] == [True, True, True, False, False]


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_one_objective_goes_on_as_the_best_of_all_seen(factor: int) -> None:
    rng = random.Random(factor)
    for _ in range(20):
        scheduler, seen = halving(SPBLEU, factor=factor), list[float]()
        for index in range(25):
            score = rng.random()
            seen.append(score)
            expected = score in sorted(seen, reverse=True)[: -(-len(seen) // factor)]
            assert goes_on(scheduler, str(index), 1, score) == expected


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_one_objective_decides_as_rays_asha_except_between_the_scores_that_asha_interpolates(factor: int) -> None:
    """Ray's cutoff is the percentile 1 - 1/factor of the scores before, linear between its two nearest ones.

    Every decision is compared but those on a score that falls right between these two: there the paper's rule, the
    best ceil(n / factor), is ours, and Ray's depends on the interpolation.
    """
    rng, num_compared, num_between = random.Random(factor), 0, 0
    for _ in range(10):
        ours = halving(SPBLEU, max_epochs=2 * factor, factor=factor)
        asha = ASHAScheduler(
            time_attr="epoch",
            metric="rung_value",
            mode="max",
            max_t=2 * factor,
            grace_period=1,
            reduction_factor=factor,
        )
        before: list[float] = []
        for index in range(40):
            trial, score = SimpleNamespace(trial_id=str(index)), rng.random()
            asha.on_trial_add(None, trial)
            theirs = asha.on_trial_result(None, trial, {"epoch": 1, "rung_value": score})
            mine = goes_on(ours, str(index), 1, score)
            percent = 100 * (1 - 1 / factor)
            low, high = (np.percentile(before or [0.0], percent, method=method) for method in ("lower", "higher"))
            before.append(score)
            if low < score < high:
                num_between += 1
            else:
                num_compared += 1
                assert mine == (theirs == TrialScheduler.CONTINUE)
    assert num_compared > 10 * num_between
