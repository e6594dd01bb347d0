"""Parallel text from what a space names: opens every file of every source, and puts them one below the other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from langsearch.data.columns import ColumnFile, Located, lacking, locate
from langsearch.data.parallel import ParallelText, concatenate
from langsearch.data.presence import even_rows, presence, row_groups
from langsearch.data.source_files import Opened, open_source
from langsearch.space.problems import InputError
from langsearch.space.settings import Source

__all__ = [
    "ParallelText",
    "ReadText",
    "SourcesError",
    "available_languages",
    "concatenate",
    "find_place",
    "read_parts",
    "read_source",
    "read_sources",
]


class SourcesError(InputError):
    """What is wrong with several sources.

    Args:
        problems: Of each the number of its source, from 0, None where it is of all together; and a sentence.
    """

    def __init__(self, problems: Sequence[tuple[int | None, str]]) -> None:
        super().__init__([text for _, text in problems])
        self.sources = tuple(source for source, _ in problems)


@dataclass(frozen=True)
class ReadText:
    """The text of several sources, one below the other, and where it is from."""

    text: ParallelText

    rows_by_source: tuple[int, ...]
    """The rows of each source, in order."""

    lines: tuple[str, ...]
    """What was read of each source, for people."""


@dataclass(frozen=True)
class _Part:
    """The rows of one file that are taken."""

    file: ColumnFile
    located: Located
    text: ParallelText
    rows: NDArray[np.int64] | None
    """Which rows of the file these are. None: all."""


def read_source(source: Source, languages: Sequence[str]) -> ParallelText:
    """Returns the text of one source, which must have all the languages.

    Args:
        source: What to read. A relative path counts from the current folder.
        languages: Codes of any family; the text uses these codes.

    Raises:
        InputError: With all problems of the source: a language or file that is missing, files with unequal line
            counts, empty or huge lines, text that is in no encoding that is read.
    """
    return read_sources([source], languages)


def read_sources(sources: Sequence[Source], languages: Sequence[str]) -> ParallelText:
    """Returns the text of `read_parts` alone."""
    return read_parts(sources, languages).text


def read_parts(sources: Sequence[Source], languages: Sequence[str]) -> ReadText:
    """Returns the text of several sources, one below the other.

    A single file, or folder of files, must have all languages. Of several, each that is named must have at least two,
    those that a pattern finds are left out if they have fewer, and each language must be in at least one; where a file
    lacks a language, its rows are None.

    Raises:
        SourcesError: With all problems of all sources.
    """
    opened, problems = _open_all(sources, languages)
    is_single = len(sources) == 1 and len(opened[0].files) == 1 and not problems
    by_source: list[list[_Part]] = []
    found: set[str] = set()
    for number, (source, files) in enumerate(zip(sources, opened, strict=True)):
        parts, wrong = _read(source, files, languages, is_single=is_single)
        problems += [(number, text) for text in wrong]
        # What could not be read still says that its languages are there.
        found |= {language for file in files.files for language in _locate(files, file, source, languages)[0]}
        by_source.append(_capped(source, parts))
    if not problems and (absent := [language for language in languages if language not in found]):
        problems.append((None, f"Every language must be in a source, but none has {', '.join(absent)}"))
    if problems:
        raise SourcesError(problems)
    parts = [part for items in by_source for part in items]
    text = parts[0].text if len(parts) == 1 else concatenate([part.text for part in parts])
    # Of a source of many files the name says all; their own would fill pages.
    origin = " + ".join(map(str, sources))
    lines = [_line(*item) for item in zip(sources, opened, by_source, strict=True)]
    sentences = {language: text.sentences[language] for language in languages}
    return ReadText(
        ParallelText(tuple(languages), sentences, origin),
        tuple(sum(len(part.text) for part in items) for items in by_source),
        tuple(lines),
    )


def available_languages(source: Source, languages: Sequence[str]) -> tuple[str, ...]:
    """Returns those of the languages that a source has.

    Raises:
        InputError: If the source itself is not there.
    """
    opened = open_source(source, languages)
    found = {name for file in opened.files for name in _locate(opened, file, source, languages)[0]}
    return tuple(language for language in languages if language in found)


def column_names(source: Source, languages: Sequence[str]) -> Located:
    """Returns how the first file of a source that has two of the languages calls the column of each."""
    opened = open_source(source, languages)
    located = (_locate(opened, file, source, languages)[0] for file in opened.files)
    return next((found for found in located if len(found) > 1), {})


def find_place(sources: Sequence[Source], languages: Sequence[str], language: str, row: int) -> str:
    """Returns where a sentence of `read_sources` was written: FILE:LINE as far as its source has lines.

    Reads the sources again: for the message of a problem, not for every row.

    Args:
        sources: The sources.
        languages: As they were read.
        language: The sentence's.
        row: Its row in all of them together, from 0.
    """
    opened, _ = _open_all(sources, languages)
    is_single = len(sources) == 1 and len(opened[0].files) == 1
    for source, files in zip(sources, opened, strict=True):
        for part in _capped(source, _read(source, files, languages, is_single=is_single)[0]):
            if row < len(part.text):
                of_file = row if part.rows is None else int(part.rows[row])
                return part.file.place_of(part.located[language], of_file)
            row -= len(part.text)
    raise AssertionError(f"no source has row {row}")


def _open_all(sources: Sequence[Source], languages: Sequence[str]) -> tuple[list[Opened], list[tuple[int | None, str]]]:
    opened: list[Opened] = []
    problems: list[tuple[int | None, str]] = []
    for number, source in enumerate(sources):
        try:
            opened.append(open_source(source, languages))
        except InputError as e:
            opened.append(Opened((), is_spread=False))
            problems += [(number, text) for text in e.problems]
    return opened, problems


def _locate(opened: Opened, file: ColumnFile, source: Source, languages: Sequence[str]) -> tuple[Located, list[str]]:
    if opened.located is not None:
        return opened.located, list(opened.problems)
    return locate(file, languages, source.columns)


def _read(
    source: Source, opened: Opened, languages: Sequence[str], *, is_single: bool
) -> tuple[list[_Part], list[str]]:
    """Returns the text of a source's files, and all that is wrong with them."""
    parts: list[_Part] = []
    problems: list[str] = []
    for file in opened.files:
        located, missing = _locate(opened, file, source, languages)
        if is_single:
            problems += missing
        elif len(located) < 2:
            if not opened.is_spread:
                problems.append(lacking(file, located, languages, missing, source.columns))
            continue
        if not located:
            continue
        try:
            parts.append(_Part(file, located, ParallelText(tuple(located), file.read(located), str(source)), None))
        except InputError as e:
            problems += e.problems
    if opened.files and not parts and not problems:
        problems.append(f"{source}: a source must have two of the languages or more, but no file of it has")
    return parts, problems


