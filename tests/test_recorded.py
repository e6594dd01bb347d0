"""An experiment that an older version has written goes on, reports and exports.

`recorded/experiment-fa3ae4f.tar.gz` was written by commit fa3ae4f, whose search was killed by SIGKILL: the sides were
learned, the trial 00000 and a baseline were complete, 00001 was pruned, and 00002 had one epoch of three behind it.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from langsearch.cluster.packing import unpack_folder

RECORDED = Path(__file__).parent / "recorded" / "experiment-fa3ae4f.tar.gz"


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """A copy of the recorded experiment, with the token files beside it."""
    unpack_folder(RECORDED.read_bytes(), tmp_path / "experiments")
    return tmp_path / "experiments" / "recorded"


def langsearch(*arguments: str | Path) -> str:
    """Runs a command and returns what it prints."""
    command = [sys.executable, "-m", "langsearch", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=220, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_an_experiment_of_an_older_version_is_read_as_it_lies(experiment: Path, tmp_path: Path) -> None:
    shown = json.loads(langsearch("show", experiment, "--json"))
    states = {row["name"]: row["state"] for row in shown["trials"]}
    assert states == {"00000": "complete", "00001": "pruned", "00002": "running", "pretrained": "complete"}
    (listed,) = json.loads(langsearch("list", experiment.parent, "--json"))
    assert listed["name"] == "recorded"
    langsearch("report", experiment)
    assert (experiment / "report.html").stat().st_size > 100_000
    langsearch("export", experiment, "--trial", "00000", "--to", tmp_path / "adapters")
    assert (tmp_path / "adapters" / "src-en" / "adapter_config.json").exists()


@pytest.mark.integration
def test_a_search_of_an_older_version_is_resumed_to_its_end(experiment: Path, tmp_path: Path) -> None:
    before = {row["name"]: row for row in pq.read_table(experiment / "results.parquet").to_pylist()}
    curve = pq.read_table(experiment / "trials" / "00002" / "curve.parquet").to_pylist()
    weights = experiment / "trials" / "00000" / "weights"
    shutil.copytree(weights, tmp_path / "weights")

    langsearch("run", experiment / "space.yaml", "--experiments", experiment.parent, "--resume", "--quiet")

    after = {row["name"]: row for row in pq.read_table(experiment / "results.parquet").to_pylist()}
    assert {"00000", "00001", "00002", "00003", "00004", "pretrained"} == set(after)
    assert all(row["state"] in ("complete", "pruned") for row in after.values())
    kept = ("state", "spbleu", "epochs", "kept_epoch", "params", "fingerprint", "trainable_parameters", "summary")
    for name in ("00000", "00001", "pretrained"):
        assert {key: after[name][key] for key in kept} == {key: before[name][key] for key in kept}, name
    for key in ("params", "fingerprint", "trainable_parameters", "summary"):
        assert after["00002"][key] == before["00002"][key]
    goes_on = pq.read_table(experiment / "trials" / "00002" / "curve.parquet").to_pylist()
    assert len(curve) == 1 and goes_on[: len(curve)] == curve
    for file in (tmp_path / "weights").rglob("*.safetensors"):
        assert (weights / file.relative_to(tmp_path / "weights")).read_bytes() == file.read_bytes()
    front = [name for name, row in after.items() if row["is_front"]]
    assert sorted(path.name for path in (experiment / "front").iterdir()) == sorted(front)
    assert all(after[name]["test_spbleu"] is not None for name in (*front, "pretrained"))
    assert (experiment / "report.html").exists()
