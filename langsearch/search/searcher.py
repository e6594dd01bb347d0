"""Our Searcher: Ray Tune asks it for trials, it asks Optuna, and the trial table is the only truth.

Ray's own OptunaSearch keeps a second, pickled state, calls stopped trials complete, and leaves NaN trials running.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.tune.search import Searcher

from langsearch.search.folder import ExperimentFolder
from langsearch.search.table import State, TrialRow, TrialTable
from langsearch.search.task import TrialTask
from langsearch.search.trial import TrialResult

logger = logging.getLogger(__name__)

MAX_REPEATS = 50
"""Proposals in a row that were all trained before: then the space counts as exhausted."""

FAILED = "failed"
"""Key of a result that reports a failure instead of scores."""


class TableSearcher(Searcher):  # type: ignore[misc]  # Ray has no types
    """Gives Tune the unfinished trials first, then new ones, and writes what comes back into the table.

    Equal tasks train once: a proposal that was trained before shares that result and is not run.

    Args:
        table: The trial table.
        folder: Where tasks are written for the workers.
        make_task: Builds the task of a trial's number and point.
        distributions: The search dimensions.
        unfinished: Tasks to run first: baselines, and what an earlier run left.
        num_trials: How many searched trials are trained in all; shared results do not count.
        deadline: `time.monotonic()` after which nothing new is proposed, and a trial that Tune stops stays running
            in the table, to go on when the search is resumed.
        seeds: Points, or parts of points, that the first searched trials have.
    """

    def __init__(
        self,
        table: TrialTable,
        folder: ExperimentFolder,
        make_task: Callable[[int, dict[str, Any]], TrialTask],
        distributions: dict[str, Any],
        unfinished: list[TrialTask],
        num_trials: int,
        deadline: float | None = None,
        seeds: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__()
        self._seeds = seeds
        self._deadline = deadline
        self._table, self._folder, self._make_task = table, folder, make_task
        self._distributions, self._unfinished, self._num_trials = distributions, list(unfinished), num_trials
        self._names: dict[str, str] = {}
        self._tasks: dict[str, TrialTask] = {}
        self._waiting: dict[str, list[str]] = {}
        self._has_proposed_all = False
        self._go_on_waiting()

    @property
    def is_done(self) -> bool:
        """Whether all that was planned has ended."""
        return self._has_proposed_all and not self._names and not self._is_late()

    def task(self, name: str) -> TrialTask:
        """Returns a task that was given to Tune."""
        return self._tasks[name]

    def suggest(self, trial_id: str) -> Any:
        """Called by Tune when it has room for a trial."""
        task = self._next_task()
        if task is None:
            self._has_proposed_all = True
            return Searcher.FINISHED
        task.write(self._folder.trial(task.name))
        self._names[trial_id] = task.name
        self._tasks[task.name] = task
        return {"name": task.name}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Called by Tune after every epoch of a trial."""
        parsed = parse_result(result)
        if parsed is not None:
            self._table.report(self._names[trial_id], parsed)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called by Tune when a trial has ended: by itself, by the scheduler, or by an error."""
        name = self._names.pop(trial_id)
        parsed = None if error or not result else parse_result(result)
        if result and FAILED in result:
            self._table.fail(name, str(result[FAILED]))
        elif parsed is None and not error and self._is_late():
            self._names[trial_id] = name
            return
        elif parsed is None:
            self._table.fail(name, "the worker was lost" if error else "no result was reported")
        elif not all(math.isfinite(value) for value in self._table.values(parsed)):
            self._table.fail(name, f"a score must be finite, but got {self._table.values(parsed)}")
        elif parsed.finished:
            self._table.complete(name, parsed)
        elif self._is_late():
            self._names[trial_id] = name
            return
        else:
            self._table.prune(name, parsed)
            self._folder.trial(name).remove_checkpoints()
        self._share(name)

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher into its own folder; nobody reads that, so nothing goes in."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the table has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the searcher is rebuilt from the table."""

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline

    def _next_task(self) -> TrialTask | None:
        if self._is_late():
            return None
        if self._unfinished:
            return self._unfinished.pop(0)
        for _ in range(MAX_REPEATS):
            rows = [row for row in self._table.rows() if row.kind == "searched"]
            if sum(row.same_as is None for row in rows) >= self._num_trials:
                return None
            number, point = self._table.propose(self._distributions, self._seeds)
            task = self._make_task(number, point)
            self._table.describe(task.name, task.fingerprint)
            twin = _twin(rows, task.fingerprint)
            if twin is None:
                return task
            if twin.state.is_finished:
                self._table.share(task.name, twin)
            else:
                self._table.wait_for(task.name, twin.name)
                self._waiting.setdefault(twin.name, []).append(task.name)
        logger.warning("The last %d proposals were all trained before: the space is exhausted.", MAX_REPEATS)
        return None

    def _go_on_waiting(self) -> None:
        """Takes over the trials that an earlier driver left waiting for a twin's result."""
        rows = {row.name: row for row in self._table.rows()}
        for row in rows.values():
            if row.same_as is None or row.state.is_finished:
                continue
            if rows[row.same_as].state.is_finished:
                self._table.share(row.name, rows[row.same_as])
            else:
                self._waiting.setdefault(row.same_as, []).append(row.name)

    def _share(self, name: str) -> None:
        twins = self._waiting.pop(name, [])
        if twins:
            row = next(row for row in self._table.rows() if row.name == name)
            for twin in twins:
                self._table.share(twin, row)


def parse_result(result: dict[str, Any]) -> TrialResult | None:
    """Returns the trial's result in what Tune delivers, None if there is none."""
    names = TrialResult.__dataclass_fields__
    if not all(name in result for name in names):
        return None
    return TrialResult(**{name: result[name] for name in names})


def _twin(rows: list[TrialRow], fingerprint: str) -> TrialRow | None:
    """Returns the trained or running trial of equal adapters and settings; failed ones do not count."""
    for row in rows:
        if row.fingerprint == fingerprint and row.same_as is None and row.state is not State.FAILED:
            return row
    return None
