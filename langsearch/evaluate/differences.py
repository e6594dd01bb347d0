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
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from langsearch.evaluate.seed_statistics import SeedVariance, interval, p_value, seed_variance
from langsearch.evaluate.spbleu import Difference, Resamples


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
        paired = Resamples(mine.value, mine.means).minus(Resamples(theirs.value, theirs.means))
        low, high = paired.low, paired.high
        p = p_value(value, of_sentences, ())
    return Difference(value, low, high, p=p, num_seeds=num_seeds, sentences_sd=math.sqrt(of_sentences))
