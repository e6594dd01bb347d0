"""The tasks of all trials that a search has planned so far, also those of earlier versions of its space."""

from dataclasses import replace

from langsearch.experiment.cut_tasks import donor_task, going_on
from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.opening import space_of_version
from langsearch.experiment.seed_tasks import seed_task
from langsearch.experiment.task import TrialTask, baseline_task, searched_task
from langsearch.experiment.try_tasks import try_task, tuned_names
from langsearch.space.architecture import BaseShape
from langsearch.space.schema import Space
from langsearch.study.beside_names import baseline_of, original_of
from langsearch.study.rows import TrialRow
from langsearch.study.table import TrialTable


def planned_tasks(space: Space, shape: BaseShape, folder: ExperimentFolder, table: TrialTable) -> dict[str, TrialTask]:
    """Returns the tasks by name, each from the version of the space that it was proposed from.

    Args:
        space: The experiment's space as of now; baselines that it does not list any more are left out, and tries of
            those that it does not tune.
        shape: The base's sizes.
        folder: The experiment.
        table: Its trials.
    """
    spaces: dict[int, Space] = {table.space_version: space}

    def task(row: TrialRow) -> TrialTask:
        if row.kind == "baseline":
            own = baseline_task(space, shape, row.name)
            return replace(own, trainer=space.baseline_trainer(row.name, row.params)) if row.tuned_from else own
        if row.kind == "donor":
            return donor_task(space, shape, row.name)
        if row.kind == "try":
            return try_task(space, shape, row.name, row.params)
        if row.kind == "seed":
            return seed_task(folder, row.name)
        if row.space_version not in spaces:
            spaces[row.space_version] = space_of_version(folder, row.space_version)
        found = searched_task(spaces[row.space_version], shape, int(row.name), dict(row.params))
        return going_on(found, space, row.cut) if row.cut is not None and row.is_from_cut else found

    rows, tuned = table.rows(), tuned_names(space)
    listed = {baseline.name for baseline in space.baselines} | {row.name for row in rows if row.kind == "searched"}

    def is_planned(row: TrialRow) -> bool:
        if row.kind == "try":
            return baseline_of(row.name) in tuned
        return row.kind == "donor" or original_of(row.name) in listed

    return {row.name: task(row) for row in rows if is_planned(row)}
