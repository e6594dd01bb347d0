"""Cuts proposed and scored in rounds, by Ray tasks on all workers: nothing is trained."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from ray.exceptions import RayError

from langsearch.cluster.interrupts import gentle_interrupts
from langsearch.experiment.cut_tasks import cut_task, donor_name, donor_of
from langsearch.experiment.environment import portable
from langsearch.experiment.task import TrialTask
from langsearch.search.cut_worker import score_on_worker, write_on_worker
from langsearch.search.ray_tasks import as_they_end
from langsearch.search.search import Search, capacity_of
from langsearch.search.searcher import AT_RANDOM_AFTER, MAX_REPEATS
from langsearch.search.stop_reasons import REQUESTED, TIME, by_signal
from langsearch.space.one_shot import DONOR, cut_dimensions
from langsearch.study.cut_rows import cut_row, scored_cuts
from langsearch.study.results import TrialResult
from langsearch.study.rows import State
from langsearch.study.table import TrialTable
from langsearch.trial.failures import WORKER_LOST

logger = logging.getLogger(__name__)

_AT_ONCE = 16
"""Cuts of a task: what it decodes at once has their pairs side by side."""


def score_cuts(search: Search, cuts: TrialTable, donors: Sequence[str], deadline: float | None) -> str | None:
    """Proposes and scores cuts until there are as many as the space asks for; returns what stopped it before, if any.

    Equal cuts are scored once, and those whose size violates a constraint not at all. What was scored stays, whatever
    happens; a resumed run goes on with what was proposed last.

    Args:
        search: The search.
        cuts: The table of cuts.
        donors: All donors; those that have failed are not cut.
        deadline: When the time is up, by the monotonic clock.
    """
    space, stopped = search.space, []
    trained = [number for number, name in enumerate(donors, start=1) if search.table.row(name).state is State.COMPLETE]
    dimensions = cut_dimensions(space)
    if len(donors) > 1:
        dimensions = {DONOR: CategoricalDistribution(trained), **dimensions}
    started, before = time.monotonic(), len(scored_cuts(cuts))
    with gentle_interrupts(lambda number: stopped.append(by_signal(number))):
        while not stopped:
            tasks = _waiting(search, cuts) or _propose(search, cuts, dimensions)
            if not tasks:
                break
            _run(search, cuts, tasks)
            scored = scored_cuts(cuts)
            rate = 60 * (len(scored) - before) / (time.monotonic() - started)
            best = max((row.result.spbleu for row in scored if row.result is not None), default=0.0)
            search.display.message(
                f"{len(scored)} of {space.search.one_shot.cuts} cuts scored, the best {best:.2f} spBLEU; "
                f"{rate:.0f} a minute"
            )
            search.results.write(search.table, cuts)
            search.check_held()
            if deadline is not None and time.monotonic() > deadline:
                stopped.append(TIME)
            if search.folder.stop_request.exists():
                stopped.append(REQUESTED)
    return stopped[0] if stopped else None


def write_cuts(search: Search, cuts: TrialTable, names: Sequence[str]) -> None:
    """Writes the weights of cuts into folders of their own, those that are not there yet.

    Raises:
        OSError: If the disk is full.
    """
    rows = [cut_row(cuts, name) for name in names if not search.folder.trial(name).weights.exists()]
    tasks = [cut_task(search.space, search.checked.shape, int(row.name), row.params) for row in rows]
    shared, method = _shared(search), search.space.search.one_shot.cut
    asked = {donor: (*shared, donor, of_donor, method) for donor, of_donor in _by_donor(cuts, tasks).items()}
    for _, _, error in as_they_end(search, write_on_worker, asked):
        if error is not None:
            raise error


def _shared(search: Search) -> tuple[Any, ...]:
    """Returns what tasks on cuts take before all else."""
    environment = ray.put(portable(search.environment, search.copy))
    return search.base, environment, search.folder.path, search.num_threads


def _by_donor(cuts: TrialTable, tasks: Sequence[TrialTask]) -> dict[str, list[TrialTask]]:
    found: dict[str, list[TrialTask]] = {}
    for task in tasks:
        found.setdefault(donor_name(donor_of(cut_row(cuts, task.name).params)), []).append(task)
    return found


def _waiting(search: Search, cuts: TrialTable) -> list[TrialTask]:
    """Returns the tasks of cuts that an earlier run has proposed and not scored."""
    rows = [row for row in cuts.rows() if row.kind == "searched" and not row.state.is_finished and row.same_as is None]
    return [cut_task(search.space, search.checked.shape, int(row.name), row.params) for row in rows]


def _propose(search: Search, cuts: TrialTable, dimensions: Mapping[str, BaseDistribution]) -> list[TrialTask]:
    """Adds the cuts of the next round and returns their tasks; none once there are enough, or no new ones."""
    space, shape = search.space, search.checked.shape
    wanted = min(_AT_ONCE * capacity_of(search)(), space.search.one_shot.cuts - len(scored_cuts(cuts)))
    known = {row.fingerprint: row.name for row in cuts.rows() if row.kind == "searched" and row.same_as is None}
    tasks: list[TrialTask] = []
    misses = 0
    while len(tasks) < wanted and misses < MAX_REPEATS:
        found = cuts.next_point(dimensions, at_random=misses >= AT_RANDOM_AFTER)
        if found is None:
            break
        number, point = found
        task = cut_task(space, shape, number, point)
        fingerprint = f"{task.fingerprint}/{donor_of(point)}"
        twin = known.get(fingerprint)
        row = cuts.add(number, point, fingerprint=fingerprint, same_as=twin)
        if twin is not None:
            if (other := cuts.row(twin)).state.is_finished:
                cuts.share(row.name, other)
        elif violations := cuts.constraints.violated_by_size(task.num_trainable(shape), is_pruned=False):
            cuts.reject(row.name, violations)
        else:
            known[fingerprint] = row.name
            tasks.append(task)
            misses = 0
            continue
        misses += 1
    return tasks


def _run(search: Search, cuts: TrialTable, tasks: Sequence[TrialTask]) -> None:
    """Scores a round, and shares the results with equal cuts."""
    settings, shared = search.space.search.one_shot, _shared(search)
    groups = {
        (donor, start): of_donor[start : start + _AT_ONCE]
        for donor, of_donor in _by_donor(cuts, tasks).items()
        for start in range(0, len(of_donor), _AT_ONCE)
    }
    asked = {key: (*shared, key[0], group, settings.cut, settings.sentences) for key, group in groups.items()}
    for key, found, error in as_they_end(search, score_on_worker, asked):
        if error is not None:
            kind = WORKER_LOST if isinstance(error, RayError) and not hasattr(error, "cause") else "error"
            found = [f"{kind}: {str(error).strip().splitlines()[-1]}"] * len(groups[key])
        for task, result in zip(groups[key], found, strict=True):
            name = cut_row(cuts, task.name).name
            if isinstance(result, str):
                logger.warning("%s could not be scored: %s", task.name, result)
                cuts.fail(name, result)
            else:
                cuts.complete(name, TrialResult(**result))
    for row in cuts.rows():
        if row.kind == "searched" and not row.state.is_finished and row.same_as is not None:
            cuts.share(row.name, cuts.row(row.same_as))
