from typing import Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from langsearch.space.problems import InputError
from langsearch.space.search_checks import MAX_GRID_POINTS
from langsearch.study.mirror import History, Mirror
from langsearch.study.samplers import Grid, grid_values, make_sampler

FINITE: dict[str, BaseDistribution] = {
    "rank": CategoricalDistribution((0, 2, 4)),
    "layers": IntDistribution(2, 6, step=2),
    "dropout": FloatDistribution(0.0, 0.3, step=0.1),
    "lr": FloatDistribution(0.01, 0.01),
}


def mirror(sampler: str = "tpe", trials: list[History] | None = None, **values: Any) -> Mirror:
    given: dict[str, Any] = {"seed": 0, "num_trials": 8} | values
    distributions = given.pop("distributions", FINITE)
    directions = given.pop("directions", ["maximize", "minimize"])
    return Mirror(directions, distributions, trials or [], sampler=sampler, **given)


def complete(rank: int = 2, **values: Any) -> History:
    given: dict[str, Any] = {
        "params": {"rank": rank, "layers": 2, "dropout": 0.1, "lr": 0.01},
        "state": TrialState.COMPLETE,
        "values": [1.0, 2.0],
    }
    return History(**(given | values))


def point(found: Any) -> dict[str, Any]:
    assert found is not None
    return dict(found.point)


def test_an_unknown_sampler_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="one of tpe, gp, nsga2, random, grid, but got 'cmaes'"):
        make_sampler("cmaes", 0, 0, 8)


def test_a_grids_values_are_all_of_a_dimension() -> None:
    values = {name: grid_values(name, distribution) for name, distribution in FINITE.items()}
    assert values == {
        "rank": [0, 2, 4],
        "layers": [2, 4, 6],
        "dropout": [0.0, 0.1, 0.2, 0.3],
        "lr": [0.01],
    }


def test_a_continuous_dimension_is_no_grid() -> None:
    with pytest.raises(InputError, match=r"`trainer.lr` must have finitely many values with `search.sampler: grid`"):
        grid_values("trainer.lr", FloatDistribution(1e-4, 1e-2, log=True))


def test_a_grid_that_is_too_large_is_refused_before_it_is_laid_out() -> None:
    large: dict[str, BaseDistribution] = {f"x{index}": IntDistribution(0, 999) for index in range(3)}
    with pytest.raises(InputError, match=f"at most {MAX_GRID_POINTS:,} points, but the space has 1,000,000,000"):
        Grid(large, 0)


def test_a_grid_has_every_point_once_in_the_seeds_order_and_then_ends() -> None:
    def order(seed: int) -> list[tuple[Any, ...]]:
        found, grid = [], mirror("grid", seed=seed)
        while (proposed := grid.propose(None)) is not None:
            found.append(tuple(point(proposed).values()))
            grid.accept()
        return found

    assert len(order(0)) == len(set(order(0))) == 36
    assert order(0) == order(0) != order(1)
    assert set(order(0)) == set(order(1))


def test_a_grid_goes_on_where_trials_of_other_origin_lie_between() -> None:
    grid = mirror("grid")
    first = [point(grid.propose(None))]
    grid.accept()
    assert point(grid.propose({"rank": 4}))["rank"] == 4, "what a seed leaves open is drawn"
    grid.accept()
    grid.add(complete(state=TrialState.FAIL, values=None))
    first.append(point(grid.propose(None)))
    undisturbed = mirror("grid")
    expected = []
    for _ in range(2):
        expected.append(point(undisturbed.propose(None)))
        undisturbed.accept()
    assert first == expected


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "random"])
def test_trials_of_another_space_count_where_they_lie_in_this_one(sampler: str) -> None:
    inside = [complete(rank=rank % 3 * 2, values=[float(rank), 1.0]) for rank in range(6)]
    outside = [complete(rank=7), complete(params={"rank": 2})]
    gaps = [History(params={}, state=TrialState.FAIL)] * 2
    assert point(mirror(sampler, inside + outside).propose(None)) == point(mirror(sampler, inside + gaps).propose(None))


def test_tpe_takes_pruned_trials_of_several_objectives_for_bad_ones() -> None:
    good = [complete(rank=(index + 1) % 2 * 2, values=[1.0 + index, 1.0]) for index in range(10)]
    params = {"rank": 0, "layers": 2, "dropout": 0.1, "lr": 0.01}
    pruned = [complete(params=params, state=TrialState.PRUNED, values=None) for _ in range(8)]

    def num_of_the_best_rank(trials: list[History]) -> int:
        return sum(point(mirror("tpe", trials, seed=seed).propose(None))["rank"] == 0 for seed in range(40))

    assert num_of_the_best_rank(good + pruned) < num_of_the_best_rank(good)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "random", "grid"])
@pytest.mark.parametrize("directions", [["maximize"], ["maximize", "minimize", "maximize", "minimize"]])
def test_every_sampler_takes_one_to_four_objectives_and_constraints(sampler: str, directions: list[str]) -> None:
    trials = [
        complete(
            rank=2 * (index % 3), values=[float(index)] * len(directions), constraints={"a": index - 3.0, "b": 0.0}
        )
        for index in range(8)
    ]
    trials.append(complete(state=TrialState.PRUNED, values=None, constraints={"a": 9.0}))
    trials.append(complete(state=TrialState.RUNNING, values=None))
    found = point(mirror(sampler, trials, directions=directions).propose(None))
    assert found.keys() == FINITE.keys()
