"""What the driver of a search costs; run it by `python -m tests.benchmarks.driver`.

Trials are scripted: three epochs of 20 seconds, which nobody waits for. Everything else is what a search does: points
from the sampler, the trial table on the disk, early stopping, the task files, results.parquet and the disk's budget
after every trial. Printed are the driver's seconds, and what share of the search that is with so many workers: with 1,
the search takes a minute for each trial, with 16 a sixteenth of it.

With `--ray` the trials run through Ray Tune itself, in one worker that answers at once, and the driver's CPU time is
taken: what Tune's own event loop costs is then counted too.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray import tune

from langsearch.cluster.ray_session import set_environment
from langsearch.experiment.disk import DiskBudget
from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.results_parquet import ResultsFile
from langsearch.experiment.task import TrialTask, searched_task
from langsearch.model.finding import find_base
from langsearch.model.shape import read_shape
from langsearch.search.searcher import TableSearcher
from langsearch.space.architecture import BaseShape
from langsearch.space.schema import Space, load_space
from langsearch.space.settings import CheckpointSettings
from langsearch.study.early_stopping import AsyncHalving
from langsearch.study.front import Objective
from langsearch.study.results import TrialResult
from langsearch.study.table import TrialTable
from tests.benchmarks.simulated_tune import run_simulated, scripted_result

_SPACE = Path(__file__).parents[2] / "search_spaces" / "quickstart.yaml"
_EPOCHS, _EPOCH_SECONDS = 3, 20.0
_WORKERS = (1, 4, 16)


def main() -> None:
    """Runs the benchmark, prints a table and writes a JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="*", default=[200, 1000, 5000])
    parser.add_argument("--samplers", nargs="*", default=["random", "tpe"])
    parser.add_argument("--ray", action="store_true", help="through Ray Tune, not in simulated time")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    figures = []
    shares = "".join(f"{f'of {workers}':>9}" for workers in _WORKERS)
    print(f"{'sampler':<9}{'trials':>8}{'seconds':>10}{'ms a trial':>12}{'last tenth':>12}{shares}")
    for sampler in arguments.samplers:
        for num_trials in arguments.trials:
            seconds, last = (_through_ray if arguments.ray else _simulated)(sampler, num_trials)
            each = seconds / num_trials
            share = {workers: each * workers / (_EPOCHS * _EPOCH_SECONDS) for workers in _WORKERS}
            figures.append({"sampler": sampler, "trials": num_trials, "seconds": seconds, "last_tenth_seconds": last})
            cells = "".join(f"{value:>9.2%}" for value in share.values())
            late = f"{10_000 * last / num_trials:.1f}"
            print(f"{sampler:<9}{num_trials:>8}{seconds:>10.1f}{1000 * each:>12.1f}{late:>12}{cells}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _simulated(sampler: str, num_trials: int) -> tuple[float, float]:
    """Returns the driver's seconds, and those of the last tenth of the trials."""
    with tempfile.TemporaryDirectory() as name:
        folder = ExperimentFolder(Path(name))
        space, shape, table, searcher = make_search(folder, sampler, num_trials)
        results = ResultsFile(folder, shape.num_parameters)
        budget = DiskBudget(folder, CheckpointSettings())
        num_ended, late = 0, 0.0

        def note(_: float) -> None:
            nonlocal num_ended, late
            ended = sum_ended(table)
            if ended > num_ended:
                num_ended = ended
                budget.keep_within(table.rows(), {row.name for row in table.candidates()})
                results.write(table)
            if not late and num_ended >= 0.9 * num_trials:
                late = time.perf_counter()

        scheduler = AsyncHalving(table, max_epochs=_EPOCHS, grace_epochs=1, reduction_factor=2)
        started = time.perf_counter()
        run_simulated(searcher, scheduler, script_trials(space, shape), num_slots=4, on_event=note)
        ended = time.perf_counter()
        return ended - started, ended - late


def sum_ended(table: TrialTable) -> int:
    """Returns how many trials have ended."""
    return sum(row.state.is_finished for row in table.rows())


class ScriptedTrainable(tune.Trainable):  # type: ignore[misc]  # Ray has no types
    """Answers at once what a trial would report."""

    def setup(self, config: dict[str, Any]) -> None:
        """Called by Tune in a fresh worker."""
        self._name, self._epoch = config["name"], 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called by Tune for the next trial."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Returns the next epoch's result."""
        self._epoch += 1
        values = vars(_result(int(self._name), self._epoch, random.Random(self._name).randrange(10**6)))
        return {**values, "name": self._name, "kind": "searched", "done": self._epoch == _EPOCHS}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Nothing to load."""


def _through_ray(sampler: str, num_trials: int) -> tuple[float, float]:
    """Returns the driver's CPU seconds, and those of the last tenth of the trials."""
    set_environment()
    with tempfile.TemporaryDirectory() as name:
        folder = ExperimentFolder(Path(name))
        _, _, table, searcher = make_search(folder, sampler, num_trials)
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        late = _LastTenth(table, num_trials)
        tuner = tune.Tuner(
            tune.with_resources(ScriptedTrainable, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=AsyncHalving(table, max_epochs=_EPOCHS, grace_epochs=1, reduction_factor=2),
                num_samples=-1,
                max_concurrent_trials=1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(name="tune", storage_path=str(folder.ray), callbacks=[late], verbose=0),
        )
        started = time.process_time()
        tuner.fit()
        ended = time.process_time()
        ray.shutdown()
        return ended - started, ended - late.started


class _LastTenth(tune.Callback):  # type: ignore[misc]  # Ray has no types
    """Notes the CPU time when nine tenths of the trials have ended."""

    def __init__(self, table: TrialTable, num_trials: int) -> None:
        self.started = 0.0
        self._table, self._num_trials = table, num_trials

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune."""
        if not self.started and len(trials) >= 0.9 * self._num_trials:
            self.started = time.process_time()


def make_search(
    folder: ExperimentFolder, sampler: str, num_trials: int
) -> tuple[Space, BaseShape, TrialTable, TableSearcher]:
    """Returns a search of the quickstart's space in a folder, not begun."""
    space = load_space(_SPACE)
    shape = read_shape(find_base(space.base))
    objectives = [Objective("spbleu", True), Objective("trainable_parameters", False)]
    url = f"sqlite:///{folder.study}"
    table = TrialTable(url, "driver", objectives, sampler=sampler, seed=0, num_trials=num_trials)
    searcher = TableSearcher(
        table,
        folder,
        lambda number, point: searched_task(space, shape, number, point),
        space.dimensions(),
        [],
        num_trials,
    )
    return space, shape, table, searcher


def script_trials(space: Space, shape: BaseShape) -> Any:
    """Returns what its trials would report: three epochs of 20 seconds."""

    def script(task: TrialTask) -> Iterator[tuple[float, TrialResult]]:
        for epoch in range(1, _EPOCHS + 1):
            yield _EPOCH_SECONDS, _result(int(task.name), epoch, task.num_trainable(shape))

    return script


def _result(number: int, epoch: int, num_trainable: int) -> TrialResult:
    """Returns a score that grows with the size and the epoch, with noise of the trial's own."""
    noise = random.Random(f"{number}/{epoch}").gauss(0, 0.1)
    spbleu = 2 + 0.2 * epoch + num_trainable / 10**6 + noise
    return scripted_result(epoch, _EPOCHS, spbleu, num_trainable)


if __name__ == "__main__":
    main()
