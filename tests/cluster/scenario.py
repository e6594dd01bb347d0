"""Searches on a cluster of three hosts that are lost in the middle; `tests/cluster/run` plays them.

python -m tests.cluster.scenario STORY, as the first process of its namespaces.
"""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from langsearch.experiment.folder import read_rows
from langsearch.train.checkpoint import read_newest_checkpoint
from tests.cluster.autoscaling import monitor_logs, play_autoscaled
from tests.cluster.host import Host, make_network
from tests.cluster.operating import (
    CONFIG,
    EXPERIMENT,
    HOSTS,
    NUM_EPOCHS,
    CommandError,
    command,
    examine,
    fetch,
    prepare,
    search,
    search_log,
    text_of,
    wait_for_nodes,
)
from tests.cluster.sandbox import LOGS, make_sandbox
from tests.cluster.slurm import play_slurm

_GOES_ON = "it goes on from its checkpoint"
_SECONDS_TO_NOTICE = 180
"""Until Ray takes a host for lost that says nothing any more."""

_started = time.monotonic()


@dataclass(frozen=True)
class Seen:
    """A trial in the middle, as its newest checkpoint says."""

    name: str
    host: str
    history: Sequence[dict[str, Any]]
    """One entry an epoch."""


def play_loss() -> None:
    """One worker is lost: its trial goes on elsewhere, and the rest of the cluster ends the search."""
    num_cpus = form()
    running = search(num_cpus, 4)
    lost = lose(running, HOSTS[1:])
    finish(running)
    folder = fetch()
    say("the experiment is fetched, by rsync and as a job")
    check(folder, 4, [lost])
    assert worker(folder, lost.name) != lost.host
    shown = command("langsearch", "show", str(folder))
    assert "4 of 4 ended (4 complete)" in shown, shown
    command("langsearch", "report", str(folder))
    say(f"no trial failed; {lost.name} went on on {worker(folder, lost.name)}")
    command("ray", "down", "-y", CONFIG)
    assert "gcs_server" not in ray_processes()
    say("the cluster is down")


def play_empty() -> None:
    """A head without room for trials loses both workers; when they are back, the search goes on."""
    num_cpus = form(" --num-cpus=0")
    running = search(num_cpus, 4)
    lost = [lose(running, HOSTS[1:])]
    lost += [lose(running, [host for host in HOSTS[1:] if host.name != lost[0].host])]
    wait_for_nodes(1, _SECONDS_TO_NOTICE)
    say("the head is alone")
    for host in HOSTS[1:]:
        host.turn_on()
    wait_for_nodes(3, _SECONDS_TO_NOTICE)
    say("Ray runs on both again")
    finish(running)
    check(EXPERIMENT, 4, lost)
    say("no trial failed")


def form(head_options: str = "") -> int:
    """Makes the hosts and the cluster; returns the CPUs of a worker."""
    make_sandbox()
    make_network(HOSTS)
    for host in HOSTS:
        host.turn_on()
    say("three hosts answer")
    prepare(head_options)
    command("ray", "up", "-y", CONFIG, seconds=180)
    say("ray up has started the head")
    wait_for_nodes(3)
    say("all three are nodes")
    num_cpus = examine()
    say(f"the doctor has no complaints; {num_cpus} CPUs a worker")
    return num_cpus


def lose(running: "subprocess.Popen[bytes]", hosts: Sequence[Host], seconds: float = 300) -> Seen:
    """Turns off the first of the hosts that is in the middle of a trial; returns that trial as it was then."""
    end = time.monotonic() + seconds
    while running.poll() is None and time.monotonic() < end:
        for trial in seen_trials():
            for host in hosts:
                if trial.host == host.name and len(trial.history) < NUM_EPOCHS - 1:
                    host.turn_off()
                    say(f"{host.name} is lost, with trial {trial.name} behind epoch {len(trial.history)}/{NUM_EPOCHS}")
                    return trial
        time.sleep(0.1)
    ends = f"the search's end is {running.poll()}" if running.poll() is not None else f"not within {seconds:g} s"
    raise CommandError(f"A trial on one of {[host.name for host in hosts]} must be seen in the middle, but {ends}.")


def seen_trials() -> Iterator[Seen]:
    """Yields the trials that have a checkpoint, and no result yet."""
    for folder in sorted((EXPERIMENT / "trials").glob("*")):
        checkpoint = read_newest_checkpoint(folder / "checkpoint")
        if checkpoint is not None and checkpoint.state.get("kept") and not (folder / "result.json").exists():
            host = checkpoint.state["kept"]["worker"].partition("/")[0]
            yield Seen(folder.name, host, checkpoint.state["history"])


def finish(running: "subprocess.Popen[bytes]", seconds: float = 900) -> None:
    """Waits for the end of the search. Raises CommandError if it fails."""
    try:
        code: object = running.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        code = f"no end within {seconds:g} s"
    if code != 0:
        raise CommandError(f"the search: {code}")
    say("the search has ended")


def check(folder: Path, num_trials: int, lost: Sequence[Seen]) -> None:
    """Asserts that all trials are complete, and that those that were on lost hosts went on from their checkpoints."""
    rows = read_rows(folder / "results.parquet")
    states = {row["name"]: (row["state"], row["epochs"]) for row in rows}
    assert states == {f"{number:05}": ("complete", NUM_EPOCHS) for number in range(num_trials)}, states
    for trial in lost:
        curve = read_rows(folder / "trials" / trial.name / "curve.parquet")
        before, after = (
            [(row["epoch"], row["seconds"], row["train_loss"]) for row in history] for history in (trial.history, curve)
        )
        assert after[: len(before)] == before, f"{trial.name} has trained epochs again: {before}, then {after}"
        assert re.search(rf"{trial.name} .*{_GOES_ON}", search_log())


def worker(folder: Path, trial: str) -> str:
    """Returns the host that trained a trial's last epoch."""
    (row,) = (row for row in read_rows(folder / "results.parquet") if row["name"] == trial)
    return str(row["worker"]).partition("/")[0]


def ray_processes() -> list[str]:
    """Returns the names of Ray's servers on all hosts, whose processes are seen from here."""
    names = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            names.append(path.read_text(encoding="utf-8").strip())
        except OSError:
            continue
    return [name for name in names if name in ("raylet", "gcs_server")]


def logs() -> str:
    """Returns the ends of the logs that tell what went wrong: the search's, the hosts', the autoscaler's."""
    paths = sorted(LOGS.glob("[a-z]*.log")) + monitor_logs()
    if HOSTS[0].is_on:
        paths += sorted((HOSTS[0].root / "tmp/ray").glob("session_2*/logs/monitor.*"))
    texts = ["\n".join([f"==> {path}", *text_of(path).splitlines()[-100:]]) for path in paths]
    return "\n\n".join(texts)


def say(text: str) -> None:
    """Prints what has been reached, and when."""
    print(f"{time.monotonic() - _started:6.1f} s  {text}", flush=True)


STORIES: dict[str, Callable[[], None]] = {
    "loss": play_loss,
    "empty": play_empty,
    "autoscaler-v1": partial(play_autoscaled, 1),
    "autoscaler-v2": partial(play_autoscaled, 2),
    "slurm": play_slurm,
}


def main(name: str) -> int:
    """Plays a story and prints how it ended; returns the exit code."""
    try:
        STORIES[name]()
    except Exception as error:
        print(logs())
        say(f"FAILED: {type(error).__name__}: {error}")
        return 1
    say("PASSED")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
