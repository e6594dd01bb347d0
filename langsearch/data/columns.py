"""Columns of sentences by name, as every format has them, and which of them is which language."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from langsearch.space.languages import language_named, match_code, scripts_of
from langsearch.space.problems import InputError, did_you_mean, near_names

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


_MAX_NAMED = 8
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
            if len(file.names) == 2 and len(meant) == 1 and len(languages) > 1:  # both are wanted
                meant |= {"CODE": next(name for name in file.names if name not in meant.values())}
            return located, [f"{file.place}: {_many(file.column)} must be called by codes, but {_by_name(meant)}"]
        if len(languages) > 1:
            example = ", ".join(f"{code}: {name}" for code, name in zip(languages, file.names[:2], strict=False))
            if len(file.names) > 2 or len(languages) > 2:  # which of them are meant is not known
                example = ", ".join(f"CODE: {name}" for name in file.names[:2])
            problems[-1] += f" Where names are no codes, say which is which: `columns: {{{example}}}`."
    return located, problems


def lacking(
    file: ColumnFile,
    located: Located,
    languages: Sequence[str],
    problems: Sequence[str],
    columns: Sequence[tuple[str, str]] = (),
) -> str:
    """Returns one problem for a file with fewer than two of the languages: what it has, and what was meant.

    Args:
        file: The file.
        located: The columns that were found.
        languages: Codes of any family.
        problems: What `locate` says of each language.
        columns: What the space says of the columns.
    """
    if len(problems) == 1:
        return problems[0]
    names = list(file.names)
    has = _quoted(names[:_MAX_NAMED]) + (f" and {len(names) - _MAX_NAMED:,} more" if len(names) > _MAX_NAMED else "")
    if wrong := [name for language, name in columns if language in languages and name not in names]:
        hints = [did_you_mean(name, names) for name in wrong]
        what = f"{file.column} {wrong[0]!r}" if len(wrong) == 1 else f"{_many(file.column)} {_quoted(wrong)}"
        return f"{file.place}: {what} must exist, as `columns` says, but it has {has}.{''.join(hints)}"
    if columns:
        return (
            f"{file.place}: `columns` must name two of the languages or more, but names {', '.join(located) or 'none'}."
        )
    guesses = (_meant(language, file) for language in languages if language not in located)
    hint = next(filter(None, guesses), "")
    found = f", of which {' and '.join(located)} is a language of the space" if located else ""
    rule = f"{file.place}: {_many(file.column)} for two of the languages or more must exist"
    return f"{rule}, but it has {has}{found}.{hint}"


def _meant(language: str, file: ColumnFile) -> str:
    """Returns which column of a file is most likely a language's, "" where none looks so."""
    if scripts := scripts_of(language):
        return f" The script of {language} must be said: {' or '.join(scripts)}"
    name = _match_names(language, file.names)
    if name is not None:
        return f" {_by_name({language: name})}"
    near = did_you_mean(language, file.names)
    # Not one of the columns that are languages themselves.
    return f"{near.removesuffix('?')} for {language}?" if near else ""


def _quoted(names: Sequence[str]) -> str:
    return " and ".join(f"{name!r}" for name in names)


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
