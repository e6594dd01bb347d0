"""The tries of tuned baselines in a search: proposed by turns with searched trials, and baselines made of the best."""

from collections.abc import Callable
from dataclasses import asdict

from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.task import TrialTask
from langsearch.experiment.try_tasks import adopt_folder, try_task, tuned_names
from langsearch.experiment.working_copy import WorkingCopy
from langsearch.space.architecture import BaseShape
from langsearch.space.schema import Space
from langsearch.study.beside_names import try_name
from langsearch.study.rows import State, TrialRow
from langsearch.study.table import TrialTable
from langsearch.study.tries import best_try, next_try, tries_of

Propose = Callable[[], TrialTask | None]


def by_turns(first: Propose, second: Propose) -> Propose:
    """Returns what asks both by turns, and the other one where one has nothing."""
    order = [first, second]

    def propose() -> TrialTask | None:
        order.reverse()
        return order[1]() or order[0]()

    return propose


def try_proposer(space: Space, shape: BaseShape, table: TrialTable) -> Propose:
    """Returns what adds the next try of all tuned baselines to the table, of that which has the fewest; None: no more.

    Nothing waits for a result: a proposal is made of what is known by then.
    """

    def propose() -> TrialTask | None:
        rows = table.rows()
        has_ended = {row.name for row in rows if row.kind == "baseline" and row.state.is_finished}
        tries = {name: tries_of(rows, name) for name in tuned_names(space) if name not in has_ended}
        left = [name for name in tries if len(tries[name]) < space.num_tries(name)]
        if not left:
            return None
        baseline = min(left, key=lambda name: len(tries[name]))
        own = asdict(space.baseline_trainer(baseline))
        point = next_try(
            tries[baseline],
            space.baseline_dimensions(baseline),
            {f"trainer.{key}": value for key, value in own.items()},
            baseline=baseline,
            num_tries=space.num_tries(baseline),
            sampler=space.search.sampler,
            seed=space.search.seed,
        )
        task = try_task(space, shape, try_name(baseline, len(tries[baseline]) + 1), point)
        table.add_baseline(task.name, point)
        return task

    return propose


def begin_baselines(space: Space, table: TrialTable) -> None:
    """Adds what baselines begin with to the table: those that are not tuned, and the failed tries of one that failed.

    A baseline that failed is tried again by every run; where another try gave it a result, failed ones stay failed.
    """
    for baseline in space.baselines:
        if baseline.tune is None:
            table.add_baseline(baseline.name)
        elif _state(table.rows(), baseline.name) is State.FAILED:
            for row in tries_of(table.rows(), baseline.name):
                table.add_baseline(row.name, row.params)


def adopt_tuned(
    space: Space, folder: ExperimentFolder, table: TrialTable, copy: WorkingCopy | None
) -> list[tuple[TrialTask, TrialRow]]:
    """Completes the tuned baselines whose tries have all ended, each with its best one's result and files.

    Each step alone leaves what the next call goes on with. A baseline without any complete try fails with the cause of
    the last one.

    Returns:
        The task and the row of each that is complete now.

    Raises:
        OSError: If a folder cannot be written, or the remote not be reached.
    """
    ended = []
    for name in tuned_names(space):
        rows = table.rows()
        tries, state = tries_of(rows, name), _state(rows, name)
        has_open = len(tries) < space.num_tries(name) or any(not row.state.is_finished for row in tries)
        best = best_try(tries)
        if has_open or state is State.COMPLETE or (state is State.FAILED and best is None):
            continue
        if best is None or best.result is None:
            table.add_baseline(name)
            table.fail(name, f"none of {len(tries)} tries was complete: {tries[-1].cause}")
            continue
        if copy is not None:
            copy.pull(best.name)  # its worker may be on another machine
        adopt_folder(folder, best.name)
        if copy is not None:
            copy.push(name)  # before the table says that it is there
        table.add_baseline(name, best.params, best.name)
        table.complete(name, best.result)
        ended.append((TrialTask.read(folder.trial(name)), table.row(name)))
    return ended


def _state(rows: list[TrialRow], name: str) -> State | None:
    return next((row.state for row in rows if row.name == name), None)
