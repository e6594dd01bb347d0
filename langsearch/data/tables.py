"""Tab-separated tables with one column a language, plain or as Excel quotes them."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from langsearch.data.columns import ColumnFile, Columns
from langsearch.data.lines import forms, read_column, sentence_problems, shorten
from langsearch.data.sentences import SentenceWriter
from langsearch.space.problems import InputError

Quotes = Literal["plain", "excel"]

MIN_WRAPPED = 3
"""So many cells with a comma in quotes, and no other cell with one, are no chance: Excel puts quotes around commas."""

_Row = list[str]
_ROWS_AT_ONCE = 10_000


def tsv_columns(path: Path) -> tuple[str, ...]:
    """Returns the column names in the header row of a TSV file. Raises InputError if a name is empty or repeated."""
    return checked_names(path, (read_column(path)[0] or "").split("\t"))


def read_tsv(path: Path, columns: Mapping[str, str]) -> Columns:
    """Returns columns of a TSV file, as `open_tsv` reads it.

    Args:
        path: A file whose first row names the columns.
        columns: The column of each language.

    Raises:
        InputError: If a row has more or fewer columns than the header, or a sentence is empty or huge.
    """
    return open_tsv(path).read(columns)


def open_tsv(path: Path, quotes: Quotes | None = None, header: Sequence[str] = ()) -> ColumnFile:
    r"""Returns a TSV file. A tab separates cells; quotes are plain text unless the file is one of Excel's.

    Excel, and pandas, put a cell with a quote in quotes and double those inside: `"It said ""no""."`. A file in which
    some cell is so, and no cell has quotes in another way, is read as meant.

    Args:
        path: A file whose first row names the columns.
        quotes: plain: quotes are text. excel: as Excel writes. None: as the file shows.
        header: The names of the columns of a file without a header row.

    Raises:
        InputError: If the file cannot be read, a column has no name or another's, or quotes are written in both ways.
    """
    lines = read_column(path)
    head = lines[0] or ""
    if separator := next((mark for mark in ",;" if mark in head and "\t" not in head), None):
        raise InputError(
            f"{path}: a tab must separate the cells, but the first line has none, and has {separator!r}. "
            "Save the table as tab-separated text (.tsv)"
        )
    found = quotes or _quotes_of(path, lines)
    rows = partial(_unquoted, path, lines) if found == "excel" else partial(_split, lines)
    names = checked_names(path, list(header) or next(rows()))
    if found == "excel":
        for _ in rows():  # quotes that are wrong are told before anything is read
            pass
    first = 1 if header else 2

    def body() -> Iterator[_Row]:
        return islice(rows(), first - 1, None)

    def read(columns: Mapping[str, str]) -> Columns:
        return _cells(path, names, body(), columns, first)

    notes = forms([path])
    if found == "excel" and quotes is None:
        notes = (*notes, "quotes undone, as Excel and pandas write them")
    return ColumnFile(
        str(path),
        "a column",
        names,
        read,
        lambda name, row: f"{path}:{row + first}: column {name}",
        notes,
        is_named_by_first_row=not header,
    )


def _cells(path: Path, names: Sequence[str], rows: Iterator[_Row], columns: Mapping[str, str], first: int) -> Columns:
    positions = {language: names.index(name) for language, name in columns.items()}
    writers = {language: SentenceWriter() for language in columns}
    problems: list[str] = []
    num_rows = 0
    while part := list(islice(rows, _ROWS_AT_ONCE)):
        problems += [
            f"{path}:{number}: a row must have {len(names)} columns like the header, but has {len(row)}"
            for number, row in enumerate(part, start=first + num_rows)
            if len(row) != len(names)
        ]
        num_rows += len(part)
        if not problems:
            for language, position in positions.items():
                writers[language].add([row[position] for row in part])
    if not num_rows:
        raise InputError(f"{path}: the table must have rows below its header, but has none")
    if problems:
        raise InputError(shorten(problems))
    found: Columns = {}
    for language, name in columns.items():
        found[language] = writers[language].finish()
        problems += sentence_problems(found[language], f"{path}:", after=f": column {name}", first=first)
    if problems:
        raise InputError(problems)
    return found


def _quotes_of(path: Path, lines: Iterable[str | None]) -> Quotes:
    """Returns how a file writes quotes. Raises InputError if it does so in both ways."""
    first: dict[str, int] = {}
    widths: set[int] = set()
    num_commas = 0
    for number, line in enumerate(lines, start=1):
        row = (line or "").split("\t")
        widths.add(len(row))
        for cell in row:
            is_quoted, has_comma = '"' in cell, "," in cell
            if not is_quoted and not has_comma:
                continue
            is_wrapped = _is_wrapped(cell)
            num_commas += has_comma
            seen = {
                "quoted": is_quoted,
                "doubled": is_wrapped and '""' in cell[1:-1],
                "plain": is_quoted and not is_wrapped,
                "comma outside": has_comma and not is_wrapped,
                "quoted without a comma": is_quoted and not has_comma,
            }
            for kind, is_there in seen.items():
                if is_there:
                    first.setdefault(kind, number)
    way_out = "Write `quotes: excel` or `quotes: plain` beside the file."
    if "doubled" in first and "plain" in first and len(widths) == 1:
        raise InputError(
            f"{path}: quotes must be written in one way, but line {first['doubled']} has a cell in quotes with doubled "
            f"ones inside, as Excel and pandas write it, and line {first['plain']} has quotes as plain text. {way_out}"
        )
    if "doubled" in first:
        return "excel"
    if (
        num_commas >= MIN_WRAPPED
        and "quoted" in first
        and not first.keys() & {"comma outside", "quoted without a comma"}
    ):
        raise InputError(
            f"{path}: quotes must be part of the sentences, but all {num_commas} cells with a comma stand in quotes, "
            f"and no other cell does, as Excel writes them (first in line {first['quoted']}). {way_out}"
        )
    return "plain"


def _is_wrapped(cell: str) -> bool:
    """Returns whether a cell stands in quotes and has no single one inside."""
    return len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', "")


def _split(lines: Iterable[str | None]) -> Iterator[_Row]:
    return ((line or "").split("\t") for line in lines)


def _unquoted(path: Path, lines: Iterable[str | None]) -> Iterator[_Row]:
    """Yields the rows of a file of Excel's. Raises InputError at the first line whose quotes are wrong."""
    reader = csv.reader((f"{line}\n" for line in lines), delimiter="\t", strict=True)
    try:
        for number, row in enumerate(reader, start=1):
            # A line break inside of a cell would shift all line numbers behind it.
            if reader.line_num > number:
                raise InputError(
                    f"{path}:{number}: a sentence must be one line, but a cell in quotes holds a line break"
                )
            yield row
    except csv.Error as e:
        rule = "quotes must be closed and doubled as Excel writes them"
        raise InputError(f"{path}:{reader.line_num}: {rule}, but got: {e}") from e


def checked_names(path: Path, names: list[str]) -> tuple[str, ...]:
    """Returns the names of a table's columns. Raises InputError if a name is empty or repeated."""
    problems = []
    if "" in names:
        problems.append(f"{path}: every column must have a name in the header, but got {names}")
    if repeated := sorted({name for name in names if name and names.count(name) > 1}):
        problems.append(f"{path}: column names must differ, but got {', '.join(repeated)} more than once")
    if problems:
        raise InputError(problems)
    return tuple(names)
