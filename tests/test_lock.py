import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from langsearch.experiment.folder import PARTIAL, ExperimentFolder
from langsearch.experiment.lock import LOCK, clear_leftovers, hold
from langsearch.space.problems import InputError

HOLDER = """\
import sys, time
from pathlib import Path
from langsearch.experiment.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def start_holder(path: Path, code: str = HOLDER) -> "subprocess.Popen[str]":
    """Starts a process that holds an experiment, and returns once it does."""
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_with_who_holds_it_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "experiments" / "tiny"
    process = start_holder(path)
    try:
        with pytest.raises(InputError, match="one run at a time") as caught, hold(path):
            pass
    finally:
        process.kill()
        process.wait()
    assert re.fullmatch(
        rf"An experiment takes one run at a time, but {path} is held by process {process.pid} on "
        rf"{socket.gethostname()} since \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00\. Wait until it ends, or stop it "
        rf"\(kill -INT {process.pid} on {socket.gethostname()}: it ends behind its checkpoints\), "
        r"or start another experiment with --name NAME\.",
        str(caught.value),
    )


def test_a_killed_run_holds_nothing(tmp_path: Path) -> None:
    process = start_holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with hold(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_the_lock_is_free_again_after_the_run_and_after_an_error(tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(InputError, match="held by process"), hold(tmp_path):
        pass
    with pytest.raises(KeyError, match="x"), hold(tmp_path):
        raise KeyError("x")
    with hold(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


CHILDREN = """\
import multiprocessing, subprocess, sys, time
from pathlib import Path
from langsearch.experiment.lock import hold
with hold(Path(sys.argv[1])):
    forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    forked.start()
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False,
                               stdout=subprocess.DEVNULL)
    Path(sys.argv[1], "children").write_text(f"{forked.pid} {started.pid}")
    print("held", flush=True)
    time.sleep(60)
"""


def test_children_that_outlive_a_killed_run_do_not_hold_its_lock(tmp_path: Path) -> None:
    process = start_holder(tmp_path, CHILDREN)
    children = [int(pid) for pid in (tmp_path / "children").read_text().split()]
    try:
        with pytest.raises(InputError, match="held by process"), hold(tmp_path):
            pass
        process.kill()
        process.wait()
        for child in children:
            os.kill(child, 0)  # still there
        with hold(tmp_path):
            pass
    finally:
        process.kill()
        for child in children:
            os.kill(child, signal.SIGKILL)


def test_a_forked_child_that_ends_leaves_the_lock_with_its_parent(tmp_path: Path) -> None:
    with hold(tmp_path):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(InputError, match="held by process"), hold(tmp_path):
            pass


def test_a_moved_experiment_stays_held(tmp_path: Path) -> None:
    process = start_holder(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    try:
        with pytest.raises(InputError, match=f"held by process {process.pid}"), hold(tmp_path / "new"):
            pass
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_told(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    message = rf"must know locks, but that of .* does not \({os.strerror(code)}\).*--experiments DIR"
    with pytest.raises(InputError, match=message), hold(tmp_path):
        pass


def test_a_lock_without_readable_text_still_refuses(tmp_path: Path) -> None:
    with hold(tmp_path):
        (tmp_path / LOCK).write_text("{torn")
        with pytest.raises(InputError, match=r"held by another process\. Wait until it ends, or start"), hold(tmp_path):
            pass


BRIEF = """\
import sys, time
from pathlib import Path
from langsearch.experiment.lock import hold
with hold(Path(sys.argv[1])):
    begun = time.monotonic()
    time.sleep(0.5)
    print(begun, time.monotonic())
"""


def test_runs_that_start_together_never_hold_it_at_the_same_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BRIEF, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen(command, **pipes, text=True) for _ in range(6)]  # type: ignore[call-overload]
    times = sorted([float(word) for word in process.communicate()[0].split()] for process in processes)
    held = [interval for interval in times if interval]  # the others were refused
    assert held
    assert all(first[1] <= second[0] for first, second in pairwise(held))


def test_a_request_to_stop_the_run_and_half_written_files_do_not_outlive_it(tmp_path: Path) -> None:
    folder = ExperimentFolder(tmp_path)
    trial = folder.trial("00003")
    trial.path.mkdir(parents=True)
    folder.stop_request.touch()
    trial.stop_request.touch()
    trial.task.touch()
    for path in (folder.path, trial.path):
        (path / f".trial.json.4711{PARTIAL}").write_text("{", encoding="utf-8")
    clear_leftovers(folder)
    clear_leftovers(ExperimentFolder(tmp_path / "absent"))
    assert not folder.stop_request.exists()
    left = {path.name for path in trial.path.iterdir()}
    assert left == {trial.task.name, trial.stop_request.name}  # asked for a trial
    assert [path.name for path in tmp_path.iterdir()] == ["trials"]
