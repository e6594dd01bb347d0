"""A search from start to end: Ray Tune runs the trials, the table remembers them, the test set is touched once."""

import logging
import os
import shutil
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from langsearch.evaluate.spbleu import SpBleu
from langsearch.model.base import SharedBase, load_base, share_base
from langsearch.search.comparison import compare_tested
from langsearch.search.display import Display
from langsearch.search.environment import CheckedSpace, Environment, build_environment
from langsearch.search.experiment import open_table, start_experiment, write_description, write_results
from langsearch.search.folder import ExperimentFolder, read_json
from langsearch.search.halving import ParetoHalving, rungs
from langsearch.search.priors import Seeding, describe_task, next_task, seed
from langsearch.search.searcher import FAILED, TableSearcher, parse_result
from langsearch.search.table import State, TrialRow, TrialTable
from langsearch.search.task import TrialTask, baseline_task, searched_task
from langsearch.search.trial import TestResult
from langsearch.search.worker import TrialTrainable, learn_on_worker, test_on_worker
from langsearch.space.problems import InputError
from langsearch.space.schema import Space

logger = logging.getLogger(__name__)

STORE_FOLDER = ".store"
"""Token files, beside the experiments that share them."""

_SECONDS_BETWEEN_RESULTS = 5.0
_SECONDS_TO_CONNECT = 10.0

_ENVIRONMENT = {
    # Baselines report nothing to the scheduler, and our own table is the only log.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune's own state is never read; it need not be written often.
    "TUNE_GLOBAL_CHECKPOINT_S": "600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # Our own display takes the place of Tune's.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Relative paths in a space mean the same on a worker as here.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Nothing of a run is sent to anybody.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
}


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
    _check_local_resources(space, address)
    if address is not None:
        _connect(address)
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
    _start_ray(shared)
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
            max_concurrent_trials=_max_concurrent(resources.cpu, gpus) if address is None else None,
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


def _connect(address: str) -> None:
    """Connects to a running cluster. Raises InputError if there is none at the address."""
    problem = f"--address must be that of a running Ray cluster, but nothing answers at {address!r}"
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        # Ray itself would try for many minutes, and log all the while.
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_CONNECT).close()
        except (OSError, OverflowError) as error:
            raise InputError(f"{problem} ({error}).") from error
    _set_environment()
    if not ray.is_initialized():
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError) as error:
            raise InputError(f"{problem} ({error}).") from error


def _start_ray(shared: SharedBase) -> None:
    """Starts Ray on this machine alone, unless this process has a Ray already."""
    _set_environment()
    if ray.is_initialized():
        return
    base_bytes = sum(array.nbytes for array in shared.weights.values())
    ray.init(
        "local",
        log_to_driver=False,
        logging_level=logging.ERROR,
        include_dashboard=False,
        # Twice the base and the sentences, not Ray's default of 30 % of the memory.
        object_store_memory=2 * base_bytes + 200_000_000,
        _node_ip_address="127.0.0.1",  # nothing of a run on one machine is open to others
    )


def _set_environment() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _check_local_resources(space: Space, address: str | None) -> None:
    """Raises InputError if this machine alone is to run trials that it has no room for."""
    if address is not None or ray.is_initialized():
        return
    problems = []
    num_cpus, num_gpus = os.cpu_count() or 1, torch.cuda.device_count()
    if space.resources.cpu > num_cpus:
        problems.append(
            f"`resources.cpu` must be at most the machine's {num_cpus}, but is {space.resources.cpu:g}. "
            f"Run with --set resources.cpu={num_cpus}, or on a cluster with --address."
        )
    if space.resources.gpu > num_gpus:
        problems.append(
            f"`resources.gpu` must be at most the machine's {num_gpus}, but is {space.resources.gpu:g}. "
            f"Run with --set resources.gpu={num_gpus}, or on a cluster with --address."
        )
    if problems:
        raise InputError(problems)


def _max_concurrent(cpus: float, gpus: float) -> int:
    """Returns how many trials fit at once, so that none is proposed before it can start with the latest results."""
    available = ray.cluster_resources()
    fits = [int(available.get("CPU", 1) / cpus)] + ([int(available.get("GPU", 0) / gpus)] if gpus else [])
    return max(min(fits), 1)


def _ended(folder: ExperimentFolder, seconds: float, is_complete: bool) -> dict[str, Any]:
    before = float(read_json(folder.description)["seconds"])
    return {
        "seconds": before + seconds,
        "finished": datetime.now(UTC).isoformat(timespec="seconds") if is_complete else None,
    }
