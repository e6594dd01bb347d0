"""Statistics by sorting integers are sacreBLEU's, sentence by sentence, and so are the scores of their sums."""

import random

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from langsearch.evaluate.ngrams import Ids, match_statistics, scores_of

BLEU_NONE = BLEU(tokenize="none", force=True)


def numbers(sentences: list[str]) -> list[Ids]:
    return [np.array([int(word) for word in sentence.split()], np.int32) for sentence in sentences]


def random_sentences(seed: int, num_words: int) -> tuple[list[str], list[str]]:
    """Hypotheses and references over few words, so that n-grams repeat; some empty, short, equal or with no match."""
    rng = random.Random(seed)

    def sentence() -> str:
        return " ".join(str(rng.randrange(num_words)) for _ in range(rng.choice([0, 1, 2, 3, 4, 5, 12, 40])))

    references = [sentence() for _ in range(60)]
    hypotheses = [rng.choice([reference, sentence(), reference + " " + sentence()]) for reference in references]
    return hypotheses, references


@pytest.mark.parametrize("num_words", [1, 2, 7, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_statistics_are_sacrebleus(seed: int, num_words: int) -> None:
    hypotheses, references = random_sentences(seed, num_words)
    expected = BLEU_NONE._extract_corpus_statistics(hypotheses, [references])
    assert match_statistics(numbers(hypotheses), numbers(references)).tolist() == expected


def test_no_sentence_and_empty_sentences_have_statistics() -> None:
    assert match_statistics([], []).shape == (0, 10)
    assert not match_statistics(numbers([""]), numbers([""])).any()


def test_pieces_of_the_largest_numbers_are_told_apart() -> None:
    most = 2**31 - 1
    one, other = np.array([most, 0, most, 0, most], np.int32), np.array([most, 0, 0, most, most], np.int32)
    shown = [" ".join(map(str, ids)) for ids in (one, other)]
    expected = BLEU_NONE._extract_corpus_statistics([shown[0]], [[shown[1]]])
    assert match_statistics([one], [other]).tolist() == expected


@pytest.mark.parametrize("num_words", [2, 7, 1000])
def test_scores_of_sums_are_sacrebleus(num_words: int) -> None:
    rng = np.random.default_rng(num_words)
    hypotheses, references = random_sentences(5, num_words)
    rows = match_statistics(numbers(hypotheses), numbers(references))
    totals = np.array([rows[rng.integers(0, len(rows), size)].sum(axis=0) for size in (0, 1, 1, 2, 3, 10, 60) * 20])
    expected = [BLEU_NONE._compute_score_from_stats(total.tolist()).score for total in totals]
    assert np.allclose(scores_of(totals), expected, rtol=1e-12, atol=0)
    assert min(expected) == 0 < max(expected)
