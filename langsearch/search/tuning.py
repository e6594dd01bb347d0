"""The trials of a search, run by Ray Tune: what Tune is given, and what is done between its events."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import pyarrow.fs as pafs
from optuna.exceptions import StorageInternalError
from ray import tune

from langsearch.cluster.interrupts import gentle_interrupts
from langsearch.experiment.disk import DiskBudget
from langsearch.experiment.environment import portable
from langsearch.experiment.folder import read_rows, write_text
from langsearch.experiment.task import searched_task
from langsearch.experiment.try_tasks import tuned_names
from langsearch.experiment.working_copy import WorkingCopy
from langsearch.prior.seeding import Seeding
from langsearch.search.forecast_lines import scored_warnings
from langsearch.search.getting_ready import ReadyWorkers
from langsearch.search.late_nodes import PlacedFifo, PlacedHalving
from langsearch.search.lost_nodes import Losses, restarts
from langsearch.search.planned import planned_tasks
from langsearch.search.pushing import PushingSearcher
from langsearch.search.search import Ended, Search, capacity_of, deadline_of
from langsearch.search.searcher import TableSearcher
from langsearch.search.stop_reasons import REQUESTED, TIME, by_signal, why
from langsearch.search.tracking import tracking_callbacks
from langsearch.search.tries import adopt_tuned, begin_baselines, try_proposer
from langsearch.search.worker import TrialTrainable
from langsearch.space.search_sections import rungs
from langsearch.study.results import parse_result
from langsearch.study.rows import PRETRAINED
from langsearch.study.table import TrialTable
from langsearch.study.tries import needed_tries
from langsearch.trial.failures import FAILED, PAUSED, SPENT, UNFIT

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS, _SECONDS_BETWEEN_RESULTS = 1.0, 5.0


def run_trials(
    search: Search,
    seeding: Seeding,
    retry: Sequence[str],
    *,
    are_proposed: bool = True,
    are_seeds: bool = False,
    deadline: float | None = None,
) -> Ended:
    """Runs a search's trials until all that were planned have ended, or something stops the run.

    Args:
        search: The search.
        seeding: Its dimensions, and how it begins.
        retry: Failed trials to try again.
        are_proposed: Whether new ones are; else those of the table are all that there are.
        are_seeds: Whether further seeds of what is tested are run, and nothing else; else these wait for their turn.
        deadline: When the time is up, by the monotonic clock. None: as the space says, from now.
    """
    space, table, folder = search.space, search.table, search.folder
    if not are_seeds:
        adopt_tries(search)
        begin_baselines(space, table)
    tasks = planned_tasks(space, search.checked.shape, folder, table)
    tuned = tuned_names(space)
    open_rows = [row for row in table.rows() if not row.state.is_finished and row.same_as is None]
    running = [row for row in open_rows if row.name in tasks and row.name not in tuned]
    running = [row for row in running if (row.kind == "seed") == are_seeds]
    search.display.known(table.rows(), tasks)
    losses = Losses(folder, space.resources.max_failures)
    searcher = PushingSearcher(
        table,
        folder,
        lambda number, point: searched_task(space, search.checked.shape, number, point),
        seeding.distributions,
        [tasks[row.name] for row in running],
        space.search.trials if are_proposed else 0,
        seeds=seeding.points,
        retry=retry,
        failures=space.failures,
        plateau=space.search.plateau if are_proposed else None,
        num_trainable=lambda task: task.num_trainable(search.checked.shape),
        explain=losses.explain,
        begins_again=losses.begins_again,
        next_try=try_proposer(space, search.checked.shape, table),
        max_running=capacity_of(search),
        may_come_back=search.late_nodes.check is not None,
    )
    searcher.uploads = search.uploads
    scheduler = _scheduler(search, searcher) if are_proposed else PlacedFifo()
    scheduler.late_nodes = search.late_nodes
    between = _Between(search, searcher, losses, scheduler, deadline or deadline_of(space))
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(
                TrialTrainable,
                base=search.base,
                environment=portable(search.environment, search.copy),
                experiment=folder.path,
                num_threads=search.num_threads,
                failures=space.failures,
                max_failures=space.resources.max_failures,
                copy=search.copy,
                check=search.late_nodes.check,
                lease=search.lease_mark,
            ),
            search.late_nodes.request(),
        ),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder.ray),
            storage_filesystem=pafs.LocalFileSystem(),  # else the path is read as a URL
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            failure_config=restarts(space.resources),
            callbacks=[between, *tracking_callbacks(space, folder, table, search.display.message)],
            verbose=0,
            progress_reporter=tune.CLIReporter(),  # silent; the one for notebooks would clear the cell at once
        ),
    )
    with search.display.showing(), gentle_interrupts(between.interrupt):
        tuner.fit()
    adopt_tries(search)
    return Ended(searcher.is_done, searcher.ended_by, searcher.stopped_by)


def adopt_tries(search: Search) -> None:
    """Completes the tuned baselines whose tries have all ended, and shows them. Raises as `adopt_tuned` does."""
    search.check_held()
    for task, row in adopt_tuned(search.space, search.folder, search.table, search.copy):
        search.display.adopted(task, row)


class _Between(tune.Callback):  # type: ignore[misc]  # Ray has no types
    """What is done between Tune's events: showing, results.parquet, the disk's budget, and stop requests.

    Args:
        search: The search.
        searcher: Its searcher, which has heard of an event before.
        losses: Gets Tune's trials.
        scheduler: Tune's.
        deadline: When the time is up, by the monotonic clock.
    """

    def __init__(
        self,
        search: Search,
        searcher: TableSearcher,
        losses: Losses,
        scheduler: PlacedFifo | PlacedHalving,
        deadline: float | None = None,
    ) -> None:
        self._search, self._searcher, self._losses, self._scheduler = search, searcher, losses, scheduler
        self._budget = DiskBudget(search.folder, search.space.checkpoints)
        self._deadline = deadline
        self._looked, self._written, self._is_pausing = 0.0, 0.0, False
        self._passed_on: set[str] = set()
        self._ready = ReadyWorkers(is_meant=search.address is None)

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks into its own folder; nobody reads that, so nothing goes in."""
        return {}

    def interrupt(self, number: int) -> None:
        """Ctrl+C, or SIGTERM: the trials write checkpoints and pause."""
        self._searcher.stop(by_signal(number))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Tune some ten times a second. Raises LeaseLostError, which ends Tune and its workers."""
        now = time.monotonic()
        if now - self._looked < _SECONDS_BETWEEN_LOOKS:
            return
        self._looked = now
        self._search.display.look()
        self._search.late_nodes.look()
        self._search.check_held()
        concern = None if self._search.lease is None else self._search.lease.concern()
        if concern is not None and self._searcher.stopped_by is None:
            self._searcher.stop(concern)
        if self._deadline is not None and now > self._deadline:
            self._searcher.stop(TIME)
        elif not self._is_pausing and self._search.folder.stop_request.exists():
            self._searcher.stop(REQUESTED)
        if self._searcher.stopped_by is not None and not self._is_pausing:
            self._pause_trials(self._searcher.stopped_by)
        if self._searcher.ended_by is not None and self._searcher.stopped_by is None:
            self._ready.look(capacity_of(self._search)() - len(self._losses.trials))
        if self._search.copy is not None:
            self._pass_on(self._search.copy)
        if self._search.uploads is not None:
            self._search.uploads.look()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = trial.config["name"]
        self._losses.trials[name] = trial
        self._search.display.started(self._searcher.task(name), self._search.table.row(name).retry_of)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = trial.config["name"]
        self._search.display.message(f"{name:<15} {self._losses.explain(name)}; it goes on from its checkpoint")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        parsed = parse_result(result)
        if parsed is not None:
            self._search.display.epoch(trial.config["name"], parsed)
        if UNFIT in result:
            self._search.late_nodes.refuse(*result[UNFIT])
        if result.get(SPENT):
            # Tune keeps a worker for a trial that takes as much as its last one: none takes this.
            trial.placement_group_factory = tune.PlacementGroupFactory([{"CPU": 0.001}])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = trial.config["name"]
        if self._losses.num_again[name] and not self._search.table.row(name).state.is_finished:
            self._search.display.message(f"{name:<15} its worker was lost before it began; it begins on another one")
            return
        if name not in self._losses.trials:  # no worker could be started for it
            self._losses.trials[name] = trial
            self._search.display.started(self._searcher.task(name), self._search.table.row(name).retry_of)
        self._end(trial)

    def _end(self, trial: Any) -> None:
        name, last = trial.config["name"], trial.last_result or {}
        row = self._search.table.row(name)
        if row.state.is_finished:
            self._search.display.ended(name, row.state, row.cause)
        elif PAUSED in last:
            self._search.display.message(f"{name:<15} stopped behind a checkpoint")
            # Its worker saw the request first: else Tune may ask ten minutes for a next trial before `on_step_end`.
            self._searcher.stop(REQUESTED)
        elif FAILED in last:
            self._search.display.message(f"{name:<15} {last[FAILED]}")
        self._losses.trials.pop(name, None)
        if self._search.copy is not None:
            self._pull(name)
        if row.kind == "try" and row.state.is_finished:
            try:
                adopt_tries(self._search)
            except (StorageInternalError, OSError) as error:  # it is done again when the run ends
                logger.warning("No baseline was made of its tries: %s", error)
        if (
            name == PRETRAINED
            and row.result is not None
            and (scores := self._search.folder.trial(name).scores).exists()
        ):
            for text in scored_warnings(row.result, read_rows(scores)):
                self._search.display.message(f"Warning: {text}")
        if time.monotonic() - self._written < _SECONDS_BETWEEN_RESULTS:
            return
        bring_up_to_date(self._search, self._budget)
        self._written = time.monotonic()

    def _pull(self, name: str) -> None:
        assert self._search.copy is not None
        try:
            self._search.copy.pull(name)
        except OSError as error:
            logger.warning("%s", error)

    def _pass_on(self, copy: WorkingCopy) -> None:
        """Passes stop requests of single trials, which are made here, on to workers on other machines."""
        for name in self._losses.trials.keys() - self._passed_on:
            if self._search.folder.trial(name).stop_request.exists() and copy.try_request_stop(name):
                self._passed_on.add(name)

    def _pause_trials(self, reason: str) -> None:
        """Has all running trials pause behind a checkpoint."""
        self._is_pausing = True
        self._search.display.message(f"{why(reason)}: the trials that run write a checkpoint and stop …")
        try:
            write_text(self._search.folder.stop_request, reason + "\n")
        except OSError as error:  # a full disk; they end with their next epoch
            logger.warning("%s could not be written: %s", self._search.folder.stop_request, error)
        if self._search.uploads is not None:
            self._search.uploads.try_push()
        self._scheduler.end_waiting()


def bring_up_to_date(search: Search, budget: DiskBudget) -> None:
    """Keeps the disk's budget, and brings results.parquet and the remote up to date."""
    table = search.table
    search.check_held()
    search.display.front([row.name for row in table.front() if row.kind == "searched"])
    freed = budget.keep_within(table.rows(), kept_names(table), set(table.returning()))
    if freed.message:
        search.display.message(freed.message)
    try:
        search.results.write(table, search.cuts)
    except OSError as error:
        logger.warning("%s could not be written: %s", search.folder.results, error)
    if search.uploads is not None:
        search.uploads.free(freed.names)
        search.uploads.look()


def kept_names(table: TrialTable) -> set[str]:
    """Returns the trials whose weights stay: the candidates, and the tries that baselines may be made of.

    Of no candidate, the one that comes nearest to the constraints.
    """
    nearest = None if table.candidates() else table.nearest()
    members = {row.name for row in table.candidates()} | ({nearest.name} if nearest is not None else set())
    return members | needed_tries(table.rows())


def _scheduler(search: Search, searcher: TableSearcher) -> PlacedFifo | PlacedHalving:
    settings, epochs = search.space.search, search.space.trainer_section.epochs
    if settings.scheduler == "none" or not rungs(epochs, settings.grace_epochs, settings.reduction_factor):
        return PlacedFifo()
    return PlacedHalving(
        search.table,
        max_epochs=epochs,
        grace_epochs=settings.grace_epochs,
        reduction_factor=settings.reduction_factor,
        num_nonzero=lambda name: searcher.task(name).num_nonzero(search.checked.shape),
    )
