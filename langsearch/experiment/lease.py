"""A lock for what has none, held as long as it is refreshed: on object stores, and on file systems of the network."""

import json
import logging
import os
import random
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from langsearch.experiment import object_store
from langsearch.experiment.lock import DEAD_AFTER_SECONDS
from langsearch.experiment.remote import Remote
from langsearch.space.problems import InputError, LeaseLostError

logger = logging.getLogger(__name__)

_FOLDER = ".lock"
_HELD, _ASKED = "held", "asked"
_NUM_TRIES = 3
_CONCERN_SHARE = 0.7
"""After this share of the time that a lease is held for, a run whose lease cannot be refreshed begins to end."""

_SAFETY, _TICK_NS = 1.01, 1_000_000_000
"""Others wait so much longer than a run counts on: for clocks of other speeds, and S3's, which counts seconds."""

_SECONDS_TO_END = 5.0
"""How long the refreshing thread, which may wait for a store that is away, is waited for in the end."""


@dataclass(frozen=True)
class LeaseMark:
    """Where a run's lease lies: what its workers look at before they write."""

    url: str
    """The experiment's folder."""

    relative: str

    def check(self) -> None:
        """Returns if the lease is there, or nobody can tell; one request.

        Raises:
            LeaseLostError: If another run has deleted it to take over, or the run has ended.
        """
        try:
            object_store.read_bytes(self.url, self.relative)
        except FileNotFoundError:
            raise LeaseLostError("another run has taken over, as a worker has seen") from None
        except OSError:  # the store is away: what is to be written will find out
            return


class LeaseLook:
    """Asks a `LeaseMark` at most every so many seconds, and never again once it is lost.

    Args:
        mark: Where to look.
        seconds: For how long an answer counts.
    """

    def __init__(self, mark: LeaseMark, seconds: float = 1.0) -> None:
        self._mark, self._seconds, self._looked = mark, seconds, float("-inf")
        self._lost: LeaseLostError | None = None

    def __call__(self) -> None:
        """Returns if the lease is there. Raises LeaseLostError as `LeaseMark.check`."""
        if self._lost is not None:
            raise self._lost
        now = _clock()
        if now - self._looked < self._seconds:
            return
        try:
            self._mark.check()
        except LeaseLostError as error:
            self._lost = error
            raise
        self._looked = now  # of before the look


