"""What runs on a Ray worker: a trial as Tune's Trainable, and the evaluation on the test set as a task."""

import errno
import logging
import traceback
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from ray import tune

from langsearch.model.base import Base, SharedBase, attach_base, to_device
from langsearch.search.environment import Environment
from langsearch.search.folder import ExperimentFolder, TrialFolder, write_json
from langsearch.search.learning import LearningTask
from langsearch.search.priors import learn
from langsearch.search.searcher import FAILED
from langsearch.search.task import TrialTask
from langsearch.search.trial import TrialResult, evaluate_trial, run_trial, test_result
from langsearch.space.problems import InputError
from langsearch.train.loop import NonFiniteLossError

logger = logging.getLogger(__name__)


class TrialTrainable(tune.Trainable):  # type: ignore[misc]  # Ray has no types
    """One trial after another in a warm process: the base is attached once, a new trial only brings new adapters.

    Our own checkpoints in the trial's folder are all that a restart needs, on this node or another; Tune's
    checkpoints, which are pickles, are not used.
    """

    def setup(
        self, config: dict[str, Any], base: SharedBase, environment: Environment, experiment: Path, num_threads: int
    ) -> None:
        """Called by Tune in a fresh worker."""
        torch.set_num_threads(num_threads)
        self._base = _attached(base)
        self._environment = environment
        self._folder = ExperimentFolder(experiment)
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called by Tune when a warm worker gets a new trial."""
        self._run.close()
        self._start(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Runs to the end of the next epoch. A failure becomes a result, so that the search goes on."""
        try:
            result = next(self._run)
        except Exception as error:
            return {**record_failure(self._trial, error), "done": True}
        values: dict[str, Any] = asdict(result)
        values |= {"name": self._task.name, "kind": self._task.kind, "done": result.finished}
        if self._task.kind == "searched":
            values["rung_value"] = result.spbleu  # what ASHA compares; baselines are never stopped
        return values

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Called by Tune when it pauses a trial; our own checkpoint of the last epoch is there already."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Called by Tune before a paused trial goes on; `setup` has found our own checkpoint."""

    def cleanup(self) -> None:
        """Called by Tune when the worker is stopped."""
        self._run.close()

    def _start(self, config: dict[str, Any]) -> None:
        self._trial = self._folder.trial(config["name"])
        self._task = TrialTask.read(self._trial)
        self._trial.failure.unlink(missing_ok=True)
        self._run: Generator[TrialResult, None, None] = run_trial(
            self._base, self._environment, self._task, self._trial
        )


def test_on_worker(
    base: SharedBase, environment: Environment, experiment: Path, name: str, num_threads: int
) -> dict[str, Any]:
    """Evaluates a trial on the test set; a Ray task. Returns the columns of `TestResult`."""
    torch.set_num_threads(num_threads)
    folder = ExperimentFolder(experiment).trial(name)
    evaluation = evaluate_trial(_attached(base), environment, folder, "test", environment.evaluation.final)
    return asdict(test_result(evaluation))


def learn_on_worker(
    base: SharedBase, environment: Environment, experiment: Path, task: LearningTask, num_threads: int
) -> list[str]:
    """Learns a prior in the experiment's folder; a Ray task. Returns the problems, none if it was learned."""
    torch.set_num_threads(num_threads)
    try:
        learn(_attached(base), environment, task, ExperimentFolder(experiment))
    except InputError as error:
        return list(error.problems)
    return []


test_on_worker.__test__ = False  # type: ignore[attr-defined]


def record_failure(folder: TrialFolder, error: Exception) -> dict[str, str]:
    """Writes a trial's failure into its folder and returns it as a result."""
    cause = failure_cause(error)
    text = "".join(traceback.format_exception(error))
    try:
        write_json(folder.failure, {"cause": cause, "message": str(error), "traceback": text})
    except OSError:
        logger.exception("The failure of trial %s could not be written", folder.name)
    return {FAILED: f"{cause}: {error}"}


def failure_cause(error: Exception) -> str:
    """Returns a few words for the kind of a failure."""
    if isinstance(error, NonFiniteLossError):
        return "non-finite loss"
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out of memory"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "disk full"
    return type(error).__name__


_bases: dict[str, Base] = {}


def _attached(shared: SharedBase) -> Base:
    """Returns the base of this process, attached at its first use."""
    if shared.name not in _bases:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        _bases[shared.name] = to_device(attach_base(shared), device)
    return _bases[shared.name]
