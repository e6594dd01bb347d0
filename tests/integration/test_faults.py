"""Faults injected into whole searches, run as a user runs them; afterwards they end as undisturbed ones.

Deselected by default: `python -m pytest -m integration`.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from langsearch.experiment.folder import read_json
from tests.fault_fixtures import fill
from tests.integration.harness import Experiment, write_faults

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SMALL = ("search.trials=3", "search.sampler=random", "search.scheduler=none", "trainer.pairs_per_epoch=150")
"""Three trials, long enough to be hit in the middle of an epoch."""

Maker = Callable[..., Experiment]


@pytest.fixture(scope="session")
def ray_folder() -> Iterator[str]:
    """Where Ray keeps its sockets and logs; their paths must be short."""
    folder = tempfile.mkdtemp(prefix="ray-")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def new_experiment(tmp_path: Path, ray_folder: str) -> Iterator[Maker]:
    """Makes experiments; all processes that are left of their runs are killed in the end."""
    made: list[Experiment] = []

    def make(name: str = "it", *settings: str, environment: dict[str, str] | None = None, **values: Any) -> Experiment:
        variables = {"RAY_TMPDIR": ray_folder, **(environment or {})}
        made.append(Experiment(tmp_path / name, settings, variables, **values))
        return made[-1]

    yield make
    for driver in [driver for experiment in made for driver in experiment.drivers]:
        driver.clean_up()


@pytest.fixture(scope="module")
def small_undisturbed(tmp_path_factory: pytest.TempPathFactory, ray_folder: str) -> dict[str, dict[str, Any]]:
    """The rows of the small search that nothing happens to."""
    experiment = Experiment(tmp_path_factory.mktemp("small"), SMALL, {"RAY_TMPDIR": ray_folder})
    experiment.run()
    experiment.assert_ended(3)
    return experiment.comparable()


def has_checkpoint(experiment: Experiment, name: str) -> bool:
    return any(path.name.isdigit() for path in (experiment.trial(name) / "checkpoint").iterdir())


def checkpoints(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """The state of the newest checkpoint of each trial that has one."""
    newest = {file.parts[-4]: file for file in sorted(experiment.path.glob("trials/*/checkpoint/0*/state.json"))}
    return {name: read_json(file) for name, file in newest.items()}


def test_a_worker_killed_in_the_middle_of_writing_a_checkpoint(new_experiment: Maker) -> None:
    # Checkpoints of all parameters are large: 29 MB.
    experiment = new_experiment("it", "search.trials=1", "baselines=[full_finetuning]", "trainer.epochs=6")
    with experiment.running() as driver:
        folder = experiment.trial("full_finetuning") / "checkpoint"
        (worker,) = driver.wait_for(driver.workers)
        while True:
            driver.wait_for(lambda: has_partial(folder), between=0.0)
            os.kill(worker, signal.SIGSTOP)
            if has_partial(folder):
                break
            os.kill(worker, signal.SIGCONT)
        os.kill(worker, signal.SIGKILL)
        driver.ends_with(0)
    experiment.assert_ended(1)
    row = experiment.rows()["full_finetuning"]
    assert (row["state"], row["epochs"]) == ("complete", 6)
    assert not row["worker"].endswith(f"/{worker}")
    assert not list(experiment.path.rglob("*.partial"))


def has_partial(folder: Path) -> bool:
    return any(path.name.endswith(".partial") for path in folder.iterdir())


def test_a_truncated_checkpoint(new_experiment: Maker, small_undisturbed: dict[str, Any]) -> None:
    experiment = new_experiment("it", *SMALL)
    with experiment.running() as driver:
        driver.wait_for(lambda: has_checkpoint(experiment, "00001"))
        driver.kill()
    driver.wait_until_gone()
    newest = max((experiment.trial("00001") / "checkpoint").glob("0*/tensors.safetensors"))
    os.truncate(newest, newest.stat().st_size // 2)
    experiment.run("--resume")
    experiment.assert_ended(3)
    assert experiment.comparable() == small_undisturbed


def test_a_second_run_is_refused_and_the_folder_may_be_moved(
    new_experiment: Maker, small_undisturbed: dict[str, Any]
) -> None:
    experiment = new_experiment("it", *SMALL)
    with experiment.running() as driver:
        driver.wait_for(lambda: has_checkpoint(experiment, "00001"))
        second = experiment.run("--resume", code=2)
        assert f"is held by process {driver.pid} on {socket.gethostname()} since" in second.output
        driver.kill()
    driver.wait_until_gone()
    moved = new_experiment("moved", *SMALL)
    experiment.path.parent.rename(moved.path.parent)
    moved.run("--resume")
    moved.assert_ended(3)
    assert moved.comparable() == small_undisturbed


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts file systems of so many MB."""
    mounted: list[Path] = []

    def mount(megabytes: int) -> Path:
        path = tmp_path / "disk"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount a file system")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.parametrize("what", ["checkpoint", "study"])
