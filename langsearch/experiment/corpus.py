"""The aligned text of an experiment's three parts, and how many rows each direction has in them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from langsearch.data.directions import Direction
from langsearch.data.epochs import SourceWeights
from langsearch.data.parallel import ParallelText
from langsearch.data.presence import held_out_rows, rows_by_direction
from langsearch.data.readers import ReadText, SourcesError, find_place, read_parts
from langsearch.space.problems import InputError
from langsearch.space.settings import DataSettings, Source

PARTS = ("train", "validation", "test")

_MAX_NAMED = 8


@dataclass(frozen=True)
class Corpus:
    """The aligned text of the three parts; they share no row."""

    train: ParallelText
    validation: ParallelText
    test: ParallelText

    weights: SourceWeights | None = None
    """How often rows of train are drawn, by source. None: all alike."""

    rows: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    """Which rows of the sources of train are in `train` and `validation`, where they were held out of it."""

    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What was read for each part, for people."""

    rows_by_source: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The rows of each source as it was read, of the parts that have sources of their own."""

    @property
    def parts(self) -> Mapping[str, ParallelText]:
        """The three parts by name."""
        return dict(zip(PARTS, (self.train, self.validation, self.test), strict=True))

    def rows_of_sources(self, part: str) -> list[range]:
        """Returns which rows of a part each of its sources has, in order; none for rows held out of another part."""
        ends = np.cumsum([0, *self.rows_by_source.get(part, ())])
        if part in self.rows:
            ends = np.searchsorted(self.rows[part], ends)
        return [range(first, last) for first, last in pairwise(ends.tolist())]

    def place(self, data: DataSettings, part: str, language: str, row: int) -> str:
        """Returns where a sentence of a part was written: FILE:LINE as far as its source has lines."""
        return find_place(
            sources_by_part(data)[part] or data.train,
            self.train.languages,
            language,
            int(self.rows[part][row]) if part in self.rows else row,
        )


@dataclass(frozen=True)
class DirectionRows:
    """How many rows a direction has in each part."""

    train: int
    validation: int
    test: int

    @property
    def is_zero_shot(self) -> bool:
        """Whether the direction is scored but not trained on."""
        return self.train == 0


def sources_by_part(data: DataSettings) -> Mapping[str, tuple[Source, ...]]:
    """Returns the sources of each part; validation has none where it is held out of train."""
    return dict(zip(PARTS, (data.train, data.validation, data.test), strict=True))


def read_corpus(
    data: DataSettings,
    languages: tuple[str, ...],
    directions: Sequence[Direction] = (),
    where: Callable[[str, int | None], str] | None = None,
) -> Corpus:
    """Reads the three parts, and holds rows of train out where the data says so.

    Args:
        data: The sources.
        languages: Codes of any family.
        directions: Those that a holdout must leave rows for.
        where: Says where the space names a part, or one of its sources, which then stands before its problems.

    Raises:
        InputError: With the problems of all three parts.
    """
    problems: list[str] = []
    parts: list[ReadText | None] = []
    told: set[str] = set()
    for part, sources in sources_by_part(data).items():
        try:
            parts.append(read_parts(sources, languages) if sources else None)
        except SourcesError as error:
            for number, problem in zip(error.sources, error.problems, strict=True):
                index = f"[{number}]" if number is not None and len(sources) > 1 else ""
                if problem not in told:
                    place = "" if where is None else f"{where(part, number)}: `data.{part}{index}`: "
                    problems.append(f"{place}{problem}")
                told.add(problem)
            parts.append(None)
    train, validation, test = parts
    held_out = None
    if train is not None and validation is None and data.holdout is not None:
        try:
            held_out = _hold_out(data, train, directions)
        except InputError as error:
            place = "" if where is None else f"{where('validation', None)}: "
            problems += [f"{place}{problem}" for problem in error.problems]
    if problems:
        raise InputError(problems)
    assert train is not None and test is not None
    read = {name: part for name, part in zip(PARTS, parts, strict=True) if part is not None}
    lines = {name: part.lines for name, part in read.items()}
    num_rows = {name: part.rows_by_source for name, part in read.items()}
    source_weights = [source.weight for source in data.train]
    if validation is not None:
        weights = SourceWeights.of(source_weights, train.rows_by_source)
        return Corpus(train.text, validation.text, test.text, weights, {}, lines, num_rows)
    assert held_out is not None
    held, kept = held_out
    ends = np.cumsum(train.rows_by_source)
    rows_by_source = np.diff(np.searchsorted(kept, ends), prepend=0).tolist()
    return Corpus(
        train.text.select(kept.tolist()),
        train.text.select(held.tolist()),
        test.text,
        SourceWeights.of(source_weights, rows_by_source),
        {"train": kept, "validation": held},
        lines,
        num_rows,
    )


def _hold_out(
    data: DataSettings, train: ReadText, directions: Sequence[Direction]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the rows of train that are held out, and those that are kept."""
    assert data.holdout is not None
    num_rows = len(train.text)
    if data.holdout >= num_rows:
        raise InputError(
            f"`data.validation.holdout` must leave sentences to train on, but takes {data.holdout} of {num_rows}."
        )
    if data.holdout_rows == "last":
        held = np.arange(num_rows - data.holdout, num_rows)
    else:
        held = held_out_rows(train.text, train.rows_by_source, data.holdout, directions)
    return held, np.setdiff1d(np.arange(num_rows), held, assume_unique=True)


