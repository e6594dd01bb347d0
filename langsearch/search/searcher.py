"""Our Searcher: Ray Tune asks it for trials, it asks Optuna, and the trial table is the only truth.

Ray's own OptunaSearch keeps a second, pickled state, calls stopped trials complete, and leaves NaN trials running.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna.exceptions import StorageInternalError
from ray.tune.search import Searcher

from langsearch.experiment.folder import ExperimentFolder, inherit
from langsearch.experiment.task import TrialTask
from langsearch.search.fuse import Fuse
from langsearch.search.tries import Propose, by_turns
from langsearch.space.problems import LeaseLostError
from langsearch.space.settings import FailureSettings, Plateau
from langsearch.study.plateau import PlateauRule
from langsearch.study.results import TrialResult, parse_result
from langsearch.study.rows import PRETRAINED, STOP_REQUESTED, State, TrialRow
from langsearch.study.table import TrialTable
from langsearch.trial.failures import (
    DISK_FULL,
    FAILED,
    LOST,
    NO_RESULT,
    PAUSED,
    UNFIT,
    WORKER_LOST,
    failure_cause,
    plain_cause,
    reaction,
)

logger = logging.getLogger(__name__)

MAX_REPEATS = 50
"""Proposals in a row that were all trained before: then the space counts as exhausted, unless a grid is searched."""

MAX_REJECTED = 500
"""Proposals in a row that were trained before or too large: then too."""

AT_RANDOM_AFTER = 4
"""Proposals in a row that were trained before or too large: the next ones are drawn at random, until one is trained.
Optuna's Gaussian process never hears of pruned trials and would propose the same few for ever."""

_NODE = "node_ip"
"""Key of Tune's in every result: where the trial runs."""


