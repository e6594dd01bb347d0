"""Sentences that are not what they should be: copies, another script, unknown pieces, lengths that do not fit.

A copy and lengths that do not fit are faults of a pair, and count for both of its sentences.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from langsearch.data.overlap import LanguagePair
from langsearch.data.parallel import ParallelText
from langsearch.data.scripts import foreign_share, scripts_of_language
from langsearch.space.data_filter import DataFilter

KINDS = ("copies", "script", "unknown", "lengths")

MAX_SHARE = 0.05
"""The share of a language's sentences that may have a kind of fault without a warning."""

MAX_SPLIT = 1_000
"""So many sentences of a language and part are split into pieces for `check`, evenly spaced."""

MIN_FOREIGN_LETTERS = 8
"""Fewer letters of another script are a name or a sign (PDF, OK)."""

GRANTED_CHARACTERS = 10
"""Both sides of a pair are taken as so much longer, since short ones may well differ: Yes, Ja wohl."""

_MIN_PAIRS = 30
"""From fewer pairs no proportion of lengths is taken."""

UnknownShares = Callable[[Sequence[str]], Sequence[float]]
"""Returns for each sentence which share of its pieces the base does not know, in [0, 1]."""


@dataclass(frozen=True)
class Marked:
    """The sentences of a language that have one kind of fault."""

    rows: NDArray[np.int64]
    """(num,), rising."""

    degrees: NDArray[np.float64]
    """(num,): how bad each one is, more being worse: letters of the copy; share of letters or pieces; how many times
    too long or too short."""

    @property
    def worst(self) -> int:
        """The row of the worst of them; the first of those that are alike."""
        return int(self.rows[int(self.degrees.argmax())])


@dataclass(frozen=True)
class Dirt:
    """What was found in a text."""

    num_sentences: Mapping[str, int]
    """Of each language."""

    num_split: Mapping[str, int]
    """Of each language those that were split into pieces."""

    marked: Mapping[tuple[str, str], Marked] = field(default_factory=dict)
    """By language and kind, where there are some."""

    num_pairs: Mapping[LanguagePair, int] = field(default_factory=dict)
    """Of each language pair the rows that have both sides."""

    num_marked_pairs: Mapping[tuple[LanguagePair, str], int] = field(default_factory=dict)
    """By language pair and kind, of the kinds that are faults of a pair."""

    def num_looked_at(self, language: str, kind: str) -> int:
        """Returns how many of a language's sentences were looked at for a kind of fault."""
        return (self.num_split if kind == "unknown" else self.num_sentences)[language]


def find_dirt(
    text: ParallelText,
    pairs: Collection[LanguagePair],
    rules: DataFilter,
    unknown_shares: UnknownShares,
    proportions: Mapping[LanguagePair, float] | None = None,
    max_split: int | None = None,
) -> Dirt:
    """Returns the sentences of a text that break a rule.

    Args:
        text: Sentences.
        pairs: The language pairs that are translated, either way round.
        rules: What to look for.
        unknown_shares: Of the base's tokenizer.
        proportions: As `length_proportions` returns them. None: of this text.
        max_split: So many sentences of a language are split into pieces at most, evenly spaced. None: all.
    """
    found: dict[tuple[str, str], list[Marked]] = {}
    lengths = {language: _lengths(text.sentences[language]) for language in text.languages}
    num_sentences = {language: int((lengths[language] >= 0).sum()) for language in text.languages}
    for language in text.languages:
        sentences = text.sentences[language]
        if rules.script is not None:
            found[language, "script"] = [_in_other_scripts(sentences, language, rules.script)]
        if rules.unknown is not None:
            found[language, "unknown"] = [
                _with_unknown_pieces(sentences, unknown_shares, rules.unknown, num_sentences[language], max_split)
            ]
    given = _proportions(lengths, pairs) if proportions is None else proportions
    num_pairs: dict[LanguagePair, int] = {}
    num_marked_pairs: dict[tuple[LanguagePair, str], int] = {}
    for pair in pairs:
        both = np.flatnonzero((lengths[pair[0]] > 0) & (lengths[pair[1]] > 0))
        marks = [("copies", _copies(text, pair, both))] if rules.copies else []
        if rules.lengths is not None and pair in given:
            first, second = lengths[pair[0]][both], lengths[pair[1]][both]
            marks.append(("lengths", _misfits(first, second, both, given[pair], rules.lengths)))
        num_pairs[pair] = len(both)
        for kind, mark in marks:
            num_marked_pairs[pair, kind] = len(mark.rows)
            for language in pair:
                found.setdefault((language, kind), []).append(mark)
    marked = {key: _joined(marks) for key, marks in found.items()}
    num_split = {language: min(num, num if max_split is None else max_split) for language, num in num_sentences.items()}
    marked = {key: mark for key, mark in marked.items() if len(mark.rows)}
    return Dirt(num_sentences, num_split, marked, num_pairs, num_marked_pairs)


