"""A search from start to end: Ray Tune runs the trials, the table remembers them, the test set is touched once."""

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from langsearch.evaluate.spbleu import SpBleu
from langsearch.model.base import SharedBase, load_base, share_base
from langsearch.search.comparison import compare_tested
from langsearch.search.display import Display
from langsearch.search.environment import STORE_FOLDER, CheckedSpace, Environment, build_environment
from langsearch.search.experiment import open_table, start_experiment, write_description, write_results
from langsearch.search.folder import ExperimentFolder, read_json
from langsearch.search.halving import ParetoHalving, rungs
from langsearch.search.priors import Seeding, describe_task, next_task, seed
from langsearch.search.ray_session import check_local_resources, connect, max_concurrent, start_ray
from langsearch.search.searcher import FAILED, TableSearcher, parse_result
from langsearch.search.table import State, TrialRow, TrialTable
from langsearch.search.task import TrialTask, baseline_task, searched_task
from langsearch.search.trial import TestResult
from langsearch.search.worker import TrialTrainable, learn_on_worker, test_on_worker
from langsearch.space.problems import InputError
from langsearch.space.schema import Space

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_RESULTS = 5.0


@dataclass(frozen=True)
class Outcome:
    """How a search ended."""

    folder: ExperimentFolder
    rows: Sequence[TrialRow]
    is_complete: bool
    """Whether all planned trials have ended; if not, it was interrupted or its time was up."""
    is_late: bool
    """Whether its time was up."""

    @property
    def num_complete(self) -> int:
        """Searched trials with a final score."""
        return sum(row.kind == "searched" and row.state is State.COMPLETE for row in self.rows)


def run_search(
    checked: CheckedSpace, experiments: Path, display: Display, *, resume: bool = False, address: str | None = None
) -> Outcome:
    """Runs a search, or goes on with one.

    Args:
        checked: The space, checked against its base and data.
        experiments: The folder of all experiments; the space's name is the experiment's.
        display: Shows what happens.
        resume: Go on with an experiment that is there.
        address: A Ray cluster's address. None: this machine alone.

    Raises:
        InputError: If the experiment is there already, or not there to resume, or no machine has the resources.
    """
    started = time.monotonic()
    space = checked.space
    experiments = experiments.resolve()
    check_local_resources(space, address)
    if address is not None:
        connect(address)
    folder = start_experiment(experiments / space.name, space, resume=resume)
    shutil.rmtree(folder.ray, ignore_errors=True)
    base = load_base(space.base)
    environment = build_environment(checked, base, experiments / STORE_FOLDER)
    signature = SpBleu(environment.tokenizer).signature
    write_description(folder, checked, signature)
    table = open_table(folder, space)
    display.message(
        f"{space.name}: {len(space.languages)} languages, {len(checked.directions)} directions, "
        f"{len(checked.corpus.train):,} training sentences. Starting Ray …"
    )
    shared = share_base(base)
    start_ray(shared)
    try:
        seeding = _learn_priors(checked, folder, shared, environment, display)
        described = {"prior": seeding.describe()} if seeding.points else {}
        write_description(folder, checked, signature, **described)
        is_complete = _search(checked, folder, table, shared, environment, display, address, seeding)
        if is_complete:
            _test_front(folder, table, shared, environment, display, space)
    finally:
        write_results(folder, table, checked.shape.num_parameters)
        if address is None:
            ray.shutdown()
        shutil.rmtree(folder.ray, ignore_errors=True)
    seconds = time.monotonic() - started
    write_description(folder, checked, signature, **described, **_ended(folder, seconds, is_complete))
    is_late = bool(space.search.max_hours) and seconds >= 3600 * (space.search.max_hours or 0)
    return Outcome(folder, table.rows(), is_complete, is_late)


def _search(
    checked: CheckedSpace,
    folder: ExperimentFolder,
    table: TrialTable,
    shared: SharedBase,
    environment: Environment,
    display: Display,
    address: str | None,
    seeding: Seeding,
) -> bool:
    """Runs the trials; returns whether all that were planned have ended."""
    space, shape = checked.space, checked.shape

    def make_task(number: int, point: dict[str, Any]) -> TrialTask:
        return searched_task(space, shape, number, point)

    for baseline in space.baselines:
        table.add_baseline(baseline.name)
    tasks = {row.name: _task_of(row, checked) for row in table.rows()}
    unfinished = [tasks[row.name] for row in table.rows() if not row.state.is_finished and row.same_as is None]
    display.known(table.rows(), tasks)
    deadline = time.monotonic() + 3600 * space.search.max_hours if space.search.max_hours else None
    searcher = TableSearcher(
        table,
        folder,
        make_task,
        seeding.distributions,
        unfinished,
        space.search.trials,
        deadline=deadline,
        seeds=seeding.points,
    )
    resources = space.resources
    gpus = resources.gpu / resources.trials_per_gpu
    trainable = tune.with_resources(
        tune.with_parameters(
            TrialTrainable,
            base=shared,
            environment=environment,
            experiment=folder.path,
            num_threads=max(int(resources.cpu), 1),
        ),
        {"cpu": resources.cpu, "gpu": gpus},
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=_scheduler(space, table),
            num_samples=-1,
            max_concurrent_trials=max_concurrent(resources.cpu, gpus) if address is None else None,
            reuse_actors=True,
            time_budget_s=3600 * space.search.max_hours if space.search.max_hours else None,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder.ray),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=resources.max_failures),
            callbacks=[_Follower(searcher, display, folder, table, shape.num_parameters)],
            verbose=0,
        ),
    )
    with display.showing():
        tuner.fit()
    return searcher.is_done


