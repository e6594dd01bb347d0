"""Deletions are checked against what resuming and the front need, with small real files."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from langsearch.experiment.disk import DiskBudget, Freed, keep_within, without_weights
from langsearch.experiment.folder import ExperimentFolder
from langsearch.space.settings import CheckpointSettings
from langsearch.study.rows import State, TrialRow
from langsearch.train.checkpoint import Checkpoint, read_newest_checkpoint, write_checkpoint

KB = 1000
ALL = CheckpointSettings(keep="all")
FRONT = CheckpointSettings(keep="front")

RowMaker = Callable[..., TrialRow]


@pytest.fixture
def folder(tmp_path: Path) -> ExperimentFolder:
    return ExperimentFolder(tmp_path / "tiny")


@pytest.fixture
def make_row(make_result: Callable[..., Any]) -> RowMaker:
    """Rows as the table has them; `minute` orders them in time."""

    def make(name: str, state: str = "complete", spbleu: float = 1.0, minute: int = 0, **values: Any) -> TrialRow:
        given: dict[str, Any] = {
            "name": name,
            "kind": "searched" if name.isdigit() else "baseline",
            "state": State(state),
            "params": {},
            "result": make_result(spbleu=spbleu) if state in {"complete", "pruned"} else None,
            "fingerprint": None,
            "finished": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute),
        }
        return TrialRow(**given | values)

    return make


pytest_plugins = ["search_fixtures"]


def budget(num_kilobytes: float, keep: str = "all") -> CheckpointSettings:
    return CheckpointSettings(keep=keep, max_gigabytes=num_kilobytes * KB / 1e9)  # type: ignore[arg-type]


def write_weights(folder: ExperimentFolder, name: str, num_kilobytes: int = 4) -> Path:
    return write(folder.trial(name).weights, 1, num_kilobytes)


def write_checkpoints(folder: ExperimentFolder, name: str, *updates: int, num_kilobytes: int = 4) -> None:
    for update in updates:
        write(folder.trial(name).checkpoint, update, num_kilobytes)


def write(path: Path, updates: int, num_kilobytes: int) -> Path:
    return write_checkpoint(path, Checkpoint({"a": torch.zeros(num_kilobytes * KB // 4)}, {"updates": updates}))


def kept(folder: ExperimentFolder) -> set[str]:
    """Returns which weights and checkpoints there are, as TRIAL/KIND/UPDATES."""
    trials = folder.path / "trials"
    return {str(path.relative_to(trials)) for path in trials.glob("*/*/*") if path.is_dir()}


def test_keep_front_deletes_the_weights_of_ended_trials_that_are_not_in_it(
    folder: ExperimentFolder, make_row: RowMaker
) -> None:
    rows = [
        make_row("00000"),
        make_row("00001"),
        make_row("00002", "pruned"),
        make_row("00003", violations={"peak_memory <= 1": 0.5}),
        make_row("00004", "failed"),
        make_row("00005", "running"),
        make_row("shared_lora"),
    ]
    for row in rows:
        write_weights(folder, row.name)
    freed = keep_within(folder, rows, {"00001"}, FRONT)
    needed = {"00001", "00004", "00005", "shared_lora"}
    assert kept(folder) == {f"{name}/weights/000000001" for name in needed}
    assert freed.names == ("00000", "00002", "00003")
    assert freed.num_bytes >= 3 * 4 * KB
    assert freed.message is None
    assert keep_within(folder, rows, {"00001"}, FRONT) == Freed(0, (), None)


def test_weights_that_other_constraints_would_bring_back_to_the_front_go_last(
    folder: ExperimentFolder, make_row: RowMaker
) -> None:
    rows = [
        make_row("00000"),
        make_row("00001", spbleu=3.0, violations={"peak_memory <= 1": 0.5}),
        make_row("00002", spbleu=9.0, violations={"peak_memory <= 1": 0.5}),
        make_row("00003", spbleu=2.0),
    ]
    for row in rows:
        write_weights(folder, row.name)
    keep_within(folder, rows, {"00000"}, FRONT, {"00000", "00001"})
    assert kept(folder) == {f"{name}/weights/000000001" for name in ("00000", "00001")}
    for row in rows:
        write_weights(folder, row.name)
    keep_within(folder, rows, {"00000"}, budget(11), {"00000", "00001"})
    assert kept(folder) == {f"{name}/weights/000000001" for name in ("00000", "00001")}
    keep_within(folder, rows, {"00000"}, budget(6), {"00000", "00001"})
    assert kept(folder) == {"00000/weights/000000001"}
    assert without_weights(folder, rows) == ["00001", "00002", "00003"]


def test_keep_all_deletes_no_weights_without_a_budget(folder: ExperimentFolder, make_row: RowMaker) -> None:
    rows = [make_row("00000"), make_row("00001", "pruned")]
    for row in rows:
        write_weights(folder, row.name)
    assert keep_within(folder, rows, {"00000"}, ALL).num_bytes == 0
    assert len(kept(folder)) == 2


def test_a_checkpoint_that_a_killed_run_left_of_an_ended_trial_goes(
    folder: ExperimentFolder, make_row: RowMaker
) -> None:
    for name in ("00000", "00001", "00002", "00003"):
        write_checkpoints(folder, name, 10)
    rows = [make_row("00000"), make_row("00001", "pruned"), make_row("00002", "failed"), make_row("00003", "running")]
    assert keep_within(folder, rows, {"00000"}, ALL).names == ("00000", "00001")
    assert kept(folder) == {"00002/checkpoint/000000010", "00003/checkpoint/000000010"}


def test_a_trial_that_shares_a_result_is_left_alone(folder: ExperimentFolder, make_row: RowMaker) -> None:
    write_weights(folder, "00000")
    rows = [make_row("00000"), make_row("00001", same_as="00000")]
    assert keep_within(folder, rows, {"00000"}, FRONT).num_bytes == 0
    assert kept(folder) == {"00000/weights/000000001"}


def test_over_the_budget_things_go_in_their_order_until_it_is_kept(
    folder: ExperimentFolder, make_row: RowMaker
) -> None:
    rows = [
        make_row("00000", spbleu=9.0),
        make_row("00001", spbleu=3.0),
        make_row("00002", spbleu=2.0),
        make_row("00003", "pruned", spbleu=8.0),
        make_row("00004", spbleu=8.5, violations={"peak_memory <= 1": 0.5}),
        make_row("00005", "failed", retried_as="00008"),
        make_row("00006", "failed", minute=5),
        make_row("00007", "failed", minute=3),
        make_row("00008", "running"),
        make_row("full_finetuning", test=object()),
        make_row("shared_lora"),
    ]
    for name in ("00000", "00001", "00002", "00003", "00004", "full_finetuning", "shared_lora"):
        write_weights(folder, name, 10)
    for name in ("00005", "00006", "00007"):
        write_checkpoints(folder, name, 10, num_kilobytes=10)
    write_checkpoints(folder, "00008", 10, 20, num_kilobytes=10)
    order = []
    for num_kilobytes in range(130, 20, -5):
        before = kept(folder)
        keep_within(folder, rows, {"00000"}, budget(num_kilobytes))
        order += sorted(before - kept(folder))
    assert order == [
        "00005/checkpoint/000000010",  # retried: nobody needs it
        "00004/weights/000000001",  # violates a constraint
        "00003/weights/000000001",  # pruned
        "00002/weights/000000001",  # dominated, the worst first
        "00001/weights/000000001",
        "00008/checkpoint/000000010",  # the older one of a running trial
        "00007/checkpoint/000000010",  # failed, the oldest first
        "00006/checkpoint/000000010",
        "full_finetuning/weights/000000001",  # tested
    ]
    assert kept(folder) == {
        "00000/weights/000000001",
        "00008/checkpoint/000000020",
        "shared_lora/weights/000000001",
    }


def test_no_more_is_deleted_than_the_budget_asks_for(folder: ExperimentFolder, make_row: RowMaker) -> None:
    rows = [make_row(f"{number:05d}", spbleu=number) for number in range(5)]
    for row in rows:
        write_weights(folder, row.name, 10)
    assert keep_within(folder, rows, {"00004"}, budget(35)).names == ("00000", "00001")


def test_the_older_checkpoint_stays_where_the_newest_is_torn(folder: ExperimentFolder, make_row: RowMaker) -> None:
    write_checkpoints(folder, "00000", 10, 20)
    tensors = folder.trial("00000").checkpoint / "000000020" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    keep_within(folder, [make_row("00000", "running")], (), budget(1))
    newest = read_newest_checkpoint(folder.trial("00000").checkpoint)
    assert newest is not None
    assert newest.state["updates"] == 10


def test_what_does_not_fit_is_said_with_figures_and_once_for_each_size(
    folder: ExperimentFolder, make_row: RowMaker
) -> None:
    write_weights(folder, "00000", 30_000)
    write_weights(folder, "shared_lora", 10_000)
    write_checkpoints(folder, "00001", 10, num_kilobytes=20_000)
    rows = [make_row("00000"), make_row("00001", "running"), make_row("shared_lora")]
    disk = DiskBudget(folder, budget(25_000))
    message = disk.keep_within(rows, {"00000"}).message
    assert message is not None
    assert message == (
        "The trials take 0.06 GB, but `checkpoints.max_gigabytes` is 0.025 and the search still needs all of it: "
        "weights of the front 0.03 GB (1), checkpoints and weights of running trials 0.02 GB (1), "
        "weights of baselines 0.01 GB (1). "
        "Give it more by --resume --set checkpoints.max_gigabytes=1, or run fewer trials at a time (`resources`)."
    )
    assert disk.keep_within(rows, {"00000"}).message is None
    write_checkpoints(folder, "00002", 10, num_kilobytes=20_000)
    rows.append(make_row("00002", "running"))
    assert "0.08 GB" in str(disk.keep_within(rows, {"00000"}).message)
    assert disk.keep_within(rows, {"00000"}).message is None


def test_leftovers_of_a_killed_deletion_go_at_the_next_call(folder: ExperimentFolder, make_row: RowMaker) -> None:
    write_weights(folder, "00000")
    script = f"""
        import os, shutil, signal
        from pathlib import Path
        from langsearch.experiment import disk
        from langsearch.experiment.folder import ExperimentFolder

        disk.shutil.rmtree = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
        disk.remove_safely(ExperimentFolder(Path({str(folder.path)!r})), disk.ExperimentFolder(
            Path({str(folder.path)!r})).trial("00000").weights)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert run.returncode == -signal.SIGKILL
    assert kept(folder) == set()
    assert any(path.is_file() for path in (folder.path / ".trash").rglob("*"))
    keep_within(folder, [make_row("00000")], (), FRONT)
    assert not (folder.path / ".trash").exists()


