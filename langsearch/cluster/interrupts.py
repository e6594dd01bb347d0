"""Ctrl+C, and SIGTERM, which ends a run as Ctrl+C does: the first ones ask, the next one stops at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


def exit_code(number: int) -> int:
    """Returns a command's exit code where a signal has ended it: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + number


@contextmanager
def keeping_sigterm() -> Iterator[None]:
    """Around `ray.init`, which has SIGTERM end the process without a word: afterwards it does what it did before.

    Where nothing was set before, Ray's own stays, which stops the processes that it has started.
    """
    before = signal.getsignal(signal.SIGTERM)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        yield
    except SystemExit as error:
        if error.code != signal.SIGTERM:
            raise
        before(signal.SIGTERM, None)  # what it would have called
    finally:
        signal.signal(signal.SIGTERM, before)


class Interrupts:
    """Counts the interrupts of this process.

    Args:
        on_gentle: Called with the signal's number at each gentle one, between two bytecodes of the main thread, so it
            must be short.
        num_gentle: So many are gentle; the next SIGINT raises KeyboardInterrupt.
    """

    def __init__(self, on_gentle: Callable[[int], None], num_gentle: int) -> None:
        self.count = 0
        self.first: int | None = None
        """The number of the first signal."""
        self._on_gentle, self._num_gentle = on_gentle, num_gentle

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Called by Python when a signal has come."""
        if number != signal.SIGINT and self.count > 0:
            return
        self.count += 1
        if self.first is None:
            self.first = number
        if self.count > self._num_gentle:
            raise KeyboardInterrupt
        self._on_gentle(number)


@contextmanager
def gentle_interrupts(
    on_gentle: Callable[[int], None] = lambda number: None, *, num_gentle: int = 1
) -> Iterator[Interrupts]:
    """Inside the context the first SIGINT or SIGTERM calls `on_gentle`, the next SIGINT raises KeyboardInterrupt.

    SIGTERM is what schedulers of clusters and service managers send before they kill; any number of them is gentle,
    and those after the first interrupt do not count. Outside of the main thread, where Python takes no signals,
    nothing changes.

    Args:
        on_gentle: As `Interrupts` has it.
        num_gentle: How many SIGINT are gentle.
    """
    interrupts = Interrupts(on_gentle, num_gentle)
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before: dict[int, Any] = {number: signal.signal(number, interrupts) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
