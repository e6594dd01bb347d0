"""A copy of the study in memory, where proposals are made before the trial table writes them in one step.

Optuna's `ask` writes parameter by parameter; a driver killed in between would leave half a trial. And samplers read the
whole history for every proposal, which memory gives faster than a database.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from langsearch.study.front import non_dominated
from langsearch.study.samplers import Grid, make_sampler

CONSTRAINT = "constraints:"
"""What Optuna puts before a constraint's name among a trial's system attributes."""


@dataclass(frozen=True, kw_only=True)
class History:
    """What samplers know of one trial."""

    params: Mapping[str, Any]
    state: TrialState
    values: Sequence[float] | None = None
    """The objectives of a complete trial."""

    constraints: Mapping[str, float] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """What a sampler noted on the trial."""

    study_attributes: Mapping[str, Any] = field(default_factory=dict)
    """What a sampler noted on the study while it proposed the trial."""

    intermediate: Mapping[int, float] = field(default_factory=dict)
    """With one objective: its value by epoch."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """The point of a new trial, its dimensions, and what the sampler noted when it proposed it."""

    point: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Noted on the trial."""

    study_attributes: Mapping[str, Any] = field(default_factory=dict)
    """Noted on the study."""


class Mirror:
    """The study as samplers see it: every trial in the search dimensions of today.

    A trial of an earlier version of the space counts where its point lies in the present one; the others keep their
    number and tell samplers nothing.

    Args:
        directions: maximize or minimize, by objective.
        distributions: The search dimensions.
        trials: The history, by number.
        sampler: A name of `SAMPLERS`.
        seed: The search's.
        num_trials: How many are planned.
    """

    def __init__(
        self,
        directions: Sequence[str],
        distributions: Mapping[str, BaseDistribution],
        trials: Iterable[History],
        *,
        sampler: str,
        seed: int,
        num_trials: int,
    ) -> None:
        self.distributions = dict(distributions)
        self._sampler, self._seed, self._num_trials = sampler, seed, num_trials
        self._grid = Grid(distributions, seed) if sampler == "grid" else None
        self._storage = optuna.storages.InMemoryStorage()
        self._study = optuna.create_study(storage=self._storage, directions=list(directions))
        self._id = self._storage.get_study_id_from_name(self._study.study_name)
        self._num = 0
        self._is_proposing = False
        for trial in trials:
            self.add(trial)

    @property
    def is_proposing(self) -> bool:
        """Whether it holds a proposal that was not accepted; then nothing else can be added."""
        return self._is_proposing

    def add(self, trial: History) -> None:
        """Adds a trial."""
        assert not self._is_proposing
        for key, value in trial.study_attributes.items():
            self._storage.set_study_system_attr(self._id, key, value)
        if self._grid is not None:
            self._grid.take(trial.attributes)
        self._storage.create_new_trial(self._id, self._frozen(trial))
        self._num += 1

    def propose(self, point: Mapping[str, Any] | None, *, at_random: bool = False) -> Proposal | None:
        """Returns what the sampler proposes; None if nothing is left.

        Args:
            point: What the trial has, or a part of it; the sampler draws the rest. None: all.
            at_random: Draw at random this time, whatever the sampler is; a grid keeps its order.
        """
        if self._grid is None:
            name = "random" if at_random else self._sampler
            self._study.sampler = make_sampler(name, self._seed, self._num, self._num_trials)
        elif point is None and self._grid.is_exhausted:
            return None
        else:
            self._study.sampler = self._grid
        self._is_proposing = True
        before = self._storage.get_study_system_attrs(self._id)
        if point is not None:
            self._study.enqueue_trial(dict(point))
        self._study.ask(fixed_distributions=self.distributions)
        after = self._storage.get_study_system_attrs(self._id)
        trial = self._storage.get_trial(self._num)
        return Proposal(
            point=dict(trial.params),
            distributions=dict(trial.distributions),
            attributes=dict(trial.system_attrs),
            study_attributes={key: value for key, value in after.items() if key not in before or before[key] != value},
        )

    def accept(self) -> None:
        """Keeps the proposal, now that it is in the table."""
        if self._grid is not None:
            self._grid.take(self._storage.get_trial(self._num).system_attrs)
        self._num += 1
        self._is_proposing = False

    def report(self, number: int, epoch: int, value: float) -> None:
        """Records an intermediate value of the single objective."""
        if self._is_running(number):
            self._storage.set_trial_intermediate_value(number, epoch, value)

    def end(
        self, number: int, state: TrialState, values: Sequence[float] | None, constraints: Mapping[str, float]
    ) -> None:
        """Ends a trial."""
        if self._is_running(number):
            for name, value in constraints.items():
                self._storage.set_trial_system_attr(number, f"{CONSTRAINT}{name}", value)
            self._storage.set_trial_state_values(number, state, values)

    def _is_running(self, number: int) -> bool:
        return bool(self._storage.get_trial(number).state is TrialState.RUNNING)

    def _frozen(self, trial: History) -> FrozenTrial:
        if trial.state is TrialState.WAITING or not _lies_in(trial.params, self.distributions):
            return create_trial(state=TrialState.FAIL)
        return create_trial(
            state=trial.state,
            values=None if trial.values is None else list(trial.values),
            params=dict(trial.params),
            distributions=self.distributions,
            system_attrs=dict(trial.attributes),
            intermediate_values=dict(trial.intermediate),
            constraints=dict(trial.constraints),
        )


def _lies_in(point: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> bool:
    if point.keys() != distributions.keys():
        return False
    return all(contains(distributions[name], value) for name, value in point.items())


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Returns whether a dimension has a value."""
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (ValueError, TypeError):
        return False


LIMITS: Mapping[str, int] = {"tpe": 500, "gp": 200}
"""Trials that a sampler is shown; the others see all, at no cost. A Gaussian process is cubic in them; TPE is linear,
and takes at most 25 for good ones whatever the history (Optuna's `default_gamma`)."""

BLOCK = 100
"""What is shown is chosen anew every so many trials; those of the present block are all shown."""

_BEST_SHARE = 0.2


def shown(sampler: str, costs: Sequence[Sequence[float] | None]) -> set[int] | None:
    """Returns the trials that a sampler is shown for its next proposal; None: all.

    The best fifth by non-dominated rank, the latest of the rest, and all of the present block: a function of the
    history alone, so that a driver that was restarted shows the same.

    Args:
        sampler: Its name.
        costs: The objectives of every trial by number, less is better; None for one without a result.
    """
    limit = LIMITS.get(sampler)
    start = len(costs) // BLOCK * BLOCK
    if limit is None or start <= limit:
        return None
    best = _best([(number, cost) for number, cost in enumerate(costs[:start]) if cost is not None], limit)
    latest = [number for number in reversed(range(start)) if number not in best][: limit - len(best)]
    return best | set(latest) | set(range(start, len(costs)))


def _best(found: Sequence[tuple[int, Sequence[float]]], limit: int) -> set[int]:
    """Returns the first fifth of the limit by non-dominated rank, within a rank the earlier ones."""
    num = int(_BEST_SHARE * limit)
    numbers = np.array([number for number, _ in found])
    points = np.array([cost for _, cost in found], dtype=float)
    best: list[int] = []
    while len(best) < num and len(numbers):
        keep = non_dominated(points)
        best += numbers[keep].tolist()
        numbers, points = numbers[~keep], points[~keep]
    return set(best[:num])
