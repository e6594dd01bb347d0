"""An experiment while it is searched: what changed since the last look, and the page as of now."""

import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from langsearch.dashboard.remembered import RememberingReaders, stamp
from langsearch.experiment.folder import ExperimentFolder, write_text
from langsearch.experiment.lock import LOCK, is_held
from langsearch.experiment.results_parquet import row_values, seed_values, task_values
from langsearch.experiment.study_reader import StudyReader, StudyState, UnreadableError
from langsearch.report.experiment_reader import as_trial, read_experiment
from langsearch.report.experiment_values import Experiment, Trial
from langsearch.report.lenient import as_integer, read_json, read_rows
from langsearch.report.material import read_material
from langsearch.report.page import Page, make_page
from langsearch.report.summary import Summary, summarise
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space
from langsearch.study.rows import State, TrialRow
from langsearch.study.seeds import seed_scores

RunState = Literal["running", "done", "stopped", "absent"]
"""running: a run holds it. done: its search has ended. stopped: --resume goes on. absent: it was not begun."""

_QUICK_SECONDS = 0.5
"""A page that takes no longer than this to make is made at once; a slower one at most a quarter of the time."""

_NO_TASK: dict[str, Any] = {}
"""What is known of a task that is not written, always the same object."""

_MANY = 100
"""Above so many new trials their tasks are taken from results.parquet, as far as it has them."""

_ERRORS = (InputError, OSError, ValueError, KeyError, TypeError, AttributeError)
"""Of files that are missing, torn, or of another version."""


class RefusedError(Exception):
    """A request that cannot be met, in a sentence for the reader."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """An experiment as it was at one moment."""

    base: str
    """Changes when something changed that is known without asking for the trials that run."""

    version: str
    """Changes when anything changed."""

    state: RunState
    experiment: Experiment | None
    """None: there is none yet."""

    running: tuple[str, ...]
    """The trials that a run is training, as far as the table says."""

    stopping: tuple[str, ...]
    """Those of them that were asked to stop."""

    is_stopping: bool
    """Whether the whole search was asked to stop."""

    study: tuple[str, ...] = ()
    """The names of its studies, where the trial table could be read."""


@dataclass(frozen=True, kw_only=True)
class LivePage:
    """An experiment's page as of now."""

    snapshot: Snapshot
    page: Page
    seconds_between: float
    """How long a reader should wait for the next one, since making it takes so long."""


