"""What runs on a Ray worker: a trial as Tune's Trainable."""

import logging
from collections.abc import Generator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from langsearch.model.collecting import without_collecting

with without_collecting():  # the first thing in a worker process that takes long
    import torch
    from ray import tune

    from langsearch.cluster.probes import NodeCheck
    from langsearch.experiment.environment import Environment
    from langsearch.experiment.fence import check_fence, set_fence
    from langsearch.experiment.folder import ExperimentFolder
    from langsearch.experiment.lease import LeaseLook, LeaseMark
    from langsearch.experiment.patience import patiently
    from langsearch.experiment.task import TrialTask
    from langsearch.experiment.working_copy import RequestLook, WorkingCopy
    from langsearch.model.base import Base, SharedBase, attach_base
    from langsearch.model.device import Resident, settle
    from langsearch.model.memory import free_memory
    from langsearch.search.unfit_node import UnfitNodeError, check_here
    from langsearch.space.problems import LeaseLostError
    from langsearch.space.settings import FailureSettings
    from langsearch.study.results import TrialResult
    from langsearch.trial.attempts import next_attempts, read_attempts
    from langsearch.trial.failures import (
        CUDA_ERROR,
        FAILED,
        LOST,
        PAUSED,
        SPENT,
        STALLED,
        UNFIT,
        Failure,
        StalledError,
        as_failure,
        record_failure,
        spends,
    )
    from langsearch.trial.monitor import TrialMonitor
    from langsearch.trial.stalls import stall_file, take_stall
    from langsearch.trial.trial import resident, run_trial

logger = logging.getLogger(__name__)


