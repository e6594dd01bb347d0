"""Nodes that go and come while a search runs, on a cluster whose nodes are processes of this machine."""

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import ray
from ray.cluster_utils import Cluster
from rich.console import Console

from langsearch.cluster.ray_session import connect
from langsearch.experiment.environment import CheckedSpace, build_environment, check_space
from langsearch.experiment.folder import ExperimentFolder, TrialFolder, read_json, read_rows
from langsearch.experiment.task import TrialTask
from langsearch.model.base import Base
from langsearch.search.display import Display
from langsearch.search.runner import run_search
from langsearch.space.schema import load_space
from langsearch.trial.attempts import read_attempts
from langsearch.trial.trial import run_trial
from tests.integration.harness import WORKER, write_faults

if TYPE_CHECKING:
    from langsearch.search.runner import Outcome

pytest_plugins = ["search_fixtures"]

SETTINGS = [
    "search.trials=2",
    "baselines=[]",
    "trainer.pairs_per_epoch=16",
    "trainer.tokens_per_batch=200",
    "evaluation.search={directions: 1, sentences: 2, beams: 1, max_length_factor: 0.5}",
    "evaluation.final={directions: 1, sentences: 2, beams: 1, max_length_factor: 0.5}",
]
"""Two trials of two epochs, and of two updates an epoch."""

WAITS = {"kind": "wait", "update": 4, "times": 1}
"""In the middle of the second epoch a trial waits for the test, once."""

SECONDS = 150.0


class Machines:
    """A head that runs no trials, and machines of one core; faults are injected into what runs there.

    Args:
        folder: For the faults' plan and what has become of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        head = {"num_cpus": 0, "object_store_memory": 2 * 10**8, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address: str = self._cluster.address

    def add(self) -> Any:
        """Starts a machine."""
        return self._cluster.add_node(num_cpus=1, object_store_memory=2 * 10**8)

    def lose(self, machine: Any) -> None:
        """Kills all processes of a machine."""
        self._cluster.remove_node(machine, allow_graceful=False)

    def set(self, number: int) -> list[Any]:
        """Brings the cluster to so many machines, and returns them."""
        while len(self._cluster.worker_nodes) < number:
            self.add()
        while len(self._cluster.worker_nodes) > number:
            self.lose(next(iter(self._cluster.worker_nodes)))
        return list(self._cluster.worker_nodes)

    def plan(self, *names: str) -> None:
        """Has trials wait."""
        for file in self.folder.glob("*"):
            file.unlink()
        write_faults(self.folder, dict.fromkeys(names, WAITS))

    def is_waiting(self, name: str) -> bool:
        """Whether a trial has come to where it waits."""
        return (self.folder / f"struck-{name}").exists()

    def go(self) -> None:
        """Lets the trials go on."""
        (self.folder / "go").touch()

    def shut_down(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    faults = tmp_path_factory.mktemp("faults")
    with tempfile.TemporaryDirectory(prefix="r") as folder, pytest.MonkeyPatch.context() as patch:  # a short path
        patch.setenv("RAY_TMPDIR", folder)
        for name, value in write_faults(faults, {}).items():
            patch.setenv(name, value)
        found = Machines(faults)
        found.add()
        connect(found.address)
        yield found
        ray.shutdown()
        found.shut_down()


@dataclass(frozen=True)
class Running:
    """A search in a thread of its own: nodes may be added in the main thread only."""

    folder: ExperimentFolder
    outcome: "Future[Outcome]"
    _screen: io.StringIO

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Waits until a condition holds while the search goes on."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert not self.outcome.done(), f"it ended: {self._screen.getvalue()}"
            assert time.monotonic() < deadline, f"it waits for ever: {self._screen.getvalue()}"
            time.sleep(0.05)

    def trial(self, name: str) -> TrialFolder:
        return self.folder.trial(name)

    def ended_rows(self) -> dict[str, dict[str, Any]]:
        """Waits for the end; returns the rows of the trials, of which none may have failed or been tried again."""
        outcome = self.outcome.result(timeout=SECONDS)
        assert outcome.is_complete, self._screen.getvalue()
        rows = {row["name"]: row for row in read_rows(self.folder.results)}
        assert [(row["state"], row["epochs"], row["cause"]) for row in rows.values()] == [("complete", 2, None)] * 2
        assert not any(read_attempts(self.trial(name)).counts for name in rows)
        return rows


Starter = Callable[[], Running]


@pytest.fixture(scope="module")
def two_trials(tmp_path_factory: pytest.TempPathFactory, tiny_space: str) -> CheckedSpace:
    file = tmp_path_factory.mktemp("space") / "tiny.yaml"
    file.write_text(tiny_space, encoding="utf-8")
    return check_space(load_space(file, SETTINGS))


@pytest.fixture
def start(machines: Machines, two_trials: CheckedSpace, tmp_path: Path) -> Iterator[Starter]:
    """Starts a search on the cluster."""
    with ThreadPoolExecutor(1) as threads:

        def run() -> Running:
            screen, folder = io.StringIO(), tmp_path / "experiments"
            display = Display(Console(file=screen), "tiny", 2, 0)
            outcome = threads.submit(run_search, two_trials, folder, display, address=machines.address)
            return Running(ExperimentFolder(folder / "tiny"), outcome, screen)

        yield run
        machines.go()


def raylet(machine: Any) -> int:
    """The process that stands for a machine."""
    return int(machine.all_processes["raylet"][0].process.pid)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def trains(machine: Any) -> bool:
    """Whether a process on a machine has a trial."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text(encoding="utf-8")
            if command.startswith("ray::") and WORKER in command and parent(int(process.name)) == raylet(machine):
                return True
        except OSError:  # it has ended meanwhile
            continue
    return False


