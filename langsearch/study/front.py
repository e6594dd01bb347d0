"""Non-dominated sets of trials: their members, their order, and how much they dominate. Costs: less is better."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FIELDS = {"peak_memory": "peak_memory_bytes"}
"""Where a metric's column of a trial's result has another name."""


@dataclass(frozen=True)
class Objective:
    """What a search optimises: a metric's name, and whether more of it is better."""

    name: str
    maximize: bool

    @property
    def field(self) -> str:
        """The metric's column of a trial's result."""
        return FIELDS.get(self.name, self.name)

    @property
    def direction(self) -> str:
        """The metric's direction, as Optuna calls it."""
        return "maximize" if self.maximize else "minimize"

    def cost(self, value: float) -> float:
        """Returns a value such that less is better."""
        return -value if self.maximize else value


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Returns whether costs `a` are nowhere worse than `b` and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def non_dominated(costs: np.ndarray) -> np.ndarray:
    """Returns which points no other one dominates, (points, objectives) -> (points,) bool; equal points all stay."""
    if not len(costs):
        return np.zeros(0, dtype=bool)
    points, inverse = np.unique(costs, axis=0, return_inverse=True)
    if points.shape[1] <= 2:
        # In lexicographic order only an earlier point dominates, and does if its last cost is no higher.
        last = points[:, -1] if points.shape[1] == 2 else np.arange(len(points))
        keep = np.ones(len(points), dtype=bool)
        keep[1:] = last[1:] < np.minimum.accumulate(last)[:-1]
        return np.asarray(keep[inverse.ravel()])
    # A point with a small sum of ranks dominates many, so that few are left after a few rounds.
    order = np.argsort(np.argsort(points, axis=0).sum(axis=1), kind="stable")
    left, position = points[order], 0
    while position < len(left):
        stays = (left < left[position]).any(axis=1)
        stays[position] = True
        left, order = left[stays], order[stays]
        position = int(stays[:position].sum()) + 1
    keep = np.zeros(len(points), dtype=bool)
    keep[order] = True
    return np.asarray(keep[inverse.ravel()])


def crowding(points: np.ndarray) -> np.ndarray:
    """Returns NSGA-II's crowding distance of each point of a front, (points, objectives) -> (points,).

    Deb et al. 2002, section III-B. The ends of every objective have an infinite one.
    """
    distance = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        spread = column[order[-1]] - column[order[0]]
        distance[order[[0, -1]]] = np.inf
        if spread > 0 and len(points) > 2:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / spread
    return distance


class Levels:
    """Points by non-dominated rank, kept up to date one point at a time.

    A new point enters the first level where none dominates it; what it dominates there goes one level down, and pushes
    on what it dominates there (efficient non-domination level update, Li et al. 2017, 10.1109/TCYB.2016.2621008). A
    level that goes down whole becomes a level of its own.
    """

    def __init__(self) -> None:
        self._levels: list[np.ndarray] = []
        self._num = 0

    def __len__(self) -> int:
        return self._num

    def add(self, costs: Sequence[float]) -> int:
        """Adds a point, (objectives,); returns its rank from 0."""
        point = np.asarray(costs, dtype=float)[None]
        self._num += 1
        # A point that a level dominates is dominated by every level above it too.
        low, high = 0, len(self._levels)
        while low < high:
            middle = (low + high) // 2
            if _dominated(point, self._levels[middle])[0]:
                low = middle + 1
            else:
                high = middle
        self._push(low, point)
        return low

    def is_among_first(self, costs: Sequence[float], rank: int, num: int) -> bool:
        """Returns whether a point that was added is among the first `num` by rank, then by crowding distance.

        Args:
            costs: The point; of equal ones it is enough that one is among them.
            rank: What `add` returned, if nothing was added since.
            num: How many.
        """
        left = num - sum(len(level) for level in self._levels[:rank])
        level = self._levels[rank]
        if left <= 0 or left >= len(level):
            return left > 0
        first = level[np.argsort(-crowding(level), kind="stable")[:left]]
        return bool((first == np.asarray(costs, dtype=float)).all(axis=1).any())

    def _push(self, index: int, points: np.ndarray) -> None:
        while True:
            if index == len(self._levels):
                self._levels.append(points)
                return
            level = self._levels[index]
            goes_down = _dominated(level, points)
            if goes_down.all():
                self._levels.insert(index, points)
                return
            self._levels[index] = np.concatenate([level[~goes_down], points])
            if not goes_down.any():
                return
            points, index = level[goes_down], index + 1


def _dominated(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns which points any of the others dominates, (points, objectives) and (others, objectives) -> (points,)."""
    if len(points) > len(others):
        found = np.zeros(len(points), dtype=bool)
        for other in others:
            found |= (other <= points).all(axis=1) & (other < points).any(axis=1)
        return found
    return np.array(
        [bool(((others <= point).all(axis=1) & (others < point).any(axis=1)).any()) for point in points], dtype=bool
    )


def hypervolume(costs: np.ndarray, reference: Sequence[float]) -> float:
    """Returns the volume that points dominate below a reference, exactly.

    The sum of the volumes that each point dominates alone among those behind it (While, Bradstreet and Barone 2012,
    10.1109/TEVC.2010.2077298, section III), with the points sorted by their last cost so that each step has one
    objective less (their section IV-C); two objectives are swept.

    Args:
        costs: (points, objectives), one to four objectives; points that are not below the reference in all of them
            count nothing.
        reference: (objectives,).
    """
    corner = np.asarray(reference, dtype=float)
    points = np.asarray(costs, dtype=float).reshape(-1, len(corner))
    points = points[(points < corner).all(axis=1)]
    return _volume(points, corner)


def _volume(points: np.ndarray, corner: np.ndarray) -> float:
    if not len(points):
        return 0.0
    if len(corner) == 1:
        return float(corner[0] - points.min())
    points = np.unique(points[non_dominated(points)], axis=0)
    if len(corner) == 2:
        above = np.concatenate([corner[1:], points[:-1, 1]])
        return float(((corner[0] - points[:, 0]) * (above - points[:, 1])).sum())
    points = points[np.argsort(-points[:, -1], kind="stable")]
    total = 0.0
    for index, point in enumerate(points[:, :-1]):
        covered = _volume(np.maximum(points[index + 1 :, :-1], point), corner[:-1])
        total += float(corner[-1] - points[index, -1]) * (float(np.prod(corner[:-1] - point)) - covered)
    return total
