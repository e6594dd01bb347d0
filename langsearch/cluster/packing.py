"""Folders on their way: a space and the files it names to a cluster, an experiment back as text in a job's log.

python -m langsearch.cluster.packing FOLDER prints an experiment, since what a job prints can be read from elsewhere.
"""

import base64
import binascii
import hashlib
import io
import os
import shutil
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from langsearch.experiment.earlier import with_open_defaults
from langsearch.experiment.object_store import is_remote
from langsearch.model.finding import EMBEDDED_FOLDER, base_files
from langsearch.space.document import dump
from langsearch.space.loss_settings import ADAPTERS, LargerTeacher
from langsearch.space.problems import InputError
from langsearch.space.schema import Space

SPACE = "space.yaml"
_FILES = "files"

MAX_SENT_BYTES = 450_000_000
"""Over ray://: Ray takes up to 512 MiB, packed; what is larger belongs on the cluster's own storage."""

MAX_JOB_BYTES = 100 * 1024**2
"""As a job: Ray's job server answers HTTP 413 to a larger package, which is a zip file that is not compressed."""

_BYTES_OF_SPACE, _BYTES_BESIDE_A_FILE = 100_000, 300
"""What the package has besides: the space itself, and of each file, in a zip file, its name twice and its sizes."""

_NUM_LISTED = 5

_NOT_SENT = (".git", ".gitignore")
"""Ray leaves out what a .gitignore says, which data often is."""


def run_arguments(experiments: str, options: Sequence[str]) -> list[str]:
    """Returns langsearch's arguments on a cluster, in the folder that `pack` has filled.

    Args:
        experiments: Where the cluster keeps experiments: a URL, or a path that is absolute there.
        options: More of `langsearch run`'s.

    Raises:
        InputError: If `experiments` is neither.
    """
    if not is_remote(experiments) and not PurePosixPath(experiments).is_absolute():
        raise InputError(
            "--experiments must be a path that is absolute on the cluster, on storage that all its nodes see, or a "
            f"URL, but got {experiments!r}: the folder that a search is sent to is deleted when it ends."
        )
    return ["run", SPACE, "--address", "auto", "--experiments", experiments, *options]


def pack(space: Space, folder: Path, max_bytes: int | None = None) -> list[str]:
    """Writes the space, with its relative paths turned to copies beside it; absolute paths are those of the cluster.

    Args:
        space: The space.
        folder: An empty folder.
        max_bytes: What goes along may have in all. None: MAX_SENT_BYTES.

    Returns:
        The paths of this machine that go along.

    Raises:
        InputError: If one is not there, or they are too large together.
    """
    found: dict[str, str] = {}

    def renamed(path: str) -> str:
        if Path(path).expanduser().is_absolute():
            return path
        return found.setdefault(path, f"{_FILES}/{len(found)}-{Path(path).name}")

    data = with_open_defaults(space)
    _rename_all(data, renamed)
    problems = [
        f"A relative path in a space is one of this machine, and goes along, but there is no {path}. Name what lies on "
        "the cluster by its absolute path."
        for path in found
        if not Path(path).exists()
    ]
    if problems:
        raise InputError(problems)
    # Of a base's folder goes what loading it takes: published ones also hold their weights in further formats.
    bases = {space.base, *(teacher.base for teacher in space.trainer_section.loss.larger)}
    files = {path: [Path(path, name) for name in base_files(Path(path))] for path in found if path in bases}
    others = [Path(path) for path in found if path not in bases]
    _check_size([*(file for of_base in files.values() for file in of_base), *others], max_bytes or MAX_SENT_BYTES)
    for path, name in found.items():
        if path not in bases:
            _copy(Path(path), folder / name)
    for base, of_base in files.items():
        for file in of_base:
            _copy(file, folder / found[base] / file.name)
    (folder / SPACE).write_text(dump(data), encoding="utf-8")
    return list(found)


def _rename_all(data: dict[str, Any], renamed: Callable[[str], str]) -> None:
    """Replaces every path of a resolved space."""
    section = data["data"]
    if section.get("folder") is not None:
        section["folder"] = renamed(section["folder"])
    for part in ("train", "validation", "test"):
        sources = section[part] if isinstance(section[part], list) else [section[part]]
        for source in sources:
            for key in ("folder", "files", "tsv", "parquet"):
                if source.get(key) is not None:
                    source[key] = renamed(source[key])
    base = data["base"]["id"] if isinstance(data["base"], dict) else data["base"]
    if (new := _renamed_base(base, renamed)) != base:
        data["base"] = {**data["base"], "id": new} if isinstance(data["base"], dict) else new
    kind, colon, file = data["evaluation"]["spbleu"].partition("spm:")
    if colon and not kind:
        data["evaluation"]["spbleu"] = f"spm:{renamed(file)}"
    if data["trainer"].get("init_from") not in (None, "none"):
        data["trainer"]["init_from"] = renamed(data["trainer"]["init_from"])
    distill = data["trainer"].get("loss", {}).get("distill")
    if distill is not None:
        distill["teacher"] = _renamed_teacher(distill["teacher"], renamed)


