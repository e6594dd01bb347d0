"""Runs searches as a user does, as a process of their own, and injects faults into them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langsearch.experiment.folder import read_json, read_rows
from langsearch.experiment.remote import local_copy
from langsearch.model.cpus import WAITING

FAULTS = Path(__file__).parent / "faults"
"""Holds the sitecustomize.py that injects faults into Ray's workers."""

_COSTS = ("started", "finished", "seconds", "train_seconds", "peak_memory_bytes", "worker")
"""Columns in which two equal runs differ."""

WORKER = "Trainable"
"""Part of the name that Ray gives the process that trains."""

_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""They may outlive their machine's other processes by minutes."""

SPACE = """\
name: tiny
base: tiny-m2m
languages: {high: [en, fr], low: [sw]}
data:
  train: {embedded: quickstart, part: train}
  validation: {embedded: quickstart, part: validation}
  test: {embedded: quickstart, part: test}
  directions: [en-fr, fr-sw]
architecture:
  rank: {high: {choice: [0, 2, 4]}, low: {choice: [2, 4, 8]}}
  encoder: {modules: [q_proj]}
  decoder: {modules: [fc1]}
trainer:
  epochs: 2
  pairs_per_epoch: 8
  tokens_per_batch: 200
  accumulation: 1
  warmup_updates: 1
  precision: fp32
  lr: {float: [3.0e-2, 3.0e-1], log: true}
evaluation:
  spbleu: base
  search: {directions: 1, sentences: 4, beams: 1, max_length_factor: 0.5, rows_per_batch: 8}
  final: {directions: 1, sentences: 2, beams: 1, max_length_factor: 0.5, rows_per_batch: 8}
baselines: []
search: {trials: 30, sampler: tpe, scheduler: asha}
resources: {cpu: 2}
"""
"""Trials of well under a second, one at a time where there are two cores, so that the order is determined."""


@dataclass
class Experiment:
    """One experiment, and how its runs are started."""

    folder: Path
    """Where its space and its experiments lie."""

    settings: Sequence[str] = ()
    """Of the space, as --set takes them."""

    environment: dict[str, str] = field(default_factory=dict)
    """Variables of the runs."""

    experiments: Path | None = None
    """The folder of all experiments, where it is elsewhere."""

    url: str | None = None
    """The URL of all experiments, where they are remote."""

    drivers: list["Driver"] = field(default_factory=list)
    """All runs so far."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "tiny.yaml").write_text(SPACE, encoding="utf-8")
        self.experiments = self.experiments or self.folder / "experiments"

    @property
    def path(self) -> Path:
        """The experiment's folder; of a remote one the copy that this machine works on."""
        assert self.experiments is not None
        return (self.experiments if self.url is None else local_copy(self.url)) / "tiny"

    def trial(self, name: str) -> Path:
        return self.path / "trials" / name

    def command(self, *more: str) -> list[str]:
        given = [f"--set={setting}" for setting in self.settings]
        place = ["--experiments", self.url or str(self.experiments), "--quiet"]
        return [sys.executable, "-m", "langsearch", "run", str(self.folder / "tiny.yaml"), *place, *given, *more]

    @contextmanager
    def running(self, *more: str) -> Iterator["Driver"]:
        """Starts a run; one that still goes on at the end of the context is killed, with all its processes."""
        # Threads that wait spin by default; where others want the cores too, trials of a second then take minutes.
        waiting = {"OMP_NUM_THREADS": "1", **WAITING}
        environment = {**os.environ, **waiting, **self.environment}
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background; the run would ignore it too
            signal.signal(signal.SIGINT, signal.default_int_handler)
        log = self.folder / f"log-{time.monotonic_ns()}.txt"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.command(*more), stdout=output, stderr=output, env=environment, start_new_session=True
            )
        driver = Driver(process, log)
        self.drivers.append(driver)
        try:
            yield driver
        finally:
            if not driver.has_ended:
                driver.clean_up()

    def run(self, *more: str, code: int = 0) -> "Driver":
        """Runs to the end, which must have this exit code."""
        with self.running(*more) as driver:
            driver.ends_with(code)
        return driver

    def rows(self) -> dict[str, dict[str, Any]]:
        """results.parquet, each trial once."""
        rows = read_rows(self.path / "results.parquet")
        assert len({row["name"] for row in rows}) == len(rows), "no trial stands twice"
        return {row["name"]: row for row in rows}

    def comparable(self) -> dict[str, dict[str, Any]]:
        """The rows without what two equal runs do not share."""
        return {
            name: {key: value for key, value in row.items() if key not in _COSTS} for name, row in self.rows().items()
        }

    def attempts(self, name: str) -> dict[str, int]:
        """How often a trial was tried again, by kind of failure."""
        path = self.trial(name) / "attempts.json"
        return dict(read_json(path)["counts"]) if path.exists() else {}

    def assert_ended(self, num_trials: int) -> dict[str, dict[str, Any]]:
        """Asserts that so many trials were trained, each once, and all have ended; returns their rows."""
        rows = {name: row for name, row in self.rows().items() if row["kind"] == "searched"}
        trained = {name: row for name, row in rows.items() if row["same_as"] is None and row["retried_as"] is None}
        assert len(trained) == num_trials
        assert len({row["fingerprint"] for row in trained.values()}) == num_trials, "nothing is trained twice"
        assert {row["state"] for row in rows.values()} <= {"complete", "pruned"}
        assert any(row["is_front"] for row in rows.values())
        assert all(row["test_spbleu"] is not None for row in rows.values() if row["is_front"])
        assert read_json(self.path / "experiment.json")["finished"] is not None
        return trained


