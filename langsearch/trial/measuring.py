"""How long an update and a translation take here: a few of each are made, as a trial makes them, and nothing is kept.

Time is bounded: what is tried begins small, and grows as long as the next try is expected to fit into what is left. The
largest try counts, since small ones use a machine badly; what is larger still takes as much longer as it has more rows.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from langsearch.adapters.learners import Learner
from langsearch.data.directions import Direction
from langsearch.evaluate.decoding import DecodingRow, decode_rows
from langsearch.evaluate.evaluation import EvaluationSet
from langsearch.evaluate.limits import length_limits
from langsearch.evaluate.spbleu import Scores, SpBleu
from langsearch.model.base import BaseTokenizer
from langsearch.model.positions import num_positions
from langsearch.space.settings import DecodingSettings, TrainerSettings
from langsearch.train.loop import TrainingData, train

_FIRST_TOKENS = 500
"""Of the first microbatch that is tried."""

_GROWTH = 4

ENOUGH_SENTENCES = 8
"""So many of each direction say where a base stands, if roughly."""

_FIRST_ROWS = 4


@dataclass(frozen=True, kw_only=True)
class UpdateTime:
    """How long updates take."""

    microbatch_s: float
    """Of a full microbatch, its share of the update included."""

    num_microbatches: int
    """How many were made."""

    is_full: bool
    """Whether they were as large as those of a trial; else a full one was inferred from smaller ones."""


@dataclass(frozen=True, kw_only=True)
class TranslationTime:
    """How long translations take, and how good they are."""

    sentence_s: float
    score_s: float
    """Of a direction, to score what was translated."""

    num_sentences: int
    scores: Scores | None
    """Of what was translated; None where that was too little."""

    by_language: Mapping[str, tuple[float, int]]
    """Of each target language the spBLEU, and of how many sentences."""


def time_updates(learner: Learner, data: TrainingData, settings: TrainerSettings, seconds: float) -> UpdateTime:
    """Makes some updates of an untrained learner.

    Args:
        learner: It is trained a little, and of no use afterwards.
        data: Sentences and directions.
        settings: How a trial is trained; `tokens_per_batch` must be a number.
        seconds: How long this may take, about; one update of 500 tokens, or one of all where they
            are at most 1,000, and one to warm up, are made in any case.
    """
    assert settings.tokens_per_batch is not None
    full = max(settings.tokens_per_batch // settings.accumulation, 1)
    # What is not much larger than the first try is tried at once.
    tokens, began = full if full <= 2 * _FIRST_TOKENS else _FIRST_TOKENS, time.perf_counter()
    num_made = 0
    while True:
        tried = replace(settings, tokens_per_batch=tokens, accumulation=1, epochs=1, init_from=None)
        left = seconds - (time.perf_counter() - began)
        found = _times(learner, data, tried, left if tokens == full else 0)
        num_made += len(found)
        # Of all that were made at that size; the first one, which warms up, aside.
        microbatch_s = median(found[1:])
        growth = min(_GROWTH, full / tokens)
        if tokens == full or time.perf_counter() - began + 2 * growth * microbatch_s > seconds:
            return UpdateTime(
                microbatch_s=microbatch_s * full / tokens,
                num_microbatches=num_made,
                is_full=tokens == full,
            )
        tokens = min(_GROWTH * tokens, full)


def _times(learner: Learner, data: TrainingData, settings: TrainerSettings, seconds: float) -> list[float]:
    """Returns the seconds of each of some updates, two at least."""
    found: list[float] = []
    began, before = time.perf_counter(), 0.0
    while len(found) < 2:  # an epoch may have a single update
        for progress in train(
            learner, data, replace(settings, seed=settings.seed + len(found)), should_yield=lambda: True
        ):
            found.append(progress.train_seconds - before)
            before = progress.train_seconds
            if len(found) >= 2 and time.perf_counter() - began > seconds:
                return found
        before = 0.0
    return found


def time_translations(
    learner: Learner,
    data: EvaluationSet,
    settings: DecodingSettings,
    tokenizer: BaseTokenizer,
    spbleu: SpBleu,
    seconds: float,
    most_seconds: float = 0.0,
) -> TranslationTime:
    """Translates some sentences of each direction in turn, and scores them.

    Args:
        learner: The model.
        data: Sentences and directions; all directions get equally many, as far as the time allows.
        settings: Beams, and the size of batches.
        tokenizer: The base's, to turn ids into text.
        spbleu: The scorer.
        seconds: How long this may take, about; eight sentences are translated in any case, if there are so many.
        most_seconds: How long it may go on where that was too short for `ENOUGH_SENTENCES` of each direction.
    """
    store, began = data.store, time.perf_counter()
    limits = length_limits(settings, num_positions(learner.model.config), list(data.rows), data.train)
    queue = _in_turn(data)
    enough = ENOUGH_SENTENCES * len(data.rows)
    done: dict[Direction, list[tuple[str, str]]] = {}
    num_rows, largest, per_row = _FIRST_ROWS, 0, 0.0
    while queue:
        rows, queue = queue[:num_rows], queue[num_rows:]
        started = time.perf_counter()
        decoded = decode_rows(
            learner,
            [DecodingRow(store.tokens(direction.src, row), direction.src, direction.tgt) for direction, row in rows],
            tokenizer=tokenizer,
            vocabulary=data.vocabulary,
            languages=data.languages,
            settings=settings,
            limits=limits,
        )
        took = time.perf_counter() - started
        for (direction, row), text in zip(rows, decoded.texts, strict=True):
            done.setdefault(direction, []).append((text, store.text(direction.tgt, row)))
        if largest and len(rows) >= largest:
            per_row = took / len(rows)
        passed = time.perf_counter() - began
        is_over = bool(largest) and seconds - passed < took
        if is_over and (sum(map(len, done.values())) >= enough or most_seconds - passed < took):
            break
        # The first ones warm up, and are not counted.
        largest, num_rows = max(largest, len(rows)), num_rows if not largest or is_over else 2 * num_rows
        per_row = per_row or took / len(rows)
    started = time.perf_counter()
    scores = _scores(done, spbleu)
    return TranslationTime(
        sentence_s=per_row,
        score_s=(time.perf_counter() - started) / max(len(done), 1),
        num_sentences=sum(map(len, done.values())),
        scores=scores,
        by_language=_by_language(done, spbleu),
    )


def _in_turn(data: EvaluationSet) -> list[tuple[Direction, int]]:
    """Returns a sentence of each direction, then a second one of each, and so on."""
    most = max((len(rows) for rows in data.rows.values()), default=0)
    return [
        (direction, int(rows[turn]))
        for turn in range(most)
        for direction, rows in data.rows.items()
        if turn < len(rows)
    ]


def _scores(done: Mapping[Direction, Sequence[tuple[str, str]]], spbleu: SpBleu) -> Scores | None:
    least = min((len(pairs) for pairs in done.values()), default=0)
    if least < 2:
        return None
    # The same number of each, so that a resample draws the same sentences in all of them.
    hypotheses = {direction: [text for text, _ in pairs[:least]] for direction, pairs in done.items()}
    references = {direction: [text for _, text in pairs[:least]] for direction, pairs in done.items()}
    return spbleu.score(hypotheses, references)


def _by_language(done: Mapping[Direction, Sequence[tuple[str, str]]], spbleu: SpBleu) -> dict[str, tuple[float, int]]:
    """Returns spBLEU over all that was translated into a language, and of how many sentences."""
    texts: dict[str, list[tuple[str, str]]] = {}
    for direction, pairs in done.items():
        texts.setdefault(direction.tgt, []).extend(pairs)
    return {
        language: (
            spbleu.from_statistics(
                spbleu.statistics([text for text, _ in pairs], [other for _, other in pairs]).sum(axis=0)
            ),
            len(pairs),
        )
        for language, pairs in texts.items()
    }
