from typing import Any

import numpy as np
import pytest

from langsearch.adapters.learners import FullModel
from langsearch.data.directions import Direction
from langsearch.data.parallel import ParallelText
from langsearch.data.store import TokenStore
from langsearch.evaluate.decoding import DecodingRow, decode_rows
from langsearch.evaluate.limits import LengthLimits, length_limits
from langsearch.model.base import Base
from langsearch.space.settings import DecodingSettings
from tests.conftest import LANGUAGES

EN_YO = Direction("en", "yo")


def store_of(folder: Any, src: list[int], tgt: list[int]) -> TokenStore:
    """A store whose sentences have so many tokens."""
    sentences = {name: tuple(" ".join("x" * n) for n in counts) for name, counts in (("en", src), ("yo", tgt))}
    text = ParallelText(("en", "yo"), sentences, "made")
    return TokenStore.build(text, lambda part: [[7] * len(line.split()) for line in part], "words", folder)


def test_a_factor_that_is_given_holds_as_it_is(tmp_path: Any) -> None:
    train = store_of(tmp_path, [10] * 200, [90] * 200)
    limits = length_limits(DecodingSettings(max_length_factor=2.0), 1024, [EN_YO], train)
    assert [limits.tokens(EN_YO, count) for count in (0, 10, 100)] == [10, 30, 210]


def test_a_direction_gets_what_its_training_references_need_with_a_margin(tmp_path: Any) -> None:
    train = store_of(tmp_path, [10] * 200, [50] * 199 + [60])
    limits = length_limits(DecodingSettings(), 1024, [EN_YO], train)
    assert limits.tokens(EN_YO, 10) == int(1.25 * (60 - 10) / 10 * 10) + 10
    assert (train.lengths("yo") <= [limits.tokens(EN_YO, 10)] * 200).all()
    assert limits.tokens(Direction("yo", "en"), 100) == 210, "where references are short, as much as ever"


def test_a_misaligned_pair_in_thousands_makes_no_limit(tmp_path: Any) -> None:
    train = store_of(tmp_path, [10] * 3000, [20] * 2999 + [900])
    assert length_limits(DecodingSettings(), 1024, [EN_YO], train).tokens(EN_YO, 10) == 30


def test_where_too_few_references_are_known_200_tokens_are_allowed_at_least(tmp_path: Any) -> None:
    few = store_of(tmp_path, [10] * 99, [50] * 99)
    for limits in (length_limits(DecodingSettings(), 1024), length_limits(DecodingSettings(), 1024, [EN_YO], few)):
        assert [limits.tokens(EN_YO, count) for count in (0, 10, 95, 150)] == [200, 200, 200, 310]


@pytest.mark.parametrize("factor", [None, 2.0])
def test_no_hypothesis_is_longer_than_the_bases_positions(factor: float | None) -> None:
    assert LengthLimits(128, factor).tokens(EN_YO, 100) == 126


@pytest.mark.parametrize("beams", [1, 3])
def test_a_hypothesis_that_ended_by_its_limit_is_said_to_be_cut(
    beams: int, embedded_base: Base, quickstart_store: TokenStore
) -> None:
    rows = [DecodingRow(quickstart_store.tokens("en", row), "en", "fr") for row in range(8)]
    arguments: dict[str, Any] = {
        "tokenizer": embedded_base.tokenizer,
        "vocabulary": embedded_base.vocabulary(LANGUAGES),
        "languages": LANGUAGES,
    }
    learner = FullModel(embedded_base)
    free = decode_rows(learner, rows, settings=DecodingSettings(beams=beams, max_length_factor=9.0), **arguments)
    assert free.is_cut.count(True) < 3, "most sentences come to an end by themselves"
    short = DecodingSettings(beams=beams, max_length_factor=0.01)
    assert decode_rows(learner, rows, settings=short, **arguments).is_cut == [
        len(tokens) > 9 for tokens in embedded_base.tokenizer.encode(free.texts)
    ]


def test_a_source_at_the_last_position_is_decoded(tiny_base: Base) -> None:
    tiny_base.model.config.max_position_embeddings = 64
    row = DecodingRow(np.full(62, 7, np.int32), "en", "fr")
    decoded = decode_rows(
        FullModel(tiny_base),
        [row],
        tokenizer=tiny_base.tokenizer,
        vocabulary=tiny_base.vocabulary(LANGUAGES),
        languages=LANGUAGES,
        settings=DecodingSettings(),
    )
    assert decoded.is_cut == [True] and decoded.texts[0]