def test_a_running_trial_that_writes_while_its_older_checkpoint_goes_can_always_go_on(
    folder: ExperimentFolder, make_row: RowMaker
) -> None:
    script = f"""
        import torch
        from pathlib import Path
        from langsearch.train.checkpoint import Checkpoint, write_checkpoint
        for updates in range(1, 100_000):
            write_checkpoint(Path({str(folder.trial("00000").checkpoint)!r}),
                             Checkpoint({{"a": torch.zeros(20_000)}}, {{"updates": updates}}))
    """
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    try:
        path = folder.trial("00000").checkpoint
        while not path.exists():
            assert writer.poll() is None
            time.sleep(0.05)
        rows, disk, num_freed = [make_row("00000", "running")], DiskBudget(folder, budget(1)), 0
        until = time.monotonic() + 4
        while time.monotonic() < until:
            num_freed += disk.keep_within(rows, ()).num_bytes > 0
        assert writer.poll() is None, "the writer must not notice"
    finally:
        writer.kill()
        writer.wait()
    assert num_freed > 0
    assert read_newest_checkpoint(path) is not None


def test_a_trial_that_was_retried_or_tested_since_is_measured_anew(
    folder: ExperimentFolder, make_row: RowMaker
) -> None:
    write_checkpoints(folder, "00000", 10, num_kilobytes=10)
    write_weights(folder, "shared_lora", 10)
    disk = DiskBudget(folder, budget(15))
    rows = [make_row("00000", "failed"), make_row("shared_lora")]
    rows[0] = dataclasses.replace(rows[0], retried_as="00001")
    folder.trial("00000").checkpoint.rename(folder.path / "trials" / "moved")  # the new trial has taken it over
    assert disk.keep_within(rows, ()) == Freed(0, (), None)


def test_a_call_after_5000_trials_takes_milliseconds(folder: ExperimentFolder, make_row: RowMaker) -> None:
    rows = [make_row(f"{number:05d}") for number in range(5000)]
    for row in rows[:200]:
        path = folder.trial(row.name).weights / "000000001"
        path.mkdir(parents=True)
        (path / "state.json").write_text("{}")
    disk = DiskBudget(folder, budget(1000, "front"))
    assert len(disk.keep_within(rows, {"00000"}).names) == 199
    started = time.perf_counter()
    for _ in range(5):
        disk.keep_within(rows, {"00000"})
    assert (time.perf_counter() - started) / 5 < 0.1


def test_a_folder_that_cannot_be_moved_is_left_and_the_search_goes_on(
    folder: ExperimentFolder, make_row: RowMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_weights(folder, "00000")

    def refuse(*arguments: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(Path, "rename", refuse)
    assert keep_within(folder, [make_row("00000")], (), FRONT).num_bytes == 0
    assert "could not be deleted" in caplog.text
    assert os.listdir(folder.trial("00000").weights)  # noqa: PTH208 - Path is patched
