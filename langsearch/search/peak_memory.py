"""The most memory that a trial has used, in a process that runs one trial after another."""

import platform
import re
import resource
from contextlib import suppress
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak_memory() -> None:
    """Begins to measure anew. Where the system cannot (macOS, some containers), the peak is that of the process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError):
        _CLEAR.write_text("5")  # proc(5): resets the peak resident set size, VmHWM, to the current one


def peak_memory_bytes() -> int:
    """Returns the peak since the last reset: of the device's allocations on a GPU, else of the process.

    A process keeps what its allocator has not given back, so on a CPU the peak is at least what it began with.
    """
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    with suppress(OSError):
        if (found := re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(encoding="utf-8"), re.MULTILINE)) is not None:
            return 1024 * int(found[1])
    unit = 1 if platform.system() == "Darwin" else 1024  # getrusage counts KiB on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