def test_a_disk_that_fills(what: str, disk: Any, new_experiment: Maker, small_undisturbed: dict[str, Any]) -> None:
    place = disk(64)
    if what == "checkpoint":
        experiment = new_experiment("it", *SMALL, experiments=place)
    else:
        experiment = new_experiment("it", *SMALL, f"search.storage=sqlite:///{place}/study.db")
    with experiment.running() as driver:
        driver.wait_for(lambda: has_checkpoint(experiment, "00001"))
        ballast = fill(place)
        driver.ends_with(1)
    assert "disk full" in driver.output
    assert "--resume" in driver.output
    assert "Traceback" not in driver.output
    ballast.unlink()
    experiment.run("--resume")
    experiment.assert_ended(3)
    assert experiment.comparable() == small_undisturbed


@pytest.mark.parametrize(
    ("kind", "cause"), [("cuda", "CUDA error: CUDA error: an illegal"), ("raise", "ValueError: in")]
)
def test_a_process_that_saw_an_unforeseen_error_takes_no_further_trial(
    kind: str, cause: str, new_experiment: Maker, small_undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    plan = {"00001": {"kind": kind, "update": 2, "times": 9}}
    experiment = new_experiment("it", *SMALL, environment=write_faults(tmp_path / "faults", plan))
    experiment.run()
    rows = experiment.rows()
    assert {name: row["state"] for name, row in rows.items()} == {
        "00000": "complete",
        "00001": "failed",
        "00002": "complete",
    }
    assert rows["00001"]["cause"].startswith(cause)
    assert rows["00000"]["worker"] != rows["00002"]["worker"]
    assert experiment.comparable()["00002"] == small_undisturbed["00002"]


def test_a_cuda_error_is_tried_again_in_a_process_of_its_own(
    new_experiment: Maker, small_undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    plan = {"00001": {"kind": "cuda", "update": 2, "times": 1}}
    settings = [*SMALL, "failures.error=retry"]
    experiment = new_experiment("it", *settings, environment=write_faults(tmp_path / "faults", plan))
    experiment.run()
    experiment.assert_ended(3)
    rows = experiment.rows()
    assert rows["00000"]["worker"] != rows["00001"]["worker"]
    assert experiment.attempts("00001") == {"CUDA error": 1}
    mine, wanted = experiment.comparable()["00001"], small_undisturbed["00001"]
    assert {**mine, "note": None} == {**wanted, "note": None}


def test_trials_that_raise_hang_or_run_out_of_memory(new_experiment: Maker, tmp_path: Path) -> None:
    plan = {
        "00000": {"kind": "raise", "update": 2, "times": 9},
        "00001": {"kind": "hang", "update": 2, "times": 1},
        "00002": {"kind": "hang", "update": 2, "times": 9},
        "00003": {"kind": "memory", "update": 2, "times": 1},
    }
    settings = [*SMALL, "search.trials=5", "failures.stall_minutes=0.15", "resources.max_failures=1"]
    experiment = new_experiment("it", *settings, environment=write_faults(tmp_path / "faults", plan))
    driver = experiment.run()
    assert "2 trials failed" in driver.output
    rows = experiment.rows()
    assert {name: row["state"] for name, row in rows.items()} == {
        "00000": "failed",
        "00001": "complete",
        "00002": "failed",
        "00003": "complete",
        "00004": "complete",
    }
    assert rows["00000"]["cause"] == "ValueError: injected"
    assert rows["00002"]["cause"].startswith("stalled: no progress for 9 seconds; where it hung is in stall")
    assert experiment.attempts("00001") == {"stalled": 1}
    assert experiment.attempts("00002") == {"stalled": 1}
    assert experiment.attempts("00003") == {"out of memory": 1}
    note = read_json(experiment.trial("00003") / "result.json")["note"]
    assert note == "out of memory in epoch 1: accumulation 2 instead of 1 from there"
    stacks = list(experiment.trial("00002").glob("stall*.txt"))
    assert all("update_faulty" in path.read_text(encoding="utf-8") for path in stacks)
    assert len(stacks) == 2

    write_faults(tmp_path / "faults", {})
    experiment.run("--resume", "--retry", "failed")
    rows = experiment.rows()
    assert {name: rows[name]["retried_as"] for name in ("00000", "00002")} == {"00000": "00005", "00002": "00006"}
    assert {rows[name]["state"] for name in ("00005", "00006")} == {"complete"}
    assert len(rows) == 7


def test_all_trials_fail_and_are_tried_again_in_a_mended_space(new_experiment: Maker) -> None:
    experiment = new_experiment("it", *SMALL, "trainer.lr=1.0e+30")
    driver = experiment.run(code=1)
    assert "No searched trial could finish" in driver.output
    assert all(row["cause"].startswith("non-finite loss: The loss must stay") for row in experiment.rows().values())

    num_failed = len(experiment.rows())
    mended = [*SMALL, "trainer.lr=0.05"]
    experiment.settings = mended
    assert "must be resumed with its own space" in experiment.run("--resume", code=2).output
    experiment.run("--resume", "--retry", "failed", "--accept-changed-space")
    rows = experiment.rows()
    assert [row["state"] for row in rows.values()][:num_failed] == ["failed"] * num_failed
    assert [row["retry_of"] for row in rows.values()][num_failed:] == list(rows)[:num_failed]
    assert {row["state"] for row in rows.values() if row["retry_of"]} == {"complete"}


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c(times: int, new_experiment: Maker, small_undisturbed: dict[str, Any], tmp_path: Path) -> None:
    faults = tmp_path / "faults"
    wait = {"kind": "wait", "update": 2, "times": 1}
    experiment = new_experiment("it", *SMALL, environment=write_faults(faults, {"00001": wait}))
    with experiment.running() as driver:
        driver.wait_for((faults / "struck-00001").exists)
        driver.interrupt()
        if times == 1:
            driver.wait_for((experiment.path / "stop").exists)
            (faults / "go").touch()
        else:
            driver.sleep(0.1)
            driver.interrupt()
        driver.ends_with(130, timeout=60)
    driver.wait_until_gone()
    states = {name: row["state"] for name, row in experiment.rows().items()}
    assert states == {"00000": "complete", "00001": "running"}
    if times == 1:
        (state,) = checkpoints(experiment).values()
        assert state["microbatch"] > 0, "behind a checkpoint in the middle of an epoch"
        assert "Go on with the same command and --resume" in driver.output
    experiment.run("--resume")
    experiment.assert_ended(3)
    assert experiment.comparable() == small_undisturbed


def test_ctrl_c_while_it_starts(new_experiment: Maker) -> None:
    experiment = new_experiment("it", *SMALL)
    with experiment.running() as driver:
        driver.wait_for(lambda: (experiment.path / "study.db").exists())
        driver.interrupt()
        driver.ends_with(130, timeout=60)
    assert "Interrupted." in driver.output
    assert "Traceback" not in driver.output
    driver.wait_until_gone()


# Before Ray starts, while it does, while trials run and while the front is scored: Ray sets a handler of its own.
@pytest.mark.parametrize(
    "file", ["study.db", "experiment.json", "trials/00000/result.json", "trials/00002/result.json"]
)
def test_sigterm_at_any_time_ends_a_run_as_ctrl_c_does(file: str, new_experiment: Maker) -> None:
    experiment = new_experiment("it", *SMALL)
    with experiment.running() as driver:
        driver.wait_for(lambda: (experiment.path / file).exists())
        driver.terminate()
        driver.ends_with(143, timeout=60)
    assert "Interrupted by SIGTERM" in driver.output
    assert "Go on with the same command and --resume" in driver.output
    assert "Traceback" not in driver.output
    driver.wait_until_gone()
    experiment.run("--resume")
    experiment.assert_ended(3)


def test_the_time_is_up(new_experiment: Maker, small_undisturbed: dict[str, Any]) -> None:
    experiment = new_experiment("it", *SMALL)
    driver = experiment.run("--hours", "0.002")
    assert "The time is up" in driver.output
    assert "running" in {row["state"] for row in experiment.rows().values()} or len(experiment.rows()) < 3
    experiment.run("--resume")
    experiment.assert_ended(3)
    assert experiment.comparable() == small_undisturbed
