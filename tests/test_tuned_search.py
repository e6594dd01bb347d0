"""A whole search with tuned baselines, killed in the middle and resumed; on a disk, and in an object store."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from langsearch.experiment.folder import ExperimentFolder, read_json, read_rows
from langsearch.experiment.working_copy import fetch_experiment
from langsearch.report.experiment_reader import read_experiment
from langsearch.report.tries import try_sentences

pytest_plugins = ["search_fixtures"]

TUNED = (
    "baselines: [pretrained, {full_finetuning: {tune: 2}}, "
    "{shared_lora: {tune: {trials: 3, lr: {choice: [0.002, 0.02]}, epochs: {choice: [1, 2]}}}}]"
)
TRIES = [f"full_finetuning-try-{number}" for number in (1, 2)] + [f"shared_lora-try-{number}" for number in (1, 2, 3)]


@pytest.mark.integration
@pytest.mark.parametrize("is_remote", [False, True], ids=["a disk", "an object store"])
def test_a_search_tunes_two_baselines_over_a_kill(
    is_remote: bool, tmp_path: Path, tiny_space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / "cache"))
    space = tmp_path / "tiny.yaml"
    listed = "baselines: [pretrained, full_finetuning, shared_lora, published]"
    assert listed in tiny_space
    space.write_text(tiny_space.replace(listed, TUNED), encoding="utf-8")
    place = f"file://{tmp_path}/store" if is_remote else str(tmp_path / "experiments")
    found = tmp_path / "store" if is_remote else tmp_path / "experiments"
    given = [sys.executable, "-m", "langsearch", "run", str(space), "--experiments", place, "--quiet"]
    with subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as driver:
        deadline = time.monotonic() + 180
        # The second try of a baseline has begun: others have ended, and more are to come.
        while not [*found.glob("**/trials/*-try-2/trial.json")]:
            assert driver.poll() is None and time.monotonic() < deadline, driver.stdout and driver.stdout.read()
            time.sleep(0.05)
        os.kill(driver.pid, signal.SIGKILL)
    for _ in range(2):  # the second one has nothing left to do
        ended = subprocess.run([*given, "--resume"], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    path = fetch_experiment(f"{place}/tiny") if is_remote else found / "tiny"
    rows = {row["name"]: row for row in read_rows(path / "results.parquet")}
    assert sorted(name for name, row in rows.items() if row["kind"] == "try") == sorted(TRIES)
    assert [name for name, row in rows.items() if row["kind"] == "searched"] == ["00000", "00001", "00002"]
    for baseline in ("full_finetuning", "shared_lora"):
        check_baseline(baseline, rows, ExperimentFolder(path))
    assert rows["full_finetuning-try-1"]["params"] == '{"trainer.lr": 0.0003}'
    assert len(try_sentences(read_experiment(path))) == 3


def check_baseline(baseline: str, rows: dict[str, dict[str, Any]], folder: ExperimentFolder) -> None:
    """Asserts that a baseline is the best of its tries, has its weights, and alone was tested."""
    tries = [rows[name] for name in TRIES if name.startswith(baseline)]
    row, best = rows[baseline], max(tries, key=lambda one: float(one["spbleu"]))
    assert row["state"] == "complete"
    assert row["tuned_from"] == best["name"]
    assert (row["spbleu"], row["params"], row["trainable_parameters"]) == (
        *(best["spbleu"], best["params"], best["trainable_parameters"]),
    )
    assert row["test_spbleu"] is not None
    assert {one["test_spbleu"] for one in tries} == {None}
    assert len({one["params"] for one in tries}) == len(tries)
    assert read_json(folder.trial(baseline).task)["name"] == baseline
    assert [*folder.trial(baseline).weights.glob("*/*.safetensors")]
    assert not [path for one in tries for path in folder.trial(one["name"]).path.glob("weights/*")]