def count_rows(corpus: Corpus, directions: Sequence[Direction]) -> dict[Direction, DirectionRows]:
    """Returns how many rows each direction has in each part."""
    by_part = [rows_by_direction(part, directions) for part in corpus.parts.values()]
    return {direction: DirectionRows(*(rows[direction] for rows in by_part)) for direction in directions}


def row_problems(counts: Mapping[Direction, DirectionRows], data: DataSettings) -> list[str]:
    """Returns what is wrong with the rows of the directions: some would be scored on nothing, or none trained on.

    A direction without training rows alone is right: it is zero-shot.
    """
    problems = []
    for part, has in (
        ("validation", [rows.validation for rows in counts.values()]),
        ("test", [rows.test for rows in counts.values()]),
    ):
        empty = [direction for direction, num in zip(counts, has, strict=True) if not num]
        if empty:
            problems.append(
                f"`data.{part}` must have a sentence in every direction, but has none for {len(empty):,} of "
                f"{len(counts):,}: {_named(empty)}. {_way_out(part, counts, empty, data)}"
            )
    if counts and not any(rows.train for rows in counts.values()):
        problems.append(
            f"`data.train` must have a sentence in some direction, but none of {len(counts):,} has one: "
            f"{_named(list(counts))}. Name directions whose two languages stand in one source."
        )
    return problems


def _way_out(
    part: str, counts: Mapping[Direction, DirectionRows], empty: Sequence[Direction], data: DataSettings
) -> str:
    scored = [direction for direction in counts if direction not in set(empty)]
    if part == "validation" and data.holdout is not None and data.holdout_rows == "last":
        trained = [direction for direction in empty if counts[direction].train]
        if trained:
            return "Hold rows of every source out: `data.validation: {holdout: N, rows: spread}`."
    if len(scored) == 0:
        return "Give a source whose rows have both languages."
    listed = ", ".join(map(str, scored[:_MAX_NAMED])) + (", …" if len(scored) > _MAX_NAMED else "")
    return f"Leave them out, `data.directions: [{listed}]`, or give a source that has them."


def _named(directions: Sequence[Direction]) -> str:
    more = len(directions) - _MAX_NAMED
    listed = ", ".join(map(str, directions[:_MAX_NAMED]))
    return f"{listed} and {more:,} more" if more > 0 else listed
