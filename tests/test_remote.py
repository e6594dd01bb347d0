"""Remote folders, on a folder named by file:// and on an S3 server of this machine."""

import os
import pickle
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from langsearch.experiment import object_store
from langsearch.experiment import remote as copying
from langsearch.experiment.object_store import StorageError, is_remote
from langsearch.experiment.remote import Remote, local_copy, open_remote
from langsearch.space.problems import InputError
from langsearch.train.checkpoint import Checkpoint, read_newest_checkpoint, write_checkpoint
from langsearch.trial.failures import failure_cause
from tests.remote_fixtures import files, write
from tests.s3_fixtures import s3_url

pytest_plugins = ["s3_fixtures", "remote_fixtures"]

TRIAL = {"trial.json": "{}", "checkpoint/000000010/tensors.safetensors": "t", "checkpoint/000000010/state.json": "s"}


def test_urls_are_told_from_paths() -> None:
    assert all(map(is_remote, ["s3://bucket/a", "gs://bucket", "file:///tmp/a"]))
    assert not any(map(is_remote, ["experiments", "/tmp/experiments", "C:\\experiments", "./s3:/a"]))


def test_each_url_has_one_local_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path))
    copy = local_copy("s3://bucket/mine/tiny")
    assert copy.is_dir()
    assert copy.is_relative_to(tmp_path)
    assert copy.name.startswith("tiny-")
    assert local_copy("s3://bucket/mine/tiny/") == copy
    assert local_copy("s3://bucket/other/tiny") != copy
    monkeypatch.delenv("LANGSEARCH_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert local_copy("s3://bucket/mine/tiny").is_relative_to(tmp_path / "home" / ".cache" / "langsearch")


def test_a_place_that_cannot_be_opened_is_refused_with_ways_out(s3_port: int) -> None:
    with pytest.raises(InputError, match=r"there is no 'nobucket' for s3://nobucket/a.*Make the bucket first"):
        open_remote(s3_url(s3_port, "a", bucket="nobucket"))
    with pytest.raises(InputError, match=r"cannot \(Unrecognized filesystem type.*Check the bucket's name"):
        open_remote("ftp://host/a")
    with pytest.raises(InputError, match=r"cannot \(Unexpected query parameter in S3 URI: 'regio'"):
        open_remote("s3://bucket/a?regio=x")
    with pytest.raises(InputError, match="without a password") as caught:
        open_remote("s3://key:verysecret@bucket/a")
    assert "verysecret" not in str(caught.value)


def test_a_remote_holds_its_url_only_and_can_be_sent_to_workers(remote: Remote) -> None:
    object_store.write_bytes(remote.url, "a", b"1")
    sent = pickle.loads(pickle.dumps(remote))  # noqa: S301 - our own
    assert sent == remote
    assert object_store.read_bytes(sent.url, "a") == b"1"


def test_children_names_and_existence_are_those_of_the_storage(remote: Remote) -> None:
    assert remote.names() == []
    assert not remote.exists("a")
    object_store.write_bytes(remote.child("tiny").url, "trials/00000/trial.json", b"{}")
    object_store.write_bytes(remote.url, "tiny/stop", b"")
    assert remote.names("tiny") == ["stop", "trials"]
    assert remote.child("tiny").names("trials") == ["00000"]
    assert remote.exists("tiny/stop")
    assert remote.exists("tiny/trials")
    object_store.delete(remote.url, "tiny/stop")
    object_store.delete(remote.url, "tiny/stop")
    assert not remote.exists("tiny/stop")


def test_a_part_arrives_on_another_machine_as_it_was(remote: Remote, tmp_path: Path) -> None:
    write(tmp_path / "a" / "trials" / "00000", TRIAL)
    assert remote.push(tmp_path / "a", "trials/00000") == 3
    assert remote.pull(tmp_path / "b", "trials/00000") == 3
    assert files(tmp_path / "b" / "trials" / "00000") == TRIAL


def test_only_what_has_changed_is_copied(remote: Remote, tmp_path: Path) -> None:
    a, b, part = tmp_path / "a", tmp_path / "b", "trials/00000"
    write(a / part, TRIAL)
    remote.push(a, part)
    assert remote.push(a, part) == 0
    remote.pull(b, part)
    assert remote.pull(b, part) == 0
    assert remote.push(b, part) == 0
    write(a / part, {"curve": "one more epoch"})
    assert remote.push(a, part) == 1
    assert remote.pull(b, part) == 1


def test_deletions_arrive_too_but_nothing_unknown_is_deleted(remote: Remote, tmp_path: Path) -> None:
    a, b, part = tmp_path / "a", tmp_path / "b", "trials/00000"
    write(a / part, TRIAL)
    remote.push(a, part)
    remote.pull(b, part)
    (a / part / "checkpoint" / "000000010" / "state.json").unlink()
    (a / part / "checkpoint" / "000000010" / "tensors.safetensors").unlink()
    remote.push(a, part)
    remote.pull(b, part)
    assert files(b / part) == {"trial.json": "{}"}
    assert not (b / part / "checkpoint").exists(), "an empty checkpoint would count as a torn one"
    (tmp_path / "c").mkdir()
    remote.push(tmp_path / "c", part)  # has never seen the part
    assert remote.exists(f"{part}/trial.json")


def test_trials_and_hidden_files_do_not_travel_with_the_rest(remote: Remote, tmp_path: Path) -> None:
    write(tmp_path / "a", {"space.yaml": "x", "front/00000/README.md": "y", ".ray/z": "z", "study.db-journal": "j"})
    write(tmp_path / "a" / "trials" / "00000", TRIAL)
    assert remote.push(tmp_path / "a") == 2
    assert remote.names() == ["front", "space.yaml"]
    remote.push(tmp_path / "a", "trials/00000")
    remote.pull(tmp_path / "b")
    assert files(tmp_path / "b") == {"space.yaml": "x", "front/00000/README.md": "y"}


def test_a_folder_whose_name_is_hidden_can_be_a_part_itself(remote: Remote, tmp_path: Path) -> None:
    write(tmp_path / "a" / ".store", {"en.arrow": "x"})
    remote.push(tmp_path / "a", ".store")
    remote.pull(tmp_path / "b", ".store")
    assert (tmp_path / "b" / ".store" / "en.arrow").read_text() == "x"


def test_what_happened_here_since_the_last_push_survives_a_pull(remote: Remote, tmp_path: Path) -> None:
    a, part = tmp_path / "a", "trials/00000"
    write(a / part, TRIAL)
    remote.push(a, part)
    write(a / part, {"checkpoint/000000020/state.json": "newer", "trial.json": "changed"})
    assert remote.pull(a, part) == 0
    assert files(a / part) == TRIAL | {"checkpoint/000000020/state.json": "newer", "trial.json": "changed"}


def test_where_another_machine_went_on_its_state_wins(remote: Remote, tmp_path: Path) -> None:
    a, b, part = tmp_path / "a", tmp_path / "b", "trials/00000"
    write(a / part, TRIAL)
    remote.push(a, part)
    remote.pull(b, part)
    write(a / part, {"checkpoint/000000020/state.json": "of a", "trial.json": "of a"})
    write(b / part, {"checkpoint/000000030/state.json": "of b"})
    remote.push(b, part)
    remote.pull(a, part)
    assert files(a / part) == TRIAL | {"checkpoint/000000030/state.json": "of b"}


def test_pull_all_brings_everything_and_drops_trials_that_only_an_older_run_knew(
    remote: Remote, tmp_path: Path
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    write(a, {"space.yaml": "x"} | {f"trials/{n:05d}/trial.json": str(n) for n in range(3)})
    for part in ("", "trials/00000", "trials/00001", "trials/00002"):
        remote.push(a, part)
    assert remote.pull_all(b) == 4
    assert remote.pull_all(b) == 0
    assert files(b) == files(a)
    write(a, {"trials/00003/trial.json": "never pushed"})
    assert remote.pull_all(a) == 0
    assert (a / "trials" / "00003").exists(), "nobody else went on"
    write(b, {"results": "y", "trials/00004/trial.json": "4"})
    remote.push(b, "trials/00004")
    remote.push(b)
    assert remote.pull_all(a) == 2
    assert files(a) == files(b)


def test_an_empty_remote_folder_takes_nothing_from_here(remote: Remote, tmp_path: Path) -> None:
    write(tmp_path / "a", {"space.yaml": "x", "trials/00000/trial.json": "{}"})
    remote.push(tmp_path / "a")
    object_store.delete(remote.url, "space.yaml")
    assert remote.pull_all(tmp_path / "a") == 0
    assert files(tmp_path / "a") == {"space.yaml": "x", "trials/00000/trial.json": "{}"}


def test_a_broken_note_of_what_is_known_only_costs_a_copy(remote: Remote, tmp_path: Path) -> None:
    write(tmp_path / "a", {"space.yaml": "x"})
    remote.push(tmp_path / "a")
    for note in (tmp_path / "a" / ".remote").iterdir():
        note.write_text('{"space.yaml": [1')
    assert remote.push(tmp_path / "a") == 1


def test_files_go_in_the_order_in_which_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = open_remote(f"file://{tmp_path}/store")
    names = ["result.json", "checkpoint/2/state.json", "weights/state.json", "weights/a", "checkpoint/2/a", "curve"]
    for age, name in enumerate(names):
        write(tmp_path / "a", {name: name})
        os.utime(tmp_path / "a" / name, ns=(0, 10**18 - age * 10**9))
    sent: list[str] = []
    send = copying._send

    def note(system: object, source: Path, target: str, check: Callable[[], None]) -> tuple[int, int]:
        sent.append(target)
        return send(system, source, target, check)

    monkeypatch.setattr(copying, "_send", note)
    remote.push(tmp_path / "a")
    order = ["curve", "checkpoint/2/a", "weights/a", "weights/state.json", "checkpoint/2/state.json", "result.json"]
    assert [target.removeprefix(f"{tmp_path}/store/") for target in sent] == order


def test_a_database_travels_as_a_snapshot_between_two_transactions(remote: Remote, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    live = sqlite3.connect(a / "study.db")
    live.execute("create table pairs (x, y)")
    live.commit()
    ended = threading.Event()

    def write_pairs() -> None:
        with sqlite3.connect(a / "study.db", timeout=60) as writer:
            for number in range(100_000):
                if ended.is_set():
                    return
                writer.execute("insert into pairs values (?, 0)", (number,))
                writer.execute("update pairs set y = 1 where x = ?", (number,))
                writer.commit()
                time.sleep(0.002)

    thread = threading.Thread(target=write_pairs)
    thread.start()
    try:
        for _ in range(8):
            time.sleep(0.05)
            remote.push(a)
            remote.pull(b)
            with sqlite3.connect(b / "study.db") as copy:
                assert copy.execute("pragma integrity_check").fetchone() == ("ok",)
                assert copy.execute("select count(*) from pairs where y = 0").fetchone() == (0,)
    finally:
        ended.set()
        thread.join()
        live.close()
    assert not list(a.glob(".study.db*"))


def test_a_journal_of_the_old_database_does_not_tear_the_new_one(remote: Remote, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for root in (a, b):
        root.mkdir()
        with sqlite3.connect(root / "study.db") as database:
            database.execute("create table t (x)")
    (b / "study.db-journal").write_bytes(b"of a transaction that a kill has interrupted")
    remote.push(a)
    remote.pull(b)
    assert not (b / "study.db-journal").exists()


def test_an_upload_that_fails_is_an_upload_error_and_pushing_again_goes_on(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {f"file{number}": "x" for number in range(4)}
    write(tmp_path / "a", names)
    copy = copying._copy

    def fail_at_the_third(file: object, system: object, target: str, check: Callable[[], None]) -> None:
        if target.endswith("file2"):
            raise OSError("connection reset")
        copy(file, system, target, check)  # type: ignore[arg-type]

    monkeypatch.setattr(copying, "_copy", fail_at_the_third)
    with pytest.raises(StorageError, match="connection reset"):
        remote.push(tmp_path / "a")
    monkeypatch.setattr(copying, "_copy", copy)
    assert 1 <= remote.push(tmp_path / "a") < 4
    remote.pull(tmp_path / "b")
    assert files(tmp_path / "b") == names


def test_a_pull_that_was_interrupted_goes_on(remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, part = tmp_path / "a", tmp_path / "b", "trials/00000"
    write(a / part, TRIAL)
    remote.push(a, part)
    write(b / part, {"checkpoint/000000005/state.json": "of an older run"})
    fetch = object_store.fetch_file

    def fail_at_the_state(system: object, source: str, target: Path, url: str) -> None:
        if target.name == "state.json":
            raise OSError("killed here")
        fetch(system, source, target, url)

    monkeypatch.setattr(copying, "fetch_file", fail_at_the_state)
    with pytest.raises(OSError, match="killed here"):
        remote.pull(b, part)
    monkeypatch.setattr(copying, "fetch_file", fetch)
    remote.pull(b, part)
    assert files(b / part) == TRIAL
    assert remote.pull(b, part) == 0


def test_storage_that_cannot_be_written_is_an_upload_error(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file, not a folder")
    write(tmp_path / "a", {"space.yaml": "x"})
    with pytest.raises(StorageError, match=r"could not be written"):
        Remote(f"file://{tmp_path}/store").push(tmp_path / "a")


def test_storage_that_cannot_be_read_is_the_same_failure_as_one_that_cannot_be_written(
    tmp_path: Path, s3_port: int
) -> None:
    remote = open_remote(s3_url(s3_port, f"{tmp_path.name}/tiny"))
    write(tmp_path / "a/trials/00000", TRIAL)
    remote.push(tmp_path / "a", "trials/00000")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    gone = Remote(s3_url(port, "tiny"))
    for pull in (partial(gone.pull, tmp_path / "b", "trials/00000"), partial(gone.pull_all, tmp_path / "b")):
        with pytest.raises(StorageError, match="could not be read") as caught:
            pull()
        assert failure_cause(caught.value) == "storage"
    system, root = object_store.open_system(remote.url)
    with pytest.raises(FileNotFoundError):
        object_store.fetch_file(system, f"{root}/trials/00000/none", tmp_path / "c", remote.url)


def test_whatever_moment_a_worker_is_killed_at_another_machine_can_go_on(remote: Remote, tmp_path: Path) -> None:
    script = f"""
        import json, sqlite3, sys, torch
        from pathlib import Path
        from langsearch.experiment.remote import Remote
        from langsearch.train.checkpoint import Checkpoint, read_newest_checkpoint, write_checkpoint
        remote, root = Remote({remote.url!r}), Path(sys.argv[1])
        remote.pull_all(root)
        folder = root / "trials" / "00000"
        newest = read_newest_checkpoint(folder / "checkpoint")
        updates = newest.state["updates"] if newest else 0
        with sqlite3.connect(root / "study.db") as database:
            database.execute("create table if not exists t (x)")
        print(updates, flush=True)
        while True:
            updates += 1
            with sqlite3.connect(root / "study.db") as database:
                database.execute("insert into t values (?)", (updates,))
            remote.push(root)
            tensors = {{"a": torch.full((100_000,), float(updates))}}
            write_checkpoint(folder / "checkpoint", Checkpoint(tensors, {{"updates": updates}}))
            remote.push(root, "trials/00000")
            print(updates, flush=True)
    """
    seeded = random.Random(0)
    pushed = 0
    for attempt in range(3):
        root = tmp_path / ("a" if attempt % 2 else f"machine{attempt}")
        command = [sys.executable, "-c", textwrap.dedent(script), str(root)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            line = worker.stdout.readline()
            assert line, worker.stderr.read() if worker.stderr else ""
            assert int(line) >= pushed, "what was pushed was lost"
            pushed = int(worker.stdout.readline())  # one push at least, however slow the machine
            time.sleep(seeded.uniform(0.1, 0.5))
            os.kill(worker.pid, signal.SIGKILL)
            pushed = max([pushed, *map(int, worker.stdout.read().split())])
        fresh = tmp_path / f"fresh{attempt}"
        remote.pull_all(fresh)
        newest = read_newest_checkpoint(fresh / "trials" / "00000" / "checkpoint")
        assert (newest.state["updates"] if newest else 0) >= pushed
        if newest is not None:
            assert torch.equal(newest.tensors["a"], torch.full((100_000,), float(newest.state["updates"])))
        with sqlite3.connect(fresh / "study.db") as database:
            assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    assert pushed >= 3


def test_a_checkpoint_whose_upload_was_torn_is_seen_and_the_one_before_serves(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, part, send = tmp_path / "a", "trials/00000", copying._send

    def fail_before_the_state(system: object, source: Path, target: str, check: Callable[[], None]) -> tuple[int, int]:
        if target.endswith("000000020/state.json"):
            raise OSError("killed here")
        return send(system, source, target, check)

    monkeypatch.setattr(copying, "_send", fail_before_the_state)
    write_checkpoint(a / part / "checkpoint", Checkpoint({"a": torch.ones(10)}, {"updates": 10}))
    remote.push(a, part)
    write_checkpoint(a / part / "checkpoint", Checkpoint({"a": torch.ones(10)}, {"updates": 20}))
    with pytest.raises(StorageError, match="killed here"):
        remote.push(a, part)
    remote.pull(tmp_path / "b", part)
    newest = read_newest_checkpoint(tmp_path / "b" / part / "checkpoint")
    assert newest is not None
    assert newest.state["updates"] == 10
