"""Which pairs an epoch trains on, in which microbatches: planned from lengths alone, in a few bytes a pair."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from langsearch.data.batches import NUM_MARKS
from langsearch.data.directions import Direction
from langsearch.data.source_groups import cut_groups, drawn_alike, source_numbers
from langsearch.space.problems import InputError

if TYPE_CHECKING:
    from langsearch.data.store import TokenStore

_MICROBATCHES_PER_CHUNK = 100
_ROWS_STREAM, _COUNTS_STREAM, _ORDER_STREAM = 0, 1, 2
_ROWS_PER_BLOCK = 1_000_000
_NOTHING = np.zeros(0, np.int32)


@dataclass(frozen=True)
class EpochPlan:
    """The pairs of one epoch, cut into microbatches."""

    microbatches: "Microbatches"
    """In training order; each (rows, 2): index of the direction, row of the sentence."""

    done: NDArray[np.float64]
    """(num_microbatches,): how much of the epoch is done before each, of those that it stands among: 0 to below 1."""

    num_pairs: int
    """Pairs in the epoch, repetitions counted."""

    num_left_out: int
    """Pairs that are too long, over all directions; never drawn."""


@dataclass(frozen=True)
class SourceWeights:
    """How often rows are drawn by the source that they are from; sources stand one below the other."""

    ends: tuple[int, ...]
    """The row behind the last one of each source."""

    weights: tuple[float, ...]
    """Of each source, above 0. A row of weight 2 comes twice as often as one of weight 1 in the same direction."""

    @classmethod
    def of(cls, weights: Sequence[float], rows_by_source: Sequence[int]) -> "SourceWeights | None":
        """Returns the weights of sources with so many rows each; None if all weigh the same."""
        if len(set(weights)) < 2:
            return None
        return cls(tuple(np.cumsum(rows_by_source).tolist()), tuple(weights))


class Microbatches(Sequence[NDArray[np.int32]]):
    """The microbatches of an epoch, in six bytes a pair; each is made when it is asked for.

    Args:
        directions: (num_pairs,) uint16: the index of each pair's direction.
        rows: (num_pairs,) int32: the row of its sentences.
        ends: (num_microbatches + 1,): where the first begins, then where each ends in those.
        order: (num_microbatches,): which one comes when.
    """

    def __init__(
        self, directions: NDArray[np.uint16], rows: NDArray[np.int32], ends: NDArray[np.int64], order: NDArray[np.int64]
    ) -> None:
        self._directions, self._rows, self._ends, self._order = directions, rows, ends, order

    @classmethod
    def joined(cls, parts: Sequence["Microbatches"], order: NDArray[np.int64]) -> "Microbatches":
        """Returns those of directions that are planned each by itself, (directions,) of (microbatches,).

        Args:
            parts: Of each direction, whose index there is 0.
            order: Which one comes when, of all: a direction's, as they come in it, behind those of the one before.
        """
        num_pairs = [len(part._rows) for part in parts]
        first_pairs = np.cumsum([0, *num_pairs[:-1]])
        firsts = np.cumsum([0, *map(len, parts[:-1])])
        ends = [part._ends[1:] + first for part, first in zip(parts, first_pairs, strict=True)]
        orders = [part._order + first for part, first in zip(parts, firsts, strict=True)]
        return cls(
            np.repeat(np.arange(len(parts), dtype=np.uint16), num_pairs),
            np.concatenate([part._rows for part in parts]),
            np.concatenate([np.zeros(1, np.int64), *ends]),
            np.concatenate(orders)[order],
        )

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.int32]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[NDArray[np.int32], ...]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.int32] | tuple[NDArray[np.int32], ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        place = self._order[index]
        begin, end = self._ends[place], self._ends[place + 1]
        return np.stack([self._directions[begin:end].astype(np.int32), self._rows[begin:end]], axis=1)


def plan_epoch(
    store: "TokenStore",
    directions: Sequence[Direction],
    *,
    epoch: int,
    seed: int,
    temperature: float,
    max_tokens: int,
    pairs_per_epoch: int | None,
    max_length: int,
    weights: SourceWeights | None = None,
    by_source: bool = False,
) -> EpochPlan:
    """Returns the microbatches of an epoch; the arguments alone decide them, so that a run resumes at any epoch.

    A direction with n pairs gets a share proportional to n ** (1 / temperature) of the epoch, exact to one pair, and
    goes on in the next epoch where it stopped: no pair comes again before all of its direction have come.

    Args:
        store: The tokens. A pair is there if both sides are.
        directions: The directions, all mixed in each microbatch.
        epoch: Which epoch, from 0.
        seed: At least 0.
        temperature: Above 0. 1: proportional to size; large: all directions alike.
        max_tokens: A microbatch has rows * max(src_len, tgt_len) <= max_tokens.
        pairs_per_epoch: Pairs drawn. None: as many as there are over all directions.
        max_length: Pairs with a side of more tokens (with language and end), or above `max_tokens`, are left out.
        weights: Pairs of a source of weight w count w times, in what is drawn of a direction and in its size; then
            no pair comes again before all of its direction and source have come. None: all pairs count once.
        by_source: Directions of one source language draw the same sentences, as far as all of them have these and as
            many are drawn of each; and pairs of like length with the same source stand in one microbatch, or in two if
            the first is full. False: each direction draws its own.

    Raises:
        ValueError: If an argument is out of range.
        InputError: If no direction has a pair.
    """
    if epoch < 0 or seed < 0 or temperature <= 0 or (pairs_per_epoch is not None and pairs_per_epoch < 1):
        got = f"epoch={epoch}, seed={seed}, temperature={temperature}, pairs_per_epoch={pairs_per_epoch}"
        raise ValueError(f"epoch, seed >= 0, temperature > 0 and pairs_per_epoch >= 1 must hold, but got {got}")
    limit = min(max_length, max_tokens)
    usable, num_left_out = _usable_pairs(store, directions, limit)
    streams = _streams(usable, weights, source_numbers(directions) if by_source else np.arange(len(directions)))
    sizes = np.array([len(stream.rows) for stream in streams])
    if not sizes.sum():
        rule = f"Training needs a pair with both sides of at most {limit} tokens"
        raise InputError(f"{rule}, but {len(directions)} directions have none ({num_left_out} are longer)")
    shares = _shares(streams, len(directions), temperature)
    num_pairs = round(sum(stream.size for stream in streams)) if pairs_per_epoch is None else pairs_per_epoch
    counts = [_counts(sizes, shares, num_pairs, seed, earlier) for earlier in range(epoch + 1)]
    starts = sum(counts[:-1], start=np.zeros_like(sizes))
    # What grows with the epoch is held in as few bytes as it needs; a direction's permutation goes with its loop.
    of_direction = np.empty(num_pairs, np.uint16)
    rows = np.empty(num_pairs, np.int32)
    longest = np.empty(num_pairs, np.int32 if limit > np.iinfo(np.uint16).max else np.uint16)
    groups = np.empty(num_pairs if by_source else 0, np.int64)
    end = 0
    for stream, start, count in zip(streams, starts.tolist(), counts[-1].tolist(), strict=True):
        if not count:
            continue
        begin, end = end, end + count
        of_direction[begin:end] = stream.direction
        entropy = (seed, _ROWS_STREAM, *stream.entropy)
        if by_source:
            rows[begin:end], passes = drawn_alike(stream.rows, start, count, store.num_sentences, entropy)
            # A pair that comes again in an epoch is of another group than when it came first.
            groups[begin:end] = (passes * len(directions) + stream.entropy[0]) * store.num_sentences + rows[begin:end]
        else:
            rows[begin:end] = stream.rows[_draw(len(stream.rows), start, count, entropy)]
        for first in range(begin, end, _ROWS_PER_BLOCK):
            block = slice(first, min(first + _ROWS_PER_BLOCK, end))
            longest[block] = longer_side(store, directions[stream.direction], rows[block])
    rng = np.random.default_rng((seed, _ORDER_STREAM, epoch))
    order: NDArray[np.integer[Any]]
    if by_source:
        order, ends = cut_groups(groups, longest.astype(np.int32), max_tokens, _MICROBATCHES_PER_CHUNK, rng)
    else:
        order, ends = _cut(longest, max_tokens, rng)
    num = len(ends) - 1
    shown = Microbatches(of_direction[order], rows[order], ends, rng.permutation(num))
    return EpochPlan(shown, np.arange(num) / num, num_pairs, num_left_out)


def plan_apart(store: "TokenStore", directions: Sequence[Direction], **how: Any) -> EpochPlan:
    """Returns the microbatches of an epoch, each of one direction, whose own depend on no other direction.

    Each direction is planned by itself, with its own `pairs_per_epoch`; their microbatches come evenly mixed.

    Args:
        store: As in `plan_epoch`.
        directions: As in `plan_epoch`.
        how: The other arguments of `plan_epoch`.

    Raises:
        InputError: If a direction has no pair.
    """
    plans, problems = [], []
    for direction in directions:
        try:
            plans.append(plan_epoch(store, [direction], **how))
        except InputError as error:
            problems.append(f"{direction}, which is trained by itself: {error}.")
    if problems:
        raise InputError(problems)
    parts = [plan.microbatches for plan in plans]
    # Of equal places the first direction's comes first.
    order = np.argsort(np.concatenate([(np.arange(len(part)) + 0.5) / len(part) for part in parts]), kind="stable")
    return EpochPlan(
        Microbatches.joined(parts, order),
        np.concatenate([plan.done for plan in plans])[order],
        sum(plan.num_pairs for plan in plans),
        sum(plan.num_left_out for plan in plans),
    )


def _usable_pairs(
    store: "TokenStore", directions: Sequence[Direction], limit: int
) -> tuple[list[NDArray[np.int32]], int]:
    """Returns for each direction the rows of its pairs that are short enough, and how many pairs are too long.

    A direction has the same pairs as the one back, and shares their array.
    """
    found: dict[frozenset[str], tuple[NDArray[np.int32], int]] = {}
    for direction in directions:
        sides = frozenset((direction.src, direction.tgt))
        if sides not in found:
            found[sides] = _usable(store, direction, limit)
    of_directions = [found[frozenset((direction.src, direction.tgt))] for direction in directions]
    return [rows for rows, _ in of_directions], sum(num for _, num in of_directions)


def _usable(store: "TokenStore", direction: Direction, limit: int) -> tuple[NDArray[np.int32], int]:
    usable, num_left_out = [_NOTHING], 0
    for start in range(0, store.num_sentences, _ROWS_PER_BLOCK):
        stop = min(start + _ROWS_PER_BLOCK, store.num_sentences)
        src, tgt = store.lengths(direction.src, start, stop), store.lengths(direction.tgt, start, stop)
        is_pair = (src >= 0) & (tgt >= 0)
        fits = is_pair & (np.maximum(src, tgt) + NUM_MARKS <= limit)
        usable.append((np.flatnonzero(fits) + start).astype(np.int32))
        num_left_out += int(is_pair.sum() - fits.sum())
    return np.concatenate(usable), num_left_out


def longer_side(store: "TokenStore", direction: Direction, rows: NDArray[np.int32]) -> NDArray[np.int32]:
    """Returns the length of the longer side of each pair, with its marks."""
    return np.maximum(store.lengths_of(direction.src, rows), store.lengths_of(direction.tgt, rows)) + NUM_MARKS


@dataclass(frozen=True)
class _Stream:
    """The pairs of a direction, or of one source in it, of which none comes again before all have come."""

    direction: int
    rows: NDArray[np.int32]
    weight: float
    entropy: tuple[int, ...]

    @property
    def size(self) -> float:
        return self.weight * len(self.rows)


def _streams(
    usable: Sequence[NDArray[np.int32]], weights: SourceWeights | None, alike: NDArray[np.int64]
) -> list[_Stream]:
    """Returns the streams of directions; those of one number in `alike`, (directions,), have the same entropy."""
    streams = []
    for direction, (rows, number) in enumerate(zip(usable, alike.tolist(), strict=True)):
        if weights is None:
            streams.append(_Stream(direction, rows, 1.0, (number,)))
            continue
        parts = zip(np.split(rows, np.searchsorted(rows, weights.ends[:-1])), weights.weights, strict=True)
        streams += [_Stream(direction, *part, (number, source)) for source, part in enumerate(parts)]
    return streams


def _shares(streams: Sequence[_Stream], num_directions: int, temperature: float) -> NDArray[np.float64]:
    """Returns what each stream is drawn in proportion to: its part of its direction's share."""
    sizes = np.array([stream.size for stream in streams])
    directions = np.array([stream.direction for stream in streams])
    of_direction = np.bincount(directions, sizes, num_directions)[directions]
    # Divided first, so that a huge size to a huge power cannot overflow.
    powers = (of_direction / of_direction.max()) ** (1 / temperature)
    parts: NDArray[np.float64] = np.divide(sizes, of_direction, out=np.zeros_like(sizes), where=of_direction > 0)
    shares: NDArray[np.float64] = powers * parts
    return shares


