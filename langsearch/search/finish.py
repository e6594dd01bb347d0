"""What follows a search: the front's adapters, and single trials on request."""

import shutil
from collections.abc import Callable
from pathlib import Path

from langsearch.model.base import Base, load_base
from langsearch.model.peft_export import FORMAT_FILE
from langsearch.search.environment import STORE_FOLDER, CheckedSpace, Environment, build_environment, check_space
from langsearch.search.experiment import open_table
from langsearch.search.export import ExportForm, choose_trial, export_again, export_trial
from langsearch.search.folder import ExperimentFolder
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


def export_one(
    source: Path,
    trial: str | None,
    target: Path,
    format_name: str,
    *,
    direction: str | None = None,
    is_compact: bool = False,
    energy: float | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Exports one trial of an experiment, or adapters again; returns the adapters' names, or the direction's.

    Args:
        source: An experiment, or adapters that were exported before.
        trial: The trial of an experiment. None: the best.
        target: The folder to write.
        format_name: peft or merged.
        direction: SRC-TGT; with merged, and only there.
        is_compact: With peft: store the smallest dense adapters that compute the same.
        energy: With peft: compact further, keeping this share of each product's squared norm.
        note: Called with a sentence on what compacting lost.

    Raises:
        InputError: If an option, the source, the trial or the target is wrong.
    """
    form = ExportForm(format_name, direction, is_compact, energy)
    if (source / FORMAT_FILE).exists():
        if trial is not None:
            raise InputError(f"--trial must be for an experiment, but {source} holds the adapters of one trial.")
        return export_again(source, target, form, note)
    folder, base, environment, table = open_experiment(source)
    return export_trial(base, environment, folder, choose_trial(table, trial), target, form, note)


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
