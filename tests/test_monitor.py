import subprocess
import sys
import time
from pathlib import Path

import pytest

from langsearch.trial import monitor
from langsearch.trial.monitor import TrialMonitor, Unwatched

HANGING = """
import ctypes, sys, time
from pathlib import Path
from langsearch.trial.monitor import TrialMonitor

def hang(how):
    if how == "sleeping":
        time.sleep(60)
    elif how == "holding the interpreter":
        ctypes.PyDLL(None).sleep(60)  # unlike CDLL it keeps the GIL
    else:
        while True:
            pass

folder, how = Path(sys.argv[1]), sys.argv[2]
for name in ("first", "second"):  # the process goes from one trial to the next
    watch = TrialMonitor([], folder / f"{name}.txt", 1.0)
    with watch.watching():
        for _ in range(30 if name == "first" else 1):
            time.sleep(0.05)
            watch.progressed()
        if name == "second":
            hang(how)
    assert not (folder / f"{name}.txt").exists()
    time.sleep(1.5)  # between two epochs nobody watches
"""


@pytest.mark.parametrize("how", ["sleeping", "holding the interpreter", "spinning"])
def test_a_hang_ends_the_process_and_tells_where_and_progress_does_not(how: str, tmp_path: Path) -> None:
    started = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", HANGING, str(tmp_path), how], capture_output=True, timeout=30)
    assert ended.returncode == 1, ended.stderr
    assert time.monotonic() - started > 4
    assert [path.name for path in tmp_path.iterdir()] == ["second.txt"]
    text = (tmp_path / "second.txt").read_text()
    assert text.startswith("Timeout (0:00:01)!")
    assert "in hang" in text


def test_without_a_time_nothing_is_watched(tmp_path: Path) -> None:
    watch = TrialMonitor([], tmp_path / "stall.txt", None)
    with watch.watching():
        watch.progressed()
        assert not (tmp_path / "stall.txt").exists()


def test_a_folder_that_cannot_be_written_leaves_the_trial_watched(tmp_path: Path) -> None:
    watch = TrialMonitor([], tmp_path / "absent" / "stall.txt", 100.0)
    with watch.watching():
        watch.progressed()
    assert not watch.should_pause()


def test_either_stop_file_asks_for_a_pause_which_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "_SECONDS_BETWEEN_LOOKS", 0.0)
    stops = [tmp_path / "experiment", tmp_path / "trial"]
    for stop in stops:
        watch = TrialMonitor(stops, tmp_path / "stall.txt", None)
        assert not watch.should_pause()
        stop.touch()
        assert watch.should_pause()
        stop.unlink()
        assert watch.should_pause()


def test_files_are_looked_for_at_most_twice_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    monkeypatch.setattr(Path, "exists", lambda self: looks.append(time.monotonic()))
    watch = TrialMonitor([tmp_path / "a", tmp_path / "b"], tmp_path / "stall.txt", None)
    started = time.monotonic()
    while time.monotonic() - started < 1.2:
        watch.should_pause()
    assert len(looks) == 4, "two files in the first second, and two in the next"


def test_an_unwatched_trial_never_pauses() -> None:
    watch = Unwatched()
    watch.progressed()
    assert not watch.should_pause()


MEASURED = """
import numpy as np
import torch
from langsearch.trial.monitor import peak_memory_bytes, reset_peak_memory
cpu = torch.device("cpu")
found = []
for megabytes in (200, 0, 100):
    reset_peak_memory(cpu)
    before = peak_memory_bytes(cpu)
    if megabytes:
        values = np.ones(megabytes * 2**17)
        del values  # so large a block goes back to the system at once
    found.append((peak_memory_bytes(cpu) - before) // 2**20)
print(*found)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux measures the peak of a part of a process's life")
def test_each_trial_of_a_process_has_a_peak_of_its_own() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        pytest.skip(f"/proc/self/clear_refs cannot be written: {error}")
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True, timeout=60)
    first, second, third = map(int, done.stdout.split())
    assert first == pytest.approx(200, abs=20)
    assert second < 20
    assert third == pytest.approx(100, abs=20)
