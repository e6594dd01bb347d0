from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from langsearch.experiment.folder import (
    ExperimentFolder,
    TrialFolder,
    read_json,
    read_rows,
    write_json,
    write_rows,
    write_text,
)

SCHEMA = pa.schema([("name", pa.string()), ("epochs", pa.int64()), ("spbleu", pa.float64())])


def test_the_folder_is_laid_out_as_the_design_says() -> None:
    folder = ExperimentFolder(Path("experiments/small"))
    trial = folder.trial("00012")
    assert [str(path) for path in (folder.space, folder.study, folder.description, folder.results, folder.ray)] == [
        "experiments/small/space.yaml",
        "experiments/small/study.db",
        "experiments/small/experiment.json",
        "experiments/small/results.parquet",
        "experiments/small/.ray",
    ]
    assert str(folder.front("00012")) == "experiments/small/front/00012"
    assert trial.name == "00012"
    names = ("task", "architecture", "checkpoint", "weights", "curve", "scores", "translations", "result", "failure")
    assert [str(getattr(trial, name).relative_to("experiments/small/trials/00012")) for name in names] == [
        "trial.json",
        "architecture.json",
        "checkpoint",
        "weights",
        "curve.parquet",
        "scores.parquet",
        "translations.parquet",
        "result.json",
        "failure.json",
    ]


def test_json_goes_round_and_keeps_other_scripts_readable(tmp_path: Path) -> None:
    path = tmp_path / "new" / "value.json"
    write_json(path, {"text": "ክፍት ✓", "count": 3, "none": None})
    assert read_json(path) == {"text": "ክፍት ✓", "count": 3, "none": None}
    assert "ክፍት ✓" in path.read_text(encoding="utf-8")


def test_rows_go_round_with_their_types_and_empty_values(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"name": "a", "epochs": 3, "spbleu": 1.5},
        {"name": "b", "epochs": None, "spbleu": None},
    ]
    write_rows(tmp_path / "rows.parquet", rows, SCHEMA)
    assert read_rows(tmp_path / "rows.parquet") == rows
    write_rows(tmp_path / "rows.parquet", [], SCHEMA)
    assert read_rows(tmp_path / "rows.parquet") == []
    assert read_rows(tmp_path / "absent.parquet") == []


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text"
    write_text(path, "old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("langsearch.experiment.folder.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_checkpoints_are_removed_whether_there_or_not(tmp_path: Path) -> None:
    trial = TrialFolder(tmp_path / "00000")
    trial.remove_checkpoints()
    (trial.checkpoint / "000000010").mkdir(parents=True)
    trial.remove_checkpoints()
    assert not trial.checkpoint.exists()
