"""`tests/cluster/run`, which plays a search on a cluster of three hosts."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = Path(__file__).parent / "cluster" / "run"


def test_without_the_rights_it_is_skipped_with_a_reason() -> None:
    setpriv = shutil.which("setpriv")
    if sys.platform != "linux" or setpriv is None:
        pytest.skip("needs Linux and setpriv")
    without = [setpriv, "--bounding-set=-sys_admin"] if os.geteuid() == 0 else []
    done = subprocess.run([*without, RUN, sys.prefix], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("skipped: ")


@pytest.mark.integration
@pytest.mark.timeout(900)
@pytest.mark.parametrize("story", ["loss", "empty"])
def test_a_search_survives_the_loss_of_hosts(story: str) -> None:
    play(story)


@pytest.mark.integration
@pytest.mark.timeout(900)
@pytest.mark.parametrize("story", ["autoscaler-v1", "autoscaler-v2"])
def test_a_search_brings_its_nodes_by_rays_autoscaler_and_leaves_none(story: str) -> None:
    play(story)


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_slurms_script_searches_on_three_hosts_and_leaves_nothing() -> None:
    play("slurm")


def play(story: str) -> None:
    before = traces()
    done = subprocess.run([RUN, sys.prefix, story], capture_output=True, text=True, check=False)
    skip_if_skipped(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("PASSED")
    assert traces() == before


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_it_nothing_is_left(number: signal.Signals) -> None:
    before = traces()
    with subprocess.Popen([RUN, sys.prefix], stdout=subprocess.PIPE, text=True, start_new_session=True) as run:
        assert run.stdout is not None
        line = run.stdout.readline()
        skip_if_skipped(line)
        started = descendants(run.pid)
        assert len(started) >= 8, "three hosts with two processes each, the scenario with two"
        run.send_signal(number)
    end = time.monotonic() + 10
    while alive(started) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive(started), line
    assert traces() == before


def skip_if_skipped(text: str) -> None:
    if text.startswith("skipped: "):
        pytest.skip(text.strip())


def traces() -> list[str]:
    """Returns what of this machine a run must leave as it was: mounts, network, the user's keys and tokens."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    network = [path.name for path in Path("/sys/class/net").iterdir()]
    own = [path for folder in (".ssh", ".ray") for path in (Path.home() / folder).rglob("*")]
    return sorted([*mounts, *network, *(f"{path} {path.stat().st_mtime_ns}" for path in own if path.is_file())])


def descendants(pid: int) -> dict[int, str]:
    """Returns the processes that a process has started, and those that they have, each with its start time."""
    found: dict[int, str] = {}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text(encoding="utf-8").split()):
            found |= {child: start_time(child), **descendants(child)}
    return found


def alive(processes: dict[int, str]) -> list[int]:
    return [pid for pid, start in processes.items() if start_time(pid) == start]


def start_time(pid: int) -> str:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return "gone"
    return "gone" if fields[0] in "ZX" else fields[19]
