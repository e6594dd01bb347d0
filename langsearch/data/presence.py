"""Which sentences of a text are there: the rows of each direction, and which of them are held out.

Sizes in shapes: rows = rows of the text, languages = those of the text.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from langsearch.data.directions import Direction
from langsearch.data.parallel import ParallelText
from langsearch.space.problems import InputError

Presence = NDArray[np.bool_]
"""(rows, languages): whether the sentence is there."""


def presence(text: ParallelText) -> Presence:
    """Returns which sentences are there, (rows, languages), in the order of the text's languages."""
    found = np.empty((len(text), len(text.languages)), np.bool_)
    for index, language in enumerate(text.languages):
        column = text.sentences[language]
        found[:, index] = np.fromiter((sentence is not None for sentence in column), np.bool_, len(column))
    return found


def row_groups(present: Presence) -> list[NDArray[np.int64]]:
    """Returns the rows of each set of languages that a row has, in order; those of the first row's set come first."""
    if not len(present):
        return []
    packed = np.packbits(present, axis=1)
    keys = np.ascontiguousarray(packed).view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return [np.flatnonzero(inverse == group) for group in np.argsort(first)]


def even_rows(rows: NDArray[np.int64], num: int) -> NDArray[np.int64]:
    """Returns `num` of the rows, evenly spaced, or all where there are no more."""
    if num >= len(rows):
        return rows
    spaced: NDArray[np.int64] = rows[np.linspace(0, len(rows) - 1, num).round().astype(np.int64)]
    return spaced


def rows_by_direction(
    text: ParallelText, directions: Sequence[Direction], present: Presence | None = None
) -> dict[Direction, int]:
    """Returns how many rows of a text each direction has: those with both sides.

    Args:
        text: The text.
        directions: Between its languages.
        present: Of the text, where it is known.
    """
    there = presence(text) if present is None else present
    # Counted once a set of languages: there are few, but many directions.
    sets = [(there[rows[0]], len(rows)) for rows in row_groups(there)]
    index = {language: position for position, language in enumerate(text.languages)}
    return {
        direction: sum(num for has, num in sets if has[index[direction.src]] and has[index[direction.tgt]])
        for direction in directions
    }


def held_out_rows(
    text: ParallelText, rows_by_source: Sequence[int], num: int, directions: Sequence[Direction]
) -> NDArray[np.int64]:
    """Returns which rows are held out: of every source in proportion, and so that directions have rows in both parts.

    A group is a source's rows of one set of languages; its last rows are taken, by largest remainders. A direction that
    has two rows or more then gets one in both parts, at the cost of the groups that gave most.

    Args:
        text: The training text.
        rows_by_source: The rows of each source, one below the other.
        num: How many rows to hold out, below the rows of the text.
        directions: Those that are scored.

    Raises:
        InputError: If `num` is too small for a row of each direction.
    """
    there = presence(text)
    ends = np.cumsum(rows_by_source)
    groups: list[NDArray[np.int64]] = []
    for begin, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        groups += [begin + rows for rows in row_groups(there[begin:end])]
    sizes = np.array([len(rows) for rows in groups])
    if num > int((sizes - 1).sum()):
        raise InputError(
            f"`data.validation.holdout` must leave a row of each source and set of languages to train on, but takes "
            f"{num:,} of {len(text):,}. Hold fewer out."
        )
    counts = _in_proportion(sizes, num)
    has = there[[rows[0] for rows in groups]]
    index = {language: position for position, language in enumerate(text.languages)}
    of_direction = {
        direction: np.flatnonzero(has[:, index[direction.src]] & has[:, index[direction.tgt]])
        for direction in directions
    }
    needed = _needed(of_direction, sizes, counts)
    # Each direction without a row gets one of its largest group; those with most to give give it.
    spare = np.maximum(counts - needed, 0)
    missing = int(np.maximum(needed - counts, 0).sum())
    if missing > int(spare.sum()):
        raise InputError(
            f"`data.validation.holdout` must give every direction a sentence, for which {int(needed.sum()):,} rows are "
            f"needed, but got {num:,}. Hold more out."
        )
    counts = np.maximum(counts, needed)
    for _ in range(missing):
        counts[int(np.argmax(np.where(counts > needed, counts, 0)))] -= 1
    held = [rows[len(rows) - count :] for rows, count in zip(groups, counts.tolist(), strict=True) if count]
    return np.sort(np.concatenate(held)) if held else np.zeros(0, np.int64)


def _needed(
    of_direction: Mapping[Direction, NDArray[np.int64]], sizes: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Returns how many rows each group must give so that each direction has one; of a single row none is taken."""
    needed = np.zeros_like(sizes)
    for groups in sorted(of_direction.values(), key=len):
        if sizes[groups].sum() < 2 or needed[groups].any():
            continue
        given = groups[counts[groups] > 0]
        # A group that gives anyway is taken before one that would have to.
        best = given if len(given) else groups
        needed[best[np.argmax(sizes[best])]] = 1
    return needed


def _in_proportion(sizes: NDArray[np.int64], num: int) -> NDArray[np.int64]:
    """Returns `num` split in proportion to the sizes (Hamilton's method), leaving a row of each."""
    shares = sizes * (num / sizes.sum())
    counts: NDArray[np.int64] = np.floor(shares).astype(np.int64)
    order = np.argsort(-(shares - counts), kind="stable")
    counts[order[: num - int(counts.sum())]] += 1
    counts = np.minimum(counts, sizes - 1)
    while (missing := num - int(counts.sum())) > 0:  # what small groups could not give, the largest do
        order = np.argsort(-(sizes - 1 - counts), kind="stable")[:missing]
        counts[order] = np.minimum(counts[order] + 1, sizes[order] - 1)
    return counts
