"""Faults injected into a running trial; afterwards it resumes to the undisturbed result."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from langsearch.experiment.environment import Environment
from langsearch.experiment.folder import TrialFolder, read_rows
from langsearch.experiment.task import TrialTask
from langsearch.model.base import Base
from langsearch.space.settings import DecodingSettings
from langsearch.study.results import TrialResult
from langsearch.train import checkpoint as checkpoint_module
from langsearch.train.checkpoint import read_newest_checkpoint
from langsearch.trial.failures import failure_cause
from langsearch.trial.trial import run_trial

if TYPE_CHECKING:
    from tests.search_fixtures import TaskMaker

pytest_plugins = ["search_fixtures"]

_COSTS = ("train_seconds", "seconds", "peak_memory_bytes", "worker")


@pytest.fixture(autouse=True)
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk takes most of the time here, and only a loss of power would show the difference."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def small(environment: Environment) -> Environment:
    """Scores one sentence in one direction, so that nearly all a trial does is write."""
    search = DecodingSettings(directions=1, sentences=1, max_length_factor=0.01)
    return replace(environment, evaluation=replace(environment.evaluation, search=search))


@pytest.fixture
def task(make_task: "TaskMaker") -> TrialTask:
    """With pruning every epoch's weights are kept, so that every epoch writes all there is to write."""
    return make_task(target=0.5, pairs_per_epoch=6, tokens_per_batch=200)


Outcome = tuple[dict[str, Any], list[dict[str, Any]], list[Any], dict[str, torch.Tensor]]


def outcome(folder: TrialFolder, last: TrialResult) -> Outcome:
    """All that a trial leaves, without what differs between two equal runs."""
    result = {name: value for name, value in asdict(last).items() if name not in _COSTS}
    curve = [{name: value for name, value in row.items() if name != "seconds"} for row in read_rows(folder.curve)]
    kept = read_newest_checkpoint(folder.weights)
    assert kept is not None
    assert not folder.checkpoint.exists()
    assert len(list(folder.weights.iterdir())) == 1
    return result, curve, read_rows(folder.scores), dict(kept.tensors)


def assert_same(one: Outcome, other: Outcome) -> None:
    assert one[:3] == other[:3]
    assert one[3].keys() == other[3].keys()
    assert all(torch.equal(one[3][name], tensor) for name, tensor in other[3].items())


@pytest.fixture
def undisturbed(base: Base, small: Environment, task: TrialTask, tmp_path: Path) -> Outcome:
    folder = TrialFolder(tmp_path / "undisturbed")
    *_, last = run_trial(base, small, task, folder)
    return outcome(folder, last)


Break = Callable[[], None]


@contextmanager
def at_every_write(monkeypatch: pytest.MonkeyPatch, strike: Break) -> Iterator[None]:
    """Calls `strike` before each step of a write: tensors, syncs, renames."""

    def around(call: Callable[..., Any]) -> Callable[..., Any]:
        def struck(*values: Any, **options: Any) -> Any:
            strike()
            return call(*values, **options)

        return struck

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "save_file", around(save_file))
        patch.setattr(os, "fsync", around(os.fsync))
        for name in ("rename", "replace"):
            patch.setattr(Path, name, around(getattr(Path, name)))
        yield


