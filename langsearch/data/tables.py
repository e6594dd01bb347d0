"""Tab-separated tables with one column a language, plain or as Excel quotes them."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from langsearch.data.columns import ColumnFile, Columns
from langsearch.data.lines import forms, read_lines, sentence_problems, shorten
from langsearch.data.sentences import Sentences
from langsearch.space.problems import InputError

Quotes = Literal["plain", "excel"]

MIN_WRAPPED = 3
"""So many cells with a comma in quotes, and no other cell with one, are no chance: Excel puts quotes around commas."""

_Row = list[str]


def tsv_columns(path: Path) -> tuple[str, ...]:
    """Returns the column names in the header row of a TSV file. Raises InputError if a name is empty or repeated."""
    return checked_names(path, read_lines(path)[0].split("\t"))


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
    lines = read_lines(path)
    if separator := next((mark for mark in ",;" if mark in lines[0] and "\t" not in lines[0]), None):
        raise InputError(
            f"{path}: a tab must separate the cells, but the first line has none, and has {separator!r}. "
            "Save the table as tab-separated text (.tsv)"
        )
    rows = [line.split("\t") for line in lines]
    found = quotes or _quotes_of(path, rows)
    if found == "excel":
        rows = _unquoted(path, lines)
    names = checked_names(path, list(header) or rows[0])
    first = 1 if header else 2
    body = rows if header else rows[1:]

    def read(columns: Mapping[str, str]) -> Columns:
        return _cells(path, names, body, columns, first)

    notes = forms([path])
    if found == "excel" and quotes is None:
        notes = (*notes, "quotes undone, as Excel and pandas write them")
    return ColumnFile(
        str(path), "a column", names, read, lambda name, row: f"{path}:{row + first}: column {name}", notes
    )


def _cells(path: Path, names: Sequence[str], rows: Sequence[_Row], columns: Mapping[str, str], first: int) -> Columns:
    if not rows:
        raise InputError(f"{path}: the table must have rows below its header, but has none")
    problems = [
        f"{path}:{number}: a row must have {len(names)} columns like the header, but has {len(row)}"
        for number, row in enumerate(rows, start=first)
        if len(row) != len(names)
    ]
    if problems:
        raise InputError(shorten(problems))
    found: Columns = {}
    for language, name in columns.items():
        position = names.index(name)
        found[language] = Sentences.of(row[position] for row in rows)
        problems += sentence_problems(found[language], f"{path}:", after=f": column {name}", first=first)
    if problems:
        raise InputError(problems)
    return found


def _quotes_of(path: Path, rows: Sequence[_Row]) -> Quotes:
    """Returns how a file writes quotes. Raises InputError if it does so in both ways."""
    quoted = [(number, cell) for number, row in enumerate(rows, start=1) for cell in row if '"' in cell]
    if not quoted:
        return "plain"
    doubled = [number for number, cell in quoted if _is_wrapped(cell) and '""' in cell[1:-1]]
    others = [number for number, cell in quoted if not _is_wrapped(cell)]
    way_out = "Write `quotes: excel` or `quotes: plain` beside the file."
    if doubled and others and len({len(row) for row in rows}) == 1:
        raise InputError(
            f"{path}: quotes must be written in one way, but line {doubled[0]} has a cell in quotes with doubled ones "
            f"inside, as Excel and pandas write it, and line {others[0]} has quotes as plain text. {way_out}"
        )
    if doubled:
        return "excel"
    commas = [_is_wrapped(cell) for row in rows for cell in row if "," in cell]
    is_all = len(commas) >= MIN_WRAPPED and all(commas) and all("," in cell for _, cell in quoted)
    if is_all:
        raise InputError(
            f"{path}: quotes must be part of the sentences, but all {len(commas)} cells with a comma stand in quotes, "
            f"and no other cell does, as Excel writes them (first in line {quoted[0][0]}). {way_out}"
        )
    return "plain"


def _is_wrapped(cell: str) -> bool:
    """Returns whether a cell stands in quotes and has no single one inside."""
    return len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', "")


def _unquoted(path: Path, lines: Sequence[str]) -> list[_Row]:
    rows: list[_Row] = []
    problems: list[str] = []
    reader = csv.reader((f"{line}\n" for line in lines), delimiter="\t", strict=True)
    try:
        for row in reader:
            # A line break inside of a cell would shift all line numbers behind it.
            if reader.line_num > len(rows) + 1 + len(problems):
                begin = len(rows) + 1
                problems.append(f"{path}:{begin}: a sentence must be one line, but a cell in quotes holds a line break")
                break
            rows.append(row)
    except csv.Error as e:
        rule = "quotes must be closed and doubled as Excel writes them"
        problems.append(f"{path}:{reader.line_num}: {rule}, but got: {e}")
    if problems:
        raise InputError(problems)
    return rows


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
