"""A driver that is paused past its lease, and goes on when another one has taken over: it must write nothing more."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.fs as pafs
import pytest

from langsearch.experiment import mounts, object_store
from langsearch.experiment.fence import check_fence, fenced
from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.holding import hold_experiment
from langsearch.experiment.lease import LeaseLook, RemoteLease
from langsearch.experiment.lock import LEASES, is_held
from langsearch.experiment.mounts import network_type
from langsearch.experiment.object_store import open_system
from langsearch.experiment.remote import Remote
from langsearch.experiment.working_copy import WorkingCopy
from langsearch.space.problems import InputError, LeaseLostError
from langsearch.study.front import Objective
from langsearch.study.rows import State
from langsearch.study.table import TrialTable
from langsearch.trial.failures import LOST
from tests.s3_fixtures import s3_url
from tests.table_fixtures import DIMENSIONS
from tests.worker_fixtures import Start

if TYPE_CHECKING:
    from tests.search_fixtures import TaskMaker

pytest_plugins = ["s3_fixtures", "postgres_fixtures", "search_fixtures", "worker_fixtures"]

OBJECTIVES = [Objective("spbleu", True)]

MOUNTINFO = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw
28 27 0:40 / {point} rw,relatime - {kind} server:/export rw,local_lock=all
"""

DRIVER = """\
import sqlite3, sys, time
from functools import partial
from pathlib import Path

from langsearch.experiment import holding, lock, mounts
from langsearch.experiment.fence import check_fence
from langsearch.experiment.folder import ExperimentFolder, write_json, write_text
from langsearch.experiment.lock import clear_leftovers
from langsearch.experiment.remote import Remote
from langsearch.experiment.study_pieces import StudyUpload
from langsearch.experiment.working_copy import WorkingCopy
from langsearch.space.problems import LeaseLostError
from langsearch.study.front import Objective
from langsearch.study.table import TrialTable
from tests.table_fixtures import DIMENSIONS

place, storage, mountinfo = sys.argv[1:]
holding.RemoteLease = partial(holding.RemoteLease, refresh_seconds=0.2)
mounts._MOUNTS = Path(mountinfo)
lock._lock = lambda descriptor: None  # of another machine, which this one does not see
copy = WorkingCopy(Remote(place), "tiny") if "://" in place else None
folder = ExperimentFolder(Path(place) / "tiny" if copy is None else copy.path)
try:
    with holding.hold_experiment(folder.path, copy) as lease:
        table = TrialTable(storage or f"sqlite:///{folder.study}", "tiny", [Objective("spbleu", True)],
                           sampler="random", seed=0, num_trials=9)
        table.take_over(lambda: check_fence(folder.path))
        actions = {
            "propose": lambda: table.propose(DIMENSIONS),
            "fail": lambda: table.fail("00000", "no"),
            "results": lambda: write_json(folder.description, {}),
            "request": lambda: write_text(folder.stop_request, "paused"),
            "leftovers": lambda: clear_leftovers(folder),
            "checkpoints": lambda: folder.trial("00000").remove_checkpoints(),
        }
        if copy is not None:
            study = StudyUpload(copy.remote.url, copy.path, copy.check)
            actions |= {"study": study.push,"push": copy.push, "push trial": lambda: copy.push("00000"),
                        "stop": lambda: copy.try_request_stop("00000")}
        table.propose(DIMENSIONS)
        table.propose(DIMENSIONS)
        write_json(folder.trial("00000").result, {})
        if copy is not None:
            copy.push()
            study.push()
        lease._dead_after_seconds = 0.3  # not before: a busy machine may take longer to begin
        print("held", flush=True)
        sys.stdin.readline()
        if copy is not None:
            for path in (folder.path, folder.trial("00000").path):
                (path / "new").touch()
            with sqlite3.connect(folder.study) as late:
                late.execute("create table late (x)")
        for name, action in actions.items():
            try:
                action()
                print("wrote", name, flush=True)
            except LeaseLostError:
                pass
        check_fence(folder.path)
except LeaseLostError as error:
    print(f"Stopped: {error}", flush=True)
    sys.exit(1)
"""


@pytest.fixture
def mountinfo(tmp_path: Path) -> Path:
    """A file by which what lies in `tmp_path` is on NFS, as far as a process that reads it knows."""
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTINFO.format(point=tmp_path, kind="nfs4"))
    return path