def length_proportions(text: ParallelText, pairs: Collection[LanguagePair]) -> dict[LanguagePair, float]:
    """Returns how many characters the second language of a pair takes for one of the first: the median over a text.

    Pairs of which the text has fewer than 30 are not in it.
    """
    return _proportions({language: _lengths(text.sentences[language]) for language in text.languages}, pairs)


def spaced(num: int, most: int) -> Sequence[int]:
    """Returns at most so many of the numbers below `num`, evenly spaced."""
    return range(num) if num <= most else [index * num // most for index in range(most)]


def _lengths(sentences: Sequence[str | None]) -> NDArray[np.int64]:
    """Returns the characters of each sentence (num_rows,), -1 where it is missing."""
    return np.fromiter((-1 if sentence is None else len(sentence) for sentence in sentences), np.int64, len(sentences))


def _proportions(
    lengths: Mapping[str, NDArray[np.int64]], pairs: Collection[LanguagePair]
) -> dict[LanguagePair, float]:
    found = {}
    for first, second in pairs:
        both = (lengths[first] > 0) & (lengths[second] > 0)
        if both.sum() >= _MIN_PAIRS:
            found[first, second] = float(np.median(lengths[second][both] / lengths[first][both]))
    return found


def _in_other_scripts(sentences: Sequence[str | None], language: str, limit: float) -> Marked:
    scripts = scripts_of_language(language)
    rows, degrees = [], []
    for row, sentence in enumerate(sentences) if scripts is not None else ():
        if sentence is not None:
            assert scripts is not None
            share, num_letters = foreign_share(sentence, scripts)
            if share > limit and num_letters >= MIN_FOREIGN_LETTERS:
                rows.append(row)
                degrees.append(share)
    return _mark(rows, degrees)


def _with_unknown_pieces(
    sentences: Sequence[str | None], unknown_shares: UnknownShares, limit: float, num: int, max_split: int | None
) -> Marked:
    rows = np.fromiter((row for row, sentence in enumerate(sentences) if sentence is not None), np.int64, num)
    rows = rows[np.array(spaced(num, num if max_split is None else max_split), np.int64)]
    shares = np.array(unknown_shares([sentences[row] or "" for row in rows.tolist()]), np.float64)
    over = np.flatnonzero(shares > limit)
    return _mark(rows[over], shares[over])


def _copies(text: ParallelText, pair: LanguagePair, rows: NDArray[np.int64]) -> Marked:
    first, second = (text.sentences[language] for language in pair)
    found, degrees = [], []
    for row in rows.tolist():
        sentence, other = first[row], second[row]
        assert sentence is not None and other is not None
        if sentence.strip() == other.strip() and any(map(str.isalpha, sentence)):
            found.append(row)
            degrees.append(len(sentence))
    return _mark(found, degrees)


def _misfits(
    first: NDArray[np.int64], second: NDArray[np.int64], rows: NDArray[np.int64], proportion: float, limit: float
) -> Marked:
    times = (second + GRANTED_CHARACTERS) / (first * proportion + GRANTED_CHARACTERS)
    times = np.maximum(times, 1 / times)
    over = times > limit
    return _mark(rows[over], times[over])


def _mark(rows: Sequence[int] | NDArray[np.int64], degrees: Sequence[float] | NDArray[np.float64]) -> Marked:
    return Marked(np.array(rows, np.int64), np.array(degrees, np.float64))


def _joined(marks: Sequence[Marked]) -> Marked:
    """Returns the rows of any of them, each once and as bad as at its worst."""
    if len(marks) == 1:
        return marks[0]
    rows, place = np.unique(np.concatenate([mark.rows for mark in marks]), return_inverse=True)
    degrees = np.zeros(len(rows))
    np.maximum.at(degrees, place, np.concatenate([mark.degrees for mark in marks]))
    return Marked(rows, degrees)
