"""Ctrl+C: the first one asks, the second one stops at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def gentle_interrupts(on_first: Callable[[], None]) -> Iterator[None]:
    """Inside the context the first SIGINT or SIGTERM calls `on_first`, the next SIGINT raises KeyboardInterrupt.

    SIGTERM is what schedulers of clusters and service managers send before they kill; any number of them is gentle.
    Outside of the main thread, where Python takes no signals, nothing changes.

    Args:
        on_first: Asks for a stop; called once, between two bytecodes of the main thread, so it must be short.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    was_asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal was_asked
        if not was_asked:
            was_asked = True
            on_first()
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    before: dict[int, Any] = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
