"""An experiment as files: starting it, opening it again, its description, and the table as Parquet."""

import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
from ruamel.yaml import YAML
from sqlalchemy.exc import SQLAlchemyError

from langsearch.search.environment import CheckedSpace
from langsearch.search.folder import ExperimentFolder, read_json, write_json, write_rows, write_text
from langsearch.search.table import Objective, TrialRow, TrialTable
from langsearch.search.task import TrialTask
from langsearch.space.problems import InputError
from langsearch.space.schema import Space, load_space

_PACKAGES = ("langsearch", "torch", "transformers", "ray", "optuna", "sacrebleu")

RESULTS = pa.schema(
    [
        ("name", pa.string()),
        ("kind", pa.string()),
        ("state", pa.string()),
        ("cause", pa.string()),
        ("same_as", pa.string()),
        ("epochs", pa.int64()),
        ("max_epochs", pa.int64()),
        ("kept_epoch", pa.int64()),
        ("spbleu", pa.float64()),
        ("spbleu_low", pa.float64()),
        ("spbleu_high", pa.float64()),
        ("num_sentences", pa.int64()),
        ("num_directions", pa.int64()),
        ("test_spbleu", pa.float64()),
        ("test_spbleu_low", pa.float64()),
        ("test_spbleu_high", pa.float64()),
        ("test_num_sentences", pa.int64()),
        ("test_num_directions", pa.int64()),
        ("test_to_pretrained", pa.float64()),
        ("test_to_pretrained_low", pa.float64()),
        ("test_to_pretrained_high", pa.float64()),
        ("test_to_full", pa.float64()),
        ("test_to_full_low", pa.float64()),
        ("test_to_full_high", pa.float64()),
        ("trainable_parameters", pa.int64()),
        ("trainable_percent", pa.float64()),
        ("nonzero_parameters", pa.int64()),
        ("train_loss", pa.float64()),
        ("train_seconds", pa.float64()),
        ("seconds", pa.float64()),
        ("peak_memory_bytes", pa.int64()),
        ("is_front", pa.bool_()),
        ("fingerprint", pa.string()),
        ("signature", pa.string()),
        ("started", pa.string()),
        ("finished", pa.string()),
        ("params", pa.string()),
        ("summary", pa.string()),
    ]
)


def start_experiment(path: Path, space: Space, *, resume: bool) -> ExperimentFolder:
    """Makes an experiment's folder, or opens it to go on.

    Raises:
        InputError: If the folder is there and `resume` is not asked for, or not there and it is, the space is
            not the one that the experiment was started with, or its storage has another experiment of this name.
    """
    folder = ExperimentFolder(path)
    if space.search.storage is not None and not folder.space.exists() and not resume:
        _check_storage(space.search.storage, space.name)
    if not path.exists():
        if resume:
            raise InputError(f"--resume goes on with an experiment, but {path} does not exist. Start it without.")
        path.mkdir(parents=True)
        write_text(folder.space, space.text)
        return folder
    if not folder.space.exists():
        if any(path.iterdir()):
            raise InputError(f"An experiment's folder must be new, but {path} holds other files. Give another --name.")
        write_text(folder.space, space.text)
        return folder
    if not resume:
        raise InputError(
            f"An experiment must have a name of its own, but {path} exists. "
            "Go on with it by --resume, or start another with --name NAME."
        )
    changes = space_changes(load_space(folder.space).text, space.text)
    if changes:
        raise InputError(
            [
                f"An experiment must be resumed with its own space, but {path} differs:",
                *changes,
                "Undo the changes, or start a new experiment with --name NAME.",
            ]
        )
    return folder


_MAY_CHANGE = ("name", "search.trials", "search.max_hours", "resources")
"""What a resumed run may set anew: none of it changes a result."""


def space_changes(old: str, new: str) -> list[str]:
    """Returns the differences between two spaces' texts as "key: old -> new", without those that may change."""
    before, after = (_flat(YAML(typ="safe", pure=True).load(text)) for text in (old, new))
    return [
        f"  {key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not key.startswith(_MAY_CHANGE)
    ]


