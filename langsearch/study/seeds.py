"""Further trainings, with other seeds, of what is tested: which there are to be, and what they came to."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from langsearch.evaluate.seed_statistics import interval, seed_variance, t_quantile
from langsearch.study.beside_names import original_of, seed_name
from langsearch.study.results import TestResult
from langsearch.study.rows import State, TrialRow


def is_trained(row: TrialRow) -> bool:
    """Returns whether a seed changes anything of a trial or baseline that has ended."""
    return row.result is not None and row.result.trainable_parameters > 0


def further_seeds(originals: Iterable[TrialRow], num_seeds: int) -> list[str]:
    """Returns the names of the further trainings of trials and baselines, all second ones first.

    So where time ends early, all have as many seeds as possible.

    Args:
        originals: What is tested. Of what has trained nothing there are none.
        num_seeds: How often each is trained in all.
    """
    names = [row.name for row in originals if is_trained(row)]
    return [seed_name(name, number) for number in range(2, num_seeds + 1) for name in names]


def complete_seeds(rows: Iterable[TrialRow], originals: Iterable[TrialRow]) -> list[TrialRow]:
    """Returns the further trainings of some trials and baselines that have ended well."""
    names = {row.name for row in originals}
    return [
        row for row in rows if row.kind == "seed" and row.state is State.COMPLETE and original_of(row.name) in names
    ]


@dataclass(frozen=True, kw_only=True)
class SeedScores:
    """A system's scores on the test set over all seeds that it was trained and tested with, two or more.

    The fields are called as the columns of results.parquet.
    """

    test_num_seeds: int
    test_seeds_spbleu: float
    """Mean over the seeds."""
    test_seeds_spbleu_sd: float
    """Standard deviation over the seeds, on the same sentences."""
    test_seeds_spbleu_low: float
    """Lower end of the 95 % interval of the mean, over sentences and seeds."""
    test_seeds_spbleu_high: float


def seed_scores(rows: Sequence[TrialRow]) -> dict[str, SeedScores]:
    """Returns what the tested trainings of each system came to, by its original's name, where they are two or more."""
    found: dict[str, list[TestResult]] = {}
    for row in rows:
        if row.test is not None and row.kind in ("searched", "baseline", "seed"):
            found.setdefault(original_of(row.name), []).append(row.test)
    return {name: _scores(tests) for name, tests in found.items() if len(tests) > 1}


def _scores(tests: Sequence[TestResult]) -> SeedScores:
    """Returns the mean, with the interval of `evaluate.differences`.

    The variance by sentences of the mean is at most the mean of the trainings' own, whose intervals tell of theirs:
    with equality where all trainings find the same sentences hard. So the interval is rather too wide.
    """
    scores = [test.test_spbleu for test in tests]
    normal = t_quantile(float("inf"))
    halves = [(test.test_spbleu_high - test.test_spbleu_low) / 2 for test in tests]
    of_sentences = float(np.mean([(half / normal) ** 2 for half in halves]))
    of_seeds = seed_variance(scores)
    assert of_seeds is not None
    mean = float(np.mean(scores))
    low, high = interval(mean, of_sentences, [of_seeds])
    return SeedScores(
        test_num_seeds=len(tests),
        test_seeds_spbleu=mean,
        test_seeds_spbleu_sd=float(np.std(scores, ddof=1)),
        test_seeds_spbleu_low=low,
        test_seeds_spbleu_high=high,
    )


def missing_seeds(rows: Iterable[TrialRow], wanted: Sequence[str]) -> list[str]:
    """Returns which further trainings are still to be trained; those that failed are tried again.

    What somebody asked to end is not: it stays left out.
    """
    ended: Mapping[str, bool] = {row.name: row.state in (State.COMPLETE, State.PRUNED) for row in rows}
    return [name for name in wanted if not ended.get(name, False)]
