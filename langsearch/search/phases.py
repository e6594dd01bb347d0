"""The phases of a search: priors, trials, the last scores of the candidates, further seeds, the test of the front."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from optuna.exceptions import StorageInternalError
from ray.exceptions import RayError
from sqlalchemy.exc import SQLAlchemyError

from langsearch.experiment.environment import portable
from langsearch.prior.seeding import Seeding, describe_task, next_task, seed
from langsearch.search.one_shot import run_one_shot
from langsearch.search.ray_tasks import result_of
from langsearch.search.search import Ended, Search, deadline_of
from langsearch.search.seeds import train_seeds
from langsearch.search.selection import evaluate_candidates, test_front
from langsearch.search.tasks import learn_on_worker
from langsearch.search.tuning import run_trials
from langsearch.space.problems import InputError
from langsearch.trial.failures import DISK_FULL, WORKER_LOST, Failure, failure_cause, plain_cause


def run_phases(search: Search, retry: Sequence[str], described: dict[str, Any]) -> tuple[Ended, bool]:
    """Goes through all phases; returns how the trials ended, and whether everything is done and tested.

    A database, a disk or a storage that fails in one of them stops the run. Nothing that was written is lost; what was
    not happens again after a resume.
    """
    ended = Ended(False, None, None)
    try:
        seeding = _learn_priors(search)
        if isinstance(seeding, str):
            return replace(ended, stopped_by=seeding), False
        if seeding.points:
            described["prior"] = seeding.describe()
        deadline = deadline_of(search.space)
        if search.cuts is None:
            ended = run_trials(search, seeding, retry, deadline=deadline)
        else:
            ended = run_one_shot(search, seeding, retry, described, deadline)
        if not (ended.is_done and evaluate_candidates(search)):
            return ended, False
        seeds = train_seeds(search, seeding, deadline)
        if not seeds.is_done:
            return replace(ended, is_done=False, stopped_by=seeds.stopped_by), False
        return ended, test_front(search)
    except (StorageInternalError, SQLAlchemyError, OSError) as error:
        return replace(ended, is_done=False, stopped_by=fault(error)), False


def fault(error: Exception) -> str:
    """Returns in a line what a run was stopped by, "KIND: message"."""
    kind = failure_cause(error)
    if isinstance(error, OSError):
        return f"{kind}: {str(error).partition(chr(10))[0]}"
    return f"{kind if kind == DISK_FULL else 'the trial table could not be written'}: {plain_cause(error)}"


def _learn_priors(search: Search) -> Seeding | str:
    """Learns what the space's `prior` asks for, each part once over all resumes, and returns how the search begins.

    Or, in a line, why a part could not be learned now.

    Raises:
        InputError: If a part cannot be learned.
    """
    space, shape = search.space, search.checked.shape
    while (task := next_task(space, shape, search.folder)) is not None:
        search.display.message(f"Learning the {describe_task(task, shape)} …")
        environment = portable(search.environment, search.copy)
        shared = (search.base, environment, search.folder.path)
        try:
            problems = result_of(search, learn_on_worker, *shared, task, search.num_threads, search.copy)
        except RayError as error:  # the worker, not what ran in it
            return f"{WORKER_LOST}: {str(error).strip().splitlines()[0]}"
        if isinstance(problems, Failure):
            return problems.text
        if problems:
            raise InputError(problems)
        if search.copy is not None:
            search.copy.pull_prior(task.kind)
    seeding = seed(space, shape, search.folder)
    if seeding.points:
        first = ", ".join(f"{name} {value}" for name, value in seeding.points[0].items())
        search.display.message(f"The search begins at {first}.")
    return seeding