@pytest.mark.integration  # half a minute each; .ci/run runs both
def test_a_machine_that_comes_late_is_used(machines: Machines, start: Starter) -> None:
    (first,) = machines.set(1)
    machines.plan("00000", "00001")
    search = start()
    search.wait_for(lambda: machines.is_waiting("00000"))
    assert not search.trial("00001").curve.exists(), "there is room for one"
    late = machines.add()
    search.wait_for(lambda: machines.is_waiting("00001"))
    assert trains(first)
    assert trains(late)
    machines.go()
    rows = search.ended_rows()
    assert rows["00000"]["worker"] != rows["00001"]["worker"]


@pytest.mark.integration
def test_a_machine_that_is_lost_costs_at_most_the_epoch_in_progress(
    machines: Machines, start: Starter, two_trials: CheckedSpace, base: Base, tmp_path: Path
) -> None:
    both = machines.set(2)
    machines.plan("00000")
    search = start()
    search.wait_for(lambda: machines.is_waiting("00000") and search.trial("00001").result.exists())
    trial = search.trial("00000")
    (epoch,) = read_rows(trial.curve)
    (state,) = trial.checkpoint.glob("0*/state.json")
    worker = str(read_json(state)["kept"]["worker"])
    (lost,) = [machine for machine in both if raylet(machine) == parent(int(worker.rpartition("/")[2]))]
    machines.lose(lost)
    rows = search.ended_rows()
    assert read_rows(trial.curve)[0] == epoch, "with its seconds: the first epoch was not trained again"
    assert rows["00000"]["worker"] != worker

    # And the weights are those of a trial that nothing happened to.
    environment = build_environment(two_trials, base, tmp_path / "store")
    undisturbed = ExperimentFolder(tmp_path / "undisturbed").trial("00000")
    TrialTask.read(trial).write(undisturbed)
    *_, result = run_trial(base, environment, TrialTask.read(undisturbed), undisturbed)
    assert result.spbleu == rows["00000"]["spbleu"]
    assert [row["train_loss"] for row in read_rows(undisturbed.curve)] == [
        row["train_loss"] for row in read_rows(trial.curve)
    ]


@pytest.mark.integration  # with this one the file takes more than a minute
def test_a_cluster_that_shrinks_to_nothing_and_comes_back_goes_on(machines: Machines, start: Starter) -> None:
    (only,) = machines.set(1)
    machines.plan("00000")
    search = start()
    search.wait_for(lambda: machines.is_waiting("00000"))
    (epoch,) = read_rows(search.trial("00000").curve)
    machines.lose(only)
    time.sleep(3)
    assert not search.outcome.done()
    machines.add()
    search.ended_rows()
    assert read_rows(search.trial("00000").curve)[0] == epoch