class LiveExperiment:
    """One experiment, looked at again and again. Nothing is written but requests to stop, and no lock is kept.

    Args:
        path: Its folder, which need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reader: StudyReader | None = None
        """Of its trial table, while that can be read."""

        self._folder = ExperimentFolder(path)
        self._lock = threading.RLock()
        self._opened: Any = None
        self._num_opened = 0
        self._unreadable: str | None = None
        self._state: StudyState | None = None
        self._snapshot: Snapshot | None = None
        self._page: LivePage | None = None
        self._readers = RememberingReaders()
        self._tasks: dict[str, dict[str, Any]] = {}
        self._trials: dict[str, tuple[TrialRow, dict[str, Any], Mapping[str, Any], Trial]] = {}

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    def version(self) -> str:
        """Returns a text that changes when something did; costs milliseconds at most."""
        return self.snapshot().version

    def snapshot(self) -> Snapshot:
        """Returns the experiment as it is now."""
        with self._lock:
            base, known = self._look(), self._snapshot
            if known is None or known.base != base:
                known = self._take(base)
            trials = [self._folder.trial(name) for name in known.running]
            version = _digest([base, [(stamp(trial.curve), stamp(trial.stop_request)) for trial in trials]])
            if version != known.version:
                stopping = tuple(trial.name for trial in trials if trial.stop_request.exists())
                known = replace(known, version=version, stopping=stopping)
            self._snapshot = known
            return known

    def page(self) -> LivePage:
        """Returns the experiment's page as it is now. Raises RefusedError if there is no experiment."""
        with self._lock:
            snapshot = self.snapshot()
            if snapshot.experiment is None:
                raise RefusedError(f"There is no experiment in {self.path} yet.")
            if self._page is None or self._page.snapshot is not snapshot:
                start = time.perf_counter()
                page = make_page(read_material(snapshot.experiment, self._readers.readers))
                seconds = time.perf_counter() - start
                wait = 0.0 if seconds < _QUICK_SECONDS else 4 * seconds
                self._page = LivePage(snapshot=snapshot, page=page, seconds_between=wait)
            return self._page

    def summary(self) -> Summary | None:
        """Returns what the experiment found so far; None if there is none yet."""
        experiment = self.snapshot().experiment
        return None if experiment is None else summarise(experiment)

    def request_stop(self, name: str | None) -> str:
        """Asks the driver to stop a trial, or the whole search; returns a sentence for whoever asked.

        Args:
            name: The trial's. None: all that run, behind checkpoints.

        Raises:
            RefusedError: If nothing runs that could be stopped.
        """
        snapshot = self.snapshot()
        if snapshot.experiment is None or not is_held(self.path):
            raise RefusedError(f"No run holds {self.name} now, so nothing runs in it that could be stopped.")
        if name is None:
            self._write(self._folder.stop_request)
            return "The search was asked to stop: its trials write checkpoints, and --resume goes on from there."
        trial = next((trial for trial in snapshot.experiment.trials if trial.name == name), None)
        if trial is None:
            raise RefusedError("There is no such trial.")
        if trial.state != "running":
            raise RefusedError(f"Trial {name} had ended before it could be stopped: it is {trial.state}.")
        if trial.same_as is not None:
            raise RefusedError(f"Trial {name} waits for {trial.same_as}, which trains the same. Stop that one.")
        self._write(self._folder.trial(trial.name).stop_request)
        return f"Trial {name} was asked to stop: it ends within seconds, or when its evaluation has ended."

    def _write(self, path: Path) -> None:
        try:
            if path.parent.is_dir():
                write_text(path, "requested on the dashboard\n")
                return
        except OSError as error:
            raise RefusedError(f"The request could not be written: {error.strerror}.") from error
        raise RefusedError("The trial has no folder yet. Ask again in a moment.")

    def _look(self) -> str:
        folder = self._folder
        table: Any = None
        try:
            self._open()
            if self.reader is not None:
                table = self.reader.version()
                if table is None:  # a database that does not tell: its rows do
                    table = self._rows_stamp(self.reader)
        except UnreadableError as error:
            table = self._unreadable = str(error)
        if self.reader is None:
            table = (table, self._unreadable, stamp(folder.results))
        stamps: list[Any] = [self._num_opened, table, is_held(self.path), stamp(folder.path)]
        stamps += [stamp(path) for path in (folder.space, folder.description, folder.stop_request)]
        return _digest(stamps)

    def _rows_stamp(self, reader: StudyReader) -> int:
        state = reader.read()
        if self._state is None or state != self._state:
            self._state = state
        return id(self._state)

    def _open(self) -> None:
        """Opens the trial table, or another one that has taken its place."""
        folder = self._folder
        inode = (stamp(folder.study) or (0, 0, 0))[2]
        found = (stamp(folder.space), stamp(folder.description), inode)
        if found == self._opened and self.reader is not None:
            return
        if self.reader is not None:
            self.reader.close()
        self.reader, self._state = None, None
        if found[0] is None:
            self._unreadable = None
            return
        try:
            space = load_space(folder.space, is_recorded=True)
            base_parameters = as_integer(read_json(folder.description, []).get("base_parameters")) or 1
            self.reader = StudyReader(folder, space, base_parameters)
        except UnreadableError as error:
            self._unreadable = str(error)
        except _ERRORS as error:
            self._unreadable = f"space.yaml cannot be read now: {error}".partition("\n")[0]
        else:
            self._opened, self._unreadable = found, None
            self._num_opened += 1

    def _take(self, base: str) -> Snapshot:
        read, note = self._read_trials()
        try:
            experiment = read_experiment(self.path, read, note)
        except InputError:
            experiment = None
        trials = () if experiment is None else experiment.trials
        running = tuple(trial.name for trial in trials if trial.state == "running" and trial.same_as is None)
        state: RunState = "stopped"
        if is_held(self.path):
            state = "running"
            if experiment is not None:
                experiment = replace(experiment, finished=None, seconds=self._seconds(experiment))
        elif experiment is None:
            state = "absent"
        elif experiment.finished:
            state = "done"
        return Snapshot(
            base=base,
            version="",
            state=state,
            experiment=experiment,
            running=running,
            stopping=(),
            is_stopping=self._folder.stop_request.exists(),
            study=self.reader.study_names if self.reader is not None else (),
        )

    def _seconds(self, experiment: Experiment) -> float:
        """Returns how long an experiment that runs has been searched: over earlier runs, and since this one began."""
        try:
            since = datetime.fromisoformat(str(read_json(self.path / LOCK, [])["started"]))
            return (experiment.seconds or 0.0) + (datetime.now(UTC) - since).total_seconds()
        except _ERRORS:
            return experiment.seconds or 0.0

    def _read_trials(self) -> tuple[list[Trial] | None, str | None]:
        """Returns the trials of the trial table, or None for those of results.parquet, with a sentence on it."""
        if self.reader is None:
            has_results = self._folder.results.exists()
            if self._unreadable is None or not self._folder.space.exists():
                return None if has_results else [], None
            older = " What is shown is of results.parquet, which may be older." if has_results else ""
            return (None if has_results else []), f"Not readable yet: {self._unreadable}{older}"
        try:
            if self.reader.version() is not None or self._state is None:
                self._state = self.reader.read()
        except UnreadableError as error:
            known = [entry[-1] for entry in self._trials.values()]
            return known, f"Not readable yet: {error} What is shown is of the last look."
        rows, front = self._state.rows, self._state.front
        self._learn_tasks(rows)
        rows = (*rows, *self._state.cuts)
        base = as_integer(read_json(self._folder.description, []).get("base_parameters")) or 1
        over_seeds = seed_scores(rows)
        trials = (
            self._trial(row, {"is_front": row.name in front, **seed_values(row, over_seeds)}, base) for row in rows
        )
        return [trial for trial in trials if trial is not None], None

    def _trial(self, row: TrialRow, by_others: dict[str, Any], base_parameters: int) -> Trial | None:
        """Returns a row as a trial, made anew only where it has changed, or what the other rows say of it."""
        task = self._tasks.get(row.same_as or row.name, _NO_TASK)
        known = self._trials.get(row.name)
        if known is not None and known[0] is row and known[1] == by_others and known[2] is task:
            return known[3]
        trial = as_trial({**task, **row_values(row, base_parameters), **by_others})
        if trial is not None:
            self._trials[row.name] = (row, by_others, task, trial)
        return trial

    def _learn_tasks(self, rows: tuple[TrialRow, ...]) -> None:
        """Reads what the trials' tasks say, each once."""
        unknown = [row for row in rows if row.same_as is None and row.name not in self._tasks]
        if len(unknown) > _MANY:
            wanted = {row.name for row in unknown if row.state is not State.RUNNING}
            for line in read_rows(self._folder.results, []):
                if line.get("name") in wanted and line.get("max_epochs") is not None:
                    self._tasks[line["name"]] = {key: line.get(key) for key in ("max_epochs", "summary")}
        for row in unknown:
            trial = self._folder.trial(row.name)
            if row.name not in self._tasks and trial.task.exists():
                try:
                    self._tasks[row.name] = task_values(trial)
                except _ERRORS:
                    continue  # being written


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
