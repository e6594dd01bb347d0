"""Tables in Arrow's formats: Parquet, and the folders that Hugging Face `datasets` saves, read by PyArrow alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from langsearch.data.columns import ColumnFile, Columns
from langsearch.data.lines import sentence_problems
from langsearch.data.sentences import Sentences
from langsearch.data.tables import checked_names
from langsearch.space.problems import InputError, near_names


def open_parquet(path: Path) -> ColumnFile:
    """Returns a Parquet file with a column a language, or with the hub's column `translation` of such fields.

    A null says that the sentence is not there in that language.

    Raises:
        InputError: If it is not readable Parquet, or a column's name is repeated.
    """
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as e:
        raise InputError(f"{path}: the file must be readable Parquet, but got: {e}") from e
    checked_names(path, list(schema.names))

    def read(columns: Mapping[str, str]) -> Columns:
        try:
            outer = [name if name in schema.names else name.partition(".")[0] for name in columns.values()]
            table = pq.read_table(path, columns=list(dict.fromkeys(outer)))
        except (OSError, pa.ArrowException) as e:
            raise InputError(f"{path}: the file must be readable Parquet, but got: {e}") from e
        return _columns(path, table, columns)

    return _file(path, schema, read)


def open_dataset(path: Path, split: str | None) -> ColumnFile:
    """Returns a data set that `save_to_disk` of Hugging Face `datasets` has written, or one of its `.arrow` files.

    Args:
        path: The folder of a Dataset (state.json) or a DatasetDict (dataset_dict.json), or an Arrow file.
        split: The part of a DatasetDict.

    Raises:
        InputError: If it is none, has no such split, or files of it are missing or damaged.
    """
    if path.is_file():
        files = [path]
    else:
        path = _split_folder(path, split)
        files = [path / name for name in _data_files(path)]
    tables = [_open_arrow(file) for file in files]
    if len({table.schema for table in tables}) > 1:
        raise InputError(f"{path}: all files of a data set must have the same columns, but they differ")
    table = pa.concat_tables(tables)
    checked_names(path, list(table.schema.names))
    return _file(path, table.schema, lambda columns: _columns(path, table, columns))


def _split_folder(path: Path, split: str | None) -> Path:
    splits = _read_json(path / "dataset_dict.json").get("splits") if (path / "dataset_dict.json").is_file() else None
    if splits is None:
        if not (path / "state.json").is_file():
            raise InputError(
                f"{path}: a data set must have been written by `save_to_disk` of Hugging Face `datasets`, but there is "
                "neither a state.json nor a dataset_dict.json. The hub's Parquet files are read by {parquet: FILES}"
            )
        if split is not None:
            raise InputError(f"{path}: a split must be named only for a DatasetDict, but got {split!r} for a Dataset")
        return path
    if split is None or split not in splits:
        near = near_names(split, splits) if split else f" Write `split: {splits[0]}` or another of {', '.join(splits)}."
        raise InputError(f"{path}: the split of a DatasetDict must be named, but got {split or 'none'}.{near}")
    return path / split


def _data_files(folder: Path) -> list[str]:
    state = _read_json(folder / "state.json")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise InputError(
            f"{folder}: a data set must be written in the order of its rows, but has a list of indices beside them. "
            "Call `flatten_indices()` before `save_to_disk`"
        )
    found = state.get("_data_files")
    items = found if isinstance(found, list) else []
    names = [str(item.get("filename")) for item in items if isinstance(item, Mapping)]
    if not names or any(Path(name).name != name for name in names):
        raise InputError(f"{folder}/state.json: `_data_files` must list files of the folder, but got {found!r}")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise InputError(f"{folder}: all files of a data set must be there, but {', '.join(missing)} is missing")
    return names


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise InputError(f"{path}: the file must be readable JSON, but got: {e}") from e
    if not isinstance(value, dict):
        raise InputError(f"{path}: the file must hold a JSON object")
    return value


def _open_arrow(path: Path) -> Any:
    """Returns an Arrow file's table, mapped: `datasets` writes streams, other programs also files with a footer."""
    try:
        source = pa.memory_map(str(path))
        try:
            return pa.ipc.open_stream(source).read_all()
        except pa.ArrowInvalid:
            source.seek(0)
            return pa.ipc.open_file(source).read_all()
    except (OSError, pa.ArrowException) as e:
        raise InputError(f"{path}: the file must be readable Arrow, but got: {e}") from e


def _file(path: Path, schema: Any, read: Any) -> ColumnFile:
    fields = {field.name: [inner.name for inner in _inner(field.type)] for field in schema}
    names = [name for field, inner in fields.items() for name in ([f"{field}.{one}" for one in inner] or [field])]
    aliases = {inner: f"{field}.{inner}" for field, found in fields.items() for inner in found}

    def place_of(name: str, row: int) -> str:
        return f"{path}: column {name}, row {row} (from 0)"

    return ColumnFile(str(path), "a column", tuple(names), read, place_of, aliases=aliases)


def _inner(kind: Any) -> Sequence[Any]:
    return [kind.field(index) for index in range(kind.num_fields)] if pa.types.is_struct(kind) else []


def _columns(path: Path, table: Any, columns: Mapping[str, str]) -> Columns:
    if not table.num_rows:
        raise InputError(f"{path}: the table must have rows, but has none")
    problems: list[str] = []
    found: Columns = {}
    for language, name in columns.items():
        where = f"{path}: column {name}"
        column = _column(table, name)
        kind = column.type
        text_kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(text_kind) or pa.types.is_large_string(text_kind)):
            problems.append(f"{where}: a language must be a column of text, but got {kind}")
            continue
        try:
            found[language] = Sentences.of(sentence for part in column.chunks for sentence in part.to_pylist())
        except UnicodeDecodeError as e:
            problems.append(f"{where}: text must be UTF-8, but got: {e}")
            continue
        problems += sentence_problems(found[language], f"{where}, row ", after=" (from 0)")
    if problems:
        raise InputError(problems)
    return found


def _column(table: Any, name: str) -> Any:
    if name in table.schema.names:
        return table.column(name)
    outer, _, inner = name.partition(".")
    return pc.struct_field(table.column(outer), inner)
