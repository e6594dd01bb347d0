from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langsearch.adapters.learners import FullModel, adapt
from langsearch.data.directions import Direction, all_directions, class_pair
from langsearch.data.parallel import ParallelText
from langsearch.data.store import TokenStore
from langsearch.evaluate.evaluation import evaluate, evaluation_set
from langsearch.evaluate.spbleu import SpBleu, find_tokenizer
from langsearch.model.base import Base
from langsearch.space.settings import DecodingSettings

LANGUAGES = ("en", "fr", "de", "sw")
DIRECTIONS = all_directions(LANGUAGES)
CLASSES = {"high": ("en", "fr"), "low": ("de", "sw")}


@pytest.fixture
def spbleu(embedded_base: Base) -> SpBleu:
    return SpBleu(find_tokenizer("base", embedded_base.tokenizer.spm_path))


def test_all_directions_and_sentences_are_evaluated_by_default(
    embedded_base: Base, quickstart_store: TokenStore
) -> None:
    vocabulary = embedded_base.vocabulary(LANGUAGES)
    data = evaluation_set(quickstart_store, DIRECTIONS, DecodingSettings(), CLASSES, vocabulary)
    assert tuple(data.rows) == DIRECTIONS
    assert all(rows.tolist() == list(range(52)) for rows in data.rows.values())
    assert (data.languages, data.vocabulary) == (list(LANGUAGES), vocabulary)


def test_fewer_directions_are_spread_over_class_pairs_and_fewer_sentences_over_the_set(
    embedded_base: Base, quickstart_store: TokenStore
) -> None:
    vocabulary = embedded_base.vocabulary(LANGUAGES)
    settings = DecodingSettings(directions=4, sentences=4)
    data = evaluation_set(quickstart_store, DIRECTIONS, settings, CLASSES, vocabulary)
    pairs = Counter(class_pair(direction, CLASSES) for direction in data.rows)
    assert pairs == {(src, tgt): 1 for src in CLASSES for tgt in CLASSES}
    assert all(rows.tolist() == [0, 17, 34, 51] for rows in data.rows.values())
    again = evaluation_set(quickstart_store, DIRECTIONS[::-1], settings, CLASSES, vocabulary)
    assert set(again.rows) == set(data.rows), "every trial of a space is scored on the same directions"


def test_more_than_there_is_means_all(embedded_base: Base, quickstart_store: TokenStore) -> None:
    settings = DecodingSettings(directions=500, sentences=500)
    data = evaluation_set(quickstart_store, DIRECTIONS, settings, CLASSES, embedded_base.vocabulary(LANGUAGES))
    assert len(data.rows) == 12 and all(len(rows) == 52 for rows in data.rows.values())


def test_missing_sentences_and_empty_directions_are_left_out(embedded_base: Base, tmp_path: Path) -> None:
    text = ParallelText(
        ("en", "fr", "de"), {"en": ("a", "b", None, "d"), "fr": ("A", None, "C", "D"), "de": (None,) * 4}, "made"
    )
    store = TokenStore.build(text, embedded_base.tokenizer.encode, "made", tmp_path)
    directions = [Direction("en", "fr"), Direction("en", "de")]
    vocabulary = embedded_base.vocabulary(("en", "fr", "de"))
    data = evaluation_set(store, directions, DecodingSettings(), {"all": ("en", "fr", "de")}, vocabulary)
    assert {str(direction): rows.tolist() for direction, rows in data.rows.items()} == {"en-fr": [0, 3]}


def test_an_evaluation_is_deterministic_and_matches_texts_to_their_direction(
    embedded_base: Base, quickstart_store: TokenStore, spbleu: SpBleu, make_architecture: Callable[..., Any]
) -> None:
    vocabulary = embedded_base.vocabulary(LANGUAGES)
    settings = DecodingSettings(directions=4, sentences=8)
    data = evaluation_set(quickstart_store, DIRECTIONS, settings, CLASSES, vocabulary)
    learner = adapt(embedded_base, make_architecture(num_layers=3), LANGUAGES)
    first = evaluate(learner, data, settings, embedded_base.tokenizer, spbleu)
    again = evaluate(learner, data, settings, embedded_base.tokenizer, spbleu)
    assert first == again
    assert (first.scores.num_sentences, len(first.scores.by_direction)) == (8, 4)
    assert first.scores.signature == spbleu.signature
    # New adapters change nothing, and other batches neither.
    learner.remove()
    smaller = DecodingSettings(directions=4, sentences=8, rows_per_batch=3)
    assert evaluate(FullModel(embedded_base), data, smaller, embedded_base.tokenizer, spbleu) == first
    for direction, hypotheses in first.hypotheses.items():
        references = [quickstart_store.text(direction.tgt, int(row)) for row in data.rows[direction]]
        only = spbleu.score({direction: hypotheses}, {direction: references})
        assert only.spbleu in {score.spbleu for score in first.scores.by_direction if score.direction == direction}


def test_the_embedded_base_translates_better_than_chance(
    embedded_base: Base, quickstart_store: TokenStore, spbleu: SpBleu
) -> None:
    settings = DecodingSettings(sentences=12)
    directions = [Direction("en", "fr"), Direction("fr", "en")]
    vocabulary = embedded_base.vocabulary(LANGUAGES)
    data = evaluation_set(quickstart_store, directions, settings, CLASSES, vocabulary)
    found = evaluate(FullModel(embedded_base), data, settings, embedded_base.tokenizer, spbleu)
    shuffled = {direction: list(np.roll(rows, 1)) for direction, rows in found.hypotheses.items()}
    references = {d: [quickstart_store.text(d.tgt, int(row)) for row in rows] for d, rows in data.rows.items()}
    assert found.scores.spbleu > spbleu.score(shuffled, references).spbleu + 1


def test_what_was_cut_is_counted_by_direction(
    embedded_base: Base, quickstart_store: TokenStore, spbleu: SpBleu
) -> None:
    directions = [Direction("en", "fr"), Direction("fr", "en")]
    settings = DecodingSettings(sentences=12, max_length=12, max_length_factor=0.01)
    data = evaluation_set(quickstart_store, directions, settings, CLASSES, embedded_base.vocabulary(LANGUAGES))
    found = evaluate(FullModel(embedded_base), data, settings, embedded_base.tokenizer, spbleu)
    for direction, rows in data.rows.items():
        longer = int((quickstart_store.lengths(direction.src)[rows] > 10).sum())
        assert found.cut[direction].sources == longer > 0
    assert found.num_cut_sources == sum(cut.sources for cut in found.cut.values())
    assert found.cut_share == sum(cut.hypotheses for cut in found.cut.values()) / 24 > 0.5
    free = replace(settings, max_length=None, max_length_factor=None)
    whole = evaluate(FullModel(embedded_base), data, free, embedded_base.tokenizer, spbleu)
    assert (whole.num_cut_sources, whole.cut_share) == (0, 0.0)
