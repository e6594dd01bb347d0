"""The files of a source: one, those of a list, or those that a pattern finds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path, PurePath
from typing import Final

from langsearch.data.arrow_tables import open_dataset, open_parquet
from langsearch.data.columns import ColumnFile, Columns, Located
from langsearch.data.compressed import ENDINGS, plain_name
from langsearch.data.embedded import embedded_file, part_rows, read_embedded
from langsearch.data.jsonl import open_jsonl
from langsearch.data.tables import open_tsv, tsv_columns
from langsearch.data.text_files import bitexts_in, locate_flores, open_bitext, open_flores, open_folder
from langsearch.data.tmx import open_tmx
from langsearch.space.problems import InputError, did_you_mean, near_names
from langsearch.space.settings import Source, SourceKind

_ENDINGS: Final[dict[SourceKind, tuple[str, ...]]] = {
    "tsv": (".tsv", ".txt", ".tab"),
    "jsonl": (".jsonl", ".json", ".ndjson"),
    "parquet": (".parquet",),
    "datasets": (".arrow",),
    "tmx": (".tmx",),
}
"""The endings that files of a kind have. Others are read too, unless they are known to be something else."""

_UNREAD: Final = (".xlsx", ".xls", ".ods", ".docx", ".pdf", ".zip", ".tar", ".tgz", ".bz2", ".xz", ".7z", ".rar")


@dataclass(frozen=True)
class Opened:
    """The files of a source."""

    files: tuple[ColumnFile, ...]

    is_spread: bool
    """Whether a pattern or a folder has found them, so that those without two of the languages are left out."""

    located: Located | None = None
    """The columns, where the kind has its own way to find them."""

    problems: tuple[str, ...] = ()


def open_source(source: Source, languages: Sequence[str]) -> Opened:
    """Returns the files of a source.

    Args:
        source: What to read. A relative path counts from the current folder.
        languages: Codes of any family.

    Raises:
        InputError: If a path leads to nothing, or to what is not read, or a file cannot be opened.
    """
    if source.kind == "embedded":
        return Opened((_open_embedded(source),), is_spread=False)
    if not source.paths:
        raise InputError(f"A source of kind {source.kind} must say where it is, but has no path")
    if source.kind in ("flores101", "flores200"):
        folder = _folder(_folder(Path(source.paths[0])) / _split(source))
        located, missing = locate_flores(source, folder, languages)
        return Opened((open_flores(folder, located),), is_spread=False, located=located, problems=tuple(missing))
    files: list[ColumnFile] = []
    problems: list[str] = []
    is_spread = False
    given: dict[Path, list[str]] = {}
    for path in source.paths:
        try:
            found = _expand(path, source.kind)
            is_spread |= _is_pattern(path)
            if source.kind == "moses":
                bitexts, is_folder = _bitexts(path, found)
                is_spread |= is_folder
                files += [
                    open_bitext(prefix, ends, has_columns=bool(source.columns)) for prefix, ends in bitexts.items()
                ]
            elif source.kind == "files":
                for one in found:
                    if one.is_file():  # files of one folder are one text, also where they are listed one by one
                        given.setdefault(one.parent, []).append(one.name)
                    else:
                        files.append(open_folder(_folder(one), languages))
            else:
                files += [_open_file(source, one) for one in found]
        except InputError as e:
            problems += e.problems
    for folder, names in given.items():
        try:
            files.append(open_folder(folder, languages, names))
        except InputError as e:
            problems += e.problems
    if problems:
        raise InputError(problems)
    return Opened(tuple(files), is_spread)


def _open_file(source: Source, path: Path) -> ColumnFile:
    if source.kind == "datasets":
        if not path.exists():
            _folder(path)
        return open_dataset(path, source.split)
    _check_ending(source.kind, path)
    if path.is_dir():
        ending = _ENDINGS[source.kind][0]
        raise InputError(f"{path}: a {source.kind} source must be a file, but this is a folder. Write {path}/*{ending}")
    if not path.is_file():
        raise InputError(f"{path}: the file must exist, but does not.{_near_or_from(path)}")
    if source.kind == "tsv":
        return open_tsv(path, source.quotes, source.header)
    if source.kind == "jsonl":
        return open_jsonl(path)
    return open_parquet(path) if source.kind == "parquet" else open_tmx(path)


def _check_ending(kind: SourceKind, path: Path) -> None:
    ending = PurePath(plain_name(path.name)).suffix.lower()
    owner = next((other for other, endings in _ENDINGS.items() if ending in endings), kind)
    if owner == kind and ending not in _UNREAD:
        return
    endings = " or ".join(_ENDINGS[kind])
    packed = "" if kind == "parquet" else f", also with {' or '.join(ENDINGS)} behind it"
    way_out = f"Write {{{owner}: {path}}}" if owner != kind else "Save or unpack it as one of those"
    raise InputError(f"{path}: a {kind} source must end in {endings}{packed}, but this ends in {ending}. {way_out}")


def _is_pattern(path: str) -> bool:
    return any(mark in path for mark in "*?[") and not Path(path).exists()


def _expand(path: str, kind: SourceKind) -> list[Path]:
    """Returns the files and folders that a path means, in order. Raises InputError if a pattern finds nothing."""
    if not _is_pattern(path):
        return [Path(path)]
    # A pattern may be absolute, which `Path.glob` does not take.
    found = sorted(glob(path, recursive=True))  # noqa: PTH207
    if kind == "moses":  # a pattern of what names have in common
        found = sorted({*found, *glob(f"{path}.*", recursive=True)})  # noqa: PTH207
    if not found:
        raise InputError(f"{path}: a pattern must find files, but finds none. Relative paths count from {Path.cwd()}")
    return [Path(one) for one in found]


def _bitexts(path: str, found: Sequence[Path]) -> tuple[dict[Path, dict[str, str]], bool]:
    """Returns the bitexts that a path means by what their names have in common, and whether it is a folder of them."""
    if _is_pattern(path):
        folders: dict[Path, list[str]] = {}
        for file in found:
            folders.setdefault(file.parent, []).append(file.name)
        bitexts = {
            folder / prefix: endings
            for folder, names in folders.items()
            for prefix, endings in bitexts_in(folder, names).items()
        }
        if not bitexts:
            raise InputError(
                f"{path}: a pattern must find both files of a bitext, such as a.en and a.sw, but finds none"
            )
        return bitexts, False
    (one,) = found
    if one.is_dir():
        return _bitexts_of_folder(one), True
    folder = _folder(one.parent)
    present = bitexts_in(folder, [entry.name for entry in folder.iterdir()])
    prefix = one.name if one.name in present else plain_name(one.name).rpartition(".")[0]
    if prefix not in present:
        near = near_names(one.name, present) if present else ""
        raise InputError(f"{one}: a bitext must be files such as {one}.en and {one}.sw, but there are none.{near}")
    return {folder / prefix: present[prefix]}, False


def _bitexts_of_folder(folder: Path) -> dict[Path, dict[str, str]]:
    present = bitexts_in(folder, [entry.name for entry in folder.iterdir()])
    if not present:
        raise InputError(f"{folder}: a folder of bitexts must hold files such as a.en and a.sw, but there are none")
    by_endings: dict[frozenset[str], list[str]] = {}
    for prefix, endings in present.items():
        by_endings.setdefault(frozenset(endings), []).append(prefix)
    # A folder may hold the train, dev and test part of the same languages, which must not all be trained on.
    if several := next((prefixes for prefixes in by_endings.values() if len(prefixes) > 1), None):
        raise InputError(
            f"{folder}: a folder must hold one bitext of the same languages, but has {', '.join(several)}. "
            f"Name those that are meant, such as {folder / several[0]}"
        )
    return {folder / prefix: endings for prefix, endings in present.items()}


def _open_embedded(source: Source) -> ColumnFile:
    name, part = source.path or "", _split(source)
    names = tsv_columns(embedded_file(name))
    part_rows(part, 0)

    def read(columns: Mapping[str, str]) -> Columns:
        return dict(read_embedded(name, part, tuple(columns)).sentences)

    return ColumnFile(
        f"embedded {name}",
        "a column",
        names,
        read,
        lambda column, row: f"{source}: column {column}, row {row} (from 0)",
    )


def _folder(path: Path) -> Path:
    if not path.is_dir():
        rule = f"{path}: the folder must exist, but does not."
        raise InputError(rule + _near_or_from(path))
    return path


def _near_or_from(path: Path) -> str:
    """Returns what else lies beside a path that leads to nothing; where nothing does, where such paths count from."""
    siblings = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    # What else is there is no list of what would be right.
    return did_you_mean(path.name, siblings) or f" Relative paths count from {Path.cwd()}"


def _split(source: Source) -> str:
    if not source.split:
        raise InputError(f"A source of kind {source.kind} must name its split, but has none")
    return source.split