@pytest.mark.parametrize(("path", "kind"), [("a b/c", "nfs4"), ("a b", "nfs4"), ("a", None), ("a bc", None)])
def test_a_file_system_of_the_network_is_told_by_where_it_is_mounted(
    path: str, kind: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTINFO.format(point=f"{tmp_path}/a\\040b", kind="nfs4"))
    monkeypatch.setattr(mounts, "_MOUNTS", tmp_path / "mountinfo")
    assert network_type(tmp_path / path) == kind


@pytest.mark.parametrize(
    ("kind", "is_shared"),
    [("nfs", True), ("cifs", True), ("lustre", True), ("fuse.sshfs", True), ("xfs", False), ("fuseblk", False)],
)
def test_types_of_file_systems_are_told_apart(
    kind: str, is_shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTINFO.format(point=tmp_path, kind=kind))
    monkeypatch.setattr(mounts, "_MOUNTS", tmp_path / "mountinfo")
    assert network_type(tmp_path) == (kind if is_shared else None)
    monkeypatch.setattr(mounts, "_MOUNTS", tmp_path / "absent")
    assert network_type(tmp_path) is None


def test_a_folder_on_the_network_is_held_by_a_lease_that_other_machines_see(
    mountinfo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hold_experiment(tmp_path / "local", None) as lease:
        assert lease is None, "the kernel's lock does"
    monkeypatch.setattr(mounts, "_MOUNTS", mountinfo)
    monkeypatch.setattr("langsearch.experiment.lock._lock", lambda descriptor: None)
    monkeypatch.setattr("langsearch.experiment.lock._is_locked", lambda path: False)
    path = tmp_path / "a folder" / "tiny"
    assert not is_held(path)
    with hold_experiment(path, None) as lease:
        assert lease is not None
        assert is_held(path)
        with (
            pytest.raises(InputError, match=rf"process {os.getpid()} on .* has worked on"),
            hold_experiment(path, None),
        ):
            pass
    assert not is_held(path)
    assert list((path / LEASES).iterdir()) == []


def contents(url: str) -> dict[str, bytes]:
    """Everything that lies in a remote folder but for leases: that of who took over is written all the time."""
    system, root = open_system(url)
    infos = system.get_file_info(pafs.FileSelector(root, recursive=True))
    found = {info.path.removeprefix(root): info for info in infos if info.is_file}
    return {
        path: system.open_input_stream(info.path).read()
        for path, info in found.items()
        if not path.startswith(("/.lock", "/.lease"))
    }


@contextmanager
def killed_in_the_end(process: "subprocess.Popen[str]") -> Iterator[None]:
    """A process that is stopped would be waited for until somebody lets it go on."""
    try:
        yield
    finally:
        process.kill()


@pytest.mark.parametrize("place", ["file", "s3", "nfs", "postgresql"])
def test_a_driver_that_was_paused_past_its_lease_writes_nothing_more(
    place: str, tmp_path: Path, mountinfo: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / "cache"))
    storage = request.getfixturevalue("server") if place == "postgresql" else ""
    root = f"file://{tmp_path}/store"
    if place == "s3":
        root = s3_url(request.getfixturevalue("s3_port"), tmp_path.name)
    elif place in ("nfs", "postgresql"):
        root = str(tmp_path)
    url = Remote(root).child("tiny").url if "://" in root else f"file://{root}/tiny"
    command = [sys.executable, "-c", textwrap.dedent(DRIVER), root, storage, str(mountinfo)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as driver, killed_in_the_end(driver):  # type: ignore[call-overload]
        assert driver.stdout.readline() == "held\n"
        driver.send_signal(signal.SIGSTOP)
        driver.stdin.write("go\n")
        driver.stdin.flush()
        time.sleep(2.4 if place == "s3" else 1.4)  # a second more than its lease, and S3 counts in seconds
        folder = LEASES if "://" not in root else ".lock"
        with RemoteLease(Remote(url), folder=folder, dead_after_seconds=0.3, refresh_seconds=0.1):
            study = tmp_path / "tiny" / "study.db"
            table = TrialTable(
                storage or (f"sqlite:///{study}" if "://" not in root else "sqlite://"),
                "tiny",
                OBJECTIVES,
                sampler="random",
                seed=0,
                num_trials=9,
            )
            table.take_over()
            before, rows = contents(url), table.rows()
            driver.send_signal(signal.SIGCONT)
            output = driver.stdout.read()
            assert driver.wait(20) == 1
            assert contents(url) == before
        assert before or place == "postgresql"
    (line,) = output.splitlines()
    assert line.startswith("Stopped: The lease on") and line.endswith("when no other run has it.")
    if "://" not in root:
        again = TrialTable(storage or f"sqlite:///{study}", "tiny", OBJECTIVES, sampler="random", seed=0, num_trials=9)
        assert again.rows() == rows
        assert [row.state for row in rows] == [State.RUNNING] * 2


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_of_two_drivers_of_one_study_the_one_that_came_last_alone_writes(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/study.db" if database == "sqlite" else request.getfixturevalue("server")

    def open_table(is_driver: bool = True) -> TrialTable:
        table = TrialTable(url, "two", OBJECTIVES, sampler="random", seed=0, num_trials=9)
        if is_driver:
            table.take_over()
        return table

    first = open_table()
    first.add_baseline("pretrained")
    first.propose(DIMENSIONS)
    second = open_table()
    rows = second.rows()
    assert len(rows) == 2
    writes: list[Callable[[], object]] = [
        lambda: first.propose(DIMENSIONS),
        lambda: first.fail("00000", "no"),
        lambda: first.record_rung("00000", 1, [0.5], True),
        lambda: first.add_baseline("shared_lora"),
        lambda: first.stored.note_on_study(rows[1], "test", 1),
    ]
    for write in writes:
        with pytest.raises(LeaseLostError, match="Another run has taken over the trial table"):
            write()
    assert open_table(is_driver=False).rows() == rows
    second.propose(DIMENSIONS)
    assert len(open_table(is_driver=False).rows()) == 3


def test_a_worker_sees_that_the_lease_of_its_driver_is_gone_and_never_forgets_it(tmp_path: Path) -> None:
    remote = Remote(f"file://{tmp_path}/store")
    with RemoteLease(remote) as lease:
        look = LeaseLook(lease.mark, seconds=0.0)
        with fenced(tmp_path / "copy", look):
            check_fence(tmp_path / "copy" / "trials")
            for path in (tmp_path / "store" / ".lock").iterdir():
                path.unlink()
            with pytest.raises(LeaseLostError, match="another run has taken over"):
                check_fence(tmp_path / "copy" / "trials")
            (tmp_path / "store" / ".lock" / Path(lease.mark.relative).name).touch()
            with pytest.raises(LeaseLostError):
                check_fence(tmp_path / "copy" / "trials" / "00000")
            check_fence(tmp_path / "elsewhere")


def test_a_store_that_is_away_says_nothing_about_a_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> bytes:
        raise OSError("connection refused")

    with RemoteLease(Remote(f"file://{tmp_path}/store")) as lease:
        look = LeaseLook(lease.mark, seconds=0.0)
        monkeypatch.setattr(object_store, "read_bytes", away)
        look()


def test_a_trial_whose_driver_has_lost_its_lease_ends_without_a_trace(
    start: Start, folder: ExperimentFolder, make_task: "TaskMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost() -> None:
        raise LeaseLostError("another run has taken over")

    trainable = start(make_task())
    trainable.step()
    before = contents(f"file://{folder.path}")
    with fenced(folder.path, lost):
        assert trainable.step() == {
            "name": "00000",
            "kind": "searched",
            LOST: "another run has taken over",
            "done": True,
        }
        assert contents(f"file://{folder.path}") == before
        again = start.again("00000")
        assert again.step()[LOST] == "another run has taken over"
    assert contents(f"file://{folder.path}") == before


def test_what_a_worker_of_a_lost_driver_has_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / "cache"))
    copy = WorkingCopy(Remote(f"file://{tmp_path}/store"), "tiny")
    for name in ("trials/00000/result.json", "experiment.json", "priors/sides/state.json", "../.store/en.arrow"):
        (copy.path / name).parent.mkdir(parents=True, exist_ok=True)
        (copy.path / name).write_text("{}")
    with RemoteLease(copy.remote) as lease, fenced(copy.path, LeaseLook(lease.mark, seconds=0.0)):
        (tmp_path / "store" / "tiny" / ".lock" / Path(lease.mark.relative).name).unlink()
        sends: list[Callable[[], None]] = [copy.push, partial(copy.push, "00000"), copy.push_store]
        sends.append(partial(copy.push_prior, "sides"))
        for send in sends:
            with pytest.raises(LeaseLostError):
                send()
    assert contents(copy.remote.url) == {}
