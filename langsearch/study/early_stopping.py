"""Early stopping: asynchronous successive halving, for several objectives by non-dominated rank."""

import logging
import math
from collections.abc import Sequence
from typing import Any

from optuna.exceptions import StorageInternalError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from langsearch.space.search_sections import rungs
from langsearch.study.front import Levels
from langsearch.study.results import TrialResult, parse_result
from langsearch.study.table import TrialTable

logger = logging.getLogger(__name__)


class AsyncHalving(FIFOScheduler):  # type: ignore[misc]  # Ray has no types
    """At each rung a trial goes on if none dominates it, or it is among the best 1/eta of those that came so far.

    Asynchronous halving is ASHA's (Li et al. 2020, arXiv 1810.05934, algorithm 2, in the stopping variant that Ray
    Tune has too); the order by non-dominated rank, ties to the less crowded, is MO-ASHA's (Schmucker et al. 2021,
    arXiv 2106.12639, section 3) with NSGA-II's crowding distance (Deb et al. 2002, section III-B) as the tie-break.
    With one objective that is ASHA: the best goes on anyway.

    Every decision is in the trial table with the values that it was made by. A new driver goes on with the same rungs,
    and a result that comes again, since the worker or the driver was restarted, gets the same answer.

    Only results of one epoch are compared, so they share their fidelity. A trial that comes in beyond a rung, which it
    passed while no driver listened, is not compared there. Baselines are never pruned.

    Args:
        table: The trial table.
        max_epochs: The last rung ends a trial by itself.
        grace_epochs: The first rung.
        reduction_factor: eta; rungs are grace_epochs * eta ** k.
    """

    def __init__(self, table: TrialTable, *, max_epochs: int, grace_epochs: int, reduction_factor: int) -> None:
        super().__init__()
        self._table, self._factor = table, reduction_factor
        self._levels = {rung: Levels() for rung in rungs(max_epochs, grace_epochs, reduction_factor)}
        found = [(rung.order, rung) for row in table.rows() for rung in row.rungs]
        for _, rung in sorted(found, key=lambda entry: entry[0]):
            if rung.epoch in self._levels:
                self._levels[rung.epoch].add(self._costs(rung.values))

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
        row, values = self._table.row(name), self._table.values(result)
        if row.is_pruned_at_rung:
            return False
        levels = self._levels.get(result.epoch)
        is_known = row.state.is_finished or any(rung.epoch == result.epoch for rung in row.rungs)
        if levels is None or is_known or not all(math.isfinite(value) for value in values):
            return True
        # The result first: a new driver that finds the decision to prune then has what the trial ends with.
        self._table.report(name, result)
        order = len(levels)
        goes_on = is_among_best(self._costs(values), levels, self._factor)
        self._table.record_rung(name, result.epoch, values, goes_on, order)
        return goes_on

    def _costs(self, values: Sequence[float]) -> list[float]:
        return [objective.cost(value) for objective, value in zip(self._table.objectives, values, strict=True)]


def is_among_best(costs: Sequence[float], levels: Levels, reduction_factor: int) -> bool:
    """Adds a trial to a rung; returns whether it is dominated by none, or among the best ceil(n / reduction_factor).

    A trial that no other one beats in all objectives is never pruned: it may be a member of the front. There are
    few of them, about the logarithm of n with two independent objectives; with one objective it is the best, which
    goes on anyway.

    Args:
        costs: Less is better, (objectives,).
        levels: The trials that came before.
        reduction_factor: eta.
    """
    rank = levels.add(costs)
    return rank == 0 or levels.is_among_first(costs, rank, -(-len(levels) // reduction_factor))