class TrialTrainable(tune.Trainable):  # type: ignore[misc]  # Ray has no types
    """One trial after another in a warm process: the base is attached once, a new trial only brings new adapters.

    Our own checkpoints in the trial's folder are all that a restart needs, on this node or another; Tune's
    checkpoints, which are pickles, are not used.
    """

    def setup(
        self,
        config: dict[str, Any],
        base: SharedBase,
        environment: Environment,
        experiment: Path,
        num_threads: int,
        failures: FailureSettings | None = None,
        max_failures: int = 0,
        copy: WorkingCopy | None = None,
        check: NodeCheck | None = None,
        lease: LeaseMark | None = None,
    ) -> None:
        """Called by Tune in a fresh worker.

        Args:
            config: {"name": the trial's}.
            base: The base, in shared memory.
            environment: Sentences, directions and scores.
            experiment: The experiment's folder.
            num_threads: Of PyTorch.
            failures: What happens when a trial fails. None: the defaults.
            max_failures: How often a trial is tried again after a kind of failure, where `failures` says so.
            copy: Of a remote experiment: this machine's copy takes the place of `experiment`.
            check: What a node must show that has come since the search began. None: no node comes.
            lease: Of the driver, if it has one: once that is gone, nothing is written any more.
        """
        torch.set_num_threads(num_threads)
        fence_off(experiment, copy, lease)
        self._shared = base
        self._environment = environment
        self._folder, self._copy = experiment_folder(experiment, copy), copy
        self._failures, self._max_failures = failures or FailureSettings(), max_failures
        self._unfit: UnfitNodeError | None = None
        try:
            check_here(check)
        except UnfitNodeError as error:
            self._unfit = error
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called by Tune when a warm worker gets a new trial."""
        self._close()
        self._start(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Runs to the end of the next epoch. A failure becomes a result, so that the search goes on."""
        if self._unfit is not None:
            return {**self._names(), UNFIT: list(self._unfit.args), SPENT: True, "done": True}
        try:
            if self._lost is not None:
                raise self._lost
            if self._failure is not None:
                return self._failed(self._failure)
            with self._watch.watching():
                values = self._advance()
            return values if self._copy is None else self._pushed(values, self._copy)
        except LeaseLostError as error:  # nothing is written about it; another run has the trial
            self._close()
            return {**self._names(), LOST: str(error), "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Called by Tune when it pauses a trial; our own checkpoint of the last epoch is there already."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Called by Tune before a paused trial goes on; `setup` has found our own checkpoint."""

    def cleanup(self) -> None:
        """Called by Tune when the worker is stopped."""
        self._close()

    def _start(self, config: dict[str, Any]) -> None:
        self._trial = self._folder.trial(config["name"])
        self._epoch = -1
        self._run: Generator[TrialResult, None, None] | None = None
        self._task: TrialTask | None = None
        self._failure: Failure | None = None
        self._lost: LeaseLostError | None = None
        if self._unfit is not None:
            return  # the storage may be another one here
        try:
            self._prepare()
        except LeaseLostError as error:
            self._lost = error
        except Exception as error:
            self._failure = as_failure(error)

    def _prepare(self) -> None:
        """Reads the task, and what happened to the trial before. What it raises ends the trial."""
        trial, minutes = self._trial, self._failures.stall_minutes
        check_fence(trial.path)
        if self._copy is not None:
            patiently(partial(self._copy.pull, trial.name), self._folder.stop_request.exists)
        self._attempts = read_attempts(trial)
        seconds = None if minutes is None else 60 * minutes
        elsewhere = RequestLook(self._copy, trial.name) if self._copy is not None else self._is_fenced_off
        self._watch = TrialMonitor(
            [self._folder.stop_request, trial.stop_request], stall_file(trial), seconds, elsewhere
        )
        self._task = TrialTask.read(trial)
        trial.failure.unlink(missing_ok=True)
        stall = take_stall(trial, self._attempts.counts.get(STALLED, 0) + 1)
        if stall is not None and not self._tries_again(STALLED):
            raise StalledError(stall.removeprefix(f"{STALLED}: "))
        self._begin()

    def _is_fenced_off(self) -> bool:
        """Raises LeaseLostError, in the middle of an epoch, where another run has the experiment."""
        check_fence(self._trial.path)
        return False

    def _begin(self) -> None:
        assert self._task is not None
        self._run = run_trial(
            attached(self._shared, resident(self._environment, self._task)),
            self._environment,
            self._task,
            self._trial,
            monitor=self._watch,
            attempts=self._attempts,
        )

    def _advance(self) -> dict[str, Any]:
        """Returns the next epoch's result, or how the trial ended; may try again several times for it."""
        while True:
            result = self._next()
            if result is None:
                return {**self._names(), PAUSED: True, "done": True}
            if isinstance(result, Failure):
                self._close()
                free_memory()
                if not self._tries_again(result.cause, can_halve=not result.is_smallest):
                    return self._failed(result)
                logger.warning("Trial %s is tried again after %s.", self._trial.name, result.text)
                if result.cause == CUDA_ERROR:
                    # Tune ends this process and starts the trial again in another one, from its checkpoint.
                    raise RuntimeError(result.text)
                self._begin()
            elif result.finished or result.epoch != self._epoch:  # after another try the last result comes again
                self._epoch = result.epoch
                return {**asdict(result), **self._names(), "done": result.finished}

    def _pushed(self, values: dict[str, Any], copy: WorkingCopy) -> dict[str, Any]:
        """Returns what is to be reported, once the trial's files are where a worker on another machine finds them."""
        try:
            patiently(lambda: copy.push(self._trial.name), self._folder.stop_request.exists)
        except OSError as error:
            if FAILED in values:
                return values
            if self._folder.stop_request.exists():  # the run ends; what is here goes there with the next one
                return {**self._names(), PAUSED: True, "done": True}
            return self._failed(as_failure(error))
        return values

    def _next(self) -> TrialResult | Failure | None:
        assert self._run is not None
        try:
            return next(self._run, None)
        except LeaseLostError:
            raise
        except Exception as error:
            return as_failure(error)

    def _tries_again(self, cause: str, *, can_halve: bool = True) -> bool:
        """Returns whether the trial goes on after a failure, and writes down that it was tried again."""
        assert self._task is not None
        found = next_attempts(
            self._attempts,
            self._trial,
            self._task,
            self._failures,
            cause,
            epoch=max(self._epoch, 0) + 1,
            max_failures=self._max_failures,
            can_halve=can_halve,
        )
        self._attempts = found or self._attempts
        return found is not None

    def _failed(self, failure: Failure) -> dict[str, Any]:
        record_failure(self._trial, failure)
        return {**self._names(), FAILED: failure.text, SPENT: spends(failure.cause), "done": True}

    def _names(self) -> dict[str, str]:
        name = self._trial.name
        kind = self._task.kind if self._task else "searched" if name.isdigit() else "baseline"
        return {"name": name, "kind": kind}

    def _close(self) -> None:
        if self._run is not None:
            self._run.close()
        self._run = None


def fence_off(experiment: Path, copy: WorkingCopy | None, lease: LeaseMark | None) -> None:
    """Has all that this process writes in an experiment end with its driver's lease."""
    if lease is not None:
        set_fence(experiment_folder(experiment, copy).path, LeaseLook(lease))


def experiment_folder(experiment: Path, copy: WorkingCopy | None) -> ExperimentFolder:
    """Returns the experiment's folder on this machine."""
    return ExperimentFolder(experiment if copy is None else copy.path)


_bases: dict[str, tuple[Resident, Base]] = {}


def attached(shared: SharedBase, wanted: Resident) -> Base:
    """Returns the base of this process, attached at its first use; only the form that was used last is held."""
    if shared.name not in _bases or _bases[shared.name][0] != wanted:
        if _bases.pop(shared.name, None) is not None:
            free_memory()
        _bases[shared.name] = wanted, settle(attach_base(shared), wanted)
    return _bases[shared.name][1]
