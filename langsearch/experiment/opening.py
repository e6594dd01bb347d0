"""An experiment as files: starting it, and opening it again with its space or another. Needs no torch."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from optuna.exceptions import StorageInternalError
from ruamel.yaml import YAML
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from langsearch.experiment.earlier import load_begun_space
from langsearch.experiment.folder import PARTIAL, TRAINING, ExperimentFolder, read_json, write_text
from langsearch.experiment.lock import LEASES, LOCK
from langsearch.space.problems import InputError
from langsearch.space.schema import Space
from langsearch.study.database import open_storage
from langsearch.study.front import Objective
from langsearch.study.table import TrialTable

_FREE = (
    "name",
    "base.revision",
    "base.family",
    "data.allow_overlap",
    "evaluation.final.seeds",
    "search.trials",
    "search.max_hours",
    "search.plateau",
    "resources",
    "failures",
    "checkpoints",
    "tracking",
)
"""What a resumed run may set anew: none of it changes a result. A base's revision and family are free to be written,
since what they give is compared with what the experiment has recorded (`recorded_base`)."""

_ACCEPTABLE = (
    "architecture",
    "trainer",
    "prior",
    "baselines",
    "search.sampler",
    "search.scheduler",
    "search.grace_epochs",
    "search.reduction_factor",
    "search.constraints",
    "search.seed",
)
"""What a resumed run may change where that is asked for: other trials come, and compare with those that are there."""


def start_experiment(path: Path, space: Space, *, resume: bool, accept_changed_space: bool = False) -> ExperimentFolder:
    """Makes an experiment's folder, or opens it to go on. The caller must hold its lock.

    A run that is killed in here leaves an experiment that is not begun, has its old space, or has the new one.

    Args:
        path: The folder.
        space: What is to be searched.
        resume: Go on with what is there.
        accept_changed_space: Go on with another space than the experiment was started with, as its next version;
            the space of before is kept beside it as space.1.yaml, space.2.yaml and so on.

    Raises:
        InputError: As `check_start`.
    """
    check_start(path, space, resume=resume, accept_changed_space=accept_changed_space)
    folder = ExperimentFolder(path)
    if not is_started(folder):
        write_text(folder.space, space.text)
        return folder
    if _changes(folder, space):
        # Until the second step the first one's file repeats the space, which `space_version` does not count.
        write_text(_kept_space(folder, space_version(folder)), folder.space.read_text(encoding="utf-8"))
        write_text(folder.space, space.text)
    return folder


def check_start(path: Path, space: Space, *, resume: bool, accept_changed_space: bool = False) -> None:
    """Checks that `start_experiment` can start; writes nothing.

    Raises:
        InputError: If the experiment is there and `resume` is not asked for, or not there and it is, its space
            differs and that is not accepted or cannot be, or its storage has another experiment of this name.
    """
    folder = ExperimentFolder(path)
    if resume and not path.exists():
        raise InputError(f"--resume goes on with an experiment, but {path} does not exist. Start it without.")
    if not is_started(folder):
        if path.exists() and not all(is_leftover(entry) for entry in path.iterdir()):
            raise InputError(f"An experiment's folder must be new, but {path} holds other files. Give another --name.")
        if space.search.storage is not None:
            _check_storage(storage_url(folder, space), space.name)
        return
    if is_training(folder):
        raise InputError(
            f"A search must have a folder of its own, but {path} holds a single training. Go on with that by "
            "`langsearch train --resume`, or start a search with another --name NAME."
        )
    if not resume:
        raise InputError(
            f"An experiment must have a name of its own, but {path} exists. "
            "Go on with it by --resume, or start another with --name NAME."
        )
    changes = _changes(folder, space)
    lasting = {key: line for key, line in changes.items() if not _is_below(key, _ACCEPTABLE)}
    if lasting and (accept_changed_space or lasting == changes):
        raise InputError(
            [
                f"An experiment must keep its base, languages, data, evaluation, objectives and storage, but {path} "
                "differs, so that scores from before and after could not be compared:",
                *lasting.values(),
                f"Undo these changes (its own space is {folder.space}), or start a new experiment with --name NAME.",
            ]
        )
    if changes and not accept_changed_space:
        undo = f"Undo the changes (its own space is {folder.space}), or start a new experiment with --name NAME."
        accept = (
            f"Undo the changes (its own space is {folder.space}), start a new experiment with --name NAME, or go on "
            "with the new space by --accept-changed-space: the trials so far stay."
        )
        raise InputError(
            [
                f"An experiment must be resumed with its own space, but {path} differs:",
                *changes.values(),
                undo if lasting else accept,
            ]
        )


def space_version(folder: ExperimentFolder) -> int:
    """Returns the number of the space that an experiment has now: 1, and one more for each one that was accepted."""
    number = 1
    while _kept_space(folder, number).exists():
        number += 1
    # A run that was killed before it wrote the next space has kept the one that still holds.
    is_repeated = number > 1 and _kept_space(folder, number - 1).read_bytes() == folder.space.read_bytes()
    return number - 1 if is_repeated else number


def space_of_version(folder: ExperimentFolder, version: int) -> Space:
    """Returns the space that trials of a version were made from.

    Raises:
        InputError: If the experiment never had it.
    """
    current = space_version(folder)
    if not 1 <= version <= current:
        raise InputError(f"A version of the space must be from 1 to {current}, but got {version}")
    return load_begun_space(folder.space if version == current else _kept_space(folder, version))


def _kept_space(folder: ExperimentFolder, version: int) -> Path:
    return folder.space.with_name(f"space.{version}.yaml")


def is_started(folder: ExperimentFolder) -> bool:
    """Returns whether an experiment was started in a folder: its space is the first thing that is written."""
    return folder.space.exists() and folder.space.stat().st_size > 0


def is_training(folder: ExperimentFolder) -> bool:
    """Returns whether an experiment is a single training, which `langsearch train` wrote."""
    return folder.description.exists() and read_json(folder.description).get("command") == TRAINING


def is_other_space(folder: ExperimentFolder, space: Space) -> bool:
    """Returns whether an experiment that was started has another space, in what is not free to change."""
    return is_started(folder) and bool(_changes(folder, space))


def is_leftover(path: Path) -> bool:
    """Returns whether a run that was killed before it wrote anything may have left a file."""
    return path.name in (LOCK, LEASES, "stop") or path.name.endswith(PARTIAL) or path.name == "space.yaml"


def _changes(folder: ExperimentFolder, space: Space) -> dict[str, str]:
    if folder.space.read_text(encoding="utf-8") == space.text:  # as nearly always; reading YAML takes time
        return {}
    return space_changes(load_begun_space(folder.space).text, space.text)


def space_changes(old: str, new: str) -> dict[str, str]:
    """Returns the differences between two spaces' texts by key, as "  key: old -> new", without those that are free."""
    before, after = (_flat(YAML(typ="safe", pure=True).load(text)) for text in (old, new))
    return {
        key: f"  {key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not _is_below(key, _FREE)
    }


