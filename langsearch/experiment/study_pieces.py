"""The study of a remote experiment: a base and the pages that changed since, each an object that is whole or not there.

    .study/000003-1f2e3d4c/00000000.base      the whole SQLite file
                           00000001.pages     the pages that differ from it, and so on

Every driver writes into a generation of its own, numbered above those before, so one that lost its lease cannot touch
what its successor has written. What is there after a kill at any moment is the study as it was between two
transactions: the last base of the highest generation, and the pages behind it up to the first gap.
"""

import json
import os
import re
import sqlite3
import struct
import time
import uuid
import zlib
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs

from langsearch.experiment.folder import write_json
from langsearch.experiment.object_store import (
    TICK_NS,
    StorageError,
    delete,
    join,
    open_system,
    put_in_place,
    read_bytes,
    upload,
)

STUDY = "study.db"
"""The SQLite file in the experiment's folder; an older experiment has it whole on its remote, too."""

_FOLDER = ".study"
_BASE, _PAGES = "base", "pages"
_MAGIC = b"langsearch study 1\n"
_NAME = re.compile(r"(\d{6}-[0-9a-f]{8})/(\d{8})\.(base|pages)")
_MAX_PIECES = 500
"""A base is written anew behind so many pieces, or once they take more than it."""

_NUM_TRIES = 5
"""To read pieces that their writer is replacing by a new base."""

Pieces = Mapping[int, str]
"""The kind of each piece of a generation by its number."""


class StudyUpload:
    """Sends the study of one run, again and again, in pieces of what has changed.

    Args:
        url: The experiment's remote folder.
        local_root: Its working copy.
        check: Called before every write; raises LeaseLostError where that is not allowed any more.
    """

    def __init__(self, url: str, local_root: Path, check: Callable[[], None]) -> None:
        self._url, self._root, self._check = url, local_root, check
        self._generation: str | None = None
        self._image, self._number = b"", -1
        self._seen: tuple[int, int] | None = None
        self._first = self._base_bytes = self._piece_bytes = 0

    def push(self) -> int:
        """Sends what has changed since the last time; returns the bytes that went.

        Raises:
            StorageError: If the store cannot be written; pushing again goes on.
        """
        try:
            stat = (self._root / STUDY).stat()
        except FileNotFoundError:  # in a database elsewhere
            return 0
        if (stat.st_size, stat.st_mtime_ns) == self._seen:
            return 0
        image = _snapshot(self._root / STUDY)
        # A file that changed a moment ago may change again without another modification time.
        is_settled = time.time_ns() - stat.st_mtime_ns > TICK_NS
        seen = (stat.st_size, stat.st_mtime_ns) if is_settled else None
        if image == self._image:
            self._seen = seen
            return 0
        is_base = (
            self._generation is None
            or _page_bytes(image) != _page_bytes(self._image)
            or self._piece_bytes > self._base_bytes
            or self._number - self._first >= _MAX_PIECES
        )
        content = _pack(image, b"" if is_base else self._image)
        try:
            if self._generation is None:
                self._begin()
            self._send(self._number + 1, _BASE if is_base else _PAGES, content)
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(f"{self._url} could not be written: {error}") from error
        self._image, self._number, self._seen = image, self._number + 1, seen
        if is_base:
            self._first, self._base_bytes, self._piece_bytes = self._number, len(content), 0
            with suppress(OSError):  # the next base tries again
                self._drop_older()
        else:
            self._piece_bytes += len(content)
        return len(content)

    def _begin(self) -> None:
        last = max((int(name.partition("-")[0]) for name in _list(self._url)), default=0)
        generation = f"{last + 1:06d}-{uuid.uuid4().hex[:8]}"
        note = _read_note(self._root)
        # Before the first piece: what a kill leaves there is known to be of this machine.
        _write_note(self._root, {**note, "own": [*note.get("own", []), generation]})
        self._generation = generation

    def _send(self, number: int, kind: str, content: bytes) -> None:
        system, root = open_system(self._url)
        with upload(system, join(root, _FOLDER, f"{self._generation}/{number:08d}.{kind}"), self._check) as stream:
            stream.write(content)

    def _drop_older(self) -> None:
        """Deletes what the base that was just written takes the place of."""
        for generation, pieces in _list(self._url).items():
            for number, kind in pieces.items():
                if generation < str(self._generation) or (generation == self._generation and number < self._number):
                    self._check()
                    delete(self._url, f"{_FOLDER}/{generation}/{number:08d}.{kind}")
        self._check()
        delete(self._url, STUDY)


def pull_study(url: str, local_root: Path) -> bool:
    """Brings the study here, unless what is here is newer: then nobody else has written it since.

    Args:
        url: The experiment's remote folder.
        local_root: The copy here.

    Returns:
        Whether the remote has the study in pieces.

    Raises:
        OSError: If the store cannot be read, or the pieces make no whole.
    """
    for tries_left in reversed(range(_NUM_TRIES)):
        whole = {name: pieces for name, pieces in _list(url).items() if _BASE in pieces.values()}
        if not whole:
            return False
        generation = max(whole)
        numbers = _consecutive(whole[generation])
        note, here = _read_note(local_root), local_root / STUDY
        place = [generation, numbers[-1]]
        if here.is_file() and (generation in note.get("own", []) or note.get("brought") == place):
            return True
        try:
            image = _assemble(url, generation, numbers)
        except FileNotFoundError:
            if not tries_left:
                raise
            continue
        _replace(here, image)
        _write_note(local_root, {**note, "brought": place})
        return True
    raise AssertionError("unreachable")


