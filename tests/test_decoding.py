from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessorList

from langsearch.adapters.learners import AdaptedModel, FullModel, Learner, adapt
from langsearch.data.directions import all_directions
from langsearch.data.store import TokenStore
from langsearch.evaluate import beams
from langsearch.evaluate.decoding import DecodingQueue, DecodingRow, decode_batches, decode_rows
from langsearch.evaluate.incremental import IncrementalDecoder
from langsearch.evaluate.limits import LengthLimits
from langsearch.model.base import Base
from langsearch.space.settings import DecodingSettings
from tests.generate_reference import ForceLanguageAndEnd

LANGUAGES = ("en", "fr", "de", "sw")


@pytest.fixture
def learner(embedded_base: Base, make_architecture: Any) -> AdaptedModel:
    """The embedded base with random adapters that change what it says without making it babble."""
    adapted = adapt(embedded_base, make_architecture(num_layers=3), LANGUAGES)
    generator = torch.Generator().manual_seed(0)
    for layer in adapted.lora.layers.values():
        for slot in layer.slots:
            _, b = layer.pair(slot)
            b.copy_(torch.randn(b.shape, generator=generator) * 0.01)
    return adapted


@pytest.fixture
def rows(quickstart_store: TokenStore) -> list[DecodingRow]:
    """24 sentences in all 12 directions."""
    directions = all_directions(LANGUAGES)
    return [
        DecodingRow(quickstart_store.tokens(direction.src, 2 * row), direction.src, direction.tgt)
        for row, direction in enumerate([*directions, *directions])
    ]


def decoded(learner: Learner, base: Base, rows: Sequence[DecodingRow], **settings: Any) -> list[list[int]]:
    """Returns the tokens of each row from its language to its end, without padding."""
    found: list[list[int]] = [[] for _ in rows]
    vocabulary = base.vocabulary(LANGUAGES)
    settings = {"max_length_factor": 2.0} | settings
    batches = decode_batches(
        learner, rows, vocabulary=vocabulary, languages=LANGUAGES, settings=DecodingSettings(**settings)
    )
    for indices, hypotheses in batches:
        for index, tokens in zip(indices, hypotheses, strict=True):
            found[index] = trimmed(tokens)
    return found


def trimmed(tokens: list[int]) -> list[int]:
    """Returns tokens without the decoder's start before them and the padding behind them."""
    first = 1 if tokens[0] == 2 else 0
    return tokens[first : tokens.index(2, first) + 1]


def generated(learner: Learner, base: Base, rows: Sequence[DecodingRow], num_beams: int = 1) -> list[list[int]]:
    """What transformers' own search gives, all rows in one batch."""
    vocabulary = base.vocabulary(LANGUAGES)
    ids = [[vocabulary.language_ids[row.src], *row.tokens.tolist(), vocabulary.eos_id] for row in rows]
    width = max(map(len, ids))
    src_ids = torch.tensor([row + [vocabulary.pad_id] * (width - len(row)) for row in ids])
    limits = torch.tensor([2 * len(row.tokens) + 12 for row in rows])
    forced = torch.tensor([vocabulary.language_ids[row.tgt] for row in rows])
    languages = [torch.tensor([LANGUAGES.index(getattr(row, side)) for row in rows]) for side in ("src", "tgt")]
    model: Any = learner.model
    with torch.no_grad(), learner.route(*languages):
        output = model.generate(
            input_ids=src_ids,
            attention_mask=(src_ids != vocabulary.pad_id).long(),
            num_beams=num_beams,
            do_sample=False,
            max_new_tokens=int(limits.max()),
            logits_processor=LogitsProcessorList([ForceLanguageAndEnd(forced, limits, vocabulary.eos_id)]),
        )
    return [trimmed(row) for row in output.tolist()]


def test_greedy_search_gives_generates_tokens(
    learner: AdaptedModel, embedded_base: Base, rows: list[DecodingRow]
) -> None:
    found = decoded(learner, embedded_base, rows)
    assert found == generated(learner, embedded_base, rows)
    assert len({len(tokens) for tokens in found}) > 5, "rows must end at different lengths for this to say something"
    learner.remove()
    assert found != decoded(learner, embedded_base, rows), "the adapters must do something"


def test_greedy_search_gives_generates_tokens_where_rows_run_to_their_limits(
    tiny_base: Base, make_architecture: Any, rows: list[DecodingRow]
) -> None:
    learner = adapt(tiny_base, make_architecture(), LANGUAGES)
    found = decoded(learner, tiny_base, rows)
    assert found == generated(learner, tiny_base, rows)
    assert sum(len(tokens) == 2 * len(row.tokens) + 12 for tokens, row in zip(found, rows, strict=True)) > 5


