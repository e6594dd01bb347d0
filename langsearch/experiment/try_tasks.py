"""What the tries of tuned baselines are to do, and a baseline's folder made of that of its best try."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from langsearch.experiment.disk import remove_safely
from langsearch.experiment.fence import check_fence
from langsearch.experiment.folder import PARTIAL, ExperimentFolder, TrialFolder
from langsearch.experiment.task import TrialTask, baseline_task
from langsearch.space.architecture import BaseShape
from langsearch.space.schema import Space
from langsearch.study.beside_names import baseline_of

_OF_THE_TRY_ALONE = ("checkpoint", "stop", "proposals.json", f".*{PARTIAL}")


def try_task(space: Space, shape: BaseShape, name: str, point: Mapping[str, Any]) -> TrialTask:
    """Returns the task of one of a baseline's tries, by its name and its point."""
    baseline = baseline_of(name)
    trainer = space.baseline_trainer(baseline, point)
    return replace(baseline_task(space, shape, baseline), name=name, kind="try", trainer=trainer)


def tuned_names(space: Space) -> list[str]:
    """Returns the names of the baselines that are tuned."""
    return [baseline.name for baseline in space.baselines if baseline.tune is not None]


def num_tries(space: Space) -> int:
    """Returns how many tries all baselines of a space have."""
    return sum(space.num_tries(name) for name in tuned_names(space))


def adopt_folder(folder: ExperimentFolder, best: str) -> None:
    """Makes the folder of a baseline of that of its best try: the same files where the disk has hard links.

    Nothing writes into a file that is there: what is deleted or replaced in one folder stays in the other. A kill
    leaves the folder whole or without it, and doing it again does it anew.

    Args:
        folder: The experiment.
        best: The try's name.

    Raises:
        OSError: If the try's folder lacks its result, or the disk is full.
        LeaseLostError: If another run has the experiment by now.
    """
    source, target = folder.trial(best), folder.trial(baseline_of(best))
    task = TrialTask.read(source)
    aside = target.path.with_name(f".{target.name}{PARTIAL}")
    check_fence(target.path)
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source.path, aside, copy_function=_link, ignore=shutil.ignore_patterns(*_OF_THE_TRY_ALONE))
    if not TrialFolder(aside).result.is_file():
        raise FileNotFoundError(f"{source.result} is not there, so that baseline {target.name} cannot be made of it")
    replace(task, name=target.name, kind="baseline").write(TrialFolder(aside))
    if target.path.exists() and not remove_safely(folder, target.path):
        raise OSError(f"{target.path}, which is of before, could not be deleted")
    aside.rename(target.path)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # a disk without hard links
        shutil.copy2(source, target)
    return str(Path(target))