def _check_storage(url: str, name: str) -> None:
    """Raises InputError if the database cannot be opened, or has an experiment of this name."""
    try:
        names = optuna.get_all_study_names(url)
    except (ImportError, SQLAlchemyError) as error:
        cause = str(error).splitlines()[0]
        raise InputError(
            f"`search.storage` must be a database that can be opened, but got {url!r} ({cause}). "
            "Example: postgresql://USER@HOST/DATABASE"
        ) from error
    if name in names:
        raise InputError(
            f"`search.storage` must not have the experiment yet, but {url} has {name!r} already. "
            "Start another with --name NAME."
        )


def open_table(folder: ExperimentFolder, space: Space) -> TrialTable:
    """Opens the trial table, or makes it."""
    search = space.search
    url = search.storage or f"sqlite:///{folder.study}"
    objectives = [Objective(name, direction == "max") for name, direction in search.objectives.items()]
    # The study keeps the name that the experiment was started with, also where the folder was renamed since.
    name = load_space(folder.space).name
    return TrialTable(url, name, objectives, sampler=search.sampler, seed=search.seed, num_trials=search.trials)


def write_description(folder: ExperimentFolder, checked: CheckedSpace, signature: str, **values: Any) -> None:
    """Writes what the report needs beside the table; values given before and not now stay."""
    space, tokenizer = checked.space, checked.tokenizer
    old = read_json(folder.description) if folder.description.exists() else {}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    value = {
        "name": space.name,
        "base": space.base,
        "base_parameters": checked.shape.num_parameters,
        "languages": list(space.languages),
        "classes": {name: list(languages) for name, languages in space.classes.items()},
        "directions": [str(direction) for direction in checked.directions],
        "num_train_sentences": len(checked.corpus.train),
        "num_validation_sentences": len(checked.corpus.validation),
        "num_test_sentences": len(checked.corpus.test),
        "tokenizer": {"name": tokenizer.name, "stand_in": tokenizer.is_stand_in, "sha256": tokenizer.sha256},
        "signature": signature,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
        "seed": space.search.seed,
        "objectives": dict(space.search.objectives),
        "resources": space.resources.model_dump(),
        "num_trials": space.search.trials,
        "started": old.get("started", now),
        "finished": None,
        "seconds": old.get("seconds", 0.0),
    }
    write_json(folder.description, {**value, **values})


def write_results(folder: ExperimentFolder, table: TrialTable, base_parameters: int) -> None:
    """Writes the trial table as Parquet."""
    front = {row.name for row in table.front()}
    rows = [_results_row(folder, row, row.name in front, base_parameters) for row in table.rows()]
    write_rows(folder.results, rows, RESULTS)


def _results_row(folder: ExperimentFolder, row: TrialRow, is_front: bool, base_parameters: int) -> dict[str, Any]:
    trial = folder.trial(row.same_as or row.name)
    task = TrialTask.read(trial) if trial.task.exists() else None
    values: dict[str, Any] = asdict(row.result) if row.result else {}
    values |= asdict(row.test) if row.test else {}
    for other, name in (("pretrained", "test_to_pretrained"), ("full_finetuning", "test_to_full")):
        if other in row.differences:
            difference = row.differences[other]
            values |= {name: difference.value, f"{name}_low": difference.low, f"{name}_high": difference.high}
    if row.result:
        values |= {
            "epochs": row.result.epoch,
            "trainable_percent": 100 * row.result.trainable_parameters / base_parameters,
        }
    values |= {
        "name": row.name,
        "kind": row.kind,
        "state": row.state.value,
        "cause": row.cause,
        "same_as": row.same_as,
        "max_epochs": task.num_epochs if task else None,
        "is_front": is_front,
        "fingerprint": row.fingerprint,
        "started": row.started.isoformat(timespec="seconds") if row.started else None,
        "finished": row.finished.isoformat(timespec="seconds") if row.finished else None,
        "params": json.dumps(dict(row.params)),
        "summary": task.summary if task else None,
    }
    return {name: values.get(name) for name in RESULTS.names}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        flat: dict[str, Any] = {}
        for key, entry in value.items():
            flat |= _flat(entry, f"{prefix}.{key}" if prefix else str(key))
        return flat
    return {prefix: value}


def _git_commit() -> str | None:
    """Returns the commit of the checkout that this package is imported from, None outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None if run.returncode == 0 else None
