import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from langsearch.experiment import object_store
from langsearch.experiment.lease import RemoteLease
from langsearch.experiment.object_store import StorageError
from langsearch.experiment.remote import Remote, open_remote
from langsearch.space.problems import InputError, LeaseLostError
from tests.remote_fixtures import write

pytest_plugins = ["s3_fixtures", "remote_fixtures"]


def test_a_lease_lets_one_run_in_and_names_it_to_the_second(remote: Remote) -> None:
    with RemoteLease(remote) as lease:
        lease.check()
        message = rf"process {os.getpid()} on .* has worked on .*tiny.* since 20.*--name NAME"
        with pytest.raises(InputError, match=message), RemoteLease(remote):
            pass
        lease.check()
    with RemoteLease(remote):
        pass
    assert object_store.modified(remote.url, ".lock") == {}


def test_a_lease_stays_held_while_it_is_refreshed_and_a_dead_run_does_not_hold_one(remote: Remote) -> None:
    script = f"""
        import time
        from langsearch.experiment.lease import RemoteLease
        from langsearch.experiment.remote import Remote
        with RemoteLease(Remote({remote.url!r}), refresh_seconds=0.5):
            print("held", flush=True)
            time.sleep(100)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        time.sleep(3)
        with pytest.raises(InputError, match=f"process {holder.pid} on"), RemoteLease(remote, dead_after_seconds=2):
            pass
        holder.kill()
    with RemoteLease(remote):  # at once: it is known to be dead on its own machine
        pass


def test_of_runs_that_start_together_at_most_one_gets_in(remote: Remote) -> None:
    barrier, inside, got = threading.Barrier(4), [0], []

    def start() -> None:
        barrier.wait()
        try:
            with RemoteLease(remote):
                inside[0] += 1
                got.append(inside[0])
                time.sleep(1)
                inside[0] -= 1
        except InputError:
            pass

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(got, default=0) <= 1


def test_age_is_measured_by_the_storages_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = open_remote(f"file://{tmp_path}/store")
    with RemoteLease(remote):
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 10**6)
        with pytest.raises(InputError), RemoteLease(remote):
            pass
    other = {"host": "h", "pid": 1, "started": "then", "state": "held"}
    write(tmp_path / "store" / ".lock", {"h-1.json": json.dumps(other)})
    os.utime(tmp_path / "store" / ".lock" / "h-1.json", (now - 310, now - 310))
    with RemoteLease(remote):
        assert not (tmp_path / "store" / ".lock" / "h-1.json").exists()


def test_a_lease_that_another_run_has_taken_over_is_lost_to_the_first(remote: Remote) -> None:
    with RemoteLease(remote, refresh_seconds=0.2) as lease:
        for name in object_store.modified(remote.url, ".lock"):
            object_store.delete(remote.url, f".lock/{name}")  # the other one holds this run for dead
        with pytest.raises(LeaseLostError, match="is lost: another run has taken over"):
            for _ in range(50):
                time.sleep(0.1)
                lease.check()


def test_a_lease_that_cannot_be_refreshed_is_lost_before_another_run_may_take_it(tmp_path: Path) -> None:
    remote = open_remote(f"file://{tmp_path}/store")
    with RemoteLease(remote, refresh_seconds=100, dead_after_seconds=0.2) as lease:
        time.sleep(0.3)
        with pytest.raises(LeaseLostError, match="could not be refreshed for"):
            lease.check()


def test_a_store_that_is_away_for_a_while_costs_a_sentence_and_no_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, is_away = object_store.write_bytes, threading.Event()

    def write_or_fail(url: str, relative: str, content: bytes) -> None:
        if is_away.is_set():
            raise StorageError("the store is away")
        write(url, relative, content)

    monkeypatch.setattr(object_store, "write_bytes", write_or_fail)
    with RemoteLease(Remote(f"file://{tmp_path}/store"), refresh_seconds=0.06, dead_after_seconds=1.0) as lease:
        is_away.set()
        wait_until(lambda: "could not be refreshed" in caplog.text)
        lease.check()
        assert lease.concern() is None
        wait_until(lambda: lease.concern() is not None)
        lease.check()  # there is time to write checkpoints
        assert str(lease.concern()).endswith("(the store is away)")
        is_away.clear()
        wait_until(lambda: lease.concern() is None)
        wait_until(lambda: "is refreshed again" in caplog.text)
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2, "one sentence when it begins, and one when it ends"
    assert all(record.exc_info is None for record in caplog.records)


def test_a_lease_that_went_past_its_time_stays_lost_though_nobody_took_it(tmp_path: Path) -> None:
    with RemoteLease(Remote(f"file://{tmp_path}/store"), refresh_seconds=100, dead_after_seconds=0.2) as lease:
        time.sleep(0.25)
        with pytest.raises(LeaseLostError):
            lease.check()
        assert not lease._refresh()
        with pytest.raises(LeaseLostError, match="so another run may have taken over"):
            lease.check()
    assert len(object_store.modified(f"file://{tmp_path}/store", ".lock")) == 1, "it is left to whoever comes"


def test_what_one_that_was_taken_for_dead_writes_late_does_not_end_the_one_that_took_over(tmp_path: Path) -> None:
    remote = Remote(f"file://{tmp_path}/store")
    first = RemoteLease(remote, refresh_seconds=100)
    with first:
        (path,) = (tmp_path / "store" / ".lock").iterdir()
        os.utime(path, (time.time() - 400, time.time() - 400))
        with RemoteLease(remote, refresh_seconds=100) as second:
            first._write("held")  # was on its way
            assert second._refresh()
            assert not first._refresh()
            second.check()
            with pytest.raises(LeaseLostError, match="another run holds it too"):
                first.check()
            assert len(object_store.modified(remote.url, ".lock")) == 1


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
