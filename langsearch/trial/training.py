"""A single training as an experiment: its folder, begun or gone on with, and the table of its two trials."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from langsearch.evaluate.spbleu import SpBleu
from langsearch.experiment.description import write_description
from langsearch.experiment.environment import CheckedSpace, Environment
from langsearch.experiment.fence import check_fence
from langsearch.experiment.folder import (
    STORE_FOLDER,
    TRAINING,
    ExperimentFolder,
    TrialFolder,
    inherit,
    read_json,
    write_json,
    write_text,
)
from langsearch.experiment.holding import hold_experiment
from langsearch.experiment.lock import clear_leftovers
from langsearch.experiment.opening import is_leftover, is_started, is_training, open_table, space_changes
from langsearch.experiment.recorded_base import check_recorded, record_base
from langsearch.experiment.results_parquet import write_results
from langsearch.experiment.task import TrialTask, baseline_task
from langsearch.experiment.teacher_watch import TeacherWatch
from langsearch.model.base import Base
from langsearch.model.memory import free_memory
from langsearch.space.problems import InputError, LeaseLostError
from langsearch.space.schema import NAME, Space, space_of
from langsearch.space.settings import TrainerSettings
from langsearch.space.trainer_document import trainer_document
from langsearch.study.mirror import Proposal
from langsearch.study.results import TrialResult
from langsearch.study.rows import PRETRAINED, State, TrialRow
from langsearch.study.table import TrialTable
from langsearch.trial.attempts import Attempts, next_attempts, read_attempts
from langsearch.trial.failures import CUDA_ERROR, OUT_OF_MEMORY, Failure, as_failure, record_failure
from langsearch.trial.monitor import TrialMonitor
from langsearch.trial.stalls import stall_file
from langsearch.trial.trial import run_trial

_EARLIER_FILES = (
    *("architecture.json", "attempts.json", "batch.json", "curve.parquet", "failure.json", "result.json"),
    *("scores.parquet", "checkpoint", "weights"),
)
"""What earlier versions wrote into the folder itself, beside trial.json, which is moved last."""


class TrainingFailedError(Exception):
    """A training cannot go on as it is; what it died of is in its folder."""


class TrainingStoppedError(Exception):
    """A training was asked to stop, and did behind a checkpoint.

    Args:
        folder: Its experiment.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


class Tracker(Protocol):
    """Writes a training for somebody else's tool, such as TensorBoard. Called with the names of trials."""

    def start(self, name: str) -> None:
        """Called when a trial begins, or goes on."""

    def log(self, name: str, result: TrialResult) -> None:
        """Called after each epoch."""

    def end(self, name: str, *, is_failed: bool) -> None:
        """Called when a trial ends, by whatever."""

    def close(self) -> None:
        """Called in the end: what is still being sent is waited for."""