def _is_below(key: str, sections: Sequence[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def storage_url(folder: ExperimentFolder, space: Space) -> str:
    """Returns where the trial table is, as SQLAlchemy writes it."""
    url = space.search.storage or sqlite_url(folder.study)
    # Without a driver's name SQLAlchemy takes psycopg2; the extra `postgres` has its successor.
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)


def sqlite_url(file: Path, *, is_read_only: bool = False) -> str:
    """Returns the URL of an SQLite file, whatever signs its path has: ?, # and % mean something in a URL.

    Args:
        file: The file.
        is_read_only: Whether nothing can be written through it; the file must then be there.
    """
    if not is_read_only:
        return URL.create("sqlite", database=str(file)).render_as_string()
    # Here the path is in a URL of SQLite's own, which is in SQLAlchemy's.
    inner = f"file:{quote(str(file.resolve()))}"
    return URL.create("sqlite", database=inner, query={"mode": "ro", "uri": "true"}).render_as_string()


def _check_storage(url: str, name: str) -> None:
    """Raises InputError if the database cannot be opened, or has an experiment of this name."""
    with _opening(url):
        storage = open_storage(url)
        names = [study.study_name for study in storage.get_all_studies()]
        storage.engine.dispose()
    if name in names:
        raise InputError(
            f"`search.storage` must not have the experiment yet, but {url} has {name!r} already. "
            "Start another with --name NAME."
        )


@contextlib.contextmanager
def _opening(url: str, file: Path | None = None) -> Iterator[None]:
    """Says what is wrong with a database that cannot be opened.

    Args:
        url: The database's.
        file: The experiment's own, if it is that.
    """
    rule = f"`search.storage` must be a database that can be opened, but got {url!r}"
    example = "Example: postgresql://USER@HOST/DATABASE"
    if file is not None:
        rule = f"The trial table must be a file that can be read and written, but {file} is not"
        example = "Make room on its disk, give the right to write, or put back the file as it was."
    try:
        yield
    except ImportError as error:
        way_out = "Install the driver that its URL names."
        if url.startswith("postgresql+psycopg:"):
            way_out = "Its driver is missing: in langsearch's checkout, pip install -e '.[postgres]'"
        raise InputError(f"{rule} ({error}). {way_out}") from error
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise InputError(f"{rule} ({cause}). {example}") from error


def open_table(
    folder: ExperimentFolder,
    space: Space,
    *,
    base_parameters: int | None = None,
    cuts_of: TrialTable | None = None,
) -> TrialTable:
    """Opens the trial table, or makes it.

    Args:
        folder: The experiment, begun.
        space: Its space as of now.
        base_parameters: The base's size, which percentages in constraints are of. None: as in the description.
        cuts_of: The search's table, where that of its cuts is opened.

    Raises:
        InputError: If its database cannot be opened.
    """
    search = space.search
    url = storage_url(folder, space)
    objectives = [Objective(name, direction == "max") for name, direction in search.objectives.items()]
    if base_parameters is None:
        base_parameters = int(read_json(folder.description)["base_parameters"]) if folder.description.exists() else 1
    # The study keeps the name that the experiment was started with, also where the folder was renamed since.
    name = space_of_version(folder, 1).name
    with _opening(url, None if search.storage else folder.study):
        return TrialTable(
            url,
            name,
            objectives,
            sampler=search.sampler,
            seed=search.seed,
            num_trials=search.trials if cuts_of is None else search.one_shot.cuts,
            constraints=search.constraints,
            base_parameters=base_parameters,
            classes=space.classes,
            space_version=space_version(folder),
            cuts_of=cuts_of,
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if prefix == "search.objectives":  # their order is that of the study's values
        return {prefix: ", ".join(f"{name}: {direction}" for name, direction in value.items())}
    if prefix == "base" and isinstance(value, Mapping):  # its name alone is written as text
        return {"base" if key == "id" else f"base.{key}": entry for key, entry in value.items()}
    if isinstance(value, Mapping):
        flat: dict[str, Any] = {}
        for key, entry in value.items():
            flat |= _flat(entry, f"{prefix}.{key}" if prefix else str(key))
        return flat
    return {prefix: value}
