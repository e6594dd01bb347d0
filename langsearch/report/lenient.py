"""Files and values that may be missing, torn or of another kind: a note is taken, and reading goes on.

Each `read_` function takes a list and appends one sentence to it for what it could not read.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def read_table(path: Path, notes: list[str]) -> pa.Table | None:
    """Returns a Parquet file, None where it is missing or torn."""
    if not path.is_file():
        notes.append(f"{path.name} is missing.")
        return None
    try:
        # A third of `pq.read_table`'s time on a small file, of which there are thousands.
        with pq.ParquetFile(path) as file:
            return file.read()
    except (OSError, pa.ArrowException) as error:
        notes.append(f"{path.name} cannot be read: {error}")
        return None


def read_rows(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Returns the rows of a Parquet file, none where it is missing or torn."""
    table = read_table(path, notes)
    rows: list[dict[str, Any]] = [] if table is None else table.to_pylist()
    return rows


def read_json(path: Path, notes: list[str]) -> Mapping[str, Any]:
    """Returns the object of a JSON file, an empty one where it is missing or torn."""
    text = read_text(path, notes)
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        notes.append(f"{path.name} cannot be read: {error}")
        return {}
    return as_mapping(value)


def read_text(path: Path, notes: list[str]) -> str | None:
    """Returns the text of a UTF-8 file, None where it is missing or torn."""
    if not path.is_file():
        notes.append(f"{path.name} is missing.")
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} cannot be read: {error}")
        return None


def parse_object(value: object) -> dict[str, Any]:
    """Returns the object that a text holds as JSON, an empty one otherwise."""
    try:
        return dict(as_mapping(json.loads(value))) if isinstance(value, str) else {}
    except ValueError:
        return {}


def as_mapping(value: object) -> Mapping[str, Any]:
    """Returns the value if it is a mapping, an empty one otherwise."""
    return value if isinstance(value, Mapping) else {}


def as_texts(value: object) -> tuple[str, ...]:
    """Returns the items of a list as texts, none otherwise."""
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def as_text(value: object) -> str | None:
    """Returns a value as text, None for None."""
    return None if value is None else str(value)


def as_number(value: object) -> float | None:
    """Returns a finite number, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def as_integer(value: object) -> int | None:
    """Returns a finite number without its fraction, None for anything else."""
    number = as_number(value)
    return None if number is None else int(number)
