"""The study of a remote experiment in pieces: whatever a kill leaves there is a study that was."""

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from langsearch.experiment import object_store, study_pieces
from langsearch.experiment.object_store import StorageError
from langsearch.experiment.remote import Remote
from langsearch.experiment.study_pieces import STUDY, StudyUpload, pull_study
from langsearch.experiment.working_copy import WorkingCopy, fetch_experiment
from langsearch.space.problems import LeaseLostError

pytest_plugins = ["s3_fixtures", "remote_fixtures"]


def free() -> None:
    """The check of a driver that holds its lease."""


def write_rows(root: Path, numbers: range) -> bytes:
    """Commits rows to a study, some of which change earlier ones; returns the file."""
    root.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(root / STUDY)) as database, database:
        database.execute("PRAGMA synchronous=OFF")
        database.execute("create table if not exists rows (number integer primary key, text)")
        for number in numbers:
            text = random.Random(number).randbytes(100).hex()
            database.execute("insert or replace into rows values (?, ?)", (number, text))
            database.execute("update rows set text = 'changed' where number = ?", (number // 2,))
    return (root / STUDY).read_bytes()


def read_study(root: Path) -> bytes:
    with closing(sqlite3.connect(root / STUDY)) as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    return (root / STUDY).read_bytes()


def rows_of(root: Path) -> list[tuple[int, str]]:
    """The rows, where a copy by SQLite itself need not be the same byte by byte."""
    with closing(sqlite3.connect(root / STUDY)) as database:
        return database.execute("select number, text from rows order by number").fetchall()


def pieces(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root / ".study")) for path in (root / ".study").rglob("*") if path.is_file())


def test_a_study_arrives_as_it_is_and_what_has_changed_alone_goes(remote: Remote, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    upload = StudyUpload(remote.url, here, free)
    assert upload.push() == 0, "there is none yet"
    write_rows(here, range(3000))
    whole = upload.push()
    sizes = []
    for step in range(4):
        wanted = write_rows(here, range(3000 + 10 * step, 3010 + 10 * step))
        sizes.append(upload.push())
        assert pull_study(remote.url, there)
        assert read_study(there) == wanted
        assert upload.push() == 0
    assert max(sizes) < whole / 5
    assert remote.names() == [], "hidden, as no file of the experiment's"


def test_a_base_that_is_written_anew_takes_the_place_of_all_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_pieces, "_MAX_PIECES", 3)
    store, here = tmp_path / "store", tmp_path / "here"
    url = f"file://{store}"
    for generation in (1, 2):
        upload = StudyUpload(url, here, free)
        for step in range(6):
            wanted = write_rows(here, range(1000 * generation + step, 1000 * generation + step + 1))
            upload.push()
            pull_study(url, tmp_path / "there")
            assert read_study(tmp_path / "there") == wanted
        found = pieces(store)
        assert [name.partition("/")[2] for name in found] == ["00000004.base", "00000005.pages"]
        assert found[0].startswith(f"{generation:06d}-")


def test_whatever_moment_an_upload_is_killed_at_a_study_that_was_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_pieces, "_MAX_PIECES", 3)
    store, here = tmp_path / "store", tmp_path / "here"
    url, num_calls, seen = f"file://{store}", 0, [b""]

    class KilledError(BaseException):
        pass

    def killing(call: Callable[..., Any], is_after: bool) -> Callable[..., Any]:
        def killed(*values: Any) -> Any:
            nonlocal num_calls
            num_calls += 1
            if num_calls % 5 == 0:
                if is_after:
                    call(*values)
                raise KilledError
            return call(*values)

        return killed

    for is_after in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(StudyUpload, "_send", killing(StudyUpload._send, is_after))
            patch.setattr(study_pieces, "delete", killing(object_store.delete, is_after))
            upload = StudyUpload(url, here, free)
            for step in range(20):
                seen.append(write_rows(here, range(step, step + 2)))
                try:
                    upload.push()
                except KilledError:  # the next run begins a generation of its own
                    upload = StudyUpload(url, here, free)
                if (store / ".study").exists():
                    assert pull_study(url, tmp_path / "there")
                    assert read_study(tmp_path / "there") in seen[-2:]
    assert num_calls > 25


