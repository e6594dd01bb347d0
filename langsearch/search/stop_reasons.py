"""What stops a run before its search has ended, as a word that is written down and as a sentence begins."""

import signal
from collections.abc import Mapping

INTERRUPTED = "interrupted"
"""Ctrl+C."""

TERMINATED = "terminated"
"""SIGTERM."""

REQUESTED = "requested"
"""A stop request that somebody else wrote."""

TIME = "time"
"""The deadline."""

_WHILE_STOPPING: Mapping[str, str] = {
    INTERRUPTED: "Interrupted (Ctrl+C again stops at once)",
    TERMINATED: "Interrupted by SIGTERM",
    TIME: "The time is up",
    REQUESTED: "Asked to stop",
}


def by_signal(number: int) -> str:
    """Returns the reason that a signal is: SIGTERM, or Ctrl+C."""
    return TERMINATED if number == signal.SIGTERM else INTERRUPTED


def why(reason: str) -> str:
    """Returns how a sentence begins that says why the trials stop now; of a failure its cause."""
    return _WHILE_STOPPING.get(reason, reason[:1].upper() + reason[1:])
