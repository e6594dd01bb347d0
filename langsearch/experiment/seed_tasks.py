"""What a further training with another seed is to do: what its original did, from its folder."""

from dataclasses import replace

from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.task import TrialTask
from langsearch.study.beside_names import seed_of


def seed_task(folder: ExperimentFolder, name: str) -> TrialTask:
    """Returns the task of a further training: number 2 has its original's seed + 1, and so on.

    What is trained on from a cut begins at the same cut. Raises OSError if the original has no task.
    """
    found = seed_of(name)
    assert found is not None, "the name must be a further training's"
    original, number = found
    task = TrialTask.read(folder.trial(original))
    return replace(task, name=name, kind="seed", trainer=replace(task.trainer, seed=task.trainer.seed + number - 1))
