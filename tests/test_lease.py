import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from langsearch.experiment import object_store
from langsearch.experiment.lease import RemoteLease
from langsearch.experiment.remote import Remote, open_remote
from langsearch.space.problems import InputError
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
    os.utime(tmp_path / "store" / ".lock" / "h-1.json", (now - 130, now - 130))
    with RemoteLease(remote):
        assert not (tmp_path / "store" / ".lock" / "h-1.json").exists()


def test_a_lease_that_another_run_has_taken_over_is_lost_to_the_first(remote: Remote) -> None:
    with RemoteLease(remote, refresh_seconds=0.2) as lease:
        for name in object_store.modified(remote.url, ".lock"):
            object_store.delete(remote.url, f".lock/{name}")  # the other one holds this run for dead
        with pytest.raises(OSError, match="is lost: another run has taken over"):
            for _ in range(50):
                time.sleep(0.1)
                lease.check()


def test_a_lease_that_cannot_be_refreshed_is_lost_before_another_run_may_take_it(tmp_path: Path) -> None:
    remote = open_remote(f"file://{tmp_path}/store")
    with RemoteLease(remote, refresh_seconds=100, dead_after_seconds=0.2) as lease:
        time.sleep(0.3)
        with pytest.raises(OSError, match="could not be refreshed for"):
            lease.check()
