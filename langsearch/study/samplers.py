"""Optuna's samplers by name, each made anew for one proposal: it depends on the history and the seed alone.

What Optuna 5 makes of trials that early stopping has pruned: with one objective, TPE orders them by epoch and value
behind the complete ones (`samplers/_tpe/sampler.py`, `_split_pruned_trials`). With several it takes them for bad ones
without an order, unless fewer are complete than its good tenth has room for: a pruned trial was dominated by others of
its epoch, so bad is what it is. NSGA-II leaves pruned trials out; so would GP, but `proposing.py` shows them to it as
complete ones with what they had reached, unless the search has constraints.
"""

import hashlib
import math
import warnings
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GridSampler

from langsearch.space.problems import InputError
from langsearch.space.search_checks import MAX_GRID_POINTS

SAMPLERS = ("tpe", "gp", "nsga2", "random", "grid")

GRID_ID, GRID_SPACE = "grid_id", "search_space"
"""Optuna's names for a grid trial's attributes."""


def make_sampler(name: str, seed: int, number: int, num_trials: int) -> BaseSampler:
    """Returns an Optuna sampler for one proposal.

    Args:
        name: tpe, random, gp or nsga2.
        seed: The search's seed.
        number: The trial's number.
        num_trials: How many are planned: a quarter of them, 4 to 10, is drawn at random before a model is fitted.
    """
    mixed = mixed_seed(seed, number)
    num_startup = min(max(num_trials // 4, 4), 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            return optuna.samplers.TPESampler(seed=mixed, multivariate=True, n_startup_trials=num_startup)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=mixed, n_startup_trials=num_startup)
        if name == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=mixed, population_size=max(num_trials // 5, 4))
        if name == "random":
            return optuna.samplers.RandomSampler(seed=mixed)
    raise ValueError(f"A sampler must be one of {', '.join(SAMPLERS)}, but got {name!r}.")


def mixed_seed(seed: int, number: int | str) -> int:
    """Returns the seed of one proposal, 32 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")


class Grid(GridSampler):  # type: ignore[misc]  # Optuna is not followed
    """Optuna's grid in its seeded order, without gaps: the next point is the first that no trial has taken.

    Optuna itself takes the trial's number for a place in the grid, and draws from what is left in the end with a state
    that a restart would lose.

    Args:
        distributions: The search dimensions; all must have finitely many values.
        seed: Of the order.

    Raises:
        InputError: If a dimension is continuous, or the grid has more than `MAX_GRID_POINTS` points.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution], seed: int) -> None:
        self.space = {name: grid_values(name, distributions[name]) for name in sorted(distributions)}
        self.num_points = math.prod(len(values) for values in self.space.values())
        if self.num_points > MAX_GRID_POINTS:
            raise InputError(
                f"A grid must have at most {MAX_GRID_POINTS:,} points, but the space has {self.num_points:,}. "
                "Fix dimensions, or set `search.sampler: random`."
            )
        super().__init__(self.space, seed=seed)
        self._seed = seed
        self._taken: set[int] = set()
        self._next = 0

    @property
    def is_exhausted(self) -> bool:
        """Whether every point has its trial."""
        while self._next in self._taken:
            self._next += 1
        return self._next >= self.num_points

    def take(self, attributes: Mapping[str, Any]) -> None:
        """Leaves out the point of a trial with these system attributes, if it comes from this grid."""
        if GRID_ID in attributes and attributes.get(GRID_SPACE) == self.space:
            self._taken.add(attributes[GRID_ID])

    def before_trial(self, study: Any, trial: Any) -> None:
        """Called by Optuna when a trial starts; a trial that begins with a given point takes none of the grid's."""
        if "fixed_params" in trial.system_attrs:
            return
        assert not self.is_exhausted
        study._storage.set_trial_system_attr(trial._trial_id, GRID_SPACE, self.space)
        study._storage.set_trial_system_attr(trial._trial_id, GRID_ID, self._next)

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        """Called by Optuna for every dimension; what a given point leaves open is drawn from the grid's values."""
        if GRID_ID in trial.system_attrs:
            return super().sample_independent(study, trial, param_name, param_distribution)
        values = self.space[param_name]
        return values[mixed_seed(self._seed, f"{trial.number}/{param_name}") % len(values)]


def grid_values(name: str, distribution: BaseDistribution) -> list[Any]:
    """Returns all values of a dimension. Raises InputError if there are infinitely many."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    if isinstance(distribution, FloatDistribution):
        if distribution.single():
            return [distribution.low]
        if distribution.step is not None:
            # As decimals, as Optuna has them: 3 * 0.1 is not 0.3.
            low, step, high = (
                Decimal(str(value)) for value in (distribution.low, distribution.step, distribution.high)
            )
            return [float(low + index * step) for index in range(int((high - low) / step) + 1)]
    raise InputError(
        f"`{name}` must have finitely many values with `search.sampler: grid`, but got {distribution}. "
        "Give it a choice, or a step."
    )
