"""chrF2 by sacreBLEU, with its signature (Popović 2015, W15-3049; beta 2 as in Popović 2016, W16-2341)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sacrebleu.metrics import CHRF

from langsearch.data.directions import Direction


@dataclass(frozen=True)
class ChrfScores:
    """chrF2 of a set of directions, 0 to 100."""

    by_direction: tuple[tuple[Direction, float], ...]
    chrf: float
    """Mean over directions."""
    signature: str


def score_chrf(
    hypotheses: Mapping[Direction, Sequence[str]], references: Mapping[Direction, Sequence[str]]
) -> ChrfScores:
    """Scores several directions by sacreBLEU's corpus chrF2 with its defaults: 6-grams of characters, no words.

    Args:
        hypotheses: Texts of each direction, in the same order of sentences.
        references: Likewise.
    """
    metric = CHRF()
    scores = tuple(
        (direction, float(metric.corpus_score(list(texts), [list(references[direction])]).score))
        for direction, texts in hypotheses.items()
    )
    mean = float(np.mean([score for _, score in scores]))
    return ChrfScores(scores, mean, str(metric.get_signature().format()))
