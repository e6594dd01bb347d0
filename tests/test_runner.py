"""Real searches with a local Ray. They share one experiment: run, killed while it goes on, resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from langsearch.adapters.peft_export import read_export
from langsearch.cli.app import main
from langsearch.experiment.folder import read_json, read_rows
from langsearch.experiment.results_parquet import RESULTS
from langsearch.search import runner
from tests.space_fixtures import ODD_SIGNS

pytest_plugins = ["search_fixtures"]

BASELINES = ["pretrained", "full_finetuning", "shared_lora", "published"]


@dataclass(frozen=True)
class Searched:
    """A search that has ended."""

    space: Path
    path: Path
    code: object
    rows: dict[str, dict[str, Any]]
    files: frozenset[Path]
    """What was in the experiment's folder."""


def arguments(space: Path, *more: str) -> list[str]:
    return ["run", str(space), "--experiments", str(space.parent / ODD_SIGNS), *more]


def run(monkeypatch: pytest.MonkeyPatch, *given: str) -> object:
    monkeypatch.setattr(sys, "argv", ["langsearch", *given])
    with pytest.raises(SystemExit, match=r"\d|^$") as caught:
        main()
    return caught.value.code or 0


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    rows = read_rows(path / "results.parquet")
    assert len({row["name"] for row in rows}) == len(rows), "no trial stands twice"
    return {row["name"]: row for row in rows}


