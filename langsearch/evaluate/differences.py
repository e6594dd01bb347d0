"""How much better one system is than another, over sentences and over the seeds of their trainings.

A score is uncertain in two ways: by the sentences that happen to be in the test set, and by the seed of the training,
which rules the order of the data, where adapters start, and dropout. The paired bootstrap over sentences knows of the
first alone: it says nothing of what another training of the same system would score (Reimers and Gurevych 2017,
D17-1035; Clark et al. 2011, P11-2031, for translation).

Of a system a that is trained n_a times, training i scores Y_i = m + A_i + L + E_i, where A_i is due to its seed, L to
the sentences as they hit all trainings of a, and E_i to both together. The mean over the trainings varies by
Var(L) + Var(E) / n_a, which a bootstrap over sentences of that mean estimates, and by Var(A) / n_a. The variance of
the Y_i on one set of sentences is s_a^2, which estimates Var(A) + Var(E). So the difference of two means has about

    v = v_sentences + s_a^2 / n_a + s_b^2 / n_b

where v_sentences is the variance of the paired bootstrap of the difference of means. Var(E) is counted twice in it, so
that it is too large rather than too small. Terms of few seeds are themselves uncertain: interval and p are those of
Student's t with the degrees of freedom of Welch (1947, Biometrika 34) and Satterthwaite (1946, Biometrics Bulletin 2),
v^2 / (sum over the seeds' terms of term^2 / (n - 1)). The sentences' term, of hundreds of resamples, counts as known.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from langsearch.evaluate.spbleu import Difference, Resamples

_TAIL = 0.975
"""Of an interval of 95 %."""


@dataclass(frozen=True)
class SeedVariance:
    """What the seeds of a system's trainings add to the variance of the mean of its scores."""

    of_mean: float
    """s^2 / n, in squared spBLEU."""

    num: int
    """How many trainings they are, at least 2."""


@dataclass(frozen=True)
class Trainings:
    """The trainings of one system, each with another seed, scored on the same sentences."""

    resamples: Sequence[Resamples]
    """Of each training, one at least."""

    is_trained: bool = True
    """False: nothing is trained, so that no seed changes anything."""

    @property
    def num(self) -> int:
        """How many there are."""
        return len(self.resamples)

    @property
    def value(self) -> float:
        """The mean of their scores, spBLEU."""
        return float(np.mean([one.value for one in self.resamples]))

    @property
    def means(self) -> np.ndarray:
        """The mean of their scores on each resample of the sentences, (resamples,)."""
        means: np.ndarray = np.mean([one.means for one in self.resamples], axis=0)
        return means

    @property
    def seed_variance(self) -> SeedVariance | None:
        """What their seeds add; None where that is not known, of one training, or nothing is trained."""
        return seed_variance([one.value for one in self.resamples]) if self.is_trained else None


def seed_variance(scores: Sequence[float]) -> SeedVariance | None:
    """Returns what seeds add to the variance of the mean of some trainings' scores; None of fewer than two."""
    num = len(scores)
    return None if num < 2 else SeedVariance(float(np.var(scores, ddof=1)) / num, num)


def compare(mine: Trainings, theirs: Trainings) -> Difference:
    """Returns how much better a system is than another, as the mean over the trainings of each.

    The interval holds sentences and seeds where both systems that are trained were trained twice or more. Else it
    is that of the paired bootstrap over sentences, and holds for these trainings alone.

    p is two-sided: how probable a difference as large is by chance where there is none. Of one training it is that of
    a normal distribution with the bootstrap's standard deviation (Efron and Tibshirani 1993, chapter 13), which
    unlike a count of resamples can be small enough to be corrected for many comparisons.
    """
    value, means = mine.value - theirs.value, mine.means - theirs.means
    of_sentences = float(np.var(means, ddof=1))
    nums = [one.num for one in (mine, theirs) if one.is_trained]
    num_seeds = min(nums, default=1)
    if num_seeds > 1:
        found = [variance for one in (mine, theirs) if (variance := one.seed_variance) is not None]
        low, high = interval(value, of_sentences, found)
        p = p_value(value, of_sentences, found)
    else:
        low, high = map(float, np.percentile(means, [100 * (1 - _TAIL), 100 * _TAIL]))
        p = p_value(value, of_sentences, ())
    return Difference(value, low, high, p=p, num_seeds=num_seeds, sentences_sd=math.sqrt(of_sentences))


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
    return float(ndtri(_TAIL) if math.isinf(degrees) else stdtrit(degrees, _TAIL))


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