@pytest.mark.parametrize("beams", [1, 4])
def test_a_translation_does_not_depend_on_the_other_rows(
    beams: int, learner: AdaptedModel, embedded_base: Base, rows: list[DecodingRow]
) -> None:
    rows = rows[:8]
    together = decoded(learner, embedded_base, rows, beams=beams)
    alone = [decoded(learner, embedded_base, [row], beams=beams)[0] for row in rows]
    assert together == alone
    assert together == decoded(learner, embedded_base, rows, beams=beams, rows_per_batch=5 * beams)
    assert together[::-1] == decoded(learner, embedded_base, rows[::-1], beams=beams)


@pytest.mark.parametrize("beams", [1, 4])
def test_weak_translations_do_not_depend_on_the_other_rows_either(
    beams: int, tiny_base: Base, make_architecture: Any, rows: list[DecodingRow]
) -> None:
    learner = adapt(tiny_base, make_architecture(), LANGUAGES)
    rows = [DecodingRow(row.tokens[: 1 + index % 5], row.src, row.tgt) for index, row in enumerate(rows[:10])]
    together = decoded(learner, tiny_base, rows, beams=beams)
    assert together == [decoded(learner, tiny_base, [row], beams=beams)[0] for row in rows]
    for tokens, row in zip(together, rows, strict=True):
        assert len(tokens) <= 2 * len(row.tokens) + 12


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("factor", [0.0, 0.5, 1.5])
def test_each_row_has_its_own_language_and_length_limit(
    beams: int, factor: float, tiny_base: Base, rows: list[DecodingRow]
) -> None:
    known = tiny_base.vocabulary(LANGUAGES)
    found = decoded(FullModel(tiny_base), tiny_base, rows[:8], beams=beams, max_length_factor=factor)
    for tokens, row in zip(found, rows, strict=False):
        assert tokens[0] == known.language_ids[row.tgt]
        assert tokens[-1] == known.eos_id
        assert len(tokens) <= int(factor * len(row.tokens)) + 12


@pytest.mark.parametrize("beams", [1, 3])
def test_an_empty_source_and_no_rows_at_all_are_decoded(beams: int, learner: AdaptedModel, embedded_base: Base) -> None:
    empty = DecodingRow(np.zeros(0, np.int32), "en", "sw")
    full = DecodingRow(np.array([7, 50, 90], np.int32), "fr", "en")
    (first, second) = decoded(learner, embedded_base, [empty, full], beams=beams)
    assert first[0] == embedded_base.vocabulary(LANGUAGES).language_ids["sw"]
    assert len(first) <= 12
    assert [second] == decoded(learner, embedded_base, [full], beams=beams)
    assert decoded(learner, embedded_base, [], beams=beams) == []


def test_texts_come_in_the_order_given(learner: AdaptedModel, embedded_base: Base, rows: list[DecodingRow]) -> None:
    arguments: dict[str, Any] = {
        "tokenizer": embedded_base.tokenizer,
        "vocabulary": embedded_base.vocabulary(LANGUAGES),
        "languages": LANGUAGES,
        "settings": DecodingSettings(rows_per_batch=5, max_length_factor=2.0),
    }
    texts = decode_rows(learner, rows, **arguments).texts
    expected = embedded_base.tokenizer.decode(decoded(learner, embedded_base, rows))
    assert texts == expected
    assert all("__" not in text and "</s>" not in text for text in texts)
    learner.remove()
    english = [row for row in rows if (row.src, row.tgt) == ("fr", "en")]
    for text, tokens in zip(decode_rows(learner, english, **arguments).texts, english, strict=True):
        assert len(text.split()) > 2, embedded_base.tokenizer.decode([tokens.tokens.tolist()])


def test_decoding_leaves_a_model_that_can_be_trained(
    learner: AdaptedModel, embedded_base: Base, rows: list[DecodingRow]
) -> None:
    decoded(learner, embedded_base, rows[:2])
    ids = torch.tensor([[8021, 7, 50, 2]])
    routes: list[Tensor] = [torch.tensor([0]), torch.tensor([1])]
    with learner.route(*routes):
        torch.autograd.backward(learner.model(input_ids=ids, decoder_input_ids=ids).logits.sum())
    assert any(parameter.grad is not None for parameter in learner.parameters().values())