def _learn_priors(
    checked: CheckedSpace, folder: ExperimentFolder, shared: SharedBase, environment: Environment, display: Display
) -> Seeding:
    """Learns what the space's `prior` asks for, each part once over all resumes, and returns how the search begins.

    Raises:
        InputError: If a part cannot be learned.
    """
    space, resources = checked.space, checked.space.resources
    worker = ray.remote(learn_on_worker).options(
        num_cpus=resources.cpu, num_gpus=resources.gpu / resources.trials_per_gpu, max_retries=resources.max_failures
    )
    while (task := next_task(space, checked.shape, folder)) is not None:
        display.message(f"Learning the {describe_task(task, checked.shape)} …")
        if problems := ray.get(worker.remote(shared, environment, folder.path, task, max(int(resources.cpu), 1))):
            raise InputError(problems)
    seeding = seed(space, checked.shape, folder)
    if seeding.points:
        first = ", ".join(f"{name} {value}" for name, value in seeding.points[0].items())
        display.message(f"The search begins at {first}.")
    return seeding


def _test_front(
    folder: ExperimentFolder,
    table: TrialTable,
    shared: SharedBase,
    environment: Environment,
    display: Display,
    space: Space,
) -> None:
    """Evaluates the front and the baselines on the test set, each one once over all resumes."""
    baselines = [row for row in table.rows() if row.kind == "baseline" and row.state is State.COMPLETE]
    rows = [row for row in baselines + table.front() if row.test is None]
    if not rows:
        return
    resources = space.resources
    task = ray.remote(test_on_worker).options(
        num_cpus=resources.cpu, num_gpus=resources.gpu / resources.trials_per_gpu, max_retries=resources.max_failures
    )
    base_ref, environment_ref = ray.put(shared), ray.put(environment)
    names = {
        task.remote(base_ref, environment_ref, folder.path, row.name, max(int(resources.cpu), 1)): row.name
        for row in rows
    }
    display.message(f"Testing {len(rows)} systems: the front and the baselines, on the test set …")
    pending = list(names)
    while pending:
        done, pending = ray.wait(pending)
        for reference in done:
            try:
                result = TestResult(**ray.get(reference))
                table.record_test(names[reference], result)
                display.message(f"{names[reference]:<15} test spBLEU {result.test_spbleu:5.2f}")
            except Exception:
                logger.exception("The test of %s failed; --resume tries it again.", names[reference])
    compare_tested(folder, table, environment)


class _Follower(tune.Callback):  # type: ignore[misc]  # Ray has no types
    """Tells the display what Tune does, and keeps results.parquet up to date."""

    def __init__(
        self,
        searcher: TableSearcher,
        display: Display,
        folder: ExperimentFolder,
        table: TrialTable,
        base_parameters: int,
    ) -> None:
        self._searcher, self._display, self._folder, self._table = searcher, display, folder, table
        self._base_parameters = base_parameters
        self._written = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks into its own folder; nobody reads that, so nothing goes in."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._display.started(self._searcher.task(trial.config["name"]))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        parsed = parse_result(result)
        if parsed is not None:
            self._display.epoch(trial.config["name"], parsed)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result = trial.last_result or {}
        parsed = parse_result(result)
        if FAILED in result:
            self._display.ended(trial.config["name"], State.FAILED, str(result[FAILED]))
        elif parsed is not None:
            self._display.ended(trial.config["name"], State.COMPLETE if parsed.finished else State.PRUNED)
        self._write_results()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._display.ended(trial.config["name"], State.FAILED, "the worker was lost")
        self._write_results()

    def _write_results(self) -> None:
        if time.monotonic() - self._written > _SECONDS_BETWEEN_RESULTS:
            write_results(self._folder, self._table, self._base_parameters)
            self._written = time.monotonic()


def _task_of(row: TrialRow, checked: CheckedSpace) -> TrialTask:
    if row.kind == "baseline":
        return baseline_task(checked.space, checked.shape, row.name)
    return searched_task(checked.space, checked.shape, int(row.name), dict(row.params))


def _scheduler(space: Space, table: TrialTable) -> TrialScheduler:
    search, epochs = space.search, space.trainer_section.epochs
    if search.scheduler == "none" or not rungs(epochs, search.grace_epochs, search.reduction_factor):
        return FIFOScheduler()
    if len(table.objectives) == 1:
        return ASHAScheduler(
            time_attr="epoch",
            metric="rung_value",
            mode="max",
            max_t=epochs,
            grace_period=search.grace_epochs,
            reduction_factor=search.reduction_factor,
        )
    return ParetoHalving(
        table.objectives,
        max_epochs=epochs,
        grace_epochs=search.grace_epochs,
        reduction_factor=search.reduction_factor,
    )


def _ended(folder: ExperimentFolder, seconds: float, is_complete: bool) -> dict[str, Any]:
    before = float(read_json(folder.description)["seconds"])
    return {
        "seconds": before + seconds,
        "finished": datetime.now(UTC).isoformat(timespec="seconds") if is_complete else None,
    }