class TableSearcher(Searcher):  # type: ignore[misc]  # Ray has no types
    """Gives Tune the unfinished trials first, then new ones, and writes what comes back into the table.

    Equal tasks train once: a proposal that was trained before shares that result and is not run. One whose size
    violates a constraint is not run either.

    Args:
        table: The trial table.
        folder: Where tasks are written for the workers.
        make_task: Builds the task of a trial's number and point.
        distributions: The search dimensions.
        unfinished: Tasks to run first: baselines, and what an earlier run left.
        num_trials: How many searched trials are trained in all; shared results, rejected proposals and failed trials
            that are tried again do not count.
        seeds: Points, or parts of points, that the first searched trials have.
        retry: Failed trials to try again, each as a new trial of the same point that goes on from its checkpoint.
        failures: What to do about which failure.
        plateau: When to end early. None: never.
        num_trainable: Returns a task's trained parameters, for constraints on them. None: they are not checked early.
        explain: Returns why the worker of a trial was lost, "KIND: message".
        max_running: Returns how many trials may be with Tune at once. None: as many as it asks for.
        may_come_back: Whether a trial may be given back by a worker whose node is not fit for it.
        begins_again: Asked about a trial whose worker was lost, whether it is given to Tune once more. None: never.
        next_try: Adds the next try of a tuned baseline, by turns with searched trials; None: there are no more.
    """

    def __init__(
        self,
        table: TrialTable,
        folder: ExperimentFolder,
        make_task: Callable[[int, dict[str, Any]], TrialTask],
        distributions: dict[str, Any],
        unfinished: Sequence[TrialTask],
        num_trials: int,
        seeds: Sequence[Mapping[str, Any]] = (),
        *,
        retry: Sequence[str] = (),
        failures: FailureSettings | None = None,
        plateau: Plateau | None = None,
        num_trainable: Callable[[TrialTask], int] | None = None,
        explain: Callable[[str], str] | None = None,
        max_running: Callable[[], int] | None = None,
        may_come_back: bool = False,
        begins_again: Callable[[str], bool] | None = None,
        next_try: Propose = lambda: None,
    ) -> None:
        super().__init__()
        self.stopped_by: str | None = None
        """Why nothing new is proposed though more was planned: "time", what `stop` was given, or a failure's cause."""
        self.ended_by: str | None = None
        """Why nothing new is proposed: all "trials" were, a "plateau" was reached, or the space is "exhausted"."""
        self._propose = by_turns(self._next_searched, next_try)
        self._seeds = seeds
        self._table, self._folder, self._make_task = table, folder, make_task
        self._distributions, self._num_trials = distributions, num_trials
        self._failures, self._num_trainable = failures or FailureSettings(), num_trainable
        self._fuse = Fuse(self._failures.in_a_row)
        self._explain = explain or (lambda name: f"{WORKER_LOST}: the worker of trial {name} ended")
        self._max_running, self._begins_again = max_running, begins_again
        self._may_come_back = may_come_back or begins_again is not None
        self._names: dict[str, str] = {}
        self._tasks: dict[str, TrialTask] = {}
        self._waiting: dict[str, list[str]] = {}
        self._held: dict[str, TrialResult] = {}
        self._trained: dict[str, str] = {}
        self._num_counted = 0
        self._repeats, self._rejects = 0, 0
        self._plateau = None if plateau is None else PlateauRule(plateau)
        self._unfinished: list[TrialTask] = []
        self._take_over(unfinished)
        for name in retry:
            self._retry(name)

    @property
    def is_done(self) -> bool:
        """Whether all that was planned has ended."""
        is_open = self._names or self._unfinished or self._held
        return self.ended_by is not None and not is_open and self.stopped_by is None

    def stop(self, reason: str) -> None:
        """Stops the run: proposes nothing more; trials that pause with it stay running in the table, to go on later."""
        if self.stopped_by is None:
            self.stopped_by = reason

    def task(self, name: str) -> TrialTask:
        """Returns a task that was given to Tune."""
        return self._tasks[name]

    def suggest(self, trial_id: str) -> Any:
        """Called by Tune when it has room for a trial; None: not now."""
        if self.stopped_by is None and self._max_running is not None and len(self._names) >= self._max_running():
            return None
        task = None
        try:
            if self.stopped_by is None:
                task = self._next_task()
            if task is not None:
                task.write(self._folder.trial(task.name))
        except (StorageInternalError, OSError) as error:
            self._stop_run_unwritten(error)
            task = None
        if task is None:
            # Tune never asks again behind the end, and one that it has may come back.
            is_last = self.stopped_by is not None or not self._may_come_back or not self._names
            return Searcher.FINISHED if is_last else None
        self._names[trial_id] = task.name
        self._tasks[task.name] = task
        return {"name": task.name}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Called by Tune after every epoch of a trial."""
        parsed = parse_result(result)
        if parsed is not None:
            self._fuse.went_on(result.get(_NODE))
            try:
                self._table.report(self._names[trial_id], parsed)
            except (StorageInternalError, OSError) as error:
                self._stop_run_unwritten(error)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called by Tune when a trial has ended: by itself, by the scheduler, or by an error."""
        name = self._names[trial_id]
        if UNFIT in (result or {}) or (
            error and self.stopped_by is None and self._begins_again is not None and self._begins_again(name)
        ):
            del self._names[trial_id]
            self._unfinished.insert(0, self._tasks[name])
            return
        try:
            if self._end(name, result or {}, error):
                del self._names[trial_id]
                self._folder.trial(name).stop_request.unlink(missing_ok=True)  # a request that came too late
                self._share(name)
        except (StorageInternalError, OSError) as unwritten:
            self._stop_run_unwritten(unwritten)

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher into its own folder; nobody reads that, so nothing goes in."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save or restore: the searcher is rebuilt from the table."""

    restore = save

    def _stop_run_unwritten(self, error: Exception) -> None:
        """Stops the run, since the table or a folder cannot be written; what was not happens again after a resume."""
        cause = failure_cause(error)
        if cause != DISK_FULL and "disk is full" in str(error.__cause__):
            cause = DISK_FULL  # as SQLite says it
        logger.error("The search stops: %s", plain_cause(error))
        self.stop(f"{cause}: {plain_cause(error)}")

    def _end(self, name: str, result: dict[str, Any], error: bool) -> bool:
        """Writes how a trial ended; returns whether it did, or goes on after a resume."""
        parsed = None if error else parse_result(result)
        if LOST in result:
            raise LeaseLostError(str(result[LOST]))
        if FAILED in result:
            return self._fail(name, str(result[FAILED]), result.get(_NODE))
        if PAUSED in result:
            return self._folder.trial(name).stop_request.exists() and self._end_on_request(name)
        if error:
            # Whoever stops the run takes the workers with it.
            return self.stopped_by is None and self._fail(name, self._explain(name))
        if parsed is None:
            return self.stopped_by is None and self._fail(name, f"{NO_RESULT}: no result was reported")
        if not all(math.isfinite(value) for value in self._table.values(parsed)):
            return self._fail(name, f"a score must be finite, but got {self._table.values(parsed)}")
        if self._table.row(name).is_pruned_at_rung:
            self._prune(name, parsed)
            return True
        if not parsed.finished:
            return False  # paused with the run, not pruned
        if self._table.row(name).kind == "searched" and self._table.violations(parsed) is None:
            self._table.report(name, parsed)
            self._held[name] = parsed
            return True
        self._table.complete(name, parsed)
        self._follow(name)
        if name == PRETRAINED:
            self._release()
        return True

    def _fail(self, name: str, cause: str, node: str | None = None) -> bool:
        if reaction(self._failures, cause) == "stop":
            self.stop(cause)
            return False
        self._table.fail(name, cause)
        row = self._table.row(name)
        if self._trained.get(str(row.fingerprint)) == name:
            del self._trained[str(row.fingerprint)]  # a failed trial is no twin
        self._follow(name)
        self._check_needed(name, f"failed: {cause}")
        if (reason := self._fuse.failed(cause, node)) is not None:
            self.stop(reason)
        return True

    def _end_on_request(self, name: str) -> bool:
        """Ends a trial whose stop was requested by its own file; one that paused with the run goes on later."""
        self._table.end_on_request(name)
        self._folder.trial(name).remove_checkpoints()
        self._follow(name)
        self._check_needed(name, f"was {STOP_REQUESTED}")
        return True

    def _check_needed(self, name: str, how: str) -> None:
        if name == PRETRAINED and self._table.constraints.need_pretrained:
            self.stop(f"the baseline {PRETRAINED}, which a constraint needs, {how}")

    def _prune(self, name: str, result: TrialResult) -> None:
        self._table.prune(name, result)
        self._folder.trial(name).remove_checkpoints()
        self._follow(name)

    def _release(self) -> None:
        """Completes the trials that were kept back until the pretrained base's scores were known."""
        for name, result in list(self._held.items()):
            self._table.complete(name, result)
            del self._held[name]
            self._follow(name)
            self._share(name)

    def _follow(self, name: str) -> None:
        """Tells the plateau rule of a trained trial that has ended."""
        row = self._table.row(name)
        if self._plateau is not None and row.kind == "searched" and row.same_as is None and not row.is_rejected:
            is_good = row.state is State.COMPLETE and row.is_feasible
            self._plateau.ended(self._table.costs(row.result) if is_good and row.result is not None else None)

    def _next_task(self) -> TrialTask | None:
        return self._unfinished.pop(0) if self._unfinished else self._propose()

    def _next_searched(self) -> TrialTask | None:
        while self.ended_by is None:
            is_stuck = self._repeats + self._rejects >= AT_RANDOM_AFTER
            if self._num_counted >= self._num_trials:
                self.ended_by = "trials"
            elif self._plateau is not None and self._plateau.is_reached:
                self.ended_by = "plateau"
            elif self._repeats >= MAX_REPEATS or self._repeats + self._rejects >= MAX_REJECTED:
                num = self._repeats + self._rejects
                logger.warning(
                    "The last %d proposals were all trained before, or too large: the space is exhausted.", num
                )
                self.ended_by = "exhausted"
            elif (found := self._table.next_point(self._distributions, self._seeds, at_random=is_stuck)) is None:
                self.ended_by = "exhausted"
            elif (task := self._admit(*found)) is not None:
                return task
        return None

    def _admit(self, number: int, point: dict[str, Any], retry_of: str | None = None) -> TrialTask | None:
        """Writes a new trial; returns its task, None if there is nothing to train."""
        task = self._make_task(number, point)
        of_cut: dict[str, Any] = {}
        if retry_of is not None and (of := self._table.row(retry_of)).cut is not None:
            # What is trained on from a cut is more than its point says.
            task = replace(TrialTask.read(self._folder.trial(retry_of)), name=task.name)
            of_cut = {"cut": of.cut, "is_from_cut": of.is_from_cut}
        twin = self._trained.get(task.fingerprint)
        row = self._table.add(number, point, fingerprint=task.fingerprint, same_as=twin, retry_of=retry_of, **of_cut)
        if twin is not None:
            self._share_or_wait(row)
        else:
            self._reject(row, task)
        row = self._table.row(row.name)
        self._count(row)
        return task if row.counts else None

    def _reject(self, row: TrialRow, task: TrialTask) -> None:
        """Ends a trial whose size violates a constraint."""
        if self._num_trainable is not None and row.kind == "searched":
            is_pruned = task.architecture is not None and task.architecture.pruning is not None
            violations = self._table.constraints.violated_by_size(self._num_trainable(task), is_pruned=is_pruned)
            if violations:
                self._table.reject(row.name, violations)

    def _count(self, row: TrialRow) -> None:
        """Takes a searched trial into account, a new one or one of an earlier run."""
        if row.space_version != self._table.space_version:
            self._repeats = self._rejects = 0  # of another space
        elif row.is_rejected:
            self._rejects += 1
        elif row.same_as is not None:
            self._repeats += 1
        else:
            self._repeats = self._rejects = 0
        self._num_counted += row.counts
        if row.same_as is None and not row.is_rejected and row.state is not State.FAILED:
            self._trained.setdefault(str(row.fingerprint), row.name)

    def _take_over(self, unfinished: Sequence[TrialTask]) -> None:
        """Ends what an earlier driver would have ended next, and finds where it stopped."""
        for task in unfinished:
            row = self._table.row(task.name)
            if row.state is State.RUNNING and row.same_as is None:
                self._reject(row, task)
        for row in self._table.rows():
            if row.state is State.RUNNING and row.is_pruned_at_rung and row.result is not None:
                self._table.prune(row.name, row.result)
                self._folder.trial(row.name).remove_checkpoints()
            elif row.state is State.RUNNING and (
                row.cause == STOP_REQUESTED or self._folder.trial(row.name).stop_request.exists()
            ):
                self._table.end_on_request(row.name)
                self._folder.trial(row.name).remove_checkpoints()
                self._folder.trial(row.name).stop_request.unlink(missing_ok=True)
            elif row.state is State.RUNNING and row.same_as is not None:
                self._share_or_wait(row)
            elif row.state is State.RUNNING and row.retry_of is not None:
                inherit(self._folder.trial(row.retry_of), self._folder.trial(row.name))
        for row in self._table.rows():
            if row.kind == "searched":
                self._count(row)
        ended = [row for row in self._table.rows() if row.finished is not None]
        for row in sorted(ended, key=lambda row: (row.finished, row.name)):
            self._follow(row.name)
        self._unfinished = [task for task in unfinished if not self._table.row(task.name).state.is_finished]

    def _retry(self, name: str) -> None:
        """Tries a failed trial again, under a new number."""
        row = self._table.row(name)
        if row.kind != "searched" or row.state is not State.FAILED or row.retried_as is not None:
            return
        self._num_counted -= row.counts
        task = self._admit(self._table.num_searched, dict(row.params), retry_of=name)
        if task is not None:
            inherit(self._folder.trial(name), self._folder.trial(task.name))
            self._unfinished.append(task)

    def _share_or_wait(self, row: TrialRow) -> None:
        """Ends a trial with its twin's result, or keeps it until there is one."""
        assert row.same_as is not None
        twin = self._table.row(row.same_as)
        if twin.state.is_finished:
            self._table.share(row.name, twin)
        else:
            self._waiting.setdefault(twin.name, []).append(row.name)

    def _share(self, name: str) -> None:
        row = self._table.row(name)
        if row.state.is_finished:
            for twin in self._waiting.pop(name, []):
                self._table.share(twin, row)
