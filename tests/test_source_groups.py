"""Plans in which pairs of one source stand together."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langsearch.data.directions import Direction, all_directions
from langsearch.data.epochs import EpochPlan, SourceWeights, plan_epoch
from langsearch.data.parallel import ParallelText
from langsearch.data.store import TokenStore

LANGUAGES = ("en", "fr", "de", "sw")
DIRECTIONS = all_directions(LANGUAGES)
NUM_TARGETS = len(LANGUAGES) - 1


def make_store(folder: Path, sentences: dict[str, list[str | None]]) -> TokenStore:
    text = ParallelText(tuple(sentences), {name: tuple(rows) for name, rows in sentences.items()}, "made")
    return TokenStore.build(text, lambda found: [list(sentence.encode()) for sentence in found], "bytes", folder)


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    """200 rows of 5 to 40 tokens in four languages, of like length within a row."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 38, 200)
    return make_store(tmp_path, {name: ["x" * int(n + rng.integers(3)) for n in lengths] for name in LANGUAGES})


def plan(store: TokenStore, directions: Sequence[Direction] = DIRECTIONS, **changes: Any) -> EpochPlan:
    settings = {"epoch": 0, "seed": 0, "temperature": 5.0, "max_tokens": 800, "pairs_per_epoch": None}
    return plan_epoch(store, directions, **{**settings, "max_length": 256, "by_source": True, **changes})


def drawn(found: EpochPlan) -> list[tuple[int, int]]:
    return [(index, row) for rows in found.microbatches for index, row in rows.tolist()]


def longest_sides(store: TokenStore, pairs: Sequence[Sequence[int]]) -> list[int]:
    """The tokens of the longer side of each pair, with its marks."""
    sides = [(DIRECTIONS[index], row) for index, row in pairs]
    return [max(len(store.tokens(d.src, row)), len(store.tokens(d.tgt, row))) + 2 for d, row in sides]


def step_of(store: TokenStore, index: int, row: int) -> int:
    """Lengths of one step are less than one and a half times one another."""
    return int(math.log(longest_sides(store, [(index, row)])[0]) / math.log(1.5))


def num_read(found: EpochPlan, directions: Sequence[Direction] = DIRECTIONS) -> int:
    """How many sentences are encoded, each once a microbatch."""
    return sum(len({(directions[index].src, row) for index, row in rows.tolist()}) for rows in found.microbatches)


def test_a_sentence_stands_with_its_targets_of_like_length_in_one_microbatch(
    store: TokenStore,
) -> None:
    found = plan(store)
    assert sorted(drawn(found)) == [(index, row) for index in range(len(DIRECTIONS)) for row in range(200)]
    num_sentences = 200 * len(LANGUAGES)
    num_groups = len({(DIRECTIONS[index].src, row, step_of(store, index, row)) for index, row in drawn(found)})
    assert num_sentences < num_groups < 1.5 * num_sentences
    assert num_sentences <= num_read(found) < num_groups + len(found.microbatches)
    assert num_read(plan(store, max_tokens=1_000_000)) == num_sentences
    plain = plan(store, by_source=False)
    assert num_read(plain) > 1.8 * num_read(found)
    assert len(found.microbatches) <= 1.1 * len(plain.microbatches)


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_short_epochs_draw_the_same_sentences_for_all_targets(store: TokenStore, epoch: int) -> None:
    found = plan(store, epoch=epoch, pairs_per_epoch=600)
    assert found.num_pairs == len(drawn(found)) == 600
    num_drawn = len({(DIRECTIONS[index].src, row) for index, row in drawn(found)})
    assert num_drawn <= 600 / NUM_TARGETS * 1.05, "but for pairs at either end of what is drawn"


def test_short_epochs_cover_all_pairs_in_turn(store: TokenStore) -> None:
    pairs = [pair for epoch in range(10) for pair in drawn(plan(store, epoch=epoch, pairs_per_epoch=240))]
    assert len(set(pairs)) == len(pairs) == 12 * 200


def test_a_plan_is_decided_by_its_arguments(store: TokenStore) -> None:
    first, again = plan(store, epoch=3, seed=7), plan(store, epoch=3, seed=7)
    assert all(np.array_equal(a, b) for a, b in zip(first.microbatches, again.microbatches, strict=True))
    assert drawn(first) != drawn(plan(store, epoch=4, seed=7)) != drawn(plan(store, epoch=3, seed=8))


@pytest.mark.parametrize("max_tokens", [45, 100, 800, 1_000_000])
def test_microbatches_stay_within_the_token_budget_however_large_a_group_is(store: TokenStore, max_tokens: int) -> None:
    found = plan(store, max_tokens=max_tokens)
    assert len(drawn(found)) == len(set(drawn(found))) == 12 * 200
    for rows in found.microbatches:
        assert 0 < len(rows) * max(longest_sides(store, rows.tolist())) <= max_tokens


def test_microbatches_waste_little_and_mix_sources_at_random(store: TokenStore) -> None:
    found = plan(store)
    lengths = []
    padded = 0
    for rows in found.microbatches:
        of_rows = longest_sides(store, rows.tolist())
        padded += len(of_rows) * max(of_rows)
        lengths.append(max(of_rows))
    assert sum(longest_sides(store, drawn(found))) / padded > 0.9
    assert lengths != sorted(lengths) and lengths != sorted(lengths, reverse=True)
    assert np.mean([len({DIRECTIONS[index].src for index, _ in rows.tolist()}) for rows in found.microbatches]) > 3


def test_shares_hold_where_directions_have_other_sentences(tmp_path: Path) -> None:
    store = make_store(
        tmp_path,
        {"en": ["a"] * 800, "fr": ["b"] * 800, "de": ["c"] * 160 + [None] * 640, "nl": ["d"] * 40 + [None] * 760},
    )
    directions = [Direction("en", "fr"), Direction("en", "de"), Direction("en", "nl")]
    found = plan(store, directions, temperature=5.0)
    counts = Counter(index for index, _ in drawn(found))
    assert [counts[index] for index in range(3)] == pytest.approx([439.7, 318.7, 241.5], abs=1)
    repeats = Counter(drawn(found))
    for index, size in enumerate([800, 160, 40]):
        used = [repeats[index, row] for row in range(size)]
        assert max(used) - min(used) <= 1, "a pair came again before all of its direction had come"


def test_sources_with_weights_are_drawn_together_too(store: TokenStore) -> None:
    found = plan(store, weights=SourceWeights((50, 200), (3.0, 1.0)), pairs_per_epoch=1200)
    is_first = sum(row < 50 for _, row in drawn(found))
    assert is_first == pytest.approx(600, abs=12)
    num_drawn = len({(DIRECTIONS[index].src, row) for index, row in drawn(found)})
    assert num_drawn <= 1200 / NUM_TARGETS * 1.1