@dataclass(frozen=True)
class RunningTraining:
    """A training that this process holds."""

    checked: CheckedSpace
    folder: ExperimentFolder
    table: TrialTable
    base: Base
    environment: Environment
    tell: Callable[[TrialTask, TrialResult], None]
    """Hears of a trial's result after each epoch."""

    warn: Callable[[str], None]
    """Shows a sentence to the user."""

    trackers: Sequence[Tracker] = ()

    def run(self, name: str, task: TrialTask) -> TrialResult:
        """Brings a trial of the table to its end, and returns its result.

        A failure is answered as a search does, by the space's `failures`: where memory runs out the batches are
        halved, down to single pairs.

        Raises:
            TrainingFailedError: If it failed.
            TrainingStoppedError: If it was asked to stop before.
        """
        row, trial = self.table.row(name), self.folder.trial(name)
        if row.state is State.COMPLETE and row.result is not None:
            self.tell(task, row.result)
            return row.result
        task.write(trial)
        trial.failure.unlink(missing_ok=True)
        trial.stop_request.unlink(missing_ok=True)
        result = None
        for tracker in self.trackers:
            tracker.start(name)
        try:
            for result in self._results(name, task, trial):
                self.tell(task, result)
                self.table.report(name, result)
                for tracker in self.trackers:
                    tracker.log(name, result)
        finally:
            for tracker in self.trackers:
                tracker.end(name, is_failed=trial.failure.exists())
        if result is None or not result.finished:
            raise TrainingStoppedError(self.folder.path)
        self.table.complete(name, result)
        return result

    def _results(self, name: str, task: TrialTask, trial: TrialFolder) -> Iterator[TrialResult]:
        """Yields the result of each epoch once, over all tries."""
        attempts, epoch = read_attempts(trial), -1
        while True:
            try:
                for result in self._try(task, trial, attempts):
                    if result.finished or result.epoch != epoch:  # after another try the last one comes again
                        epoch = result.epoch
                        yield result
            except (InputError, LeaseLostError):
                raise  # nothing is wrong with the trial itself
            except Exception as error:
                failure = as_failure(error)
                if isinstance(error, OSError) and failure.cause != OUT_OF_MEMORY:
                    raise
                found = self._next(attempts, task, trial, failure, max(epoch, 0) + 1)
                if found is None:
                    record_failure(trial, failure)
                    self.table.fail(name, failure.text)
                    raise TrainingFailedError(failure.text) from error
            else:
                return
            # Behind the handler: the error holds on to all that ran.
            free_memory()
            attempts = found
            self.warn(f"{attempts.notes[-1][:1].upper()}{attempts.notes[-1][1:]}.")

    def _try(self, task: TrialTask, trial: TrialFolder, attempts: Attempts) -> Iterator[TrialResult]:
        watch = TeacherWatch(self.folder.path.parent / STORE_FOLDER) if self.checked.teachers else None

        def look() -> bool:
            if watch is not None and (text := watch.look()) is not None:
                self.warn(text)
            return False

        monitor = TrialMonitor([self.folder.stop_request, trial.stop_request], stall_file(trial), None, look)
        # Without a search there are no rungs: every epoch is scored alike.
        environment = replace(self.environment, rung_epochs=())
        return run_trial(self.base, environment, task, trial, monitor=monitor, attempts=attempts)

    def _next(
        self, attempts: Attempts, task: TrialTask, trial: TrialFolder, failure: Failure, epoch: int
    ) -> Attempts | None:
        """Returns what the trial is tried again with; None: it has failed. What has lost its GPU cannot go on here."""
        space = self.checked.space
        if failure.cause == CUDA_ERROR:
            return None
        return next_attempts(
            attempts,
            trial,
            task,
            space.failures,
            failure.cause,
            epoch=epoch,
            max_failures=space.resources.max_failures,
            can_halve=not failure.is_smallest,
        )


def training_space(space: Space, name: str, trainer: TrainerSettings | None) -> Space:
    """Returns the space that a training records: of one trial, and the pretrained base to hold it against.

    Args:
        space: Where its data, and what else it takes from a space, stand.
        name: The folder's.
        trainer: Of an architecture that was given: takes the place of what the space searches. None: the space's own.

    Raises:
        InputError: As `space_of`.
    """
    data = space.document.data
    search = {**(data.get("search") or {}), "trials": 1, "storage": None, "plateau": "none"}
    changed: dict[str, Any] = {"baselines": [PRETRAINED], "search": search}
    if NAME.fullmatch(name):
        changed["name"] = name
    if trainer is not None:
        changed["trainer"] = trainer_document(trainer, space.classes)
    return space_of(replace(space.document, data=data | changed))


def check_training(path: Path, space: Space, task: TrialTask, *, resume: bool) -> None:
    """Checks that a training can begin in a folder, or go on there; writes nothing.

    Args:
        path: The folder.
        space: What `training_space` gives.
        task: What is to be trained.
        resume: Go on with what is there.

    Raises:
        InputError: If it holds something else, or a training of other settings.
    """
    folder = ExperimentFolder(path)
    is_there = path.exists() and not all(is_leftover(entry) for entry in path.iterdir())
    if not is_there and not is_started(folder):
        return
    if not resume:
        raise InputError(
            f"A training must have a folder of its own, but {path} exists. "
            "Go on with it by --resume, or give another with --to DIR."
        )
    if folder.description.exists() and not is_training(folder):
        raise InputError(
            f"A training must have a folder of its own, but {path} holds a search. Go on with that by "
            "`langsearch run`, or give another folder with --to DIR."
        )
    earlier = _earlier(path)
    if not is_started(folder) and earlier is None:
        rule = "A training must have a folder of its own"
        raise InputError(f"{rule}, but {path} holds other files. Give another with --to DIR.")
    changes: list[str] = []
    if is_started(folder):
        changes = list(space_changes(folder.space.read_text(encoding="utf-8"), space.text).values())
    begun = earlier or _last_begun(folder)
    if changes or (begun is not None and TrialTask.read(begun).fingerprint != task.fingerprint):
        rule = f"A training must be resumed as it was started, but {path} has other settings"
        way_out = "Undo the changes, or give another folder with --to DIR."
        raise InputError([f"{rule}:", *changes, way_out] if changes else f"{rule}. {way_out}")


