"""One evaluation: which sentences in which directions, decoded and scored."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from langsearch.adapters.learners import Learner
from langsearch.data.batches import NUM_MARKS, BatchVocabulary
from langsearch.data.directions import Direction, sample_directions
from langsearch.data.presence import even_rows
from langsearch.data.store import TokenStore
from langsearch.evaluate.chrf import ChrfScores, score_chrf
from langsearch.evaluate.decoding import Decoded, DecodingRow, decode_rows
from langsearch.evaluate.limits import length_limits
from langsearch.evaluate.spbleu import Scores, SpBleu
from langsearch.model.base import BaseTokenizer
from langsearch.model.positions import num_positions
from langsearch.space.settings import DecodingSettings


class NonFiniteScoreError(ArithmeticError):
    """A score is NaN or infinite, so that it cannot be compared with any other."""


@dataclass(frozen=True)
class EvaluationSet:
    """Sentences of a set, and the directions to translate them in."""

    store: TokenStore
    rows: Mapping[Direction, np.ndarray]
    """Sentence rows of each direction, (sentences,)."""
    languages: Sequence[str]
    vocabulary: BatchVocabulary
    classes: Mapping[str, Sequence[str]]
    train: TokenStore | None = None
    """What is trained on, whose references say how long hypotheses may get. None: not known."""
    zero_shot: frozenset[Direction] = frozenset()
    """The directions that are not trained on."""


@dataclass(frozen=True)
class Cut:
    """How many of a direction's rows were cut: what was translated there is not the whole sentence."""

    hypotheses: int = 0
    """Those that ended by their longest length, not by the model's choice."""

    sources: int = 0
    """Those that were longer than the settings or the base's positions allow."""


@dataclass(frozen=True)
class Evaluation:
    """Scores, and the translations they were computed on."""

    scores: Scores
    hypotheses: Mapping[Direction, Sequence[str]]
    worst_class_spbleu: float
    """The lowest, over the classes, of the mean spBLEU of the directions from or into a language of the class."""
    chrf: ChrfScores | None = None
    """None unless it was asked for."""
    cut: Mapping[Direction, Cut] = field(default_factory=dict)
    """Of each direction."""
    zero_shot: frozenset[Direction] = frozenset()
    """The directions that are not trained on."""

    @property
    def cut_share(self) -> float:
        """The share of hypotheses that ended by their longest length."""
        return sum(cut.hypotheses for cut in self.cut.values()) / sum(map(len, self.hypotheses.values()))

    @property
    def num_cut_sources(self) -> int:
        """How many sources were cut, over all directions."""
        return sum(cut.sources for cut in self.cut.values())

    @property
    def num_zero_shot(self) -> int:
        """How many of the directions are not trained on."""
        return sum(score.direction in self.zero_shot for score in self.scores.by_direction)

    @property
    def zero_shot_spbleu(self) -> float | None:
        """Mean spBLEU over the directions that are not trained on, None if there are none."""
        found = [score.spbleu for score in self.scores.by_direction if score.direction in self.zero_shot]
        return sum(found) / len(found) if found else None

    @property
    def direction_spbleu(self) -> tuple[tuple[str, float], ...]:
        """("en-fr", spBLEU) of each direction."""
        return tuple((str(score.direction), score.spbleu) for score in self.scores.by_direction)


