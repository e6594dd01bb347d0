"""Files as they lie: plain, `.gz` or `.zst`. What is compressed is told by its first bytes, whatever its name."""

import gzip
import io
import zlib
from pathlib import Path
from typing import BinaryIO, Final, cast

import pyarrow as pa

from langsearch.space.problems import InputError

ENDINGS: Final = (".gz", ".zst")
"""The endings of compressed files that are read, behind those of text."""

_FOREIGN: Final = {
    b"BZh91AY&SY": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "a ZIP archive or a spreadsheet",
    b"7z\xbc\xaf": "7z",
}
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def plain_name(name: str) -> str:
    """Returns a file's name without the ending of its compression."""
    return next((name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending)), name)


def open_bytes(path: Path) -> BinaryIO:
    """Returns a file's bytes as a stream, decompressed.

    Raises:
        InputError: If the file cannot be read, is not what its ending says, or is compressed in a way that is not read.
            A damaged stream raises `OSError`, `EOFError` or `zlib.error` later on; `read_bytes` says so.
    """
    try:
        file = path.open("rb")
    except OSError as e:
        raise InputError(f"{path}: the file must be readable, but got: {e.strerror}") from e
    first = file.read(10)
    file.seek(0)
    if first.startswith(_GZIP):
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if first.startswith(_ZSTD):
        return io.BufferedReader(cast(io.RawIOBase, pa.CompressedInputStream(pa.PythonFile(file), "zstd")))
    file_kind = next((name for begin, name in _FOREIGN.items() if first.startswith(begin)), None)
    ending = next((ending for ending in ENDINGS if path.name.endswith(ending)), None)
    if file_kind is None and ending is None:
        return file
    file.close()
    if file_kind is not None:
        raise InputError(f"{path}: a file must be plain, .gz or .zst, but this is {file_kind}. Unpack it")
    raise InputError(f"{path}: a file that ends in {ending} must be compressed so, but is not. Rename it")


def read_bytes(path: Path) -> bytes:
    """Returns all bytes of a file, decompressed.

    Raises:
        InputError: As `open_bytes`, or if the file is torn.
    """
    with open_bytes(path) as stream:
        try:
            return stream.read()
        except (OSError, EOFError, zlib.error, pa.ArrowException) as e:
            raise InputError(f"{path}: the file must be whole, but cannot be unpacked: {e}") from e
