"""Columns of sentences by name, as every format has them, and which of them is which language."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from langsearch.space.languages import language_named, match_code, scripts_of
from langsearch.space.problems import InputError, near_names

Columns = dict[str, Sequence[str | None]]
"""The rows of each language; None where the sentence is not there."""

Located = dict[str, str]
"""The name of each language's column."""


@dataclass(frozen=True)
class ColumnFile:
    """What a file, or the files of one text, hold: columns of sentences by name, all with equally many rows."""

    place: str
    """The file or folder, for messages."""

    column: str
    """What a column is called in messages: a column, a file, a field."""

    names: tuple[str, ...]
    """The columns."""

    read: Callable[[Mapping[str, str]], Columns]
    """Reads some of the columns, given the name for each language. Raises InputError with all that is wrong."""

    place_of: Callable[[str, int], str]
    """Says where a sentence of a column was written, given the column's name and the row from 0."""

    notes: tuple[str, ...] = ()
    """How it is read, where that is not a matter of course."""

    aliases: Mapping[str, str] | None = None
    """Codes that columns are known by beside their names, and their names: en for translation.en."""

    is_named_by_first_row: bool = False
    """Whether the names are the file's first row, which may be sentences where somebody forgot a header."""


_MIN_WORDS = 4
_MIN_LETTERS = 30
_ENDS = (".", "!", "?", "…", "。", "！", "？", "।", "؟", "።")


def locate(
    file: ColumnFile, languages: Sequence[str], columns: Sequence[tuple[str, str]] = ()
) -> tuple[Located, list[str]]:
    """Returns the column of each language, and a problem for each language that has none.

    Args:
        file: The file.
        languages: Codes of any family.
        columns: What the space says of the columns: language and name. Languages that it does not name have none.
    """
    what = f"{file.place}: {file.column}"
    located, problems = (
        _locate_given(what, file.names, languages, columns) if columns else _locate_codes(what, file, languages)
    )
    if problems and not located and file.is_named_by_first_row and any(map(_is_sentence, file.names)):
        return {}, [_no_header(file, languages)]
    return located, problems


def _locate_codes(what: str, file: ColumnFile, languages: Sequence[str]) -> tuple[Located, list[str]]:
    aliases = dict(file.aliases or {}) | {name: name for name in file.names}
    located: Located = {}
    problems: list[str] = []
    for language in languages:
        try:
            located[language] = aliases[_match(language, aliases)]
        except InputError:
            problems.append(f"{what} for {language} must exist.{_hint(language, file)}")
    if problems and not located and len(file.names) > 1:
        meant = {language: name for language in languages if (name := _match_names(language, file.names))}
        if meant:  # of the languages that the file has; of others there is nothing to say
            return located, [f"{file.place}: {_many(file.column)} must be called by codes, but {_by_name(meant)}"]
        if len(languages) > 1:
            example = ", ".join(f"{code}: {name}" for code, name in zip(languages, file.names[:2], strict=False))
            if len(file.names) > 2 or len(languages) > 2:  # which of them are meant is not known
                example = ", ".join(f"CODE: {name}" for name in file.names[:2])
            problems[-1] += f" Where names are no codes, say which is which: `columns: {{{example}}}`."
    return located, problems


def _is_sentence(name: str) -> bool:
    """Returns whether what stands where a column's name should is rather a sentence."""
    return len(name.split()) >= _MIN_WORDS or len(name) >= _MIN_LETTERS or name.rstrip().endswith(_ENDS)


def _no_header(file: ColumnFile, languages: Sequence[str]) -> str:
    """Returns the problem of a file whose first row is sentences, with the header that it most likely wants."""
    parts = re.split(r"[^A-Za-z0-9_]+", PurePath(file.place).name)
    codes = [language for part in parts for language in languages if part == language]
    if len(codes) != len(file.names):  # the file's name does not say
        codes = list(languages) if len(languages) == len(file.names) else ["CODE"] * len(file.names)
    first = file.names[0] if len(file.names[0]) <= _MIN_LETTERS else f"{file.names[0][:_MIN_LETTERS].rstrip()}…"
    return (
        f"{file.place}: the first row must name the columns, but looks like sentences: {first!r}. Without such a row "
        f"say beside the file what they are, in their order: `header: [{', '.join(codes)}]`"
    )


def _many(column: str) -> str:
    """Returns "columns" of "a column"."""
    return f"{column.partition(' ')[2]}s"


def _by_name(meant: Mapping[str, str]) -> str:
    names, codes = (" and ".join(values) for values in ([f"{name!r}" for name in meant.values()], meant))
    columns = ", ".join(f"{code}: {name}" for code, name in meant.items())
    are = "are names and no codes: call them" if len(meant) > 1 else "is a name and no code: call it"
    return f"{names} {are} {codes}, or write `columns: {{{columns}}}`."


def _locate_given(
    what: str, names: Sequence[str], languages: Sequence[str], columns: Sequence[tuple[str, str]]
) -> tuple[Located, list[str]]:
    located, problems = {}, []
    given = dict(columns)
    for language in languages:
        if language not in given:
            problems.append(f"{what} for {language} must exist, but `columns` names none.")
        elif given[language] not in names:
            problems.append(
                f"{what} {given[language]!r} must exist, as `columns` says.{near_names(given[language], names)}"
            )
        else:
            located[language] = given[language]
    return located, problems


def _match(language: str, known: Collection[str]) -> str:
    """Returns the known code that means a language; NTREX and TMX write en-US and snd-Arab where others have _."""
    try:
        return match_code(language, known)
    except InputError:
        plain = {code.replace("-", "_"): code for code in known if "-" in code}
        return plain[match_code(language, plain)]


def _hint(language: str, file: ColumnFile) -> str:
    if scripts := scripts_of(language):
        return f" Its script must be said: {' or '.join(scripts)}"
    meant = _match_names(language, file.names)
    if meant is not None:
        return f" {_by_name({language: meant})}"
    codes = {name: alias for alias, name in (file.aliases or {}).items()}
    return near_names(language, [codes.get(name, name) for name in file.names])


def _match_names(language: str, names: Sequence[str]) -> str | None:
    """Returns the column that is called by the language's English name, None if there is none."""
    for name in names:
        found = language_named(PurePath(name).stem) or language_named(name.rpartition(".")[2])
        try:
            if found is not None and match_code(language, found.codes):
                return name
        except InputError:
            continue
    return None
