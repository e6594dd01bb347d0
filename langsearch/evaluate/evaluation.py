"""One evaluation: which sentences in which directions, decoded and scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from langsearch.data.batches import BatchVocabulary
from langsearch.data.directions import Direction, sample_directions
from langsearch.data.store import TokenStore
from langsearch.evaluate.decoding import DecodingRow, decode_rows
from langsearch.evaluate.spbleu import Scores, SpBleu
from langsearch.model.base import BaseTokenizer
from langsearch.model.learners import Learner
from langsearch.space.settings import DecodingSettings


@dataclass(frozen=True)
class EvaluationSet:
    """Sentences of a set, and the directions to translate them in."""

    store: TokenStore
    rows: Mapping[Direction, np.ndarray]
    """Sentence rows of each direction, (sentences,)."""
    languages: Sequence[str]
    vocabulary: BatchVocabulary


@dataclass(frozen=True)
class Evaluation:
    """Scores, and the translations they were computed on."""

    scores: Scores
    hypotheses: Mapping[Direction, Sequence[str]]


def evaluation_set(
    store: TokenStore,
    directions: Sequence[Direction],
    settings: DecodingSettings,
    classes: Mapping[str, Sequence[str]],
    vocabulary: BatchVocabulary,
) -> EvaluationSet:
    """Returns the part of a set that the settings ask for.

    Directions are spread evenly over the class pairs, sentences evenly over the set: fewer of both is a lower
    fidelity of the same score, the same one in every trial.

    Args:
        store: The set's sentences.
        directions: All directions of the space.
        settings: How many directions and sentences.
        classes: Languages of each class.
        vocabulary: The base's special ids.
    """
    chosen = directions
    if settings.directions is not None and settings.directions < len(directions):
        chosen = sample_directions(directions, settings.directions, classes)
    rows = {}
    for direction in chosen:
        present = np.flatnonzero((store.lengths(direction.src) >= 0) & (store.lengths(direction.tgt) >= 0))
        if settings.sentences is not None and settings.sentences < len(present):
            present = present[np.linspace(0, len(present) - 1, settings.sentences).round().astype(int)]
        if len(present):
            rows[direction] = present
    return EvaluationSet(store, rows, list(vocabulary.language_ids), vocabulary)


def evaluate(
    learner: Learner, data: EvaluationSet, settings: DecodingSettings, tokenizer: BaseTokenizer, spbleu: SpBleu
) -> Evaluation:
    """Translates a set in all its directions, mixed in the batches, and scores it.

    Args:
        learner: The model.
        data: Sentences and directions.
        settings: Beams, length and batch size.
        tokenizer: The base's, to turn ids into text.
        spbleu: The scorer.
    """
    store = data.store
    keys = [(direction, int(row)) for direction, rows in data.rows.items() for row in rows]
    texts = decode_rows(
        learner,
        [DecodingRow(store.tokens(direction.src, row), direction.src, direction.tgt) for direction, row in keys],
        tokenizer=tokenizer,
        vocabulary=data.vocabulary,
        languages=data.languages,
        settings=settings,
    )
    hypotheses: dict[Direction, list[str]] = {direction: [] for direction in data.rows}
    for (direction, _), text in zip(keys, texts, strict=True):
        hypotheses[direction].append(text)
    references = {
        direction: [store.text(direction.tgt, int(row)) for row in rows] for direction, rows in data.rows.items()
    }
    return Evaluation(spbleu.score(hypotheses, references), hypotheses)
