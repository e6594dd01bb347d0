"""Differences over sentences and seeds: against tables, against scipy, against a simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from langsearch.evaluate.differences import Trainings, compare
from langsearch.evaluate.seed_statistics import (
    SeedVariance,
    degrees_of_freedom,
    holm,
    interval,
    p_value,
    seed_variance,
    t_quantile,
)
from langsearch.evaluate.spbleu import Resamples

NUM_SENTENCES, NUM_RESAMPLES = 100, 200


def _resamples(scores: np.ndarray, drawn: np.ndarray) -> Resamples:
    """A system's, whose score is the mean over its sentences, (sentences,)."""
    return Resamples(float(scores.mean()), drawn @ scores / len(scores))


def _drawn(rng: np.random.Generator) -> np.ndarray:
    return rng.multinomial(NUM_SENTENCES, np.full(NUM_SENTENCES, 1 / NUM_SENTENCES), size=NUM_RESAMPLES)


def _trainings(rng: np.random.Generator, hard: np.ndarray, drawn: np.ndarray, mean: float, num: int) -> Trainings:
    """A system of a known mean: the seed shifts all sentences by 1, sentences and seed together each by 3."""
    own = rng.normal(0, 6, NUM_SENTENCES)
    scores = [mean + hard + own + rng.normal(0, 1) + rng.normal(0, 3, NUM_SENTENCES) for _ in range(num)]
    return Trainings([_resamples(one, drawn) for one in scores])


@pytest.mark.parametrize("num", [2, 3, 5])
def test_an_interval_over_sentences_and_seeds_holds_the_difference_as_often_as_it_says(num: int) -> None:
    rng = np.random.default_rng(7)
    num_held = num_held_by_sentences = 0
    num_tries = 600
    for _ in range(num_tries):
        hard, drawn = rng.normal(20, 20, NUM_SENTENCES), _drawn(rng)
        mine, theirs = (_trainings(rng, hard, drawn, mean, num) for mean in (1.5, 1.0))
        found = compare(mine, theirs)
        alone = compare(Trainings(mine.resamples[:1]), Trainings(theirs.resamples[:1]))
        num_held += found.low <= 0.5 <= found.high
        num_held_by_sentences += alone.low <= 0.5 <= alone.high
    # Three standard deviations of a share of 600 are 0.027; Var(E) that counts twice makes it larger by a little.
    assert 0.923 <= num_held / num_tries <= 0.99
    assert num_held_by_sentences / num_tries < 0.85, "the bootstrap over sentences alone promises too much"


def test_against_a_base_that_is_not_trained_only_the_seeds_of_the_one_count() -> None:
    rng = np.random.default_rng(8)
    num_held, num_tries = 0, 600
    for _ in range(num_tries):
        hard, drawn = rng.normal(20, 20, NUM_SENTENCES), _drawn(rng)
        base = Trainings([_resamples(hard + rng.normal(0, 6, NUM_SENTENCES), drawn)], is_trained=False)
        found = compare(_trainings(rng, hard, drawn, 0.5, 3), base)
        assert found.num_seeds == 3
        num_held += found.low <= 0.5 <= found.high
    assert 0.923 <= num_held / num_tries <= 0.99


def test_where_there_is_no_difference_p_is_below_a_twentieth_about_as_seldom() -> None:
    rng = np.random.default_rng(9)
    found = []
    for _ in range(600):
        hard, drawn = rng.normal(20, 20, NUM_SENTENCES), _drawn(rng)
        mine, theirs = (_trainings(rng, hard, drawn, 1.0, 3) for _ in range(2))
        found.append(compare(mine, theirs).p)
    share = np.mean([p < 0.05 for p in found if p is not None])
    assert len(found) == 600 and 0.01 <= share <= 0.077


def test_without_sentences_it_is_welch_s_test_as_scipy_has_it() -> None:
    mine, theirs = [21.0, 21.5, 22.4], [20.1, 20.2, 20.9, 20.4]
    parts = [one for scores in (mine, theirs) if (one := seed_variance(scores)) is not None]
    value = float(np.mean(mine) - np.mean(theirs))
    expected = stats.ttest_ind(mine, theirs, equal_var=False)
    assert p_value(value, 0.0, parts) == pytest.approx(float(expected.pvalue))
    assert degrees_of_freedom(0.0, parts) == pytest.approx(float(expected.df))
    low, high = expected.confidence_interval(0.95)
    assert interval(value, 0.0, parts) == pytest.approx((float(low), float(high)))


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 12.706), (2, 4.303), (4, 2.776), (30, 2.042), (math.inf, 1.96)])
def test_quantiles_are_those_of_the_tables(degrees: float, quantile: float) -> None:
    assert t_quantile(degrees) == pytest.approx(quantile, abs=5e-4)


def test_the_variance_is_the_sum_of_its_parts_and_known_sentences_add_degrees_of_freedom() -> None:
    parts = [SeedVariance(0.04, 3), SeedVariance(0.01, 3)]
    degrees = degrees_of_freedom(0.05, parts)
    assert degrees == pytest.approx(0.1**2 / (0.04**2 / 2 + 0.01**2 / 2))
    assert degrees > degrees_of_freedom(0.0, parts)
    low, high = interval(1.0, 0.05, parts)
    assert (high - low) / 2 == pytest.approx(t_quantile(degrees) * math.sqrt(0.1))


def test_one_training_of_each_is_compared_by_the_paired_bootstrap_and_says_that_no_seed_is_in_it() -> None:
    rng = np.random.default_rng(3)
    hard, drawn = rng.normal(20, 20, NUM_SENTENCES), _drawn(rng)
    mine, theirs = (_trainings(rng, hard, drawn, mean, 1) for mean in (2.0, 1.0))
    found, paired = compare(mine, theirs), mine.resamples[0].minus(theirs.resamples[0])
    assert (found.value, found.low, found.high) == pytest.approx((paired.value, paired.low, paired.high))
    assert found.num_seeds == 1
    assert found.sentences_sd == pytest.approx(np.std(mine.means - theirs.means, ddof=1))


def test_where_one_of_two_was_trained_once_no_seeds_are_claimed() -> None:
    rng = np.random.default_rng(4)
    hard, drawn = rng.normal(20, 20, NUM_SENTENCES), _drawn(rng)
    found = compare(_trainings(rng, hard, drawn, 2.0, 3), _trainings(rng, hard, drawn, 1.0, 1))
    assert found.num_seeds == 1


def test_a_system_is_not_told_from_itself() -> None:
    one = Trainings([Resamples(20.0, np.array([19.0, 20.0, 21.0]))])
    found = compare(one, one)
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_holm_multiplies_the_smallest_by_all_and_keeps_the_order() -> None:
    # By hand: 0.01 x 4, 0.015 x 3, 0.02 x 2 = 0.04 but no less than 0.045, 0.9 x 1.
    found = holm({"b": 0.015, "a": 0.01, "d": 0.9, "c": 0.02})
    assert found == pytest.approx({"b": 0.045, "a": 0.04, "d": 0.9, "c": 0.045})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({"a": 0.03}) == {"a": 0.03} and holm({}) == {}
