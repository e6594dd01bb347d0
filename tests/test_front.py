import itertools
import time

import numpy as np
import pytest

from langsearch.study.front import Levels, Objective, crowding, dominates, hypervolume, non_dominated


def points(num: int, objectives: int, seed: int = 0, steps: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random((num, objectives)) if steps is None else rng.integers(0, steps, (num, objectives)).astype(float)


def test_domination_needs_one_strictly_better_and_none_worse() -> None:
    assert dominates([1, 2], [1, 3])
    assert not dominates([1, 2], [1, 2])
    assert not dominates([0, 3], [1, 2])


def test_peak_memory_is_read_from_its_column_and_more_of_a_maximized_metric_costs_less() -> None:
    assert Objective("peak_memory", False).field == "peak_memory_bytes"
    assert Objective("spbleu", True).field == "spbleu"
    assert (Objective("spbleu", True).cost(3.0), Objective("train_seconds", False).cost(3.0)) == (-3.0, 3.0)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
@pytest.mark.parametrize("steps", [None, 4])
def test_non_dominated_points_are_those_that_no_other_one_dominates(objectives: int, steps: int | None) -> None:
    for seed in range(20):
        costs = points(40, objectives, seed, steps)
        expected = [not any(dominates(other, costs[i]) for other in costs) for i in range(len(costs))]
        assert non_dominated(costs).tolist() == expected


def test_no_points_have_no_front() -> None:
    assert non_dominated(np.zeros((0, 2))).shape == (0,)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_five_thousand_points_take_well_under_a_tenth_of_a_second(objectives: int) -> None:
    costs = points(5000, objectives)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        non_dominated(costs)
        best = min(best, time.perf_counter() - started)
    assert best < 0.1


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
@pytest.mark.parametrize("steps", [None, 5])
def test_levels_are_the_ranks_of_peeling_one_front_after_the_other(objectives: int, steps: int | None) -> None:
    for seed in range(5):
        costs, levels = points(60, objectives, seed, steps), Levels()
        for num in range(1, len(costs) + 1):
            left = costs[:num]
            rank = levels.add(left[-1].tolist())
            expected = 0
            while len(left) and not (left[non_dominated(left)] == costs[num - 1]).all(axis=1).any():
                left, expected = left[~non_dominated(left)], expected + 1
            assert rank == expected
            assert len(levels) == num


def test_the_first_of_levels_are_by_rank_then_the_least_crowded() -> None:
    levels = Levels()
    ranks = {costs: levels.add(costs) for costs in [(0.0, 0.0), (1.0, 9.0), (9.0, 1.0), (5.0, 5.0), (6.0, 4.0)]}
    assert [levels.is_among_first(costs, rank, 3) for costs, rank in ranks.items()] == [True, True, True, False, False]
    assert levels.is_among_first((5.0, 5.0), 1, 4), "5 has the wider gap of the two in the middle, and is first"
    assert not levels.is_among_first((6.0, 4.0), 1, 1)


def test_the_ends_of_a_front_are_not_crowded() -> None:
    assert crowding(np.array([[0.0, 4.0], [1.0, 2.0], [4.0, 0.0]])).tolist() == [np.inf, 2.0, np.inf]


def brute_force(costs: np.ndarray, reference: np.ndarray) -> float:
    """The volume of the cells of the grid that the coordinates make, of which a point covers all or nothing."""
    axes = [np.unique([*column[column < end], end]) for column, end in zip(costs.T, reference, strict=True)]
    total = 0.0
    for cell in itertools.product(*(range(len(axis) - 1) for axis in axes)):
        corner = np.array([axis[index] for axis, index in zip(axes, cell, strict=True)])
        if (costs <= corner).all(axis=1).any():
            total += float(np.prod([axis[index + 1] - axis[index] for axis, index in zip(axes, cell, strict=True)]))
    return total


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_the_hypervolume_is_that_of_brute_force(objectives: int) -> None:
    for seed in range(5):
        for costs in (points(8, objectives, seed), points(8, objectives, seed, steps=4) / 4):
            reference = np.full(objectives, 0.8)
            assert hypervolume(costs, reference.tolist()) == pytest.approx(brute_force(costs, reference))


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_the_hypervolume_is_optunas(objectives: int) -> None:
    wfg = pytest.importorskip("optuna._hypervolume.wfg", reason="this Optuna has its hypervolume elsewhere")
    costs = points(60, objectives)
    assert hypervolume(costs, [1.1] * objectives) == pytest.approx(
        wfg.compute_hypervolume(costs, np.full(objectives, 1.1))
    )


def test_what_is_not_below_the_reference_has_no_volume() -> None:
    assert hypervolume(np.array([[1.0, 0.0], [2.0, -5.0]]), [1.0, 1.0]) == 0.0
    assert hypervolume(np.zeros((0, 2)), [1.0, 1.0]) == 0.0
    assert hypervolume(np.array([[0.0, 0.0], [0.0, 0.0]]), [2.0, 3.0]) == 6.0