def test_a_disk_that_is_full_at_any_write_costs_no_more_than_the_epoch(
    base: Base, small: Environment, task: TrialTask, undisturbed: Outcome, tmp_path: Path, monkeypatch: Any
) -> None:
    num_writes = 0

    def count() -> None:
        nonlocal num_writes
        num_writes += 1

    with at_every_write(monkeypatch, count):
        list(run_trial(base, small, task, TrialFolder(tmp_path / "counted")))
    assert num_writes > 30
    for broken in range(1, num_writes + 1):
        folder, left = TrialFolder(tmp_path / str(broken)), broken

        def fail() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")

        with at_every_write(monkeypatch, fail), pytest.raises(OSError, match="No space left") as caught:
            list(run_trial(base, small, task, folder))
        assert failure_cause(caught.value) == "disk full"
        *_, last = run_trial(base, small, task, folder)
        assert_same(outcome(folder, last), undisturbed)
        shutil.rmtree(folder.path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("mounting a small file system needs root")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"a small file system could not be mounted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_really_fills_ends_the_trial_with_its_cause_and_it_resumes_once_there_is_room(
    base: Base, small: Environment, task: TrialTask, undisturbed: Outcome, small_disk: Path
) -> None:
    causes = []
    for num_free_kb in (0, 8, 40, 80, 120, 160, 200, 240, 280):
        folder, ballast = TrialFolder(small_disk / str(num_free_kb)), small_disk / "ballast"
        folder.path.mkdir()
        with ballast.open("wb") as file:
            while os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize > num_free_kb * 1024:
                file.write(b"x" * 4096)
                file.flush()
        try:
            list(run_trial(base, small, task, folder))
        except OSError as error:
            causes.append(failure_cause(error))
            ballast.unlink()
            list(run_trial(base, small, task, folder))
        *_, last = run_trial(base, small, task, folder)
        assert_same(outcome(folder, last), undisturbed)
        ballast.unlink(missing_ok=True)
        shutil.rmtree(folder.path)
    assert len(causes) >= 4 and set(causes) == {"disk full"}


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncated", "missing"])
@pytest.mark.parametrize("which", ["newest", "both", "weights"])
def test_a_torn_checkpoint_costs_epochs_and_never_the_result(
    which: str, damage: str, file: str, base: Base, small: Environment, make_task: "TaskMaker", tmp_path: Path
) -> None:
    task = make_task(epochs=3, pairs_per_epoch=6, tokens_per_batch=200)
    whole, folder = TrialFolder(tmp_path / "whole"), TrialFolder(tmp_path / "torn")
    *_, last = run_trial(base, small, task, whole)
    run = run_trial(base, small, task, folder)
    next(run), next(run)
    run.close()
    checkpoints = sorted(folder.checkpoint.iterdir())
    assert len(checkpoints) == 2
    torn = {"newest": checkpoints[1:], "both": checkpoints, "weights": list(folder.weights.iterdir())}[which]
    for path in torn:
        if damage == "missing":
            (path / file).unlink()
        else:
            os.truncate(path / file, (path / file).stat().st_size // 2)
    results = list(run_trial(base, small, task, folder))
    assert [result.epoch for result in results] == [1, 2, 3]
    assert_same(outcome(folder, results[-1]), outcome(whole, last))


KILLED = """
import json, os, random, signal, sys, time
from dataclasses import asdict
from pathlib import Path

from langsearch.model.base import load_base
from langsearch.experiment.environment import build_environment, check_space
from langsearch.experiment.folder import TrialFolder
from langsearch.experiment.task import searched_task
from langsearch.trial.trial import run_trial
from langsearch.space.schema import load_space
from langsearch.train.checkpoint import read_newest_checkpoint

folder, moment = Path(sys.argv[1]), random.Random(1)
checked = check_space(load_space(folder / "space.yaml", [
    "architecture.rank=2", "trainer.lr=0.01", "trainer.epochs=4", "trainer.pairs_per_epoch=8",
    "evaluation.search={directions: 1, sentences: 1}",
]))
base = load_base("tiny-m2m")
environment = build_environment(checked, base, folder / "store")
os.fsync = lambda handle: None
task = searched_task(checked.space, checked.shape, 0, {})

def run(name):
    list(run_trial(base, environment, task, TrialFolder(folder / name)))

def fork(name, seconds):
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        run(name)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return time.perf_counter() - started

whole = fork("undisturbed", None)
num_kills = 0
while not (folder / "killed" / "result.json").exists() and num_kills < 40:
    fork("killed", moment.uniform(0.4, 0.8) * whole)
    num_kills += 1
fork("killed", None)  # it may have been killed between the result and the end
print(json.dumps(num_kills))
"""


def test_a_trial_killed_again_and_again_at_random_moments_ends_with_the_undisturbed_result(
    space_file: Path,
) -> None:
    folder = space_file.parent
    (folder / "space.yaml").write_text(space_file.read_text())
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2
    outcomes = []
    for name in ("undisturbed", "killed"):
        trial = TrialFolder(folder / name)
        outcomes.append(outcome(trial, TrialResult(**json.loads(trial.result.read_text()))))
    assert_same(outcomes[0], outcomes[1])


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), torch.OutOfMemoryError("no"), MemoryError()])
def test_an_error_in_the_middle_of_an_epoch_leaves_the_base_clean_and_the_last_checkpoint(
    error: Exception,
    base: Base,
    small: Environment,
    task: TrialTask,
    undisturbed: Outcome,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, folder = list(base.model.state_dict()), TrialFolder(tmp_path / "broken")
    run = run_trial(base, small, task, folder)
    next(run)

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("langsearch.train.loop._Run._loss", fail)
        with pytest.raises(type(error)):
            next(run)
    assert list(base.model.state_dict()) == before
    again, last = run_trial(base, small, task, folder)
    assert again.epoch == 1
    assert_same(outcome(folder, last), undisturbed)
