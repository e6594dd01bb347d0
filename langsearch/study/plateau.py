"""When a search ends early: the front has grown too little for too long."""

import numpy as np

from langsearch.space.settings import Plateau
from langsearch.study.front import hypervolume, non_dominated

_MARGIN = 0.1
"""How far beyond the worst values the reference point lies, as a share of their range: the ends of a front count too
(Ishibuchi et al. 2018, 10.1162/evco_a_00226, on references a little worse than the nadir)."""


class PlateauRule:
    """Follows the hypervolume, or a single objective's best value, over the trials in the order they end.

    The reference point is set once, as soon as `plateau.trials` trials have ended and one of them is complete: the
    worst value of each objective among the complete ones, and a tenth of their range beyond it. The same reference
    measures before and after, and a restarted driver has the same one.
    """

    def __init__(self, plateau: Plateau) -> None:
        self._plateau = plateau
        self._num_ended = 0
        self._front = np.zeros((0, 0))
        self._seen: list[list[float]] = []
        self._reference: list[float] | None = None
        self._sizes: list[float] = []

    def ended(self, costs: list[float] | None) -> None:
        """Adds a trained trial that has ended.

        Args:
            costs: What less is better of, (objectives,). None: it failed, was stopped, or breaks a constraint.
        """
        self._num_ended += 1
        if costs is not None:
            self._front = np.array([*self._front.tolist(), costs])
            self._front = self._front[non_dominated(self._front)]
            if self._reference is None:
                self._seen.append(costs)
        if self._reference is None and self._seen and self._num_ended >= self._plateau.trials:
            worst, best = np.max(self._seen, axis=0), np.min(self._seen, axis=0)
            spread = np.where(worst > best, worst - best, np.maximum(np.abs(worst), 1.0))
            self._reference = [float(value) for value in worst + _MARGIN * spread]
        if self._reference is not None:
            # The front changes with few trials; the size is that of the trial before with the others.
            self._sizes.append(self._size() if costs is not None or not self._sizes else self._sizes[-1])

    @property
    def is_reached(self) -> bool:
        """Whether the last `plateau.trials` trials gained less than `plateau.min_gain`."""
        if len(self._sizes) <= self._plateau.trials:
            return False
        before, now = self._sizes[-1 - self._plateau.trials], self._sizes[-1]
        return now == before or now - before < self._plateau.min_gain * abs(before)

    def _size(self) -> float:
        assert self._reference is not None
        if len(self._reference) == 1:
            return float(-self._front.min())
        return hypervolume(self._front, self._reference)
