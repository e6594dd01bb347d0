"""A lock for object stores, which have none: held as long as it is refreshed, so a dead run does not hold it."""

import json
import logging
import os
import random
import socket
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from langsearch.experiment import object_store
from langsearch.experiment.remote import Remote
from langsearch.space.problems import InputError

logger = logging.getLogger(__name__)

_FOLDER = ".lock"
_HELD, _ASKED = "held", "asked"
_NUM_TRIES = 3


class RemoteLease:
    """Lets one run at a time work on a remote experiment.

    Every run writes a file of its own into .lock/ and looks at the others': it holds the lease only if it then sees
    no other that lives. Two that ask at the same time see each other and both step back, so there are never two
    holders; one that is refused removes its file. How old a file is, is measured against the own one, just written,
    so by the store's clock alone. Needs what S3, GCS and local folders give: a list shows what was written before.

    A run that died on another machine is forgotten after a while; one that died on this machine, at once.

    Args:
        remote: The experiment's folder.
        refresh_seconds: How often the file is written again, by a thread.
        dead_after_seconds: A file that was not refreshed for so long is a dead run's.
    """

    def __init__(self, remote: Remote, *, refresh_seconds: float = 30.0, dead_after_seconds: float = 120.0) -> None:
        self._remote, self._refresh_seconds, self._dead_after_seconds = remote, refresh_seconds, dead_after_seconds
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.json"
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._ended = threading.Event()
        self._lost: str | None = None
        self._refreshed = _clock()
        self._thread = threading.Thread(target=self._refresh_until_ended, name="lease", daemon=True)

    def __enter__(self) -> Self:
        """Takes the lease.

        Raises:
            InputError: If another run holds it.
            UploadError: If the store cannot be written.
        """
        for tries_left in reversed(range(_NUM_TRIES)):
            self._write(_ASKED)
            others = self._living_others()
            if not others:
                self._write(_HELD)
                self._refreshed = _clock()
                self._thread.start()
                return self
            object_store.delete(self._remote.url, f"{_FOLDER}/{self._name}")
            holder = next((value for value in others.values() if value.get("state") == _HELD), None)
            if holder is not None or not tries_left:
                raise InputError(self._refusal(holder or next(iter(others.values()))))
            time.sleep(random.uniform(0.2, 2.0))  # another one asks at this moment, and steps back too
        raise AssertionError("unreachable")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Gives the lease back."""
        self._ended.set()
        self._thread.join()
        try:
            object_store.delete(self._remote.url, f"{_FOLDER}/{self._name}")
        except OSError as problem:
            logger.warning("The lease on %s could not be given back, and ends by itself: %s", self._remote.url, problem)

    def check(self) -> None:
        """Returns if the lease is held still; called before what only its holder may write. Costs no request.

        Raises:
            OSError: If it was lost: another run took over while this one could not refresh it.
        """
        age = _clock() - self._refreshed
        if self._lost is None and age < self._dead_after_seconds:
            return
        cause = self._lost or f"it could not be refreshed for {age:.0f} seconds"
        raise OSError(f"The lease on {self._remote.url} is lost: {cause}. Resume here when no other run has it.")

    def _refresh_until_ended(self) -> None:
        while not self._ended.wait(self._refresh_seconds):
            try:
                if not self._is_there():
                    self._lost = "another run has taken over"
                    return
                self._write(_HELD)
                others = self._living_others().values()
                if any(value.get("state") == _HELD for value in others):
                    self._lost = "another run holds it too"
                    return
                self._refreshed = _clock()
            except OSError as error:
                logger.warning("The lease on %s could not be refreshed: %s", self._remote.url, error)

    def _is_there(self) -> bool:
        return self._remote.exists(f"{_FOLDER}/{self._name}")

    def _write(self, state: str) -> None:
        value = {"host": socket.gethostname(), "pid": os.getpid(), "started": self._started, "state": state}
        value |= {"kernel": _kernel(), "began": _began(os.getpid())}
        object_store.write_bytes(self._remote.url, f"{_FOLDER}/{self._name}", json.dumps(value).encode())

    def _living_others(self) -> dict[str, dict[str, Any]]:
        """Returns what the other living runs wrote, and deletes the files of dead ones; the own one is just written."""
        written = object_store.modified(self._remote.url, _FOLDER)
        if self._name not in written:
            raise FileNotFoundError(f"{self._name} was deleted by another run")
        now = written.pop(self._name)
        living = {}
        for name, then in written.items():
            if now - then > self._dead_after_seconds * 1e9:
                object_store.delete(self._remote.url, f"{_FOLDER}/{name}")
                continue
            try:
                value = json.loads(object_store.read_bytes(self._remote.url, f"{_FOLDER}/{name}"))
                if _is_dead(value):
                    object_store.delete(self._remote.url, f"{_FOLDER}/{name}")
                else:
                    living[name] = value
            except FileNotFoundError:  # given back meanwhile
                continue
            except (OSError, ValueError):  # being written at this moment: it lives
                living[name] = {}
        return living

    def _refusal(self, holder: dict[str, Any]) -> str:
        return (
            f"One run at a time may work on an experiment, but process {holder.get('pid')} on {holder.get('host')} "
            f"has worked on {self._remote.url} since {holder.get('started')}. Wait for it, stop it, or start another "
            f"with --name NAME; a run that died elsewhere is forgotten after {self._dead_after_seconds:.0f} seconds."
        )


def _clock() -> float:
    """Returns seconds that also pass while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _kernel() -> str | None:
    """Returns what tells machines, their boots and their containers apart, where the system says it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - it points to no path
    except OSError:
        return None


def _began(pid: int) -> str | None:
    """Returns when a process began, in ticks since the boot; None if there is none that lives."""
    try:
        values = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if values[0] in "ZX" else values[19]


def _is_dead(value: dict[str, Any]) -> bool:
    """Returns whether a run was one of this machine and has ended, as far as can be known."""
    kernel = _kernel()
    return kernel is not None and value.get("kernel") == kernel and value.get("began") != _began(int(value["pid"]))
