import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from langsearch.data import epochs
from langsearch.data.batches import Batch, BatchVocabulary, collate
from langsearch.data.directions import Direction, all_directions
from langsearch.data.epochs import EpochPlan, plan_epoch
from langsearch.data.readers import ParallelText
from langsearch.data.store import TokenStore
from langsearch.space.problems import InputError

LANGUAGES = ("en", "fr", "de")
DIRECTIONS = all_directions(LANGUAGES)
VOCABULARY = BatchVocabulary(
    pad_id=1, eos_id=2, decoder_start_id=3, language_ids={"en": 4, "fr": 5, "de": 6}
)  # fmt: skip


def byte_tokens(sentences: Sequence[str]) -> list[list[int]]:
    return [list(sentence.encode()) for sentence in sentences]


def make_store(folder: Path, sentences: dict[str, list[str | None]]) -> TokenStore:
    text = ParallelText(tuple(sentences), {name: tuple(rows) for name, rows in sentences.items()}, "made")
    return TokenStore.build(text, byte_tokens, "bytes", folder)


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    """120 rows of 1 to 40 tokens in three languages."""
    rng = np.random.default_rng(0)
    return make_store(tmp_path, {name: ["x" * int(n) for n in rng.integers(1, 41, 120)] for name in LANGUAGES})


def plan(store: TokenStore, directions: Sequence[Direction] = DIRECTIONS, **changes: Any) -> EpochPlan:
    settings = {"epoch": 0, "seed": 0, "temperature": 5.0, "max_tokens": 400, "pairs_per_epoch": None}
    return plan_epoch(store, directions, **{**settings, "max_length": 256, **changes})


def drawn(found: EpochPlan) -> list[tuple[int, int]]:
    return [(index, row) for rows in found.microbatches for index, row in rows.tolist()]


# Plans


def test_an_epoch_covers_all_pairs_once(store: TokenStore) -> None:
    found = plan(store)
    assert found.num_pairs == 6 * 120
    assert found.num_left_out == 0
    assert sorted(drawn(found)) == [(index, row) for index in range(6) for row in range(120)]


def test_a_plan_is_decided_by_its_arguments(store: TokenStore) -> None:
    first, again = plan(store, epoch=3, seed=7), plan(store, epoch=3, seed=7)
    assert len(first.microbatches) == len(again.microbatches)
    assert all(np.array_equal(a, b) for a, b in zip(first.microbatches, again.microbatches, strict=True))
    assert drawn(first) != drawn(plan(store, epoch=4, seed=7))
    assert drawn(first) != drawn(plan(store, epoch=3, seed=8))


@pytest.mark.parametrize("max_tokens", [42, 100, 400, 100_000])
def test_microbatches_stay_within_the_token_budget(store: TokenStore, max_tokens: int) -> None:
    found = plan(store, max_tokens=max_tokens)
    for rows in found.microbatches:
        batch = collate(store, DIRECTIONS, rows, VOCABULARY, LANGUAGES)
        assert len(rows) * max(batch.src_ids.shape[1], batch.labels.shape[1]) <= max_tokens
    assert found.num_pairs == 720


def test_microbatches_waste_little_and_mix_directions(store: TokenStore) -> None:
    found = plan(store, max_tokens=800)
    batches = [collate(store, DIRECTIONS, rows, VOCABULARY, LANGUAGES) for rows in found.microbatches]
    longer = sum(int(torch.maximum(b.src_mask.sum(1), (b.labels != -100).sum(1)).sum()) for b in batches)
    padded = sum(len(b.labels) * max(b.src_ids.shape[1], b.labels.shape[1]) for b in batches)
    assert longer / padded > 0.9
    assert np.mean([len(set(rows[:, 0].tolist())) for rows in found.microbatches]) > 4
    lengths = [batch.labels.shape[1] for batch in batches]
    assert lengths != sorted(lengths)
    assert lengths != sorted(lengths, reverse=True)