def _renamed_teacher(teacher: Any, renamed: Callable[[str], str]) -> Any:
    if isinstance(teacher, dict) and "choice" in teacher:
        return {"choice": [_renamed_teacher(item, renamed) for item in teacher["choice"]]}
    if isinstance(teacher, dict) and "base" in teacher:
        return {**teacher, "base": _renamed_base(teacher["base"], renamed)}
    if isinstance(teacher, dict):
        return {"adapters": renamed(teacher["adapters"])}
    if (larger := LargerTeacher.parse(teacher)) is not None:
        return str(replace(larger, base=_renamed_base(larger.base, renamed)))
    return f"{ADAPTERS}{renamed(teacher.removeprefix(ADAPTERS))}" if teacher.startswith(ADAPTERS) else teacher


def _renamed_base(base: str, renamed: Callable[[str], str]) -> str:
    """Returns the new path of a base that is a folder of this machine; else its name."""
    return renamed(base) if not (EMBEDDED_FOLDER / base).exists() and Path(base).is_dir() else base


def _check_size(paths: Sequence[Path], max_bytes: int) -> None:
    """Raises InputError, naming the largest files, if files and folders are too large to go along."""
    sizes = {file: file.stat().st_size for path in paths for file in _files_of(path)}
    total = sum(sizes.values()) + _BYTES_OF_SPACE + _BYTES_BESIDE_A_FILE * len(sizes)
    if total <= max_bytes:
        return
    largest = sorted(sizes, key=lambda file: -sizes[file])[:_NUM_LISTED]
    listed = ", ".join(f"{file} ({sizes[file] / 1e6:,.1f} MB)" for file in largest)
    more = f" and {len(sizes) - len(largest)} more files" if len(sizes) > len(largest) else ""
    raise InputError(
        f"What goes along with a space must be at most {max_bytes / 1e6:,.0f} MB, but is {total / 1e6:,.0f} MB: "
        f"{listed}{more}. Copy it to storage that all nodes see, and name it by its absolute path."
    )


def _files_of(path: Path) -> list[Path]:
    """Returns the files of a path that go along."""
    if path.is_file():
        return [path]
    files: list[Path] = []
    for folder, folders, names in os.walk(path, followlinks=True):
        folders[:] = [name for name in folders if name not in _NOT_SENT]
        files += [Path(folder, name) for name in names if name not in _NOT_SENT]
    return files


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        shutil.copyfile(source, target)
    else:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*_NOT_SENT))


BEGIN, END = "-----BEGIN EXPERIMENT-----", "-----END EXPERIMENT-----"

MAX_PRINTED_BYTES = 400_000_000
"""The log is read in one piece, and held in memory four times over."""

_LEFT_OUT = {"ray", ".lock", "stop"}
"""What only a run needs."""


def show_folder(folder: Path) -> str:
    """Returns a folder as lines of text with a checksum.

    Raises:
        InputError: If it is no experiment, or too large.
    """
    if not (folder / "space.yaml").is_file():
        raise InputError(f"An experiment's folder holds a space.yaml, but {folder} has none on the cluster's head.")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MAX_PRINTED_BYTES:
        raise InputError(
            f"An experiment must be at most {MAX_PRINTED_BYTES / 1e6:,.0f} MB to be fetched through a job's log, but "
            f"{folder} has {size / 1e6:,.0f} MB. Copy it with rsync, scp or `ray rsync-down`, or keep experiments on "
            "s3://… ."
        )
    content = pack_folder(folder)
    return f"{BEGIN}\n{hashlib.sha256(content).hexdigest()}\n{base64.encodebytes(content).decode()}{END}\n"


def read_folder(text: str, to: Path) -> None:
    """Writes the folder that a text holds.

    Args:
        text: What `show_folder` returned, between other lines.
        to: The folder to make.

    Raises:
        InputError: If the text holds none, or not the whole one.
    """
    _, begin, rest = text.partition(f"{BEGIN}\n")
    inner, end, _ = rest.partition(f"{END}")
    digest, _, body = inner.partition("\n")
    try:
        content = base64.b64decode(body)
    except binascii.Error:
        content = b""
    if not begin or not end or hashlib.sha256(content).hexdigest() != digest:
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "nothing")
        raise InputError(last.removeprefix("error: ") if not begin else "The experiment came torn. Fetch it again.")
    unpack_folder(content, to)


def pack_folder(folder: Path) -> bytes:
    """Returns a folder without what only a run needs, packed."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for path in sorted(folder.iterdir()):
            if path.name not in _LEFT_OUT:
                archive.add(path, arcname=path.name)
    return packed.getvalue()


def unpack_folder(content: bytes, to: Path) -> None:
    """Makes the folder that `pack_folder` packed.

    Raises:
        InputError: If something in it is neither a file nor a folder, or would lie elsewhere.
    """
    to.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        # By hand: before Python 3.11.4, and so on Debian 12, `extractall` has no filter that refuses the rest.
        for member in archive:
            place = to / member.name
            is_within = place.resolve().is_relative_to(to.resolve())
            if not is_within or not (member.isfile() or member.isdir()):
                raise InputError(f"A packed folder must hold files and folders of its own, but has {member.name!r}.")
            if member.isdir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            source = archive.extractfile(member)
            assert source is not None, "a file has content"
            with source, place.open("wb") as target:
                shutil.copyfileobj(source, target)


def main() -> None:
    """Prints the folder that the command line names."""
    try:
        sys.stdout.write(show_folder(Path(sys.argv[1])))
    except InputError as error:
        sys.stdout.write(f"error: {error}{os.linesep}")
        sys.exit(2)


if __name__ == "__main__":
    main()