def _capped(source: Source, parts: list[_Part]) -> list[_Part]:
    """Returns the files with at most `max_rows` rows of each set of languages, over all of them, evenly spaced."""
    if source.max_rows is None or not parts:
        return parts
    languages = dict.fromkeys(language for part in parts for language in part.text.languages)
    index = {language: position for position, language in enumerate(languages)}
    there = np.zeros((sum(len(part.text) for part in parts), len(index)), np.bool_)
    start = 0
    for part in parts:
        columns = [index[language] for language in part.text.languages]
        there[start : start + len(part.text), columns] = presence(part.text)
        start += len(part.text)
    is_kept = np.zeros(len(there), np.bool_)
    for rows in row_groups(there):
        is_kept[even_rows(rows, source.max_rows)] = True
    kept, start = [], 0
    for part in parts:
        rows = np.flatnonzero(is_kept[start : start + len(part.text)])
        start += len(part.text)
        if len(rows):
            kept.append(_Part(part.file, part.located, part.text.select(rows.tolist()), rows))
    return kept


def _line(source: Source, opened: Opened, parts: Sequence[_Part]) -> str:
    """Returns what was read of a source, for people."""
    num_files, num_rows = len(opened.files), sum(len(part.text) for part in parts)
    texts = [f"{num_rows:,} row{'' if num_rows == 1 else 's'}"]
    if num_files > 1 or opened.is_spread:
        count = f"{num_files:,} file{'' if num_files == 1 else 's'}"
        texts.insert(0, f"{len(parts):,} of {count}" if len(parts) < num_files else count)
    if source.max_rows is not None:
        texts.append(f"at most {source.max_rows:,} of a set of languages")
    if source.weight != 1:
        texts.append(f"weight {source.weight:g}")
    notes = dict.fromkeys(note for part in parts for note in part.file.notes)
    return f"{source}: {', '.join([*texts, *notes])}"