class Driver:
    """A run as a process, with the processes that Ray started for it."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._process, self._log = process, log
        self._children: dict[int, str] = {}

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def code(self) -> int | None:
        """The exit code, once it has ended."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """What it has printed, in one line."""
        return re.sub(r"\s+", " ", self._log.read_text(encoding="utf-8", errors="replace"))

    def ends_with(self, code: int, timeout: float = 300) -> None:
        """Waits for its end, and asserts that it has this exit code."""
        deadline = time.monotonic() + timeout
        while self._process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end: {self.output[-3000:]}"
            self._look()
            time.sleep(0.05)
        assert self._process.returncode == code, self.output[-3000:]

    def wait_for(self, condition: Callable[[], Any], timeout: float = 240, between: float = 0.01) -> Any:
        """Waits until a condition holds while the run goes on; returns its value."""
        deadline = time.monotonic() + timeout
        while not (found := _safely(condition)):
            assert self._process.poll() is None, f"it ended: {self.output[-3000:]}"
            assert time.monotonic() < deadline, f"it waits for ever: {self.output[-3000:]}"
            time.sleep(between)
        return found

    def wait_for_or_end(self, condition: Callable[[], Any], timeout: float = 240) -> None:
        """Waits until a condition holds, or the run has ended."""
        deadline = time.monotonic() + timeout
        while not self.has_ended and not _safely(condition):
            assert time.monotonic() < deadline, f"it waits for ever: {self.output[-3000:]}"
            time.sleep(0.05)

    def interrupt(self) -> None:
        """Ctrl+C: a terminal sends SIGINT to all processes of the run."""
        self._look()
        os.killpg(self.pid, signal.SIGINT)

    def terminate(self) -> None:
        """SIGTERM: who stops a job sends it to the run alone."""
        self._look()
        self._process.terminate()

    def sleep(self, seconds: float) -> None:
        """Waits, or until it has ended."""
        deadline = time.monotonic() + seconds
        while not self.has_ended and time.monotonic() < deadline:
            time.sleep(0.01)

    def kill(self) -> bool:
        """Kills the driver by SIGKILL, not of what Ray started for it; returns whether it had not ended before."""
        self._look()
        self._process.kill()
        return self._process.wait() == -signal.SIGKILL

    def workers(self) -> list[int]:
        """The processes that train."""
        self._look()
        return [pid for pid in self._children if _command(pid).startswith("ray::") and WORKER in _command(pid)]

    def wait_until_gone(self, timeout: float = 60) -> None:
        """Waits until all processes that Ray started have ended, but for agents that have no part in trials."""
        deadline = time.monotonic() + timeout
        while left := [pid for pid in self._left() if not _command(pid).startswith(_AGENTS)]:
            assert time.monotonic() < deadline, f"processes are left: {[_command(pid) for pid in left]}"
            time.sleep(0.05)

    def clean_up(self) -> None:
        """Kills what is left."""
        self._look()
        for pid in [self.pid, *self._left()]:
            if pid != self.pid or self._process.poll() is None:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        self._process.wait()

    def _look(self) -> None:
        """Notes the processes below the driver; those that are started after this and before its end are not known."""
        if self._process.poll() is None:
            for pid in _descendants(self.pid):
                self._children.setdefault(pid, _started(pid))

    def _left(self) -> list[int]:
        return [pid for pid, started in self._children.items() if started and _started(pid) == started]


def _safely(condition: Callable[[], Any]) -> Any:
    try:
        return condition()
    except OSError:  # a file that was just renamed
        return None


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the command: state, parent, ..., when it started; none if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = text.rpartition(")")[2].split()
    return [] if found[0] in "ZX" else found


def _started(pid: int) -> str:
    found = _stat(pid)
    return found[19] if found else ""


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").replace("\0", " ")
    except OSError:
        return ""


def _descendants(pid: int) -> list[int]:
    parents = {
        int(entry.name): int(found[1])
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and (found := _stat(int(entry.name)))
    }
    family = [pid]
    for member in family:
        family.extend(child for child, parent in parents.items() if parent == member)
    return family[1:]


def write_faults(folder: Path, faults: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Plans faults by trial; returns the variables that a run needs so that its workers know them.

    Args:
        folder: Where the plan goes, and what the workers note about it.
        faults: {"kind": "hang" | "raise" | "cuda" | "memory" | "slow" | "wait", "times": how often, in "update"} by
            trial; what waits does so for a file `go` in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "faults.json").write_text(json.dumps(faults), encoding="utf-8")
    paths = [str(FAULTS), os.environ.get("PYTHONPATH", "")]
    return {"LANGSEARCH_TEST_FAULTS": str(folder), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
