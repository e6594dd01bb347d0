"""The tokens of one language on their way into the store: appended to files, so that a build that dies goes on.

`done.json` says how much of the other files is whole; what stands behind that is cut off before a build goes on.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from langsearch.data.encoding import Encoded, Encoder

LOCK = ".lock"
"""In a folder that one process at a time may write to."""

_ROWS_PER_BLOCK = 10_000
_BLOCKS_PER_COMMIT = 10
_ABANDONED_SECONDS = 7 * 24 * 3600
_DONE = "done.json"
_FILES = ("text", "text_lengths", "ids", "num_ids")
"""UTF-8 of all sentences; bytes of each row (int32); ids of all sentences (int32); ids of each row (int32). A row that
is not there has the length -1."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds a folder of parts, made if absent, against other builds of the same file."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The one before may have removed what was waited for.
            if (folder / LOCK).exists() and os.path.samestat(os.fstat(descriptor), (folder / LOCK).stat()):
                yield
                return
        finally:
            os.close(descriptor)


@contextmanager
def held_at_once(folder: Path) -> Iterator[bool]:
    """Holds a folder if nobody else does, and gives whether it is held; a process that is killed gives it back.

    Args:
        folder: Its `LOCK` must be there.

    Raises:
        OSError: If it is not.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def write_parts(
    folder: Path, sentences: Sequence[str | None], encoder: Encoder, tell: Callable[[int], None] = lambda num: None
) -> None:
    """Writes the tokens and the text of a language, from where an earlier build stopped.

    Args:
        folder: Of these very sentences and this tokenizer; held.
        sentences: The rows.
        encoder: Splits them.
        tell: Called with the rows that are done, each time that some are.

    Raises:
        ValueError: As `Encoder.encode`.
        OSError: If the disk is full.
    """
    done = _read_done(folder)
    files = {}
    try:
        for name in _FILES:
            files[name] = (folder / name).open("ab")
            files[name].truncate(done[name])
            files[name].seek(0, os.SEEK_END)
        num_rows = done["rows"]
        tell(num_rows)
        blocks = (
            sentences[start : start + _ROWS_PER_BLOCK] for start in range(num_rows, len(sentences), _ROWS_PER_BLOCK)
        )
        for number, encoded in enumerate(encoder.encode(blocks), start=1):
            _append(files, encoded)
            num_rows += len(encoded[0])
            if number % _BLOCKS_PER_COMMIT == 0 or num_rows == len(sentences):
                _commit(folder, files, num_rows)
            tell(num_rows)
    finally:
        for file in files.values():
            file.close()


def read_parts(folder: Path) -> Any:
    """Returns the record batch of what was written; its buffers are mapped files."""
    done = _read_done(folder)
    text_ends, missing = _ends(folder, "text_lengths", done["rows"])
    token_ends, _ = _ends(folder, "num_ids", done["rows"])
    mask = pa.array(missing) if missing.any() else None
    valid = pa.array(~missing).buffers()[1] if missing.any() else None
    num_bytes, num_ids = done["text"], done["ids"] // 4
    text = np.memmap(folder / "text", np.uint8, "r", shape=(num_bytes,)) if num_bytes else np.zeros(0, np.uint8)
    ids = np.memmap(folder / "ids", np.int32, "r", shape=(num_ids,)) if num_ids else np.zeros(0, np.int32)
    texts = pa.LargeStringArray.from_buffers(done["rows"], pa.py_buffer(text_ends), pa.py_buffer(text), valid)
    tokens = pa.LargeListArray.from_arrays(pa.array(token_ends), pa.array(ids), mask=mask)
    return pa.record_batch({"text": texts, "tokens": tokens})


def remove_parts(folder: Path) -> None:
    """Removes what was written; the folder is still held by whoever holds it."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(folder: Path, now: float) -> None:
    """Removes parts, and files that were being written, which nobody has gone on with for a week.

    What is held, or newer, is left: the build that wrote it may be begun again.

    Args:
        folder: Where token files are kept.
        now: In seconds since 1970.
    """
    for parts in folder.glob(".*.parts"):
        with suppress(OSError), held_at_once(parts) as is_held:
            if is_held and max(entry.stat().st_mtime for entry in (parts, *parts.iterdir())) < now - _ABANDONED_SECONDS:
                remove_parts(parts)
    for file in folder.glob(f".*.arrow.{32 * '[0-9a-f]'}"):
        with suppress(OSError):
            if file.stat().st_mtime < now - _ABANDONED_SECONDS:
                file.unlink()


def _append(files: dict[str, Any], encoded: Encoded) -> None:
    rows, ids = encoded
    data = [None if row is None else row.encode() for row in rows]
    numbers = iter(ids)
    counts = [-1 if row is None else len(next(numbers)) for row in rows]
    files["text"].write(b"".join(row for row in data if row is not None))
    files["text_lengths"].write(np.array([-1 if row is None else len(row) for row in data], np.int32).tobytes())
    files["ids"].write(np.fromiter(chain.from_iterable(ids), np.int32).tobytes())
    files["num_ids"].write(np.array(counts, np.int32).tobytes())


def _commit(folder: Path, files: dict[str, Any], num_rows: int) -> None:
    for file in files.values():
        file.flush()
        os.fsync(file.fileno())
    done = {name: file.tell() for name, file in files.items()} | {"rows": num_rows}
    temporary = folder / f".{_DONE}"
    temporary.write_text(json.dumps(done), encoding="utf-8")
    temporary.replace(folder / _DONE)


def _read_done(folder: Path) -> dict[str, int]:
    """Returns how much is whole: the rows, and the bytes of each file."""
    nothing = dict.fromkeys((*_FILES, "rows"), 0)
    try:
        done: dict[str, int] = json.loads((folder / _DONE).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in _FILES}
    except (OSError, ValueError):
        return nothing
    return done if all(sizes[name] >= done[name] for name in _FILES) else nothing


def _ends(folder: Path, name: str, num_rows: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Returns where each row ends, after a 0, and which rows are not there."""
    lengths = np.fromfile(folder / name, np.int32, num_rows)
    ends = np.zeros(num_rows + 1, np.int64)
    np.cumsum(np.maximum(lengths, 0), out=ends[1:])
    return ends, lengths < 0
