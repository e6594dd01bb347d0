"""Our own folder for what can be made again: where it is, locked, and the digests of large files."""

import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VARIABLE = "LANGSEARCH_CACHE"
"""The environment variable that puts the folder elsewhere."""

_LARGE = 16 * 2**20
"""Files of so many bytes have their digest kept; smaller ones are read faster than it is found."""

_SETTLED_S = 2.0
"""A file that changed this recently may change again within the same tick of the clock, so its digest is not kept."""


def cache_folder() -> Path:
    """Returns the folder: what `LANGSEARCH_CACHE` says, else langsearch in `XDG_CACHE_HOME`, which is ~/.cache."""
    if given := os.environ.get(VARIABLE):
        return Path(given).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "langsearch"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock that one process of this machine has at a time; a process that is killed gives it back.

    Args:
        path: The lock's file, which stays. Its folder must be there.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file's content.

    The hub's cache names a large file by it, so that need not be read. Of other large files it is kept until their
    size or their time of change is another.

    Raises:
        OSError: If the file cannot be read.
    """
    real = path.resolve()
    if real.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", real.name):
        return real.name
    found = real.stat()
    stamp = [found.st_size, found.st_mtime_ns, found.st_ino]
    kept = cache_folder() / "digests" / f"{hashlib.sha256(os.fsencode(real)).hexdigest()[:32]}.json"
    if found.st_size >= _LARGE:
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(kept.read_text(encoding="utf-8"))
            if known["stamp"] == stamp:
                return str(known["sha256"])
    with real.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if found.st_size >= _LARGE and abs(time.time() - found.st_mtime) > _SETTLED_S:
        with suppress(OSError):  # a cache that cannot be written costs time, and nothing else
            kept.parent.mkdir(parents=True, exist_ok=True)
            aside = kept.with_name(f".{kept.name}.{os.getpid()}")
            aside.write_text(json.dumps({"stamp": stamp, "sha256": digest}), encoding="utf-8")
            aside.replace(kept)
    return digest
