"""Object stores through pyarrow's file systems: opening it, and small files in it."""

import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

import pyarrow as pa
import pyarrow.fs as pafs

from langsearch.space.problems import naming

OBJECT_STORES = {"s3", "gcs", "abfs"}
"""pyarrow's names of the file systems with buckets, where an object appears whole or not at all."""

_GOOGLE = ("gs://", "gcs://")
_SECONDS_TO_ANSWER = 10

CHUNK_BYTES = 1 << 27
"""Read and sent at once."""

TICK_NS = 20_000_000
"""A file that changed so short a time ago may change again without another modification time."""

Stat = tuple[int, int]
"""Size in bytes, and the modification time in ns."""


class StorageError(OSError):
    """The object store could not be read or written."""


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Gives a context in which a store that cannot be read raises StorageError; a file that is not there stays that."""
    try:
        yield
    except (FileNotFoundError, StorageError):
        raise
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{url} could not be read: {error}") from error


def is_remote(text: str) -> bool:
    """Returns whether a place is a URL, not a path of this machine."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


@lru_cache(maxsize=64)
def open_system(url: str) -> tuple[Any, str]:
    """Returns the file system and the path in it; each process opens its own."""
    if url.startswith("s3://"):  # a small object in one request, not three
        url = with_option(url, "allow_delayed_open", "true")
    elif url.startswith(_GOOGLE):  # it would try for a quarter of an hour, each time
        url = with_option(url, "retry_limit_seconds", "60")
    system, path = pafs.FileSystem.from_uri(url)
    return system, path.rstrip("/")


def open_to_look(url: str) -> tuple[Any, str]:
    """Returns what `open_system` does, for a first look by a person who waits: in seconds if nothing answers there.

    Raises:
        OSError: If nothing answers where the URL's `endpoint_override` says that the store is.
    """
    endpoint = dict(parse_qsl(url.partition("?")[2])).get("endpoint_override", "").rpartition("://")[2].rstrip("/")
    host, colon, port = endpoint.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_ANSWER).close()
    if url.startswith(_GOOGLE):
        url = with_option(url, "retry_limit_seconds", str(_SECONDS_TO_ANSWER))
    return open_system(url)


def with_option(url: str, name: str, value: str) -> str:
    """Returns the URL with an option in its query, unless it has the option already."""
    if f"{name}=" in url.partition("?")[2]:
        return url
    return f"{url}{'&' if '?' in url else '?'}{name}={value}"


def normal_url(url: str) -> str:
    """Returns the URL without a slash at its end."""
    place, mark, query = url.partition("?")
    return f"{place.rstrip('/')}{mark}{query}"


def child(place: str, name: str) -> str:
    """Returns the path or URL of what lies directly in a folder; in a URL the name is quoted."""
    if not is_remote(place):
        return f"{place.rstrip('/')}/{name}"
    name = quote(name, safe="")
    place, mark, query = place.partition("?")
    return f"{place.rstrip('/')}/{name}{mark}{query}"


def join(*parts: str) -> str:
    """Joins parts of a path, leaving out empty ones."""
    return "/".join(part for part in parts if part)


def stat_of(info: Any) -> Stat:
    """Returns the size and the modification time of one of pyarrow's `FileInfo`."""
    return int(info.size or 0), int(info.mtime_ns or 0)


def read_bytes(url: str, relative: str) -> bytes:
    """Reads a small file. Raises FileNotFoundError if it is not there."""
    system, root = open_system(url)
    with system.open_input_stream(join(root, relative)) as stream:
        content: bytes = stream.read()
    return content


def write_bytes(url: str, relative: str, content: bytes) -> None:
    """Writes a small file in one step. Raises StorageError if it cannot be."""
    system, root = open_system(url)
    with upload(system, join(root, relative)) as stream:
        stream.write(content)


def delete(url: str, relative: str) -> None:
    """Deletes a file, if it is there."""
    system, root = open_system(url)
    with suppress(FileNotFoundError):
        system.delete_file(join(root, relative))


def modified(url: str, relative: str) -> dict[str, int]:
    """Returns when the files directly in a folder were written, in ns by the store's own clock."""
    system, root = open_system(url)
    infos = system.get_file_info(pafs.FileSelector(join(root, relative), allow_not_found=True))
    return {info.base_name: stat_of(info)[1] for info in infos if info.is_file and not info.base_name.startswith(".")}


@contextmanager
def upload(system: Any, target: str, check: Callable[[], None] = lambda: None) -> Iterator[Any]:
    """Opens an object that appears whole under its name, where the store does not see to that, by renaming.

    Args:
        system: The file system.
        target: The path in it.
        check: Called before the object is opened, and before it gets its name; what it raises stops that. An object
            store gives it the name when it is closed, also by an error, so what is slow belongs before the opening.
    """
    check()
    with_rename = system.type_name not in OBJECT_STORES
    folder, _, name = target.rpartition("/")
    written = f"{folder}/.{name}.partial" if with_rename else target
    try:
        if with_rename:
            system.create_dir(folder, recursive=True)
        with system.open_output_stream(written) as stream:
            yield stream
        if with_rename:
            check()
            system.move(written, target)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{target} could not be written: {error}") from error


def _read(stream: Any, url: str) -> bytes:
    with reading(url):
        chunk: bytes = stream.read(CHUNK_BYTES)
    return chunk


def fetch_file(system: Any, source: str, target: Path, url: str) -> None:
    """Brings an object here as a file, which is whole or not there.

    Args:
        system: Its file system.
        source: Its path there.
        target: The file.
        url: Of the store, for messages.

    Raises:
        StorageError: If it cannot be read.
        OSError: If the file cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.partial")
    try:
        with reading(url):
            stream = system.open_input_stream(source)
        with stream, naming(target), aside.open("wb") as file:
            while chunk := _read(stream, url):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        put_in_place(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def put_in_place(aside: Path, target: Path) -> None:
    """Gives a file that was brought the name of the one that it follows, which may be a database."""
    for suffix in ("-journal", "-wal", "-shm"):  # a journal of the old database would tear the new one
        target.with_name(target.name + suffix).unlink(missing_ok=True)
    aside.replace(target)
