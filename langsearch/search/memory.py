"""What of a long history a sampler is shown, so that the thousandth proposal costs no more than the hundredth."""

from collections.abc import Mapping, Sequence

import numpy as np

from langsearch.search.front import non_dominated

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
