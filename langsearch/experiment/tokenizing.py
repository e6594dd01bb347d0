"""How far a large text is that is split into pieces, and how long it still takes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from langsearch.data.store import Tell

_WHAT = "Splitting sentences into pieces"
_LINES = 10
"""Without a terminal so many lines are written at most."""


@contextmanager
def tokenizing(console: Console | None) -> Iterator[Tell]:
    """Gives what a store tells its progress to: a bar on a terminal, else a line for every tenth. None: nothing."""
    if console is None:
        yield lambda done, total: None
    elif console.is_terminal:
        with _bar(console) as bar:
            yield _Bar(bar)
    else:
        yield _Lines(console)


def _bar(console: Console) -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns, console=console, transient=True)


class _Bar:
    def __init__(self, bar: Progress) -> None:
        self._bar = bar

    def __call__(self, done: int, total: int) -> None:
        if not self._bar.tasks:  # what an earlier build has done does not make this one fast
            self._bar.add_task(_WHAT, total=total, completed=done)
        self._bar.update(self._bar.tasks[0].id, completed=done)


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._began: tuple[float, int] | None = None
        self._told = 0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._began is None:
            self._began, self._told = (now, done), _LINES * done // total
            self._print(f"{_WHAT}: {done:,} of {total:,}")
        elif _LINES * done // total > self._told:
            self._told = _LINES * done // total
            start, first = self._began
            left = (now - start) * (total - done) / max(done - first, 1)
            self._print(f"{_WHAT}: {done:,} of {total:,}, {_duration(left)} left")

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
