"""An experiment's description: what its report says of the data, the base, the versions and the machine."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from langsearch.experiment.environment import CheckedSpace
from langsearch.experiment.folder import ExperimentFolder, read_json, write_json
from langsearch.experiment.opening import space_version
from langsearch.experiment.recorded_base import read_recorded
from langsearch.model.cpu_precision import MeasuredPrecision

_PACKAGES = ("langsearch", "torch", "transformers", "ray", "optuna", "sacrebleu")


def write_description(folder: ExperimentFolder, checked: CheckedSpace, signature: str, **values: Any) -> None:
    """Writes what the report needs beside the table; values given before and not now stay."""
    space, tokenizer = checked.space, checked.tokenizer
    recorded = read_recorded(folder.path)
    old = read_json(folder.description) if folder.description.exists() else {}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    value = {
        "name": space.name,
        "base": space.base,
        "base_revision": checked.base.commit,
        "base_fingerprint": recorded.fingerprint if recorded is not None else None,
        "base_family": checked.family,
        "base_parameters": checked.shape.num_parameters,
        "languages": list(space.languages),
        "classes": {name: list(languages) for name, languages in space.classes.items()},
        "directions": [str(direction) for direction in checked.directions],
        "zero_shot": [str(direction) for direction in checked.zero_shot],
        "num_train_sentences": len(checked.corpus.train),
        "num_validation_sentences": checked.num_validation_sentences,
        "num_test_sentences": len(checked.corpus.test),
        "tokenizer": {"name": tokenizer.name, "stand_in": tokenizer.is_stand_in, "sha256": tokenizer.sha256},
        "signature": signature,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
        "seed": space.search.seed,
        "objectives": dict(space.search.objectives),
        "constraints": [str(constraint) for constraint in space.search.constraints],
        "space_version": space_version(folder) if folder.space.exists() else 1,
        "resources": space.resources.model_dump(),
        "num_trials": space.search.num_planned,
        "started": old.get("started", now),
        "finished": None,
        "seconds": old.get("seconds", 0.0),
        "cpu_precision": old.get("cpu_precision"),
    }
    write_json(folder.description, {**value, **values})


def recorded_precision(folder: ExperimentFolder) -> MeasuredPrecision | None:
    """Returns what was found that `precision: auto` means on a CPU when the experiment began, None if nothing was."""
    about = read_json(folder.description) if folder.description.exists() else {}
    recorded = about.get("cpu_precision")
    return None if recorded is None else MeasuredPrecision(**recorded)


def _git_commit() -> str | None:
    """Returns the commit of the checkout that this package is imported from, None outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None if run.returncode == 0 else None
