"""Early stopping: asynchronous successive halving, for several objectives by non-dominated rank, under constraints."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna.exceptions import StorageInternalError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from langsearch.space.search_sections import rungs
from langsearch.study.front import Levels
from langsearch.study.results import TrialResult, parse_result
from langsearch.study.rows import Rung, TrialRow
from langsearch.study.table import TrialTable

logger = logging.getLogger(__name__)


class AsyncHalving(FIFOScheduler):  # type: ignore[misc]  # Ray has no types
    """At each rung a trial goes on if none beats it, or it is among the best 1/eta of those that came so far.

    Asynchronous halving is ASHA's (Li et al. 2020, arXiv 1810.05934, algorithm 2, in the stopping variant that Ray
    Tune has too); the order by non-dominated rank, ties to the less crowded, is MO-ASHA's (Schmucker et al. 2021,
    arXiv 2106.12639, section 3) with NSGA-II's crowding distance (Deb et al. 2002, section III-B) as the tie-break.
    With one objective that is ASHA: the best goes on anyway. Under constraints, trials that keep them come before
    those that do not, and of these the ones that violate them less come first (Deb 2000,
    10.1016/S0045-7825(99)00389-8): a front has only trials that keep them.

    A constraint is held against what the trial will end with, where that is known: the parameters that pruning will
    leave, and times that grow with the epochs.

    Every decision is in the trial table with the values that it was made by. A new driver goes on with the same rungs,
    and a result that comes again, since the worker or the driver was restarted, gets the same answer.

    Only results of one epoch are compared, so they share their fidelity. A trial that comes in beyond a rung, which it
    passed while no driver listened, is not compared there. Baselines are never pruned.

    Args:
        table: The trial table.
        max_epochs: The last rung ends a trial by itself.
        grace_epochs: The first rung.
        reduction_factor: eta; rungs are grace_epochs * eta ** k.
        num_nonzero: Returns how many parameters of a running trial, by its name, will not be zero in the end. None:
            as many as are not zero at the rung.
    """

    def __init__(
        self,
        table: TrialTable,
        *,
        max_epochs: int,
        grace_epochs: int,
        reduction_factor: int,
        num_nonzero: Callable[[str], int] | None = None,
    ) -> None:
        super().__init__()
        self._table, self._factor = table, reduction_factor
        self._max_epochs, self._num_nonzero = max_epochs, num_nonzero
        self._rungs = {rung: RungOrder() for rung in rungs(max_epochs, grace_epochs, reduction_factor)}
        found = [(rung.order, rung, row) for row in table.rows() for rung in row.rungs if rung.epoch in self._rungs]
        for _, rung, row in sorted(found, key=lambda entry: entry[0]):
            self._rungs[rung.epoch].add(self._costs(rung.values), total(self._recorded(rung, row)))

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its scheduler into its own folder; nobody reads that, so nothing goes in."""
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Called by Tune after every epoch but a trial's last; says whether the trial goes on."""
        parsed = parse_result(result)
        if parsed is None or result.get("kind") != "searched":
            return str(TrialScheduler.CONTINUE)
        name = result["name"]
        try:
            goes_on = self._decide(name, parsed)
        except StorageInternalError:
            # The searcher, which is told next, cannot write either and stops the search.
            logger.exception("What early stopping decides on %s could not be written", name)
            goes_on = True
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def _decide(self, name: str, result: TrialResult) -> bool:
        row = self._table.row(name)
        if row.is_pruned_at_rung:
            return False
        expected = self._expected(name, result)
        order, values = self._rungs.get(result.epoch), self._table.values(expected)
        is_known = row.state.is_finished or any(rung.epoch == result.epoch for rung in row.rungs)
        if order is None or is_known or not all(math.isfinite(value) for value in values):
            return True
        # The result first: a new driver that finds the decision to prune then has what the trial ends with.
        self._table.report(name, result)
        number, violations = len(order), self._violations(expected)
        goes_on = order.is_among_best(self._costs(values), total(violations), self._factor)
        self._table.record_rung(name, result.epoch, values, goes_on, number, violations)
        return goes_on

    def _expected(self, name: str, result: TrialResult) -> TrialResult:
        """Returns a result with the parameters that will not be zero in the end."""
        if self._num_nonzero is None:
            return result
        return replace(result, nonzero_parameters=self._num_nonzero(name))

    def _violations(self, result: TrialResult) -> dict[str, float]:
        """Returns how far each constraint is violated, by times as they will be after the last epoch."""
        longer = self._max_epochs / result.epoch
        seconds, train_seconds = result.seconds * longer, result.train_seconds * longer
        return self._table.violations_so_far(replace(result, seconds=seconds, train_seconds=train_seconds))

    def _recorded(self, rung: Rung, row: TrialRow) -> Mapping[str, float]:
        """Returns what a trial violated at a rung; by its newest result if other constraints held then."""
        texts = {str(constraint) for constraint in self._table.constraints.all}
        if rung.violations is not None and rung.violations.keys() == texts:
            return rung.violations
        return {} if row.result is None else self._violations(row.result)

    def _costs(self, values: Sequence[float]) -> list[float]:
        return [objective.cost(value) for objective, value in zip(self._table.objectives, values, strict=True)]


def total(violations: Mapping[str, float]) -> float:
    """Returns the sum of what is violated, 0 where all constraints are kept."""
    return sum(value for value in violations.values() if value > 0)


class RungOrder:
    """The trials that came to a rung: those that keep all constraints, then the others, the less violating first."""

    def __init__(self) -> None:
        self._levels: dict[float, Levels] = {}
        """By the sum of violations, 0 for trials that keep all constraints."""

    def __len__(self) -> int:
        return sum(len(levels) for levels in self._levels.values())

    def add(self, costs: Sequence[float], violation: float) -> int:
        """Adds a trial; returns its non-dominated rank among those that violate as much.

        Args:
            costs: Less is better, (objectives,).
            violation: The sum of what it violates, 0 for nothing.
        """
        return self._levels.setdefault(violation, Levels()).add(costs)

    def is_among_best(self, costs: Sequence[float], violation: float, reduction_factor: int) -> bool:
        """Adds a trial; returns whether none beats it, or it is among the best ceil(n / reduction_factor).

        A trial that keeps the constraints and that no other such one beats in all objectives is never pruned: it may
        be a member of the front. There are few of them, about the logarithm of n with two independent objectives; with
        one objective it is the best, which goes on anyway.

        Args:
            costs: Less is better, (objectives,).
            violation: The sum of what it violates, 0 for nothing.
            reduction_factor: eta.
        """
        rank = self.add(costs, violation)
        num_before = sum(len(levels) for value, levels in self._levels.items() if value < violation)
        num_left = -(-len(self) // reduction_factor) - num_before
        is_unbeaten = rank == 0 and num_before == 0
        return is_unbeaten or self._levels[violation].is_among_first(costs, rank, num_left)
