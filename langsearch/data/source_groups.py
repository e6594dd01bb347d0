"""Plans in which pairs of one source sentence stand in one microbatch, so that it can be encoded once for them all.

A group is the pairs of an epoch that have the same source, one sentence of one language, and are of like length.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from langsearch.data.directions import Direction

_LIKE = 1.5
"""The longest pair of a group is less than so many times as long as its shortest. With all targets of a source in one,
shorter ones were padded so much that the quickstart's epochs had 17 to 20 % more microbatches; so they have 7 %."""


def source_numbers(directions: Sequence[Direction]) -> NDArray[np.int64]:
    """Returns for each direction the number of its source language, in the order in which they come first."""
    number: dict[str, int] = {}
    return np.array([number.setdefault(direction.src, len(number)) for direction in directions], np.int64)


def drawn_alike(
    rows: NDArray[np.int32], start: int, count: int, num_sentences: int, entropy: tuple[int, ...]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Returns some of an endless row of permutations of rows, (count,), and in which of them each stands, from 0.

    The permutations are those of all sentences, of which only `rows` are taken: directions with the same entropy and
    nearly the same rows draw nearly the same ones.

    Args:
        rows: What is drawn, ascending.
        start: Where in the endless row.
        count: How many.
        num_sentences: All that there are.
        entropy: Of the permutations.
    """
    is_drawn = np.zeros(num_sentences, np.bool_)
    is_drawn[rows] = True
    first, begin = divmod(start, len(rows))
    parts, passes, left = [], [], count
    for number in range(first, (start + count - 1) // len(rows) + 1):
        permutation = np.arange(num_sentences, dtype=np.int32)
        np.random.default_rng((*entropy, number)).shuffle(permutation)
        part = permutation[is_drawn[permutation]][begin : begin + left]
        parts.append(part)
        passes.append(np.full(len(part), number - first, np.int64))
        begin, left = 0, left - len(part)
    return np.concatenate(parts), np.concatenate(passes)


def cut_groups(
    groups: NDArray[np.int64],
    longest: NDArray[np.int32],
    max_tokens: int,
    microbatches_per_chunk: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns an order of the pairs, and where microbatches of groups of like length end in it, after a 0.

    Microbatches are as full as without groups, so that there are about as many: the last group of one goes on in
    another. Groups are sorted by length in chunks, which keeps their mix random. Takes about sixty bytes a pair for as
    long as it runs.

    Args:
        groups: (num_pairs,) any number below 2**57 that pairs of one source have in common.
        longest: (num_pairs,) tokens of the longer side.
        max_tokens: Of a microbatch: rows * longest.
        microbatches_per_chunk: About so many are sorted together.
        rng: The order of the groups.
    """
    # A length has at most 32 bits, so that these are fewer than 64 steps.
    steps = (np.log(longest) / np.log(_LIKE)).astype(np.int64)
    _, group_of, sizes = np.unique(groups * 64 + steps, return_inverse=True, return_counts=True)
    longest_of = np.zeros(len(sizes), np.int64)
    np.maximum.at(longest_of, group_of, longest)
    shuffled = rng.permutation(len(sizes))
    rows_per_chunk = microbatches_per_chunk * max(1, int(max_tokens / longest_of[group_of].mean()))
    chunk_of = np.empty(len(sizes), np.int64)
    chunk_of[shuffled] = (np.cumsum(sizes[shuffled]) - 1) // rows_per_chunk
    place = np.empty(len(sizes), np.int64)
    place[shuffled] = np.arange(len(sizes))
    in_order = np.lexsort((place, -longest_of, chunk_of))
    place[in_order] = np.arange(len(sizes))
    order = np.argsort(place[group_of], kind="stable")
    # Of the pairs in their order.
    lengths, chunks = longest_of[group_of[order]], chunk_of[group_of[order]]
    ends = [0]
    for chunk_end in (np.flatnonzero(np.diff(chunks, append=-1)) + 1).tolist():
        while ends[-1] < chunk_end:
            # The first is of the longest group, so the others fit where it fits.
            ends.append(min(ends[-1] + max_tokens // int(lengths[ends[-1]]), chunk_end))
    return order, np.array(ends, np.int64)
