"""What was measured on this machine, kept in our cache: where nothing that it depends on has changed, it is read."""

import hashlib
import json
import os
import platform
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter

from langsearch import __version__
from langsearch.experiment.environment import CheckedSpace
from langsearch.experiment.task import TrialTask
from langsearch.model.cache import cache_folder
from langsearch.model.cpus import available_cpus
from langsearch.trial.forecast import Measured, validation_sample
from langsearch.trial.update_count import Sample

_MEASURED = TypeAdapter(Measured)


def measure_key(checked: CheckedSpace, sample: Sample, task: TrialTask, num_threads: int) -> str:
    """Returns 32 hexadecimal digits over all that a measure depends on: equal ones need not be taken twice.

    Args:
        checked: The space.
        sample: Of its training text.
        task: Whose architecture and settings are measured.
        num_threads: Of PyTorch in a trial's worker.
    """
    space = checked.space
    rows = validation_sample(checked)
    parts = {
        "versions": [__version__, version("torch"), version("transformers")],
        "machine": [platform.node(), platform.machine(), available_cpus(), num_threads, space.resources.gpu],
        "base": [checked.base.fingerprint(), checked.family, dict(space.new_languages)],
        "task": task.fingerprint,
        "scores": [asdict(space.evaluation.search), asdict(space.evaluation.final), checked.tokenizer.sha256],
        "directions": [str(direction) for direction in checked.directions],
        "train": sorted(path.name for path in sample.store.files.values()),
        "weights": repr(sample.weights),
        "validation": {language: list(rows.sentences[language]) for language in space.languages},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def read_measured(key: str) -> Measured | None:
    """Returns what was measured under a key; None where nothing was, or it cannot be read."""
    with suppress(OSError, ValueError):
        return _MEASURED.validate_json(_path(key).read_bytes())
    return None


def keep_measured(key: str, measured: Measured) -> None:
    """Keeps what was measured; a cache that cannot be written costs time, and nothing else."""
    path = _path(key)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_bytes(_MEASURED.dump_json(measured))
        aside.replace(path)


def _path(key: str) -> Path:
    return cache_folder() / "measured" / f"{key}.json"