class RemoteLease:
    """Lets one run at a time work on an experiment.

    Every run writes a file of its own into a hidden folder and looks at the others': it holds the lease only if it then
    sees no other that lives. Two that ask at the same time see each other and both step back, so there are never two
    holders; one that is refused removes its file. How old a file is, is measured against the own one, just written,
    so by the store's clock alone. Needs what S3, GCS and folders give: a list shows what was written before.

    A run that died on another machine is forgotten after a while; one that died on this machine, at once. A run that
    could not refresh its lease for as long counts as dead to itself too, and stays so: its time begins before the
    file is written, so it is over before another run may take the lease.

    Args:
        remote: The experiment's folder.
        folder: Where the leases lie in it.
        refresh_seconds: How often the file is written again, by a thread.
        dead_after_seconds: A file that was not refreshed for so long is a dead run's. The same for all runs.
    """

    def __init__(
        self,
        remote: Remote,
        *,
        folder: str = _FOLDER,
        refresh_seconds: float = 30.0,
        dead_after_seconds: float = DEAD_AFTER_SECONDS,
    ) -> None:
        self._remote, self._folder = remote, folder
        self._refresh_seconds, self._dead_after_seconds = refresh_seconds, dead_after_seconds
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.json"
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._number = 1
        self._ended = threading.Event()
        self._lost: str | None = None
        self._trouble: str | None = None
        self._refreshed = _clock()
        self._thread = threading.Thread(target=self._refresh_until_ended, name="lease", daemon=True)

    def __enter__(self) -> Self:
        """Takes the lease.

        Raises:
            InputError: If another run holds it.
            OSError: If the store cannot be read or written.
        """
        for tries_left in reversed(range(_NUM_TRIES)):
            self._number = 1 + max(self._numbers(), default=0)
            self._write(_ASKED)
            others = self._living_others()
            if not others:
                begun = _clock()
                self._write(_HELD)
                self._refreshed = begun
                self._thread.start()
                return self
            object_store.delete(self._remote.url, self._path(self._name))
            holder = next((value for value in others.values() if value.get("state") == _HELD), None)
            if holder is not None or not tries_left:
                raise InputError(self._refusal(holder or next(iter(others.values()))))
            time.sleep(random.uniform(0.2, 2.0))  # another one asks at this moment, and steps back too
        raise AssertionError("unreachable")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Gives the lease back; one that was lost is left to whoever has it."""
        self._ended.set()
        self._thread.join(_SECONDS_TO_END)
        try:
            self.check()
            object_store.delete(self._remote.url, self._path(self._name))
        except LeaseLostError:
            return
        except OSError as problem:
            logger.warning("The lease on %s could not be given back, and ends by itself: %s", self._remote.url, problem)

    @property
    def mark(self) -> LeaseMark:
        """Where workers look whether it is held."""
        return LeaseMark(self._remote.url, self._path(self._name))

    def check(self) -> None:
        """Returns if the lease is held still; called before what only its holder may write. Costs no request.

        Raises:
            LeaseLostError: If it was lost: another run took over, or may have, while this one could not refresh it.
        """
        if self._is_overdue(_clock()):
            raise LeaseLostError(
                f"The lease on {self._remote.url} is lost: {self._lost}. Nothing more was written there; go on with "
                "the same command and --resume when no other run has it."
            )

    def give_up(self, cause: str) -> None:
        """Counts the lease as lost from here on, since somebody else has seen that it is."""
        self._lost = self._lost or cause

    def concern(self) -> str | None:
        """Returns why a run should end behind checkpoints while it still may write; None as long as all is well."""
        age = _clock() - self._refreshed
        if age < _CONCERN_SHARE * self._dead_after_seconds:
            return None
        cause = f" ({self._trouble})" if self._trouble else ""
        return f"the lease on {self._remote.url} could not be refreshed for {age:.0f} seconds{cause}"

    def _refresh_until_ended(self) -> None:
        wait = self._refresh_seconds
        while not self._ended.wait(wait):
            try:
                if not self._refresh():
                    return
                if self._trouble is not None:
                    logger.warning("The lease on %s is refreshed again.", self._remote.url)
                self._trouble, wait = None, self._refresh_seconds
            except OSError as error:
                if self._trouble is None:
                    logger.warning(
                        "The lease on %s could not be refreshed, and is tried again: %s", self._remote.url, error
                    )
                self._trouble, wait = str(error), self._refresh_seconds / 6

    def _refresh(self) -> bool:
        """Returns whether the lease is held still, and for how long, after it was written again."""
        if not self._is_there():
            self._lost = "another run has taken over"
            return False
        begun = _clock()
        if self._is_overdue(begun):
            return False
        self._write(_HELD)
        others = self._living_others().values()
        if any(value.get("state") == _HELD and value.get("number", 0) >= self._number for value in others):
            self._lost = "another run holds it too"
            object_store.delete(self._remote.url, self._path(self._name))
            return False
        # Until here the old time counts: another run may have taken over before the file was there again.
        if self._is_overdue(_clock()):
            object_store.delete(self._remote.url, self._path(self._name))
            return False
        self._refreshed = begun
        return True

    def _is_overdue(self, now: float) -> bool:
        if self._lost is None and now - self._refreshed >= self._dead_after_seconds:
            self._lost = (
                f"it could not be refreshed for {now - self._refreshed:.0f} seconds, so another run may have taken over"
            )
        return self._lost is not None

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _numbers(self) -> list[int]:
        """Returns the numbers of the leases that there are: one that takes over has a higher one than before."""
        numbers = []
        for name in object_store.modified(self._remote.url, self._folder):
            try:
                numbers.append(int(json.loads(object_store.read_bytes(self._remote.url, self._path(name)))["number"]))
            except (OSError, ValueError, KeyError, TypeError):  # given back meanwhile, being written, or older
                continue
        return numbers

    def _is_there(self) -> bool:
        return self._remote.exists(self._path(self._name))

    def _write(self, state: str) -> None:
        value: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": self._started,
            "state": state,
        }
        value |= {"kernel": _kernel(), "began": _began(os.getpid()), "number": self._number}
        object_store.write_bytes(self._remote.url, self._path(self._name), json.dumps(value).encode())

    def _living_others(self) -> dict[str, dict[str, Any]]:
        """Returns what the other living runs wrote, and deletes the files of dead ones; the own one is just written."""
        written = object_store.modified(self._remote.url, self._folder)
        if self._name not in written:
            raise FileNotFoundError(f"{self._name} was deleted by another run")
        now = written.pop(self._name)
        living = {}
        for name, then in written.items():
            if now - then > _SAFETY * self._dead_after_seconds * 1e9 + _TICK_NS:
                object_store.delete(self._remote.url, self._path(name))
                continue
            try:
                value = json.loads(object_store.read_bytes(self._remote.url, self._path(name)))
                if _is_dead(value):
                    object_store.delete(self._remote.url, self._path(name))
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
