"""Rows that two parts of the data have in common, whatever their files are called.

A row of one part is in another part
- as a pair: both sentences of one of its language pairs stand together in a row there, in the same two languages; or
- by one sentence of at least `keys.MIN_LETTERS` letters that stands there in the same language.

Short sentences ("Yes.", "Save as") are said again and again, with translations that differ: they count as pairs alone.
Sentences are compared by `keys.sentence_key`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from langsearch.data.keys import is_long, sentence_key
from langsearch.data.parallel import ParallelText

MAX_SHARE = 0.01
"""The share of the smaller part's rows that may be in the other one."""

LanguagePair = tuple[str, str]

_ROWS_PER_BLOCK = 100_000
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Overlap:
    """What two parts have in common."""

    part: str
    """The smaller one."""

    other: str

    num_rows: int
    """Of the smaller part."""

    rows: NDArray[np.int64]
    """(num,): its rows that are in the other one too, rising."""

    other_rows: NDArray[np.int64]
    """(num,): for each of them a row of the other one that it is in."""

    languages: tuple[str, ...]
    """For each of them a language that both rows have the sentence in."""

    all_other_rows: NDArray[np.int64]
    """All rows of the other part that are in this one, rising."""

    def rows_of(self, part: str) -> NDArray[np.int64]:
        """Returns the rows of one of the two that are in the other one."""
        return self.rows if part == self.part else self.all_other_rows

    @property
    def share(self) -> float:
        """Which share of the smaller part's rows is in the other one, in [0, 1]."""
        return len(self.rows) / self.num_rows

    @property
    def is_leak(self) -> bool:
        """Whether it is more than may be."""
        return self.share > MAX_SHARE


def find_overlap(parts: Mapping[str, ParallelText], pairs: Collection[LanguagePair]) -> tuple[Overlap, ...]:
    """Returns what each two parts have in common, where they have something; of two that are as large, the later.

    Of the larger part only a block of rows is looked at at once.

    Args:
        parts: Texts in the same languages, by name.
        pairs: The language pairs that are translated, either way round.
    """
    order = list(parts)
    names = sorted(parts, key=lambda name: (len(parts[name]), -order.index(name)))
    keyed: dict[str, _Sentences] = {}
    found = []
    for index, other in enumerate(names):
        for part in names[:index]:
            keyed.setdefault(part, _Sentences.of(parts[part], 0, len(parts[part])))
        matches = {part: _Matches(keyed[part]) for part in names[:index] if len(parts[part])}
        for start in range(0, len(parts[other]), _ROWS_PER_BLOCK) if matches else ():
            block = _Sentences.of(parts[other], start, start + _ROWS_PER_BLOCK)
            for match in matches.values():
                match.look(block, start, pairs)
        for part, match in matches.items():
            rows = np.flatnonzero(match.other_rows >= 0)
            if len(rows):
                languages = tuple(match.languages[int(row)] for row in rows)
                theirs = np.unique(np.concatenate(match.found))
                found.append(Overlap(part, other, len(parts[part]), rows, match.other_rows[rows], languages, theirs))
    return tuple(found)


@dataclass(frozen=True)
class _Sentences:
    """Rows as numbers: equal where the sentences' keys are equal, 0 where there is none."""

    keys: Mapping[str, NDArray[np.uint64]]
    is_long: Mapping[str, NDArray[np.bool_]]

    @classmethod
    def of(cls, text: ParallelText, start: int, stop: int) -> "_Sentences":
        keys, long = {}, {}
        for language in text.languages:
            found = [_number(sentence) for sentence in text.sentences[language][start:stop]]
            keys[language] = np.array([number for number, _ in found], np.uint64)
            long[language] = np.array([is_long for _, is_long in found], np.bool_)
        return cls(keys, long)


def _number(sentence: str | None) -> tuple[int, bool]:
    if sentence is None:
        return 0, False
    key = sentence_key(sentence)
    # Python's own hash differs from one process to the next, and none of these leaves this one. It is of 64 bits.
    return hash(key) & 0xFFFFFFFFFFFFFFFF or 1, is_long(key)


class _Matches:
    """The rows of a part that have been found in another one."""

    def __init__(self, part: _Sentences) -> None:
        self.part = part
        num_rows = len(next(iter(part.keys.values())))
        self.other_rows = np.full(num_rows, -1, np.int64)
        self.languages: dict[int, str] = {}
        self.found: list[NDArray[np.int64]] = []
        """Rows of the other part, in no order."""
        self._known = {language: np.unique(keys[keys > 0]) for language, keys in part.keys.items()}

    def look(self, block: _Sentences, start: int, pairs: Collection[LanguagePair]) -> None:
        """Takes in some rows of the other part, of which the first is row `start`."""
        is_known = {
            language: np.isin(keys, self._known[language]) for language, keys in block.keys.items() if len(keys)
        }
        for language, known in is_known.items():
            rows = np.flatnonzero(known & block.is_long[language])
            mine = np.where(self.part.is_long[language], self.part.keys[language], np.uint64(0))
            self._take(language, mine, block.keys[language][rows], rows + start)
        for first, second in pairs:
            rows = np.flatnonzero(is_known[first] & is_known[second])
            if len(rows):
                mine = _joined(self.part.keys[first], self.part.keys[second])
                theirs = _joined(block.keys[first][rows], block.keys[second][rows])
                self._take(first, mine, theirs, rows + start)

    def _take(
        self, language: str, mine: NDArray[np.uint64], theirs: NDArray[np.uint64], their_rows: NDArray[np.int64]
    ) -> None:
        values, first = np.unique(theirs, return_index=True)
        if not len(values):
            return
        self.found.append(their_rows[np.isin(theirs, mine)])
        place = np.searchsorted(values, mine).clip(max=len(values) - 1)
        new = np.flatnonzero((mine > 0) & (values[place] == mine) & (self.other_rows < 0))
        self.other_rows[new] = their_rows[first[place[new]]]
        self.languages.update(dict.fromkeys(new.tolist(), language))


def _joined(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Returns one number for two sentences; 0 where one of them is missing. It wraps around, as it should."""
    return np.where((first > 0) & (second > 0), (first * _ODD) ^ (second + _ODD) | np.uint64(1), np.uint64(0))
