"""What watches a trial from outside: stop requests, and the lack of progress."""

import faulthandler
import platform
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

import torch

_SECONDS_BETWEEN_LOOKS = 1.0
"""Between two looks for stop requests, which may lie on a slow network file system."""

_SECONDS_BETWEEN_ARMINGS = 5.0
"""Between two resets of the stall timer, each of which restarts a thread."""


class Monitor(Protocol):
    """What a trial tells, and asks, while it runs."""

    def progressed(self) -> None:
        """Called by the trial after every update and every decoded batch."""

    def should_pause(self) -> bool:
        """Called by the trial after every update; True: it writes a checkpoint and returns."""


class Unwatched:
    """A monitor that never asks for anything."""

    def progressed(self) -> None:
        """Does nothing."""

    def should_pause(self) -> bool:
        """Returns False."""
        return False


class TrialMonitor:
    """Looks for stop requests, and ends the process if a trial hangs.

    The process ends from a thread of C that needs no lock of Python, so also where a native call holds the
    interpreter; the stacks of all threads are written first. One process can watch one trial at a time.

    Args:
        requests: Files that ask to stop, by being there. They are never deleted here.
        stall: Where the stacks go.
        stall_seconds: A watched trial that makes no progress for so long has stalled. None: never.
        elsewhere: Asked as well, whether to pause.
    """

    def __init__(
        self,
        requests: Sequence[Path],
        stall: Path,
        stall_seconds: float | None,
        elsewhere: Callable[[], bool] | None = None,
    ) -> None:
        self._requests, self._stall, self._seconds = tuple(requests), stall, stall_seconds
        self._elsewhere = elsewhere or (lambda: False)
        self._file: IO[Any] | None = None
        self._armed = self._looked = -float("inf")
        self._pause = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches for a stall inside; a file that nothing was written to goes away again."""
        if self._seconds is None:
            yield
            return
        try:
            self._file = self._stall.open("w", encoding="utf-8")
        except OSError:  # a full disk must not leave a trial unwatched
            self._file = None
        try:
            self._arm()
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            if self._file is not None:
                self._file.close()
                self._stall.unlink(missing_ok=True)
            self._file = None
            self._armed = -float("inf")

    def progressed(self) -> None:
        """Starts the stall's time anew."""
        if self._armed > 0 and self._seconds is not None:
            between = min(_SECONDS_BETWEEN_ARMINGS, self._seconds / 10)
            if time.monotonic() - self._armed >= between:
                self._arm()

    def should_pause(self) -> bool:
        """Returns whether one of the stop requests is there; looks at most once a second."""
        now = time.monotonic()
        if not self._pause and now - self._looked >= _SECONDS_BETWEEN_LOOKS:
            self._looked = now
            self._pause = any(path.exists() for path in self._requests) or self._elsewhere()
        return self._pause

    def _arm(self) -> None:
        assert self._seconds is not None
        self._armed = time.monotonic()
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._file or sys.__stderr__ or sys.stderr)


_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak_memory(device: torch.device) -> None:
    """Begins to measure anew. Where the system cannot (macOS, some containers), the peak is that of the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        _CLEAR.write_text("5")  # proc(5): resets the peak resident set size, VmHWM, to the current one


def peak_memory_bytes(device: torch.device) -> int:
    """Returns the peak since the last reset: of the device's allocations on a GPU, else of the process.

    A process keeps what its allocator has not given back, so on a CPU the peak is at least what it began with.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        if (found := re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(encoding="utf-8"), re.MULTILINE)) is not None:
            return 1024 * int(found[1])
    unit = 1 if platform.system() == "Darwin" else 1024  # getrusage counts KiB on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