@contextmanager
def held_training(
    checked: CheckedSpace, path: Path, task: TrialTask, *, resume: bool
) -> Iterator[tuple[ExperimentFolder, TrialTable, str]]:
    """Holds a training's folder and brings its table up to date; whatever ends the context, the results are written.

    Args:
        checked: What `training_space` gives, checked.
        path: The folder.
        task: What is to be trained.
        resume: Go on with what is there.

    Yields:
        The folder, its table and the name of the trial that trains the task.

    Raises:
        InputError: As `check_training`, or if another run holds the folder.
    """
    space, folder = checked.space, ExperimentFolder(path)
    with hold_experiment(path, None):
        check_training(path, space, task, resume=resume)
        check_recorded(path, checked.base, checked.family, checked.teachers)
        clear_leftovers(folder)
        if not is_started(folder):
            write_text(folder.space, space.text)
        signature, started = SpBleu(checked.tokenizer).signature, time.monotonic()
        about: dict[str, Any] = {"command": TRAINING}
        write_description(folder, checked, signature, **about)
        record_base(path, checked.base, checked.family, checked.teachers)
        _take_in_earlier(folder)
        before = float(read_json(folder.description)["seconds"])
        table = open_table(folder, space, base_parameters=checked.shape.num_parameters)
        table.take_over(lambda: check_fence(path))
        table.add_baseline(PRETRAINED)
        row = _row(folder, table, task)
        try:
            yield folder, table, row.name
        finally:
            is_done = all(row.state is State.COMPLETE for row in table.rows() if row.retried_as is None)
            now = datetime.now(UTC).isoformat(timespec="seconds") if is_done else None
            about |= {"seconds": before + time.monotonic() - started, "finished": now}
            write_description(folder, checked, signature, **about)
            write_results(folder, table, checked.shape.num_parameters)


def pretrained_task(checked: CheckedSpace) -> TrialTask:
    """Returns the task that scores the base as it is."""
    return baseline_task(checked.space, checked.shape, PRETRAINED)


def _row(folder: ExperimentFolder, table: TrialTable, task: TrialTask) -> TrialRow:
    """Returns the running or complete row of what is to be trained; one that has failed is tried again."""
    rows = [row for row in table.rows() if row.kind == "searched"]
    if rows and rows[-1].state is not State.FAILED:
        return rows[-1]
    failed = rows[-1] if rows else None
    row = table.add(
        table.num_searched,
        {},
        fingerprint=task.fingerprint,
        retry_of=None if failed is None else failed.name,
        recorded=Proposal(point={}, distributions={}),
    )
    if failed is not None:
        inherit(folder.trial(failed.name), folder.trial(row.name))
    return row


def _last_begun(folder: ExperimentFolder) -> TrialFolder | None:
    names = sorted(path.parent.name for path in (folder.path / "trials").glob("[0-9]*/trial.json"))
    return folder.trial(names[-1]) if names else None


def _earlier(path: Path) -> TrialFolder | None:
    """Returns the trial that earlier versions had in the folder itself, None if there is none."""
    trial = TrialFolder(path)
    return trial if trial.task.exists() else None


def _take_in_earlier(folder: ExperimentFolder) -> None:
    """Moves what an earlier version had trained to where an experiment has it; a kill in between is gone on from."""
    earlier = _earlier(folder.path)
    if earlier is None:
        return
    trial = folder.trial("00000")
    trial.path.mkdir(parents=True, exist_ok=True)
    for name in _EARLIER_FILES:
        if (earlier.path / name).exists():
            (earlier.path / name).rename(trial.path / name)
    write_json(trial.task, read_json(earlier.task) | {"name": trial.name})
    earlier.task.unlink()