def _list(url: str) -> dict[str, Pieces]:
    """Returns the pieces that there are, by generation."""
    system, root = open_system(url)
    folder = join(root, _FOLDER)
    found: dict[str, dict[int, str]] = {}
    for info in system.get_file_info(pafs.FileSelector(folder, recursive=True, allow_not_found=True)):
        if info.is_file and (match := _NAME.fullmatch(info.path.removeprefix(f"{folder}/"))):
            found.setdefault(match[1], {})[int(match[2])] = match[3]
    return dict(found)


def _consecutive(pieces: Pieces) -> list[int]:
    """Returns the number of the last base, and those that follow it without a gap."""
    numbers = [max(number for number, kind in pieces.items() if kind == _BASE)]
    while numbers[-1] + 1 in pieces:
        numbers.append(numbers[-1] + 1)
    return numbers


def _assemble(url: str, generation: str, numbers: list[int]) -> bytes:
    image, checksum = b"", 0
    for number in numbers:
        kind = _BASE if number == numbers[0] else _PAGES
        try:
            image, checksum = _unpack(read_bytes(url, f"{_FOLDER}/{generation}/{number:08d}.{kind}"), image)
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            raise OSError(f"The study in {url} cannot be read: piece {number} of {generation} ({error})") from error
    if zlib.crc32(image) != checksum:
        raise OSError(f"The study in {url} cannot be read: the pieces of {generation} do not belong together")
    return image


def _pack(image: bytes, before: bytes) -> bytes:
    """Returns a piece that makes an image out of the one before: b"" for a base."""
    size = _page_bytes(image)
    new = np.frombuffer(image, dtype=np.uint64).reshape(-1, size // 8)
    old = np.frombuffer(before, dtype=np.uint64).reshape(-1, size // 8) if before else new[:0]
    num = min(len(old), len(new))
    numbers = np.concatenate([np.flatnonzero((new[:num] != old[:num]).any(axis=1)), np.arange(num, len(new))])
    head = {
        "page_bytes": size,
        "num_pages": len(new),
        "num_changed": len(numbers),
        "crc32": zlib.crc32(image),
    }
    body = numbers.astype("<u4").tobytes() + new[numbers].tobytes()
    return _MAGIC + json.dumps(head).encode() + b"\n" + zlib.compress(body)


def _unpack(piece: bytes, before: bytes) -> tuple[bytes, int]:
    """Returns the image that a piece makes out of the one before, and its CRC-32. Raises ValueError if it is none."""
    if not piece.startswith(_MAGIC):
        raise ValueError("it is of another format")
    line, _, packed = piece[len(_MAGIC) :].partition(b"\n")
    head, body = json.loads(line), zlib.decompress(packed)
    size, num_pages, num_changed = (int(head[key]) for key in ("page_bytes", "num_pages", "num_changed"))
    if size % 8 or len(body) != num_changed * (4 + size):
        raise ValueError("its length is wrong")
    numbers = np.frombuffer(body[: 4 * num_changed], dtype="<u4")
    if num_changed and int(numbers.max()) >= num_pages:
        raise ValueError("it has a page behind the end")
    image = np.zeros((num_pages, size), dtype=np.uint8)
    if before:
        old = np.frombuffer(before, dtype=np.uint8).reshape(-1, size)[:num_pages]
        image[: len(old)] = old
    image[numbers] = np.frombuffer(body[4 * num_changed :], dtype=np.uint8).reshape(-1, size)
    return image.tobytes(), int(head["crc32"])


def _page_bytes(image: bytes) -> int:
    """Returns the size of an SQLite file's pages (sqlite.org/fileformat.html, 1.3.2)."""
    (size,) = struct.unpack(">H", image[16:18])
    return 65536 if size == 1 else int(size)


def _snapshot(study: Path) -> bytes:
    """Returns a database as it is between two transactions, while others use it.

    By SQLite itself: who opens the file and closes it again loses all locks that this process has on it.
    """
    try:
        with closing(sqlite3.connect(study, timeout=60, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return connection.serialize()
    except sqlite3.Error as error:
        raise StorageError(f"{study} could not be read: {error}") from error


def _replace(study: Path, image: bytes) -> None:
    study.parent.mkdir(parents=True, exist_ok=True)
    aside = study.with_name(f".{study.name}.partial")
    with aside.open("wb") as file:
        file.write(image)
        file.flush()
        os.fsync(file.fileno())
    put_in_place(aside, study)


def _read_note(local_root: Path) -> dict[str, Any]:
    """Returns what this machine knows: the generations that it wrote itself, and the place that it brought last."""
    try:
        note = json.loads((local_root / ".remote" / "study.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _write_note(local_root: Path, note: Mapping[str, Any]) -> None:
    write_json(local_root / ".remote" / "study.json", note)
