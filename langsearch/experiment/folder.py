"""The experiment's folder: what lies where, and files that appear whole or not at all."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from langsearch.experiment.fence import check_fence
from langsearch.space.problems import naming

PARTIAL = ".partial"
"""How the name of a file ends that is being written aside; a reader never looks at it."""

STORE_FOLDER = ".store"
"""Token files, beside the experiments that share them."""

TRAINING = "train"
"""The value of `command` in the description of what `langsearch train` wrote; a search has none."""


@dataclass(frozen=True)
class ExperimentFolder:
    """Paths of an experiment; holds no state of its own."""

    path: Path

    @property
    def space(self) -> Path:
        """The space as resolved."""
        return self.path / "space.yaml"

    @property
    def study(self) -> Path:
        """The trial table, unless the space names a database."""
        return self.path / "study.db"

    @property
    def description(self) -> Path:
        """Versions, languages, signature, times: what the report needs beside the table."""
        return self.path / "experiment.json"

    @property
    def results(self) -> Path:
        """The trial table as Parquet."""
        return self.path / "results.parquet"

    @property
    def sides(self) -> Path:
        """The sides that were learned before the search, if the space asks for them."""
        return self.path / "priors" / "sides"

    @property
    def subspace(self) -> Path:
        """The demand for rank that was estimated before the search, if the space asks for it."""
        return self.path / "priors" / "subspace"

    @property
    def one_shot(self) -> Path:
        """What a one-shot search has decided: which cuts are trained, and whether they are trusted."""
        return self.path / "one_shot.json"

    @property
    def ray(self) -> Path:
        """Ray Tune's own bookkeeping; never read by langsearch, removed when a run ends."""
        return self.path / ".ray"

    @property
    def stop_request(self) -> Path:
        """The stop request of the run: asks all trials to pause behind a checkpoint, by being there."""
        return self.path / "stop"

    def trial(self, name: str) -> "TrialFolder":
        """Returns a trial's folder: "00012", or a baseline's name."""
        return TrialFolder(self.path / "trials" / name)

    @property
    def adapters(self) -> Path:
        """Where the adapters of a single training are exported to."""
        return self.path / "adapters"

    def front(self, name: str) -> Path:
        """Returns where a member of the front is exported to."""
        return self.path / "front" / name


@dataclass(frozen=True)
class TrialFolder:
    """Paths of a trial."""

    path: Path

    @property
    def name(self) -> str:
        """The trial's name."""
        return self.path.name

    @property
    def task(self) -> Path:
        """What the trial is to do: method and trainer settings."""
        return self.path / "trial.json"

    @property
    def architecture(self) -> Path:
        """The architecture, if it has one."""
        return self.path / "architecture.json"

    @property
    def checkpoint(self) -> Path:
        """Checkpoints to go on from; removed once the trial is complete."""
        return self.path / "checkpoint"

    def remove_checkpoints(self) -> None:
        """Removes what only resuming needs."""
        check_fence(self.path)
        shutil.rmtree(self.checkpoint, ignore_errors=True)

    @property
    def weights(self) -> Path:
        """The trained weights of the epoch that counts."""
        return self.path / "weights"

    @property
    def curve(self) -> Path:
        """One row an epoch."""
        return self.path / "curve.parquet"

    @property
    def scores(self) -> Path:
        """One row a direction and split."""
        return self.path / "scores.parquet"

    @property
    def choices(self) -> Path:
        """What the adapters have chosen, and what encodings are worth: the pool's map, gates, retrieval, the probe."""
        return self.path / "choices.json"

    @property
    def translations(self) -> Path:
        """The translations that were scored."""
        return self.path / "translations.parquet"

    @property
    def result(self) -> Path:
        """The last result, once the trial is complete."""
        return self.path / "result.json"

    @property
    def failure(self) -> Path:
        """The cause, if the trial failed."""
        return self.path / "failure.json"

    @property
    def stop_request(self) -> Path:
        """The stop request of the trial: asks it to pause behind a checkpoint, by being there."""
        return self.path / "stop"


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes JSON under its name in one step.

    Raises:
        OSError: If the disk is full; the old file then stays. Here and in what follows.
        LeaseLostError: If another run has the experiment by now, likewise.
    """
    _write_aside(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def write_text(path: Path, text: str) -> None:
    """Writes text under its name in one step."""
    _write_aside(path, text.encode())


def write_rows(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    """Writes rows as Parquet under their name in one step."""
    write_table(path, pa.Table.from_pylist(rows, schema=schema))


def write_table(path: Path, table: pa.Table) -> None:
    """Writes a table as Parquet under its name in one step."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    _write_aside(path, sink.getvalue().to_pybytes())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Reads rows from Parquet; none if the file is not there."""
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def _write_aside(path: Path, content: bytes) -> None:
    check_fence(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with naming(path), aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        check_fence(path)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def inherit(failed: TrialFolder, trial: TrialFolder) -> None:
    """Moves what a failed trial had reached into the folder of the one that tries it again.

    Args:
        failed: Keeps a copy of its scores and its curve.
        trial: Keeps what it has already.
    """
    trial.path.mkdir(parents=True, exist_ok=True)
    for source, target in ((failed.scores, trial.scores), (failed.curve, trial.curve)):
        if source.exists() and not target.exists():
            shutil.copy2(source, target)
    for source, target in ((failed.weights, trial.weights), (failed.checkpoint, trial.checkpoint)):
        if source.exists() and not target.exists():
            source.rename(target)
