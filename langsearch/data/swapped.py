"""Columns whose text is in another language than they are said to be: swapped ones, most often.

A column is told by how frequent its runs of three letters are, digits and punctuation aside. Two columns are as like as
their frequencies p and q: the sum over all runs of sqrt(p q) (Bhattacharyya 1943), 1 where they are the same. Measured
on 132 columns of 30 languages (news, speeches, software, FLORES-101; at most 1,000 sentences each): columns of a
language of one script are alike by 0.84 and more in all texts, those of two languages by 0.83 at most (Spanish and
Portuguese of the same sentences), English and another by 0.72.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from langsearch.data.dirt import spaced
from langsearch.data.embedded import NAMES, PARTS, read_embedded
from langsearch.data.parallel import ParallelText
from langsearch.space.problems import InputError

Profile = NDArray[np.float64]
"""(_NUM_RUNS,): the square root of each run's frequency; its norm is 1."""

Place = tuple[str, int]
"""A source: its part, and its number there, from 0."""

_MAX_ROWS = 4_000
"""So many rows of a source are read: not every one has every language."""

MIN_SENTENCES, MIN_LETTERS = 50, 2_000
"""Of a column with less nothing is said."""

MAX_SENTENCES = 500
_MAX_CHARACTERS = 200
_NUM_RUNS = 1 << 15
_NO_LETTERS = re.compile(r"[\W\d_]+")

_NEAR = 0.1
"""By so much a column must be more like a language than the column of that language in the same source is. Both are of
one kind of text, so that this holds across kinds."""

_FAR = 0.25
"""By so much it must be more like a language than like its own, where another kind of text may be the cause."""


@dataclass(frozen=True)
class Swapped:
    """A column that is in another language than it is said to be."""

    place: Place
    language: str
    """What it is said to be."""

    like: str
    """What it looks like."""

    is_exchange: bool
    """Whether the column of that language in the same source does not look like it."""


def profile(sentences: Sequence[str | None]) -> Profile | None:
    """Returns what tells the language of a column, by at most 500 sentences, evenly spaced; None where it has too few.

    Args:
        sentences: None where one is not there.
    """
    there = [sentence for sentence in sentences if sentence]
    if len(there) < MIN_SENTENCES:
        return None
    chosen = (there[row][:_MAX_CHARACTERS] for row in spaced(len(there), MAX_SENTENCES))
    text = _NO_LETTERS.sub(" ", " ".join(chosen).casefold())
    if len(text) < MIN_LETTERS:
        return None
    codes = np.frombuffer(f" {text} ".encode("utf-32-le"), np.uint32).astype(np.int64)
    runs = (codes[:-2] * 1_000_003 + codes[1:-1]) * 1_000_003 + codes[2:]
    counts = np.bincount((runs ^ (runs >> 15)) % _NUM_RUNS, minlength=_NUM_RUNS)
    found: Profile = np.sqrt(counts / counts.sum())
    return found


def profiles(text: ParallelText, rows: Sequence[int]) -> dict[str, Profile]:
    """Returns the profile of each language that some rows of a text have enough of, by at most 4,000 of them."""
    part = text.select([rows[row] for row in spaced(len(rows), _MAX_ROWS)])
    found = {language: profile(part.sentences[language]) for language in text.languages}
    return {language: one for language, one in found.items() if one is not None}


def known_profiles(languages: Sequence[str]) -> dict[str, Profile]:
    """Returns the profiles of those of the languages that the embedded sentences have: what they are is certain.

    Args:
        languages: Codes of any family.
    """
    found = {}
    for language in languages:
        known = _known_profile(language)
        if known is not None:
            found[language] = known
    return found


@cache
def _known_profile(language: str) -> Profile | None:
    sentences: list[str | None] = []
    for name in NAMES:
        try:
            sentences += [row for part in PARTS for row in read_embedded(name, part, [language]).sentences[language]]
        except InputError:  # it lacks the language
            continue
    return profile(sentences)


def find_swapped(columns: Mapping[Place, Mapping[str, Profile]], known: Mapping[str, Profile]) -> list[Swapped]:
    """Returns the columns that look like another language of the space.

    Each is compared with what is known of a language, else with its columns in other sources; these may be swapped
    themselves, so that alone they say less.

    Args:
        columns: Of each source the profile of each language that it has enough of.
        known: Profiles that are certain.
    """
    found = []
    languages = list(dict.fromkeys([*known, *(language for own in columns.values() for language in own)]))
    everywhere = {language: _reference(language, None, columns, known) for language in languages}
    for place, own in columns.items():
        # Of a language that the source lacks it is the same for all sources.
        references = everywhere | {language: _reference(language, place, columns, known) for language in own}
        given = {language: reference for language, reference in references.items() if reference is not None}
        if not own or not given:
            continue
        alike = np.stack([*own.values()]) @ np.stack([*given.values()]).T
        table = {name: dict(zip(given, row, strict=True)) for name, row in zip(own, alike.tolist(), strict=True)}
        for language, likeness in table.items():
            others = [name for name in likeness if name != language]
            like = max(others, key=lambda name: likeness[name], default=None)
            if like is None:
                continue
            # How much more it looks like the other language than that one's column does, and than like its own.
            than_column = likeness[like] - table[like][like] if like in table else None
            than_own = likeness[like] - likeness[language] if language in likeness else None
            is_exchange = than_column is not None and than_column > _NEAR
            is_far = than_own is not None and than_own > _FAR
            if like in known:
                is_other = (is_exchange and (language not in known or (than_own or 0.0) > 0)) or is_far
            else:
                is_other = is_far and (than_column is None or is_exchange)
            if is_other:
                found.append(Swapped(place, language, like, is_exchange))
    return found


def _reference(
    language: str, place: Place | None, columns: Mapping[Place, Mapping[str, Profile]], known: Mapping[str, Profile]
) -> Profile | None:
    """Returns what a language looks like, elsewhere than in a source."""
    if language in known:
        return known[language]
    others = [own[language] for other, own in columns.items() if other != place and language in own]
    if not others:
        return None
    mean: Profile = np.sqrt(np.mean(np.square(others), axis=0))
    return mean
