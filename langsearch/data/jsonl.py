"""Records of JSON: one object a line, or a list of objects, with a field a language."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from langsearch.data.columns import ColumnFile, Columns
from langsearch.data.lines import forms, read_lines, sentence_problems, shorten
from langsearch.space.problems import InputError


def open_jsonl(path: Path) -> ColumnFile:
    """Returns a file of records `{"en": …, "sw": …}`, or the hub's `{"translation": {"en": …, "sw": …}}`.

    A field that is null or absent in a record says that the sentence is not there in that language.

    Raises:
        InputError: If a line is not a JSON object, or repeats a field.
    """
    lines = read_lines(path)
    records = _records_of_list(path, "\n".join(lines)) if lines[0].lstrip().startswith("[") else _records(path, lines)
    names: dict[str, None] = {}
    for _, record in records:
        names |= dict.fromkeys(record)
    aliases = {name.partition(".")[2]: name for name in names if "." in name}

    def read(columns: Mapping[str, str]) -> Columns:
        return _columns(path, records, columns)

    def place_of(name: str, row: int) -> str:
        return f"{path}:{records[row][0]}: field {name}"

    return ColumnFile(str(path), "a field", tuple(names), read, place_of, forms([path]), aliases)


_Records = list[tuple[int, dict[str, Any]]]
"""The line, and the fields by name; those of an inner object as translation.en."""


def _records(path: Path, lines: list[str]) -> _Records:
    records: _Records = []
    problems: list[str] = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append((number, _fields(_load(line))))
        except (ValueError, RecursionError) as e:
            problems.append(f"{path}:{number}: a line must be a JSON object, but got: {e}")
    if problems:
        raise InputError(shorten(problems))
    return records


def _records_of_list(path: Path, text: str) -> _Records:
    try:
        found = _load(text)
        # Where a record stands in its list is not known once it is read: its number is told instead of its line.
        return [(number, _fields(record)) for number, record in enumerate(found, start=1)]
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


def _columns(path: Path, records: _Records, columns: Mapping[str, str]) -> Columns:
    problems: list[str] = []
    found: Columns = {}
    for language, name in columns.items():
        values = [record.get(name) for _, record in records]
        wrong = [
            f"{path}:{number}: field {name}: a sentence must be text, but got {type(value).__name__}"
            for (number, _), value in zip(records, values, strict=True)
            if value is not None and not isinstance(value, str)
        ]
        problems += shorten(wrong)
        if not wrong:
            found[language] = tuple(values)
            problems += sentence_problems(values, f"{path}:", after=f": field {name}", first=1)
    if problems:
        raise InputError(problems)
    return found