def evaluation_set(
    store: TokenStore,
    directions: Sequence[Direction],
    settings: DecodingSettings,
    classes: Mapping[str, Sequence[str]],
    vocabulary: BatchVocabulary,
    train: TokenStore | None = None,
    zero_shot: Collection[Direction] = (),
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
        train: What is trained on; see `EvaluationSet`.
        zero_shot: Those of the directions that are not trained on.
    """
    chosen = directions
    if settings.directions is not None and settings.directions < len(directions):
        chosen = sample_directions(directions, settings.directions, classes)
    rows = {}
    for direction in chosen:
        present = np.flatnonzero((store.lengths(direction.src) >= 0) & (store.lengths(direction.tgt) >= 0))
        if settings.sentences is not None:
            present = even_rows(present, settings.sentences)
        if len(present):
            rows[direction] = present
    return EvaluationSet(store, rows, list(vocabulary.language_ids), vocabulary, classes, train, frozenset(zero_shot))


def evaluate(
    learner: Learner,
    data: EvaluationSet,
    settings: DecodingSettings,
    tokenizer: BaseTokenizer,
    spbleu: SpBleu,
    *,
    with_chrf: bool = False,
    num_parts: int = 1,
    after_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Translates a set in all its directions, mixed in the batches, and scores it.

    Args:
        learner: The model.
        data: Sentences and directions.
        settings: Beams, length and batch size.
        tokenizer: The base's, to turn ids into text.
        spbleu: The scorer.
        with_chrf: Score by chrF2 too.
        num_parts: Batches are split into so many parts, where memory is short; a translation does not depend on them.
        after_batch: Called after every decoded batch, and between the scores.

    Raises:
        NonFiniteScoreError: If a score is NaN or infinite.
    """
    positions = num_positions(learner.model.config)
    longest = longest_source(settings, positions)
    decoded = decode_rows(
        learner,
        [
            DecodingRow(data.store.tokens(direction.src, int(row))[:longest], direction.src, direction.tgt)
            for direction, rows in data.rows.items()
            for row in rows
        ],
        tokenizer=tokenizer,
        vocabulary=data.vocabulary,
        languages=data.languages,
        settings=settings,
        limits=length_limits(settings, positions, list(data.rows), data.train),
        num_parts=num_parts,
        after_batch=after_batch,
    )
    translated = decoded.split({direction: len(rows) for direction, rows in data.rows.items()})
    return judge(translated, data, longest, spbleu, with_chrf=with_chrf, after_batch=after_batch)


def longest_source(settings: DecodingSettings, positions: int) -> int:
    """Returns the most tokens of a source's text, without language and end, that are read; positions are the base's."""
    return min(settings.max_length or positions, positions) - NUM_MARKS


def judge(
    translated: Mapping[Direction, Decoded],
    data: EvaluationSet,
    longest: int,
    spbleu: SpBleu,
    *,
    with_chrf: bool = False,
    after_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Scores the translations of a set.

    Args:
        translated: Of each direction, in the order of its rows.
        data: What was translated.
        longest: The most tokens of a source that were read; see `longest_source`.
        spbleu: The scorer.
        with_chrf: Score by chrF2 too.
        after_batch: Called between the scores.

    Raises:
        NonFiniteScoreError: If a score is NaN or infinite.
    """
    store = data.store
    hypotheses = {direction: found.texts for direction, found in translated.items()}
    cut = {
        direction: Cut(sum(found.is_cut), int((store.lengths(direction.src)[data.rows[direction]] > longest).sum()))
        for direction, found in translated.items()
    }
    references = {
        direction: [store.text(direction.tgt, int(row)) for row in data.rows[direction]] for direction in translated
    }
    scores = spbleu.score(hypotheses, references)
    after_batch()
    chrf = score_chrf(hypotheses, references) if with_chrf else None
    evaluation = Evaluation(scores, hypotheses, scores.worst_class(data.classes), chrf, cut, data.zero_shot)
    _check_finite(evaluation)
    return evaluation


def _check_finite(evaluation: Evaluation) -> None:
    scores = evaluation.scores
    values = [scores.spbleu, scores.spbleu_low, scores.spbleu_high, evaluation.worst_class_spbleu]
    values += [evaluation.chrf.chrf] if evaluation.chrf else []
    if not all(math.isfinite(value) for value in values):
        raise NonFiniteScoreError(
            f"A score must be finite, but spBLEU, its interval, the worst class and chrF are {values}. "
            "See which direction it is in its translations."
        )
