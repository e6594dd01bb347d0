"""Places that something is wrong with; a test module asks for it by `pytest_plugins = ["fault_fixtures"]`.

All of it holds for root, whom permission bits do not bind, as for anybody else.
"""

import ctypes
import errno
import resource
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_VERSION = 0x20080522
_OVERRIDES = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: what has root read and write whatever the permission bits say."""


@contextmanager
def bound_by_permissions() -> Iterator[None]:
    """Has this thread keep to permission bits, as an ordinary user's does."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)
    before = (ctypes.c_uint32 * 6)()
    if libc.capget(header, before):
        raise OSError(ctypes.get_errno(), "capget")
    within = (ctypes.c_uint32 * 6)(*before)
    within[0] &= ~_OVERRIDES  # effective ones alone: what is permitted can be taken back
    if libc.capset(header, within):
        raise OSError(ctypes.get_errno(), "capset")
    try:
        yield
    finally:
        libc.capset(header, before)


@contextmanager
def no_file_may_grow() -> Iterator[None]:
    """Has every write of this process fail, where no file system can be mounted: errno is then EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill(folder: Path) -> Path:
    """Fills a file system to its last byte; returns the file that does."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return ballast


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """A file system of 16 MB; None where this user may mount none."""
    path = tmp_path_factory.mktemp("disk")
    mount = shutil.which("mount")
    command = [mount or "", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(path)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        yield None
        return
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture(scope="session")
def closed_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
