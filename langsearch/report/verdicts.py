"""What may be said of a difference on the test set: one rule, and its words.

A difference is sure where its p, by Holm's rule over all members of the front that are compared with the same baseline,
is below 0.05; of experiments that recorded none, where the interval holds no zero. Only one over two seeds or more may
be called that of the systems, in which the one "beats" the other: else it is of these trainings.
"""

import math

from langsearch.evaluate.seed_statistics import SeedVariance, degrees_of_freedom, t_quantile
from langsearch.report import wording
from langsearch.report.experiment_values import PairedDifference, Score

ALPHA = 0.05

USUAL_SEEDS = 3
"""What is recommended where nothing is known of the spread over seeds."""

MAX_SEEDS = 10
"""More are not recommended: a difference that needs them is of no use."""


def is_sure(paired: PairedDifference) -> bool:
    """Returns whether a difference is more than chance, over what it holds."""
    p = paired.final_p
    return not paired.low <= 0 <= paired.high if p is None else p < ALPHA


def is_over_seeds(paired: PairedDifference) -> bool:
    """Returns whether the interval holds other seeds too, and not these trainings' sentences alone."""
    return paired.num_seeds > 1


def beats(paired: PairedDifference | None) -> bool:
    """Returns whether a system may be said to beat another."""
    return paired is not None and paired.value > 0 and is_sure(paired) and is_over_seeds(paired)


def evidence(paired: PairedDifference) -> str:
    """Returns "95 % +0.20 to +0.85 over sentences and 3 seeds, Holm's p 0.012", what a difference rests on."""
    name = "p" if paired.holm_p is None else "Holm's p"
    p = "" if paired.final_p is None else f", {name} {p_words(paired.final_p)}"
    interval = f"95 % {wording.paired_interval(paired.low, paired.high)}"
    if is_over_seeds(paired):
        return f"{interval} over sentences and {paired.num_seeds} seeds{p}"
    return f"{interval} over sentences, paired bootstrap{p}"


def short_evidence(paired: PairedDifference) -> str:
    """Returns "95 % +0.20 to +0.85 (3 seeds, p 0.012)", of p Holm's where there is one; for a line of 80 characters."""
    p = paired.final_p
    text = f"95 % {wording.paired_interval(paired.low, paired.high)}"
    if p is None:
        return f"{text} (paired bootstrap)"
    return f"{text} ({wording.counted(paired.num_seeds, 'seed')}, p {p_words(p)})"


def p_words(p: float) -> str:
    """Returns a p value with two digits: "0.012", "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def seeds_to_tell(paired: PairedDifference, mine: Score | None, theirs: Score | None) -> int | None:
    """Returns how many seeds would tell a difference of this size from none, by the spread over seeds so far.

    None where seeds do not help, since the sentences alone are too few, or it would take more than `MAX_SEEDS`.
    Where no spread is known, `USUAL_SEEDS`.

    Args:
        paired: The difference.
        mine: The system's score on test.
        theirs: The baseline's.
    """
    spreads = [score.seeds_sd**2 for score in (mine, theirs) if score is not None and score.seeds_sd is not None]
    if not spreads or paired.sentences_sd is None:
        return USUAL_SEEDS
    for num in range(2, MAX_SEEDS + 1):
        of_seeds = [SeedVariance(spread / num, num) for spread in spreads]
        of_sentences = paired.sentences_sd**2
        deviation = math.sqrt(of_sentences + sum(one.of_mean for one in of_seeds))
        if t_quantile(degrees_of_freedom(of_sentences, of_seeds)) * deviation < abs(paired.value):
            return num
    return None


def caution(paired: PairedDifference, mine: Score | None, theirs: Score | None) -> str:
    """Returns what is missing to believe a difference, as the end of a sentence; "" where nothing is.

    Of more seeds it says how many, and of sentences where these are what is missing.
    """
    if is_over_seeds(paired) and is_sure(paired):
        return ""
    num = seeds_to_tell(paired, mine, theirs)
    if not is_over_seeds(paired) and not is_sure(paired):
        return f"score more test sentences, or train with more seeds: `evaluation.final.seeds: {num or USUAL_SEEDS}`"
    if not is_over_seeds(paired):
        return f"with other seeds it may be another: `evaluation.final.seeds: {num or USUAL_SEEDS}` tells"
    if num is None or num <= paired.num_seeds:
        return "more test sentences would tell more"
    return f"`evaluation.final.seeds: {num}` would tell a difference of this size"
