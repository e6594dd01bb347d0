"""Tables with one column a language: TSV and Parquet."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from langsearch.data.lines import read_lines, sentence_problems, shorten
from langsearch.space.problems import InputError

Columns = dict[str, tuple[str | None, ...]]


def tsv_columns(path: Path) -> tuple[str, ...]:
    """Returns the column names in the header row of a TSV file. Raises InputError if a name is empty or repeated."""
    return _checked_names(path, read_lines(path)[0].split("\t"))


def read_tsv(path: Path, columns: Mapping[str, str]) -> Columns:
    """Returns columns of a TSV file. A tab is the only separator; quotes are plain text.

    Args:
        path: A file whose first row names the columns.
        columns: The column of each language.

    Raises:
        InputError: If a row has more or fewer columns than the header, or a sentence is empty or huge.
    """
    header, *lines = read_lines(path)
    names = _checked_names(path, header.split("\t"))
    if not lines:
        raise InputError(f"{path}: the table must have rows below its header, but has none")
    rows = [line.split("\t") for line in lines]
    problems = [
        f"{path}:{number}: a row must have {len(names)} columns like the header, but has {len(row)}"
        for number, row in enumerate(rows, start=2)
        if len(row) != len(names)
    ]
    if problems:
        raise InputError(shorten(problems))
    found: Columns = {}
    for language, name in columns.items():
        position = names.index(name)
        found[language] = tuple(row[position] for row in rows)
        problems += sentence_problems(found[language], f"{path}:", after=f": column {name}", first=2)
    if problems:
        raise InputError(problems)
    return found


def parquet_columns(path: Path) -> tuple[str, ...]:
    """Returns the column names of a Parquet file. Raises InputError if it is not one, or a name is repeated."""
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as e:
        raise InputError(f"{path}: the file must be readable Parquet, but got: {e}") from e
    return _checked_names(path, list(schema.names))


def read_parquet(path: Path, columns: Mapping[str, str]) -> Columns:
    """Returns text columns of a Parquet file. A null says that the sentence is not there in that language.

    Args:
        path: A Parquet file.
        columns: The column of each language.

    Raises:
        InputError: If the file is damaged, a column is no text, or a sentence is empty, huge or not UTF-8.
    """
    try:
        table = pq.read_table(path, columns=list(columns.values()))
    except (OSError, pa.ArrowException) as e:
        raise InputError(f"{path}: the file must be readable Parquet, but got: {e}") from e
    if not table.num_rows:
        raise InputError(f"{path}: the table must have rows, but has none")
    problems: list[str] = []
    found: Columns = {}
    for language, name in columns.items():
        where = f"{path}: column {name}"
        kind = table.schema.field(name).type
        text_kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(text_kind) or pa.types.is_large_string(text_kind)):
            problems.append(f"{where}: a language must be a column of text, but got {kind}")
            continue
        try:
            found[language] = tuple(table.column(name).to_pylist())
        except UnicodeDecodeError as e:
            problems.append(f"{where}: text must be UTF-8, but got: {e}")
            continue
        problems += sentence_problems(found[language], f"{where}, row ", after=" (from 0)")
    if problems:
        raise InputError(problems)
    return found


def _checked_names(path: Path, names: list[str]) -> tuple[str, ...]:
    problems = []
    if "" in names:
        problems.append(f"{path}: every column must have a name in the header, but got {names}")
    if repeated := sorted({name for name in names if name and names.count(name) > 1}):
        problems.append(f"{path}: column names must differ, but got {', '.join(repeated)} more than once")
    if problems:
        raise InputError(problems)
    return tuple(names)