def test_what_a_driver_sends_late_is_not_read_once_another_one_has_begun(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    first = StudyUpload(url, tmp_path / "first", free)
    write_rows(tmp_path / "first", range(10))
    first.push()
    pull_study(url, tmp_path / "second")
    second = StudyUpload(url, tmp_path / "second", free)
    wanted = write_rows(tmp_path / "second", range(20, 30))
    second.push()
    write_rows(tmp_path / "first", range(100, 200))
    first.push()  # was on its way when it lost its lease
    pull_study(url, tmp_path / "reader")
    assert read_study(tmp_path / "reader") == wanted


def test_nothing_goes_once_the_lease_is_lost(tmp_path: Path) -> None:
    def lost() -> None:
        raise LeaseLostError("it is lost")

    write_rows(tmp_path / "here", range(10))
    with pytest.raises(LeaseLostError):
        StudyUpload(f"file://{tmp_path}/store", tmp_path / "here", lost).push()
    assert not list((tmp_path / "store").rglob("*.*"))


def test_a_machine_keeps_what_it_has_not_sent_unless_another_one_went_on(tmp_path: Path) -> None:
    url, here, other = f"file://{tmp_path}/store", tmp_path / "here", tmp_path / "other"
    write_rows(here, range(10))
    StudyUpload(url, here, free).push()
    newer = write_rows(here, range(10, 20))  # the run is killed before it sends this
    assert pull_study(url, here)
    assert read_study(here) == newer
    pull_study(url, other)
    wanted = write_rows(other, range(30, 40))
    StudyUpload(url, other, free).push()
    pull_study(url, here)
    assert read_study(here) == wanted


def test_an_upload_that_fails_goes_with_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, here = f"file://{tmp_path}/store", tmp_path / "here"
    upload = StudyUpload(url, here, free)
    write_rows(here, range(10))
    upload.push()
    write_rows(here, range(10, 20))
    with monkeypatch.context() as patch:
        patch.setattr(study_pieces, "open_system", lambda url: (_ for _ in ()).throw(OSError("connection reset")))
        with pytest.raises(StorageError, match="connection reset"):
            upload.push()
    wanted = write_rows(here, range(20, 30))
    upload.push()
    pull_study(url, tmp_path / "there")
    assert read_study(tmp_path / "there") == wanted


def test_pieces_behind_a_gap_are_left_out_and_a_spoilt_one_is_told(tmp_path: Path) -> None:
    url, here, store = f"file://{tmp_path}/store", tmp_path / "here", tmp_path / "store"
    upload, images = StudyUpload(url, here, free), []
    write_rows(here, range(2000))
    for step in range(4):
        images.append(write_rows(here, range(3000 + step, 3001 + step)))
        upload.push()
    names = pieces(store)
    (store / ".study" / names[2]).rename(tmp_path / "aside")
    pull_study(url, tmp_path / "a")
    assert read_study(tmp_path / "a") == images[1]
    spoilt = bytearray((tmp_path / "aside").read_bytes())
    spoilt[-20] ^= 1
    (store / ".study" / names[2]).write_bytes(spoilt)
    with pytest.raises(OSError, match=r"The study in .* cannot be read: piece 2 of"):
        pull_study(url, tmp_path / "b")
    (store / ".study" / names[2]).write_bytes((store / ".study" / names[3]).read_bytes())
    (store / ".study" / names[3]).unlink()
    with pytest.raises(OSError, match="do not belong together"):
        pull_study(url, tmp_path / "c")


def test_an_older_experiment_has_its_study_whole_until_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / "cache"))
    store = Remote(f"file://{tmp_path}/store")
    write_rows(tmp_path / "older", range(50))
    wanted = rows_of(tmp_path / "older")
    (tmp_path / "older" / "space.yaml").write_text("a: 1")
    store.child("tiny").push(tmp_path / "older")
    assert (tmp_path / "store" / "tiny" / STUDY).exists()
    assert rows_of(fetch_experiment(f"{store.url}/tiny")) == wanted
    copy = WorkingCopy(store, "tiny")
    copy.take_over()
    assert rows_of(copy.path) == wanted
    write_rows(copy.path, range(50, 60))
    newer = rows_of(copy.path)
    copy.push()
    assert rows_of(fetch_experiment(f"{store.url}/tiny")) == wanted, "a study goes by itself"
    StudyUpload(copy.remote.url, copy.path, copy.check).push()
    assert copy.remote.names() == ["space.yaml"]
    assert rows_of(fetch_experiment(f"{store.url}/tiny")) == newer
    copy.take_over()
    assert rows_of(copy.path) == newer


def test_a_snapshot_takes_no_lock_from_who_writes(tmp_path: Path) -> None:
    write_rows(tmp_path, range(10))
    with closing(sqlite3.connect(tmp_path / STUDY, isolation_level=None)) as writer:
        writer.execute("begin immediate")
        writer.execute("delete from rows")
        StudyUpload(f"file://{tmp_path}/store", tmp_path, free).push()
        other = sqlite3.connect(tmp_path / STUDY, timeout=0)
        with closing(other), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("begin immediate")
        writer.execute("rollback")
    pull_study(f"file://{tmp_path}/store", tmp_path / "there")
    with closing(sqlite3.connect(tmp_path / "there" / STUDY)) as copy:
        assert copy.execute("select count(*) from rows").fetchone() == (10,)
