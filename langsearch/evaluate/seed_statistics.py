"""Student's t for differences that are uncertain by sentences and by seeds; where it comes from is in `differences`.

Needs nothing that scores translations.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

TAIL = 0.975
"""Of an interval of 95 %."""


@dataclass(frozen=True)
class SeedVariance:
    """What the seeds of a system's trainings add to the variance of the mean of its scores."""

    of_mean: float
    """s^2 / n, in squared spBLEU."""

    num: int
    """How many trainings they are, at least 2."""


def seed_variance(scores: Sequence[float]) -> SeedVariance | None:
    """Returns what seeds add to the variance of the mean of some trainings' scores; None of fewer than two."""
    num = len(scores)
    return None if num < 2 else SeedVariance(float(np.var(scores, ddof=1)) / num, num)


def interval(value: float, of_sentences: float, of_seeds: Sequence[SeedVariance]) -> tuple[float, float]:
    """Returns the ends of the 95 % interval of a mean over seeds, or of a difference of two.

    Args:
        value: The mean, or the difference.
        of_sentences: Its variance by sentences, counted as known.
        of_seeds: What the seeds add, one entry a system that is trained.
    """
    half = t_quantile(degrees_of_freedom(of_sentences, of_seeds)) * math.sqrt(_whole(of_sentences, of_seeds))
    return value - half, value + half


def p_value(value: float, of_sentences: float, of_seeds: Sequence[SeedVariance]) -> float:
    """Returns the two-sided p of a difference against none; the arguments are those of `interval`."""
    deviation = math.sqrt(_whole(of_sentences, of_seeds))
    if deviation == 0:
        return 1.0 if value == 0 else 0.0
    degrees, ratio = degrees_of_freedom(of_sentences, of_seeds), -abs(value) / deviation
    return float(2 * (ndtr(ratio) if math.isinf(degrees) else stdtr(degrees, ratio)))


def degrees_of_freedom(of_sentences: float, of_seeds: Sequence[SeedVariance]) -> float:
    """Returns Welch and Satterthwaite's; infinitely many where the seeds add nothing."""
    uncertain = sum(one.of_mean**2 / (one.num - 1) for one in of_seeds)
    return math.inf if uncertain == 0 else _whole(of_sentences, of_seeds) ** 2 / uncertain


def t_quantile(degrees: float) -> float:
    """Returns how many standard deviations half a 95 % interval is, by Student's t; 1.96 of infinitely many degrees."""
    return float(ndtri(TAIL) if math.isinf(degrees) else stdtrit(degrees, TAIL))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Returns p values adjusted for being several, by Holm's step-down rule, under the same names.

    The k-th smallest of m is (m - k + 1) times as large, but no smaller than those before it, and at most 1. Where one
    looks at those below 0.05, the probability of any false one among them is below 0.05 (Holm 1979, Scandinavian
    Journal of Statistics 6).
    """
    adjusted: dict[str, float] = {}
    least = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}


def _whole(of_sentences: float, of_seeds: Sequence[SeedVariance]) -> float:
    return of_sentences + sum(one.of_mean for one in of_seeds)
