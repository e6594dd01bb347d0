"""What follows a search: the front's adapters, and single trials on request."""

import shutil
from pathlib import Path

from langsearch.model.base import Base, load_base
from langsearch.model.peft_export import FORMAT_FILE
from langsearch.search.environment import CheckedSpace, Environment, build_environment, check_space
from langsearch.search.experiment import open_table
from langsearch.search.export import choose_trial, export_trial
from langsearch.search.folder import ExperimentFolder
from langsearch.search.runner import STORE_FOLDER
from langsearch.search.table import TrialTable
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space


def export_front(checked: CheckedSpace, folder: ExperimentFolder) -> list[Path]:
    """Exports the adapters of every front member and returns their folders; one without adapters is left out.

    Earlier exports of trials that are no longer on the front are removed.
    """
    base = load_base(checked.space.base)
    environment = build_environment(checked, base, folder.path.parent / STORE_FOLDER)
    table = open_table(folder, checked.space)
    exported = []
    rows = table.front()
    for old in folder.path.glob("front/*"):
        if old.name not in {row.name for row in rows} and (old / FORMAT_FILE).exists():
            shutil.rmtree(old)
    for row in rows:
        if row.result and row.result.trainable_parameters:
            export_trial(base, environment, folder, row, folder.front(row.name))
            exported.append(folder.front(row.name))
    return exported


def export_one(experiment: Path, trial: str | None, target: Path, format_name: str) -> list[str]:
    """Exports one trial of an experiment and returns the adapters' names.

    Raises:
        InputError: If the format, the experiment, the trial or the target is wrong.
    """
    if format_name != "peft":
        raise InputError(f"--format must be peft, but got {format_name!r}.")
    folder, base, environment, table = open_experiment(experiment)
    return export_trial(base, environment, folder, choose_trial(table, trial), target)


def open_experiment(experiment: Path) -> tuple[ExperimentFolder, Base, Environment, TrialTable]:
    """Opens an experiment with its base and data.

    Raises:
        InputError: If the folder is no experiment, or its base or data are not there any more.
    """
    folder = ExperimentFolder(experiment.resolve())
    if not folder.space.exists():
        raise InputError(f"An experiment's folder holds a space.yaml, but {experiment} has none.")
    checked = check_space(load_space(folder.space))
    base = load_base(checked.space.base)
    environment = build_environment(checked, base, folder.path.parent / STORE_FOLDER)
    return folder, base, environment, open_table(folder, checked.space)
