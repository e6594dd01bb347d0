"""What runs on a Ray worker as a task in a one-shot search: scoring cuts, and writing the best of them."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from langsearch.adapters.cuts import CutMethod
from langsearch.cluster.probes import NodeCheck
from langsearch.evaluate.evaluation import NonFiniteScoreError
from langsearch.experiment.environment import Environment
from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.lease import LeaseMark
from langsearch.experiment.task import TrialTask
from langsearch.model.base import Base, SharedBase
from langsearch.model.memory import in_parts
from langsearch.search.unfit_node import check_here
from langsearch.search.worker import attached, fence_off
from langsearch.study.results import TrialResult
from langsearch.trial.cutting import OpenDonor, open_donor, score_cuts, write_cut
from langsearch.trial.failures import as_failure
from langsearch.trial.trial import resident

logger = logging.getLogger(__name__)

BEYOND = "beyond its donor"
"""Begins the cause of a cut that is wider than its donor: donors are made as wide as the points that were looked at."""

_open: dict[tuple[Path, str, int | None], OpenDonor] = {}
"""The donors of this process: what one task has decoded, the next one has not to."""


def score_on_worker(
    base: SharedBase,
    environment: Environment,
    experiment: Path,
    num_threads: int,
    donor: str,
    tasks: Sequence[TrialTask],
    method: CutMethod,
    sentences: int | None,
    check: NodeCheck | None = None,
    lease: LeaseMark | None = None,
) -> list[dict[str, Any] | str]:
    """Scores cuts of one donor; a Ray task.

    Returns:
        Of each cut the fields of its `TrialResult`, or the cause for which it has none, "KIND: message".

    Raises:
        UnfitNodeError: If the node has come since the search began, and is not fit.
    """
    ready, of = _donor(base, environment, experiment, donor, sentences, num_threads, check, lease)

    def score(some: Sequence[TrialTask]) -> list[TrialResult]:
        def parts(num_parts: int) -> list[TrialResult]:
            return score_cuts(ready, environment, of, some, method, num_parts)

        return in_parts(parts, lambda num: logger.warning("Cuts of %s: again with 1/%d of a batch.", donor, num))

    def alone(task: TrialTask) -> dict[str, Any] | str:
        try:
            return asdict(score([task])[0])
        except Exception as error:  # as at the boundary of a trial
            return as_failure(error).text

    found: dict[str, dict[str, Any] | str] = {}
    for task in tasks:
        assert task.architecture is not None
        if (why_not := of.donor.why_not(task.architecture)) is not None:
            found[task.name] = f"{BEYOND}: {donor} has less: {why_not}"
    within = [task for task in tasks if task.name not in found]
    try:
        found |= {task.name: asdict(result) for task, result in zip(within, score(within), strict=True)}
    except NonFiniteScoreError:
        found |= {task.name: alone(task) for task in within}
    return [found[task.name] for task in tasks]


def write_on_worker(
    base: SharedBase,
    environment: Environment,
    experiment: Path,
    num_threads: int,
    donor: str,
    tasks: Sequence[TrialTask],
    method: CutMethod,
    check: NodeCheck | None = None,
    lease: LeaseMark | None = None,
) -> None:
    """Writes cuts of one donor into folders of their own; a Ray task. Raises as `score_on_worker`, and OSError."""
    ready, of = _donor(base, environment, experiment, donor, None, num_threads, check, lease)
    for task in tasks:
        write_cut(ready, of, task, ExperimentFolder(experiment).trial(task.name), method)


def _donor(
    base: SharedBase,
    environment: Environment,
    experiment: Path,
    donor: str,
    sentences: int | None,
    num_threads: int,
    check: NodeCheck | None,
    lease: LeaseMark | None,
) -> tuple[Base, OpenDonor]:
    check_here(check)
    torch.set_num_threads(num_threads)
    fence_off(experiment, None, lease)
    folder = ExperimentFolder(experiment).trial(donor)
    ready = attached(base, resident(environment, TrialTask.read(folder)))
    key = (experiment, donor, sentences)
    if key not in _open:
        _open[key] = open_donor(ready, environment, folder, sentences)
    return ready, _open[key]