@pytest.mark.parametrize(
    ("temperature", "shares"),
    [
        (1.0, [800 / 1000, 160 / 1000, 40 / 1000]),
        (5.0, [3.8073 / 8.6581, 2.7595 / 8.6581, 2.0913 / 8.6581]),
        (1e9, [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_temperature_gives_the_stated_proportions(tmp_path: Path, temperature: float, shares: list[float]) -> None:
    # At T = 5, by hand: 800 ** .2 = 3.8073, 160 ** .2 = 2.7595, 40 ** .2 = 2.0913; their sum is 8.6581.
    store = make_store(
        tmp_path,
        {
            "en": ["a"] * 800,
            "fr": ["b"] * 800,
            "de": ["c"] * 160 + [None] * 640,
            "nl": ["d"] * 40 + [None] * 760,
        },
    )
    directions = [Direction("en", "fr"), Direction("en", "de"), Direction("en", "nl")]
    found = plan(store, directions, temperature=temperature)
    assert found.num_pairs == 1000
    counts = Counter(index for index, _ in drawn(found))
    assert [counts[index] for index in range(3)] == pytest.approx([1000 * share for share in shares], abs=1)
    repeats = Counter(drawn(found))
    for index, size in enumerate([800, 160, 40]):
        used = [repeats[index, row] for row in range(size)]
        assert max(used) - min(used) <= 1, "a pair came again before all of its direction had come"


def test_short_epochs_cover_all_pairs_in_turn(store: TokenStore) -> None:
    pairs: list[tuple[int, int]] = []
    for epoch in range(10):
        found = plan(store, epoch=epoch, pairs_per_epoch=72)
        assert found.num_pairs == len(drawn(found)) == 72
        assert Counter(index for index, _ in drawn(found)) == dict.fromkeys(range(6), 12)
        pairs += drawn(found)
    assert len(set(pairs)) == 720


def test_an_epoch_shorter_than_the_directions_favours_none(store: TokenStore) -> None:
    counts: Counter[int] = Counter()
    for epoch in range(150):
        counts.update(index for index, _ in drawn(plan(store, epoch=epoch, pairs_per_epoch=2)))
    assert sum(counts.values()) == 300
    assert min(counts[index] for index in range(6)) > 35


def test_an_epoch_longer_than_the_data_repeats_evenly(store: TokenStore) -> None:
    repeats = Counter(drawn(plan(store, pairs_per_epoch=720 * 3)))
    assert set(repeats.values()) == {3}


def test_missing_rows_are_never_planned(tmp_path: Path) -> None:
    holes: dict[str, list[str | None]] = {
        "en": [None if row % 3 == 0 else "en" for row in range(60)],
        "fr": [None if row % 4 == 0 else "fr" for row in range(60)],
        "de": [None for row in range(60)],
    }
    store = make_store(tmp_path, holes)
    expected = {row for row in range(60) if row % 3 and row % 4}
    for epoch in range(3):
        found = plan(store, epoch=epoch)
        assert {DIRECTIONS[index] for index, _ in drawn(found)} == {Direction("en", "fr"), Direction("fr", "en")}
        assert {row for _, row in drawn(found)} == expected


def test_long_pairs_are_left_out_and_counted(tmp_path: Path) -> None:
    store = make_store(tmp_path, {"en": ["a" * 8, "a" * 9, "a", "a"], "fr": ["b", "b", "b" * 50, None]})
    directions = [Direction("en", "fr"), Direction("fr", "en")]
    found = plan(store, directions, max_length=10)
    assert sorted(drawn(found)) == [(0, 0), (1, 0)]
    assert found.num_left_out == 4
    # A pair that fills more than a microbatch is left out too.
    assert plan(store, directions, max_length=256, max_tokens=10).num_left_out == 4


def test_no_pair_at_all_is_an_error(tmp_path: Path) -> None:
    store = make_store(tmp_path, {"en": ["a" * 20], "fr": ["b"]})
    with pytest.raises(InputError, match=r"at most 10 tokens, but 1 directions have none \(1 are longer\)"):
        plan(store, [Direction("en", "fr")], max_length=10)


@pytest.mark.parametrize("changes", [{"epoch": -1}, {"seed": -1}, {"temperature": 0.0}, {"pairs_per_epoch": 0}])
def test_arguments_out_of_range_are_refused(store: TokenStore, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must hold, but got epoch="):
        plan(store, **changes)


# Batches


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    store = make_store(tmp_path, {"en": ["AB", "C"], "fr": ["DEF", "G"], "de": [None, "HI"]})
    rows = np.array([[0, 0], [5, 1]], np.int32)
    assert [str(DIRECTIONS[index]) for index in (0, 5)] == ["en-fr", "de-fr"]
    return collate(store, DIRECTIONS, rows, VOCABULARY, LANGUAGES)


def test_a_batch_has_the_layout_of_m2m100(batch: Batch) -> None:
    # pad 1, eos 2, decoder start 3, en 4, fr 5, de 6; text as bytes, A = 65.
    assert batch.src_ids.tolist() == [[4, 65, 66, 2], [6, 72, 73, 2]]
    assert batch.src_mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    assert batch.labels.tolist() == [[5, 68, 69, 70, 2], [5, 71, 2, -100, -100]]
    assert batch.decoder_input_ids.tolist() == [[3, 5, 68, 69, 70], [3, 5, 71, 2, 1]]
    assert batch.src_lang.tolist() == [0, 2]
    assert batch.tgt_lang.tolist() == [1, 1]
    assert batch.num_tgt_tokens == 8
    tensors = [batch.src_ids, batch.src_mask, batch.labels, batch.decoder_input_ids, batch.src_lang, batch.tgt_lang]
    assert {tensor.dtype for tensor in tensors} == {torch.int64}


def test_padding_and_empty_texts_keep_their_marks(tmp_path: Path) -> None:
    store = make_store(tmp_path, {"en": ["", "AB"], "fr": ["C", ""], "de": ["D", "E"]})
    batch = collate(store, DIRECTIONS, np.array([[0, 0], [0, 1]], np.int32), VOCABULARY, LANGUAGES)
    assert batch.src_ids.tolist() == [[4, 2, 1, 1], [4, 65, 66, 2]]
    assert batch.src_mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch.labels.tolist() == [[5, 67, 2], [5, 2, -100]]


def test_text_that_looks_like_padding_is_text(tmp_path: Path) -> None:
    store = make_store(tmp_path, {"en": ["\x01\x01", "AB"], "fr": ["\x01", "ABC"], "de": ["D", "E"]})
    batch = collate(store, DIRECTIONS, np.array([[0, 0], [0, 1]], np.int32), VOCABULARY, LANGUAGES)
    assert batch.src_mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    assert batch.labels.tolist()[0] == [5, 1, 2, -100, -100]


def test_languages_count_in_the_order_given(tmp_path: Path) -> None:
    store = make_store(tmp_path, {name: ["A"] for name in LANGUAGES})
    batch = collate(store, DIRECTIONS, np.array([[0, 0]], np.int32), VOCABULARY, ["fr", "de", "en"])
    assert (batch.src_lang.tolist(), batch.tgt_lang.tolist()) == ([2], [0])


def test_a_missing_sentence_never_becomes_an_empty_one(tmp_path: Path) -> None:
    store = make_store(tmp_path, {"en": ["A"], "fr": [None]})
    with pytest.raises(ValueError, match="row 0 is missing in fr"):
        collate(store, [Direction("en", "fr")], np.array([[0, 0]], np.int32), VOCABULARY, ["en", "fr"])


def test_a_batch_moves_whole(batch: Batch) -> None:
    moved = batch.to("meta")
    assert moved.src_ids.shape == batch.src_ids.shape
    assert {moved.src_ids.device.type, moved.labels.device.type, moved.tgt_lang.device.type} == {"meta"}
    assert moved.num_tgt_tokens == 8


def test_epochs_are_those_that_earlier_versions_planned(tmp_path: Path) -> None:
    """The digest was taken at commit d589c66, which held pairs and permutations in other types."""
    columns: dict[str, list[str | None]] = {
        language: [None if (row * 7 + i) % 5 == 0 else "x" * (1 + row * row * (i + 3) % 60) for row in range(400)]
        for i, language in enumerate(("en", "fr", "sw"))
    }
    store, digest = make_store(tmp_path, columns), hashlib.sha256()
    settings = {"seed": 3, "temperature": 2.0, "max_tokens": 500, "max_length": 50, "pairs_per_epoch": 900}
    for epoch in range(3):
        for rows in plan(store, all_directions(("en", "fr", "sw")), epoch=epoch, **settings).microbatches:
            digest.update(rows.tobytes() + b"|")
    assert digest.hexdigest()[:16] == "bd5d752e871345aa"


def test_an_epoch_looks_at_the_store_in_blocks(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = drawn(plan(store))
    monkeypatch.setattr(epochs, "_ROWS_PER_BLOCK", 7)
    assert drawn(plan(store)) == whole