def _counts(
    sizes: NDArray[np.int64], shares: NDArray[np.float64], num_pairs: int, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Returns the pairs of each stream in an epoch: systematic sampling, so each is within one of its share."""
    rng = np.random.default_rng((seed, _COUNTS_STREAM, epoch))
    order = rng.permutation(np.flatnonzero(sizes))
    weights = shares[order]
    ends = np.cumsum(weights) * (num_pairs / weights.sum())
    ends[-1] = num_pairs
    # The offset keeps clear of 0 and 1, so that rounding never moves a share that is a whole number.
    bounds = np.floor(ends + rng.uniform(1e-3, 1 - 1e-3)).astype(np.int64)
    counts = np.zeros_like(sizes)
    counts[order] = np.diff(bounds, prepend=0)
    return counts


def _draw(size: int, start: int, count: int, entropy: tuple[int, ...]) -> NDArray[np.int32]:
    """Returns positions `start` to `start + count` of an endless row of permutations of `size`."""
    drawn = np.empty(count, np.int32)
    filled = 0
    while filled < count:
        number, begin = divmod(start + filled, size)
        permutation = _permutation(np.random.default_rng((*entropy, number)), size)
        part = permutation[begin : begin + count - filled]
        drawn[filled : filled + len(part)] = part
        filled += len(part)
    return drawn


def _permutation(rng: np.random.Generator, size: int) -> NDArray[np.int32]:
    """Returns the numbers below `size` as `rng.permutation(size)` has them, in half the memory."""
    numbers = np.arange(size, dtype=np.int32)
    rng.shuffle(numbers)
    return numbers


def _cut(
    longest: NDArray[Any], max_tokens: int, rng: np.random.Generator
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Returns an order of the pairs, and where microbatches of pairs of like length end in it, after a 0.

    Sorting in chunks keeps their mix random.
    """
    order = _permutation(rng, len(longest))
    rows_per_microbatch = max(1, int(max_tokens / longest.mean()))
    chunk_size = rows_per_microbatch * _MICROBATCHES_PER_CHUNK
    ends = [0]
    for start in range(0, len(order), chunk_size):
        chunk = order[start : start + chunk_size]
        chunk = chunk[np.argsort(-longest[chunk].astype(np.int32), kind="stable")]
        order[start : start + chunk_size] = chunk
        begin = 0
        while begin < len(chunk):
            # The first is the longest, so the others fit where it fits.
            end = min(begin + max_tokens // int(longest[chunk[begin]]), len(chunk))
            ends.append(start + end)
            begin = end
    return order, np.array(ends, np.int64)
