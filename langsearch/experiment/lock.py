"""One run at a time on an experiment: a lock that the kernel takes from a run that dies, however it dies."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from langsearch.experiment.fence import check_fence
from langsearch.experiment.folder import PARTIAL, ExperimentFolder
from langsearch.space.problems import InputError

LOCK = ".lock"
"""The file that is locked, in the experiment's folder; that it is there says nothing."""

LEASES = ".lease"
"""Where leases lie in an experiment's folder on a file system of the network (`lease.RemoteLease`)."""

DEAD_AFTER_SECONDS = 300.0
"""How long the lease of a run that died elsewhere counts, and how long a store may be away before a search must end."""

_MAX_LOOKS, _SECONDS_OF_LOOK = 3, 0.02
"""How often, and how long, one that takes the lock waits for somebody who only looks whether it is held."""

_held: set[int] = set()
"""File descriptors of this process's locks. A lock belongs to all processes that have its descriptor: a child that was
forked, not executed anew, would hold it beyond this process's end."""


def _close_in_child() -> None:
    for descriptor in _held:
        os.close(descriptor)  # closing does not unlock as long as the parent has it open
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Holds an experiment for this process; made if it is not there.

    The lock is flock(2)'s: it ends with the process, also by kill -9, and is not passed on to children.

    Args:
        path: The experiment's folder.

    Raises:
        InputError: If another run holds it, or its file system knows no locks.
    """
    path.mkdir(parents=True, exist_ok=True)
    # Python's descriptors are not inherited by programs that this one starts (PEP 446).
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    _held.add(descriptor)
    try:
        try:
            _lock(descriptor)
        except BlockingIOError as e:
            raise InputError(_refusal(path, _read(descriptor))) from e
        except OSError as e:
            raise InputError(
                f"The file system of an experiment must know locks, but that of {path} does not ({e.strerror}): "
                "two runs could spoil each other's trials. Put it elsewhere with --experiments DIR, or have the file "
                "system mounted with locks (NFS: without nolock; Lustre: with flock)."
            ) from e
        _write(descriptor)
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Returns whether a run holds an experiment, on this machine or by a lease; False also where nobody knows."""
    return _is_locked(path) or _is_leased(path)


def _is_leased(path: Path) -> bool:
    """Returns whether a lease in a folder was refreshed lately, by this machine's clock."""
    try:
        times = [entry.stat().st_mtime for entry in (path / LEASES).iterdir() if entry.suffix == ".json"]
    except OSError:
        return False
    return any(time.time() - then < DEAD_AFTER_SECONDS for then in times)


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _lock(descriptor: int) -> None:
    """Locks, or raises BlockingIOError; `is_held` has a lock of its own for some microseconds, which do not count."""
    for _ in range(_MAX_LOOKS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_SECONDS_OF_LOOK)
        else:
            return
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def clear_leftovers(folder: ExperimentFolder) -> None:
    """Removes what an earlier run left behind; called when a run starts and holds the experiment.

    That is: the request that it stops, and what it was killed while writing aside. Requests to stop a single trial
    stay, for the run that goes on.
    """
    check_fence(folder.path)
    folder.stop_request.unlink(missing_ok=True)
    for path in (folder.path, *(folder.path / "trials").glob("*/")):
        for leftover in path.glob(f".*{PARTIAL}"):
            if not leftover.is_dir():  # a checkpoint's is removed by its next writer
                leftover.unlink(missing_ok=True)


def _write(descriptor: int) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    content = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": now}) + "\n"
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content.encode(), 0)
    except OSError:  # a full disk: the lock holds without its text
        return


def _read(descriptor: int) -> dict[str, Any]:
    """Returns who holds a lock, as far as that is written."""
    try:
        value = json.loads(os.pread(descriptor, 4096, 0))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _refusal(path: Path, holder: dict[str, Any]) -> str:
    pid, host, started = (holder.get(key) for key in ("pid", "host", "started"))
    who = f"process {pid} on {host} since {started}" if holder else "another process"
    how = f", or stop it (kill -INT {pid} on {host}: it ends behind its checkpoints)" if holder else ""
    return (
        f"An experiment takes one run at a time, but {path} is held by {who}. "
        f"Wait until it ends{how}, or start another experiment with --name NAME."
    )
