"""What a person sees while a search runs: a live table on a terminal or in a notebook, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from langsearch.experiment.printable import printable, printable_lines
from langsearch.experiment.task import TrialTask
from langsearch.search.notebook import NotebookTable
from langsearch.study.results import TrialResult, kept_words
from langsearch.study.rows import State, TrialRow

_MAX_ROWS = 16


@dataclass(frozen=True)
class _Line:
    name: str
    kind: str
    summary: str
    num_epochs: int
    state: str
    result: TrialResult | None = None
    order: int = 0
    heard: float = 0.0
    """When its last result came, by the monotonic clock."""
    is_old: bool = False
    """Whether an earlier run ended it."""
    is_retried: bool = False
    """Whether another trial tries it again, which counts in its place."""

    @property
    def has_ended(self) -> bool:
        """Whether it is one of the planned trials that have ended."""
        return self.state != State.RUNNING.value and not self.is_retried


class Display:
    """Keeps what is known of each trial and shows it.

    Args:
        console: Where to show; live if it is a terminal or a cell of a notebook.
        title: The experiment's name.
        num_trials: Searched trials planned.
        num_baselines: Baselines planned, and their tries.
        is_quiet: Show nothing.
    """

    def __init__(
        self, console: Console, title: str, num_trials: int, num_baselines: int, *, is_quiet: bool = False
    ) -> None:
        self._console, self._title, self._is_quiet = console, title, is_quiet
        self._num_planned = num_trials + num_baselines
        self._lines: dict[str, _Line] = {}
        self._started = time.monotonic()
        self.num_started = 0
        """Trials that this run has started, or started again."""
        self.watched: Callable[[], str | None] = lambda: None
        """Asked again and again for a sentence to show."""
        self._front: tuple[str, ...] = ()
        self._live: Live | None = None
        self._table: NotebookTable | None = None

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Shows the live table inside the context, if there is a terminal or a notebook."""
        if self._is_quiet or not (self._console.is_terminal or self._console.is_jupyter):
            yield
            return
        if self._console.is_jupyter:
            self._table = NotebookTable(self._render)
            try:
                yield
            finally:
                self._table.draw()
                self._table = None
            return
        with Live(console=self._console, get_renderable=self._render, refresh_per_second=2) as live:
            self._live = live
            try:
                yield
            finally:
                live.update(self._render(), refresh=True)
                self._live = None

    @property
    def console(self) -> Console | None:
        """Where to show; None where nothing is to be shown."""
        return None if self._is_quiet else self._console

    def message(self, text: str) -> None:
        """Shows a sentence."""
        if not self._is_quiet:
            self._console.print(printable_lines(text), highlight=False, markup=False, soft_wrap=True)

    def known(self, rows: list[TrialRow], tasks: dict[str, TrialTask]) -> None:
        """Takes in the planned trials that an earlier run finished."""
        for row in rows:
            if row.name in tasks and row.state.is_finished and (row.kind in ("baseline", "try") or row.counts):
                self._add(tasks[row.name])
                self._update(row.name, state=row.state.value, result=row.result)
                self._lines[row.name] = replace(self._lines[row.name], is_old=True)

    def started(self, task: TrialTask, retry_of: str | None = None) -> None:
        """A trial has started, or started again.

        Args:
            task: The trial's.
            retry_of: The failed trial that it tries again.
        """
        self._add(task)
        self.num_started += 1
        if retry_of in self._lines:
            self._lines[retry_of] = replace(self._lines[retry_of], is_retried=True)
        self._plain(f"{task.name:<15} started   {task.summary}")

    def adopted(self, task: TrialTask, row: TrialRow) -> None:
        """A tuned baseline has got the result of its best try."""
        self._add(task)
        self._update(task.name, state=row.state.value, result=row.result)
        score = "" if row.result is None else f": spBLEU {row.result.spbleu:.2f}"
        self._plain(f"{task.name:<15} is {row.tuned_from}{score}")

    def epoch(self, name: str, result: TrialResult) -> None:
        """A trial has ended an epoch."""
        self._update(name, result=result)
        line = self._lines[name]
        difference = self._difference(result)
        to_base = "" if difference is None else f" ({difference:+.2f})"
        loss = "" if result.train_loss is None else f" · loss {result.train_loss:.3f}"
        # Of a base that is not trained there is no epoch.
        epoch = f"epoch {result.epoch:>2}/{line.num_epochs:<2}" if line.num_epochs else f"{'scored':<11}"
        self._plain(
            f"{name:<15} {epoch}  spBLEU {result.spbleu:5.2f}"
            f"{to_base}{kept_words(result)}{loss} · {result.seconds:.0f} s"
        )

    def ended(self, name: str, state: State, cause: str | None = None) -> None:
        """A trial has ended."""
        self._update(name, state=state.value)
        if state is not State.COMPLETE:
            self._plain(f"{name:<15} {state.value}{f': {cause}' if cause else ''}")

    def plan_more(self, num: int) -> None:
        """So many trainings more are planned than when the search began."""
        self._num_planned += num

    def front(self, names: Sequence[str]) -> None:
        """The front has these members by now."""
        self._front = tuple(names)

    def look(self) -> None:
        """Called again and again while trials run: a table that is not drawn by itself is drawn."""
        if (text := self.watched()) is not None:
            self.message(text)
        if self._table is not None:
            self._table.look()

    def _add(self, task: TrialTask) -> None:
        old = self._lines.get(task.name)
        order = old.order if old else len(self._lines)
        result, heard = (old.result, time.monotonic()) if old else (None, 0.0)
        self._lines[task.name] = _Line(
            task.name, task.kind, task.summary, task.num_epochs, State.RUNNING.value, result, order, heard
        )

    def _update(self, name: str, state: str | None = None, result: TrialResult | None = None) -> None:
        line = self._lines[name]
        heard = time.monotonic() if result else line.heard
        self._lines[name] = replace(line, state=state or line.state, result=result or line.result, heard=heard)

    def _plain(self, text: str) -> None:
        if self._live is None and self._table is None and not self._console.is_terminal:
            self.message(text)

    def _difference(self, result: TrialResult) -> float | None:
        pretrained = self._lines.get("pretrained")
        base = pretrained.result if pretrained is not None else None
        # At a rung that is scored cheaply, a trial has translated other sentences than the base has.
        if base is None or base is result or not result.is_scored_as(base):
            return None
        return result.spbleu - base.spbleu

    def _render(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, expand=True, header_style="bold")
        table.add_column("trial", no_wrap=True)
        for name in ("epoch", "spBLEU", "to base", "params"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("state", no_wrap=True)
        table.add_column("left", justify="right", no_wrap=True)
        table.add_column("architecture", ratio=1, no_wrap=True, overflow="ellipsis")
        for line in self._shown():
            is_dim = line.state in (State.PRUNED.value, State.FAILED.value)
            style = "dim" if is_dim else "bold" if line.name in self._front else ""
            table.add_row(*self._cells(line), style=style)
        num_ended = sum(line.has_ended for line in self._lines.values())
        bar = ProgressBar(total=max(self._num_planned, 1), completed=num_ended, width=20)
        status = Table.grid(padding=(0, 1), expand=True)
        status.add_column(no_wrap=True, max_width=20, overflow="ellipsis")
        status.add_column(width=20)
        status.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        status.add_row(Text(self._title, style="bold"), bar, Text(self._status(num_ended)))
        return Group(table, status, Text(self._front_text(), no_wrap=True, overflow="ellipsis"))

    def _cells(self, line: _Line) -> list[Text]:
        colours = {"running": "cyan", "complete": "green", "failed": "red", "pruned": "yellow"}
        mark = "*" if line.name in self._front else ""
        cells = [f"{line.name}{mark}", f"0/{line.num_epochs}", "", "", ""]
        result = line.result
        if result is not None:
            difference = self._difference(result)
            cells = [
                cells[0],
                f"{result.epoch}/{line.num_epochs}",
                f"{result.spbleu:.2f}",
                "" if difference is None else f"{difference:+.2f}",
                short_count(result.trainable_parameters),
            ]
        left = self._seconds_left(line)
        shown = [Text(cell) for cell in cells]
        return [
            *shown,
            Text(line.state, style=colours.get(line.state, "")),
            Text("" if left is None else _clock(left)),
            Text(printable(line.summary)),
        ]

    def _seconds_left(self, line: _Line) -> float | None:
        """Returns how long a running trial still takes by its epochs so far; None before the first one."""
        if line.state != State.RUNNING.value or line.result is None or not line.result.epoch:
            return None
        an_epoch = line.result.seconds / line.result.epoch
        since = time.monotonic() - line.heard
        return max(an_epoch * (line.num_epochs - line.result.epoch) - since, 0.0)

    def _shown(self) -> list[_Line]:
        """Returns the baselines, the running trials, the front, the best ones and the latest, in order."""
        lines = sorted(self._lines.values(), key=lambda line: (line.kind != "baseline", line.order))
        if len(lines) <= _MAX_ROWS:
            return lines
        first = [line for line in lines if line.kind == "baseline" or line.state == State.RUNNING.value]
        rest = [line for line in lines if line.kind != "baseline" and line.state != State.RUNNING.value]
        by_score = sorted(
            rest,
            key=lambda line: (line.name not in self._front, -line.result.spbleu if line.result else 0.0),
        )
        room = max(_MAX_ROWS - len(first), 4)
        chosen = {line.name for line in first + by_score[: room // 2] + rest[-(room - room // 2) :]}
        return [line for line in lines if line.name in chosen]

    def _status(self, num_ended: int) -> str:
        elapsed = time.monotonic() - self._started
        ended_now = sum(line.has_ended and not line.is_old for line in self._lines.values())
        left = ""
        if ended_now >= 2:
            remaining = elapsed / ended_now * max(self._num_planned - num_ended, 0)
            left = f" · about {_clock(remaining)} left"
        return f"{num_ended}/{self._num_planned} trials · {_clock(elapsed)}{left}"

    def _front_text(self) -> str:
        """Returns the members of the front, the best first, as far as they are known here."""
        known = [line for name in self._front if (line := self._lines.get(name)) is not None]
        scored = [(line.name, line.result) for line in known if line.result is not None]
        scored.sort(key=lambda member: -member[1].spbleu)
        members = [
            f"{name} {result.spbleu:.2f} ({short_count(result.trainable_parameters)})" for name, result in scored
        ]
        return f"* front: {', '.join(members)}" if members else "* front: no trial yet"


def short_count(count: int) -> str:
    """Returns a count with three digits: 525k, 2.43M."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= 0.9995 * size:  # 999,950 would otherwise read 1000k
            value = count / size
            return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}{unit}"
    return str(count)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
