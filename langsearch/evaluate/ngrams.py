"""BLEU's sufficient statistics of many sentences at once: n-gram matches by sorting integers, not by counting strings.

The numbers are those of sacreBLEU's `BLEU._extract_corpus_statistics` with one reference (a test compares them); the
score of summed statistics is that of its `BLEU.compute_bleu` with exponential smoothing (Chen and Cherry 2014,
W14-3346, section 3, method 3, as mteval-v13a has it).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_ORDER = 4

Ids = NDArray[np.int32]


def match_statistics(hypotheses: Sequence[Ids], references: Sequence[Ids]) -> NDArray[np.int64]:
    """Returns the statistics of each sentence, (sentences, 10): lengths, then matches and totals of 1- to 4-grams.

    Args:
        hypotheses: The pieces of each sentence as numbers of at least 0.
        references: Likewise, by the same numbers.
    """
    num_sentences = len(hypotheses)
    lengths = [np.fromiter(map(len, side), np.int64, num_sentences) for side in (hypotheses, references)]
    found = np.zeros((num_sentences, 2 + 2 * MAX_ORDER), np.int64)
    found[:, 0], found[:, 1] = lengths
    sentences = np.concatenate([np.repeat(np.arange(num_sentences), of_side) for of_side in lengths])
    is_reference = np.repeat([False, True], [of_side.sum() for of_side in lengths])
    pieces = np.concatenate([np.zeros(0, np.int32), *hypotheses, *references])
    # Where an n-gram begins; and how many pieces its sentence has from there on.
    places = np.arange(len(pieces))
    ends = np.cumsum(np.concatenate(lengths))
    left = np.repeat(ends, np.concatenate(lengths)) - places
    grams = np.unique(pieces, return_inverse=True)[1].astype(np.int64)
    for order in range(1, MAX_ORDER + 1):
        if order > 1:
            # An n-gram is an (n-1)-gram and the piece behind it: the pairs that there are get numbers of their own, so
            # that no number grows beyond 64 bits and no two n-grams share one.
            is_whole = left >= order
            sentences, is_reference, places, left = (
                values[is_whole] for values in (sentences, is_reference, places, left)
            )
            behind = pieces[places + order - 1].astype(np.int64)
            pairs = grams[is_whole] * (int(pieces.max(initial=0)) + 1) + behind
            grams = np.unique(pairs, return_inverse=True)[1].astype(np.int64)
        found[:, 2 + order - 1] = _clipped_matches(grams, sentences, is_reference, num_sentences)
        found[:, 2 + MAX_ORDER + order - 1] = np.maximum(lengths[0] - order + 1, 0)
    return found


def _clipped_matches(
    grams: NDArray[np.int64], sentences: NDArray[np.int64], is_reference: NDArray[np.bool_], num_sentences: int
) -> NDArray[np.int64]:
    """Returns for each sentence (num_sentences,) the sum over its n-grams of the smaller of both counts."""
    if not len(grams):
        return np.zeros(num_sentences, np.int64)
    keys = sentences * (int(grams.max()) + 1) + grams
    values, place = np.unique(keys, return_inverse=True)
    counts = [np.bincount(place[side], minlength=len(values)) for side in (~is_reference, is_reference)]
    owners = values // (int(grams.max()) + 1)
    return np.bincount(owners, np.minimum(*counts), num_sentences).astype(np.int64)


def scores_of(totals: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns BLEU (n,), 0 to 100, of statistics that are summed over sentences, (n, 10)."""
    hypothesis, reference = totals[:, 0].astype(np.float64), totals[:, 1].astype(np.float64)
    matches, counts = totals[:, 2 : 2 + MAX_ORDER], totals[:, 2 + MAX_ORDER :]
    # The k-th order without a match counts as 1 / 2^k of one.
    smoothed = 0.5 ** np.cumsum(matches == 0, axis=1)
    has_all = (counts > 0).all(axis=1) & (matches > 0).any(axis=1)
    precisions = 100 * np.where(matches > 0, matches, smoothed) / np.maximum(counts, 1)
    penalty = np.exp(np.minimum(0.0, 1 - reference / np.maximum(hypothesis, 1)))
    scores: NDArray[np.float64] = penalty * np.exp(np.log(precisions).mean(axis=1))
    return np.where(has_all, scores, 0.0)
