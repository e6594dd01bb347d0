"""What runs on a Ray worker as a task: the learning of priors before the search, the evaluations behind it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from langsearch.cluster.probes import NodeCheck
from langsearch.experiment.environment import Environment
from langsearch.experiment.folder import TrialFolder
from langsearch.experiment.lease import LeaseMark
from langsearch.experiment.patience import patiently
from langsearch.experiment.task import TrialTask
from langsearch.experiment.working_copy import WorkingCopy
from langsearch.model.base import SharedBase
from langsearch.model.memory import in_parts
from langsearch.prior.learning import LearningTask
from langsearch.prior.seeding import learn
from langsearch.search.unfit_node import check_here
from langsearch.search.worker import attached, experiment_folder, fence_off
from langsearch.space.problems import InputError
from langsearch.trial.attempts import read_attempts
from langsearch.trial.evaluating import evaluate_trial, final_result, reuse_scores, test_result
from langsearch.trial.failures import OUT_OF_MEMORY, Failure, as_failure, record_failure
from langsearch.trial.scores import FinalSplit
from langsearch.trial.trial import resident

logger = logging.getLogger(__name__)


def evaluate_on_worker(
    base: SharedBase,
    environment: Environment,
    experiment: Path,
    name: str,
    split: FinalSplit,
    num_threads: int,
    copy: WorkingCopy | None = None,
    check: NodeCheck | None = None,
    lease: LeaseMark | None = None,
) -> dict[str, Any]:
    """Evaluates a trial by `evaluation.final`; a Ray task.

    Returns:
        full, on validation: the columns of `FinalResult`. test, on the test set: those of `TestResult`.

    Raises:
        UnfitNodeError: If the node has come since the search began, and is not fit.
    """
    check_here(check)
    fence_off(experiment, copy, lease)
    with _ready(experiment, name, num_threads, copy) as folder:
        ready = attached(base, resident(environment, TrialTask.read(folder)))

        def score(num_parts: int) -> dict[str, Any]:
            final = environment.evaluation.final
            evaluation = evaluate_trial(ready, environment, folder, split, final, num_parts)
            if split == "test":
                return asdict(test_result(evaluation))
            return asdict(final_result(evaluation, with_directions=environment.with_directions))

        reused = reuse_scores(ready, environment, folder) if split == "full" else None
        return _halved_if_needed(score, folder, split) if reused is None else asdict(reused)


@contextmanager
def _ready(experiment: Path, name: str, num_threads: int, copy: WorkingCopy | None) -> Iterator[TrialFolder]:
    """Gives a trial's folder; of a remote experiment it is brought here, and what is written sent back."""
    torch.set_num_threads(num_threads)
    if copy is not None:
        patiently(lambda: copy.pull(name))
    yield experiment_folder(experiment, copy).trial(name)
    if copy is not None:
        patiently(lambda: copy.push(name))


def learn_on_worker(
    base: SharedBase,
    environment: Environment,
    experiment: Path,
    task: LearningTask,
    num_threads: int,
    copy: WorkingCopy | None = None,
    check: NodeCheck | None = None,
    lease: LeaseMark | None = None,
) -> "list[str] | Failure":
    """Learns a prior in the experiment's folder; a Ray task. Returns the problems, none if it was learned.

    What else happens, such as a full disk, is written beside it as a trial's failure is, and returned.

    Of a remote experiment the checkpoints are sent there as they come, and a worker that takes over begins with them.

    Raises:
        UnfitNodeError: If the node has come since the search began, and is not fit.
    """
    check_here(check)
    torch.set_num_threads(num_threads)
    fence_off(experiment, copy, lease)
    folder = experiment_folder(experiment, copy)

    def push() -> None:
        try:
            if copy is not None:
                copy.push_prior(task.kind)
        except OSError as error:  # the next checkpoint brings it there
            logger.warning("%s", error)

    place = TrialFolder(folder.sides if task.kind == "sides" else folder.subspace)
    try:
        if copy is not None:
            copy.pull_prior(task.kind)
        place.failure.unlink(missing_ok=True)
        learn(attached(base, environment.compute.resident(task.trainer.precision)), environment, task, folder, push)
        if copy is not None:
            copy.push_prior(task.kind)
    except InputError as error:
        return list(error.problems)
    except Exception as error:  # as at the boundary of a trial
        failure = as_failure(error)
        record_failure(place, failure)
        return failure
    return []


def _halved_if_needed(evaluate: Callable[[int], dict[str, Any]], folder: TrialFolder, split: str) -> dict[str, Any]:
    """Returns an evaluation's columns; where memory is short, it is done with halves of batches, down to single rows.

    What was done stands in the column `full_note` or `test_note`.
    """
    parts = [read_attempts(folder).num_parts]

    def tell(num_parts: int) -> None:
        parts.append(num_parts)
        name = folder.name
        logger.warning("The evaluation of trial %s ran out of memory: again with 1/%d of a batch.", name, num_parts)

    values = in_parts(evaluate, tell, parts[0])
    if len(parts) > 1:
        values[f"{split}_note"] = f"{OUT_OF_MEMORY}: decoded with 1/{parts[-1]} of a batch at once"
    return values
