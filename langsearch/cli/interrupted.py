"""What a command says when Ctrl+C or SIGTERM ends it, and its exit code."""

import signal
from collections.abc import Callable
from functools import wraps
from types import FrameType
from typing import Any

import typer

from langsearch.cli.console import err

KEPT = "No finished epoch is lost. Go on with the same command and --resume."
"""Of commands that have --resume."""


class _Termination:
    """Raises KeyboardInterrupt at the first SIGTERM; at later ones all is being put in order already.

    It remembers that one has come: Ray passes what a handler raises on as a KeyboardInterrupt of its own.
    """

    has_come = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.has_come:
            self.has_come = True
            raise KeyboardInterrupt


def interrupt_at_sigterm() -> None:
    """Has SIGTERM raise KeyboardInterrupt in the main thread, so that a command ends in order and says so.

    To be called in the main thread. A process whose SIGTERM is ignored goes on ignoring it.
    """
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, _Termination())


def tell_interrupt(way_on: str = "") -> int:
    """Says what has interrupted a command, Ctrl+C or SIGTERM; returns its exit code.

    Args:
        way_on: What is kept, and how to go on.
    """
    handler = signal.getsignal(signal.SIGTERM)
    is_terminated = isinstance(handler, _Termination) and handler.has_come
    words = "Interrupted by SIGTERM." if is_terminated else "Interrupted."
    err.print(f"{words} {way_on}".rstrip(), markup=False, soft_wrap=True)
    return 128 + (signal.SIGTERM if is_terminated else signal.SIGINT)


def telling_interrupts(command: Callable[..., Any], way_on: str = "") -> Callable[..., Any]:
    """Returns a command that says that it was interrupted; typer would end it without a word.

    Args:
        command: Its function.
        way_on: As `tell_interrupt` has it.
    """

    @wraps(command)
    def told(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Exit(tell_interrupt(way_on)) from None

    return told
