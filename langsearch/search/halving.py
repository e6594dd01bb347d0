"""Early stopping for several objectives: asynchronous successive halving by non-dominated rank."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from langsearch.search.table import Objective, dominates


class ParetoHalving(FIFOScheduler):  # type: ignore[misc]  # Ray has no types
    """At each rung a trial goes on if none dominates it, or it is among the best 1/eta of those that came so far.

    Asynchronous halving is ASHA's (Li et al. 2020, arXiv 1810.05934, algorithm 2, the stopping variant); the order
    by non-dominated rank, ties to the less crowded, is MO-ASHA's (Schmucker et al. 2021, arXiv 2106.12639,
    section 3) with NSGA-II's crowding distance (Deb et al. 2002, section III-B) as the tie-break.

    Trials without the objectives in their results (baselines) are never stopped.

    Args:
        objectives: The metrics of a result that are compared.
        max_epochs: The last rung ends a trial by itself.
        grace_epochs: The first rung.
        reduction_factor: eta; rungs are grace_epochs * eta ** k.
    """

    def __init__(
        self, objectives: Sequence[Objective], *, max_epochs: int, grace_epochs: int, reduction_factor: int
    ) -> None:
        super().__init__()
        self._objectives = tuple(objectives)
        self._factor = reduction_factor
        self._rungs = rungs(max_epochs, grace_epochs, reduction_factor)
        self._seen: dict[int, dict[str, list[float]]] = {rung: {} for rung in self._rungs}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Called by Tune after every epoch; says whether the trial goes on."""
        if result.get("kind") != "searched" or "epoch" not in result:
            return str(TrialScheduler.CONTINUE)
        decision = TrialScheduler.CONTINUE
        for rung in self._rungs:
            # A resumed trial may come in beyond a rung that this driver has not seen it pass.
            if result["epoch"] >= rung and trial.trial_id not in self._seen[rung]:
                costs = [
                    -result[objective.name] if objective.maximize else result[objective.name]
                    for objective in self._objectives
                ]
                self._seen[rung][trial.trial_id] = costs
                if result["epoch"] == rung and not is_among_best(costs, list(self._seen[rung].values()), self._factor):
                    decision = TrialScheduler.STOP
        return str(decision)


def rungs(max_epochs: int, grace_epochs: int, reduction_factor: int) -> list[int]:
    """Returns the epochs after which trials are compared: grace * factor ** k, all before the last epoch."""
    found = []
    rung = grace_epochs
    while rung < max_epochs:
        found.append(rung)
        rung *= reduction_factor
    return found


def is_among_best(costs: Sequence[float], seen: Sequence[Sequence[float]], reduction_factor: int) -> bool:
    """Returns whether costs are dominated by none, or among the best ceil(n / reduction_factor) of the n seen.

    A trial that no other one beats in all objectives is never stopped: it may be a member of the front. There are
    few of them, about the logarithm of n with two independent objectives; with one objective it is the best, which
    goes on anyway.

    Args:
        costs: Less is better, (objectives,).
        seen: The costs of all trials at this rung, (n, objectives).
        reduction_factor: eta.
    """
    if not any(dominates(other, costs) for other in seen):
        return True
    order = sorted(range(len(seen)), key=_ranking(seen).__getitem__)
    best = order[: -(-len(seen) // reduction_factor)]
    return any(list(seen[index]) == list(costs) for index in best)


def _ranking(seen: Sequence[Sequence[float]]) -> list[tuple[int, float]]:
    """Returns (non-dominated rank, minus crowding distance) of each point: smaller is better."""
    left = set(range(len(seen)))
    ranking: list[tuple[int, float]] = [(0, 0.0)] * len(seen)
    rank = 0
    while left:
        front = [i for i in left if not any(dominates(seen[j], seen[i]) for j in left)]
        for index, distance in zip(front, _crowding(np.array([seen[i] for i in front], dtype=float)), strict=True):
            ranking[index] = (rank, -distance)
        left -= set(front)
        rank += 1
    return ranking


def _crowding(points: np.ndarray) -> list[float]:
    """Returns NSGA-II's crowding distance of each point of a front, (n, objectives) -> (n,)."""
    distance = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        spread = column[order[-1]] - column[order[0]]
        distance[order[[0, -1]]] = np.inf
        if spread > 0 and len(points) > 2:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / spread
    return [float(value) for value in distance]
