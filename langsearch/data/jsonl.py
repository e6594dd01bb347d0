"""Records of JSON: one object a line, or a list of objects, with a field a language."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from langsearch.data.columns import ColumnFile, Columns
from langsearch.data.lines import forms, read_column, sentence_problems, shorten
from langsearch.data.sentences import Sentences, SentenceWriter
from langsearch.space.problems import InputError


def open_jsonl(path: Path) -> ColumnFile:
    """Returns a file of records `{"en": …, "sw": …}`, or the hub's `{"translation": {"en": …, "sw": …}}`.

    A field that is null or absent in a record says that the sentence is not there in that language. Lines are read as
    a stream, once for the names of the fields and once for each `read`; a list of JSON is held as a whole.

    Raises:
        InputError: If a line is not a JSON object, or repeats a field.
    """
    lines = read_column(path)
    if (lines[0] or "").lstrip().startswith("["):
        # Where a record stands in its list is not known once it is read: its number is told instead of its line.
        listed = _records_of_list(path, "\n".join(line or "" for line in lines))
        names = dict.fromkeys(name for record in listed for name in record)
        records: Callable[[], Iterator[_Record]] = partial(iter, listed)
    else:
        names = _names(path, lines)
        records = partial(_records, lines)
    aliases = {name.partition(".")[2]: name for name in names if "." in name}

    def read(columns: Mapping[str, str]) -> Columns:
        return _columns(path, records(), columns)

    def place_of(name: str, row: int) -> str:
        return f"{path}:{row + 1}: field {name}"

    return ColumnFile(str(path), "a field", tuple(names), read, place_of, forms([path]), aliases)


_Record = dict[str, Any]
"""The fields by name; those of an inner object as translation.en."""

_ROWS_AT_ONCE = 10_000


def _names(path: Path, lines: Sentences) -> dict[str, None]:
    names: dict[str, None] = {}

    def problems() -> Iterator[str]:
        for number, line in enumerate(lines, start=1):
            try:
                names.update(dict.fromkeys(_fields(_load(line or ""))))
            except (ValueError, RecursionError) as e:
                yield f"{path}:{number}: a line must be a JSON object, but got: {e}"

    if found := shorten(problems()):
        raise InputError(found)
    return names


def _records(lines: Sentences) -> Iterator[_Record]:
    return (_fields(_load(line or "")) for line in lines)


def _records_of_list(path: Path, text: str) -> list[_Record]:
    try:
        return [_fields(record) for record in _load(text)]
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path}: a list of JSON must hold objects, but got: {e}") from e


def _load(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field stands twice")
    return found


def _fields(record: object) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise ValueError(f"{type(record).__name__} instead of an object")  # noqa: TRY004 (wrong input, as bad JSON is)
    return dict(_flat(record))


def _flat(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", text) for inner, text in value.items())
        else:
            yield name, value


def _columns(path: Path, records: Iterator[_Record], columns: Mapping[str, str]) -> Columns:
    writers = {language: SentenceWriter() for language in columns}
    wrong: dict[str, list[str]] = {language: [] for language in columns}
    first = 1
    while part := list(islice(records, _ROWS_AT_ONCE)):
        for language, name in columns.items():
            values = [record.get(name) for record in part]
            wrong[language] += [
                f"{path}:{number}: field {name}: a sentence must be text, but got {type(value).__name__}"
                for number, value in enumerate(values, start=first)
                if value is not None and not isinstance(value, str)
            ]
            if not wrong[language]:
                writers[language].add(values)
        first += len(part)
    problems = [problem for found in wrong.values() for problem in shorten(found)]
    found: Columns = {}
    for language, name in columns.items():
        if not wrong[language]:
            found[language] = writers[language].finish()
            problems += sentence_problems(found[language], f"{path}:", after=f": field {name}", first=1)
    if problems:
        raise InputError(problems)
    return found