def trained_names(rows: dict[str, dict[str, Any]]) -> list[str]:
    return [name for name, row in rows.items() if row["kind"] == "searched" and row["same_as"] is None]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, tiny_space: str) -> Iterator[Searched]:
    """A search of three trials, the first of which fails, with early stopping and all baselines."""
    space = tmp_path_factory.mktemp("run") / "tiny.yaml"
    # With this seed, trial 0 has the learning rate that fails, and trials 4 and 5 repeat trial 2.
    text = tiny_space.replace("scheduler: none", "scheduler: asha, seed: 8")
    space.write_text(text.replace("{float: [1.0e-3, 1.0e-2], log: true}", "{choice: [0.003, 0.004, 1.0e+30]}"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        code = run(monkeypatch, *arguments(space))
    path = space.parent / ODD_SIGNS / "tiny"
    yield Searched(space, path, code, rows_of(path), frozenset(path.rglob("*")))
    ray.shutdown()


def test_a_search_ends_with_the_asked_number_of_trials_and_all_baselines(searched: Searched) -> None:
    assert searched.code == 0
    assert trained_names(searched.rows) == ["00000", "00001", "00002"]
    assert [name for name, row in searched.rows.items() if row["kind"] == "baseline"] == BASELINES
    assert {searched.rows[name]["state"] for name in BASELINES} == {"complete"}
    assert all(row["state"] in ("complete", "pruned", "failed") for row in searched.rows.values())
    assert not ray.is_initialized()


def test_a_trial_that_fails_has_its_cause_and_the_search_goes_on(searched: Searched) -> None:
    row = searched.rows["00000"]
    assert json.loads(row["params"])["trainer.lr"] == 1e30
    assert row["state"] == "failed"
    assert row["cause"].startswith("non-finite loss: The loss must stay finite")
    assert read_json(searched.path / "trials" / "00000" / "failure.json")["cause"] == "non-finite loss"
    assert "failed" not in {row["state"] for name, row in searched.rows.items() if name != "00000"}


def test_results_have_the_documented_columns_and_values(searched: Searched) -> None:
    rows = searched.rows
    assert all(list(row) == RESULTS.names for row in rows.values())
    assert rows["pretrained"]["trainable_parameters"] == 0
    assert rows["full_finetuning"]["trainable_percent"] == 100
    for row in rows.values():
        if row["state"] == "complete":
            assert row["epochs"] == row["max_epochs"]
            assert row["spbleu_low"] <= row["spbleu"] <= row["spbleu_high"]
            assert (row["num_sentences"], row["num_directions"]) == (3, 2)
            assert row["seconds"] > 0
            assert row["peak_memory_bytes"] > 0
            assert row["signature"].startswith("nrefs:1|")
    assert set(json.loads(rows["00000"]["params"])) == {"rank.high", "rank.low", "trainer.lr"}


def test_the_front_and_the_baselines_alone_are_tested(searched: Searched) -> None:
    front = {name for name, row in searched.rows.items() if row["is_front"]}
    assert front
    assert front <= set(trained_names(searched.rows))
    assert {name for name, row in searched.rows.items() if row["test_spbleu"] is not None} == front | set(BASELINES)
    for name in front | set(BASELINES):
        row = searched.rows[name]
        assert (row["test_num_sentences"], row["test_num_directions"]) == (4, 2)
        assert row["test_spbleu_low"] <= row["test_spbleu"] <= row["test_spbleu_high"]
        translations = read_rows(searched.path / "trials" / name / "translations.parquet")
        assert len(translations) == 8


def test_the_folder_holds_the_report_and_the_adapters_and_nothing_of_rays(searched: Searched) -> None:
    names = {path.name for path in searched.path.iterdir()}
    assert names - {".lock"} == {
        "space.yaml",
        "study.db",
        "base.json",
        "experiment.json",
        "results.parquet",
        "report.html",
        "trials",
        "front",
        "tensorboard",
    }
    front = [name for name, row in searched.rows.items() if row["is_front"] and row["trainable_parameters"]]
    assert sorted(path.name for path in (searched.path / "front").iterdir()) == front
    for name in front:
        assert set(read_export(searched.path / "front" / name).languages) == {"en", "fr", "sw"}
    assert not [path for path in searched.files if path.suffix in (".pkl", ".partial") or path.name == "checkpoint"]
    description = read_json(searched.path / "experiment.json")
    assert description["finished"] is not None
    assert description["seconds"] > 0


def test_a_second_run_is_refused(
    searched: Searched, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *arguments(searched.space)) == 2
    assert "Go on with it by --resume, or start another with --name NAME." in capsys.readouterr().err


def test_a_finished_search_that_is_resumed_starts_nothing(
    searched: Searched, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "start_ray", start)
        assert run(monkeypatch, *arguments(searched.space, "--resume")) == 0
        assert "* best by validation" in capsys.readouterr().out
        with pytest.raises(AssertionError, match="Ray was started"):
            run(monkeypatch, *arguments(searched.space, "--resume", "--trials", "4"))
    assert rows_of(searched.path) == searched.rows


@pytest.mark.integration
def test_after_kill_9_resume_adds_only_what_is_missing_and_tests_nothing_twice(
    searched: Searched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(searched.space.parent, tmp_path / "copy")
    space = tmp_path / "copy" / "tiny.yaml"
    path = tmp_path / "copy" / ODD_SIGNS / "tiny"
    given = arguments(space, "--resume", "--trials", "5", "--quiet")
    before = {file: file.stat().st_mtime_ns for file in path.glob("trials/*/*") if file.is_file()}
    with subprocess.Popen(
        [sys.executable, "-m", "langsearch", *given], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as driver:
        # Weights are written at the end of a trial's first epoch.
        wait_for(lambda: list(path.glob("trials/0000[36]/weights/0*/state.json")), driver)
        os.kill(driver.pid, signal.SIGKILL)
    assert run(monkeypatch, *given) == 0
    assert "Configuration for experiment" not in capsys.readouterr().out, "with --quiet only the result is shown"
    rows = rows_of(path)
    assert trained_names(rows) == ["00000", "00001", "00002", "00003", "00006"]
    assert [rows[name]["same_as"] for name in ("00004", "00005")] == ["00002", "00002"]
    assert all(row["state"] in ("complete", "pruned", "failed") for row in rows.values())
    changed = {file for file, written in before.items() if file.stat().st_mtime_ns != written}
    assert {file.parent.name for file in changed} <= {name for name, row in rows.items() if row["is_front"]} - {
        name for name, row in searched.rows.items() if row["test_spbleu"] is not None
    }, "only a trial that is new on the front is tested"
    kept = [name for name in RESULTS.names if name != "is_front" and not name.startswith("test_")]
    for name, row in searched.rows.items():
        assert {key: rows[name][key] for key in kept} == {key: row[key] for key in kept}
    for name, row in rows.items():
        assert not row["is_front"] or row["test_spbleu"] is not None
        assert not row["is_front"] or not row["trainable_parameters"] or (path / "front" / name).is_dir()
    assert not (path / ".ray").exists()


def wait_for(condition: Callable[[], list[Path]], driver: "subprocess.Popen[bytes]") -> None:
    """Waits until there is something, as long as the driver runs."""
    deadline = time.monotonic() + 120
    while driver.poll() is None and time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    output = driver.stdout.read().decode() if driver.poll() is not None and driver.stdout else "it still runs"
    raise AssertionError(f"the driver trained nothing: {output}")