@pytest.mark.parametrize("beams", [1, 5])
def test_as_many_rows_are_in_flight_as_their_tokens_allow(beams: int) -> None:
    lengths = np.random.default_rng(0).integers(0, 200, 500)
    rows = [DecodingRow(np.zeros(length, np.int32), "en", "fr") for length in lengths]
    limits, settings = LengthLimits(1024, 2.0), DecodingSettings(beams=beams, tokens_per_batch=6000)
    queue = DecodingQueue(rows, settings, limits)
    flying: list[int] = []
    seen: list[int] = []
    sizes = []

    def tokens(indices: list[int]) -> int:
        longest = max(int(lengths[index]) for index in indices)
        return len(indices) * beams * max(longest + 2 + 2 * longest + 12, 64)

    while flying or queue.is_waiting:
        new = queue.take(flying)
        flying += new
        seen += new
        sizes.append(len(flying))
        assert len(flying) == 1 or tokens(flying) <= 6000
        if queue.is_waiting:
            assert tokens([*flying, queue.take([])[0]]) > 6000, "there is no room left"
            queue = DecodingQueue(rows, settings, limits)
            for _ in seen:  # what was looked at goes back
                queue._waiting.pop()
        flying = flying[len(flying) // 4 + 1 :]
    assert sorted(seen) == list(range(500))
    assert [lengths[index] for index in seen] == sorted(lengths, reverse=True)
    assert sizes[0] < max(sizes), "short rows come in larger numbers"
    assert len(DecodingQueue(rows, DecodingSettings(beams=beams, rows_per_batch=50), limits).take([])) == 50 // beams
    halved = DecodingQueue(rows, DecodingSettings(beams=beams, rows_per_batch=50), limits, num_parts=2)
    assert len(halved.take([])) == 25 // beams
    assert len(DecodingQueue(rows, settings, limits, num_parts=10**6).take([])) == 1, "one row at least"


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("beams", [2, 5])
def test_beam_search_gives_generates_tokens(
    beams: int,
    length_penalty: float,
    early_stopping: Any,
    learner: AdaptedModel,
    embedded_base: Base,
    rows: list[DecodingRow],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model: Any = learner.model
    monkeypatch.setattr(model.generation_config, "length_penalty", length_penalty)
    monkeypatch.setattr(model.generation_config, "early_stopping", early_stopping)
    rows = rows[:6]
    found = decoded(learner, embedded_base, rows, beams=beams, rows_per_batch=3 * beams)
    # One by one: with `never` its best length is that of the longest row of the batch.
    assert found == [generated(learner, embedded_base, [row], beams)[0] for row in rows]


@pytest.mark.parametrize("beams", [1, 5])
def test_rows_that_come_later_get_generates_tokens(
    beams: int, learner: AdaptedModel, embedded_base: Base, rows: list[DecodingRow]
) -> None:
    found = decoded(learner, embedded_base, rows, beams=beams, rows_per_batch=4 * beams)
    assert found == generated(learner, embedded_base, rows, beams)


@pytest.mark.parametrize("beams", [1, 5])
def test_weak_rows_that_run_to_their_limits_get_generates_tokens(
    beams: int, tiny_base: Base, make_architecture: Any, rows: list[DecodingRow]
) -> None:
    learner = adapt(tiny_base, make_architecture(), LANGUAGES)
    rows = [DecodingRow(row.tokens[: 1 + index % 5], row.src, row.tgt) for index, row in enumerate(rows[:12])]
    found = decoded(learner, tiny_base, rows, beams=beams, rows_per_batch=3 * beams)
    assert found == [generated(learner, tiny_base, [row], beams)[0] for row in rows]


def test_a_row_leaves_as_soon_as_its_best_cannot_be_beaten(
    learner: AdaptedModel, embedded_base: Base, rows: list[DecodingRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, num_read = IncrementalDecoder.step, 0

    def step(decoder: IncrementalDecoder, tokens: Tensor) -> Tensor:
        nonlocal num_read
        num_read += tokens.numel()
        return whole(decoder, tokens)

    monkeypatch.setattr(IncrementalDecoder, "step", step)
    model: Any = learner.model
    monkeypatch.setattr(model.generation_config, "early_stopping", "never")
    settings = {"beams": 5, "rows_per_batch": 5, "max_length_factor": 1.2}
    found = decoded(learner, embedded_base, rows[:6], **settings)
    num_needed, num_read = num_read, 0
    monkeypatch.setattr(beams, "_ROUNDING", torch.inf)  # nothing is out of reach
    assert found == decoded(learner, embedded_base, rows[:6], **settings)
    assert num_needed < num_read
