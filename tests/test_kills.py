"""A driver that is killed at random moments, again and again, and each time rebuilt from what is on the disk.

The searcher, early stopping, the trial table in SQLite, the tasks, results.parquet and the disk's budget are the real
ones; Tune's event loop is simulated and the trials are scripted, so that a whole search takes about a second.
"""

import json
import os
import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import Engine
from sqlalchemy.event import listen

from langsearch.experiment.disk import DiskBudget
from langsearch.experiment.folder import ExperimentFolder, read_rows
from langsearch.experiment.lock import clear_leftovers, hold
from langsearch.experiment.opening import open_table, space_of_version, start_experiment
from langsearch.experiment.results_parquet import ResultsFile
from langsearch.experiment.task import TrialTask, baseline_task, searched_task
from langsearch.model.finding import find_base
from langsearch.model.shape import read_shape
from langsearch.search.searcher import TableSearcher
from langsearch.space.architecture import BaseShape
from langsearch.space.schema import Space, load_space
from langsearch.study.early_stopping import AsyncHalving
from langsearch.study.results import TrialResult
from langsearch.study.rows import State, TrialRow
from langsearch.train.checkpoint import Checkpoint, read_newest_checkpoint, write_checkpoint
from tests.benchmarks.simulated_tune import run_simulated, scripted_result

NUM_KILLS, NUM_TRIALS, EPOCHS = 20, 30, 4

SPACE = """\
name: small
base: tiny-m2m
languages: {high: [en, fr], low: [sw]}
data:
  train: {embedded: quickstart, part: train}
  validation: {embedded: quickstart, part: validation}
  test: {embedded: quickstart, part: test}
architecture:
  rank: {high: {choice: [0, 2, 4]}, low: {choice: [2, 4, 8]}}
  encoder: {modules: {subset: [q_proj, v_proj]}}
  decoder: {modules: [q_proj]}
trainer: {epochs: 4, lr: {choice: [0.001, 0.003, 0.01]}}
evaluation: {spbleu: base}
baselines: [pretrained]
search: {trials: 30, sampler: SAMPLER, seed: 3, scheduler: asha, grace_epochs: 1, reduction_factor: 2}
"""
"""Small enough that points repeat, so that some trials share the result of another one."""


def drive(path: Path, space_file: Path, events: Connection) -> None:
    """Runs the search to its end, or goes on with it, as `runner.run_search` and `tuning.run_trials` do.

    Args:
        path: The experiment's folder.
        space_file: Its space.
        events: Gets a byte at the beginning and after every event.
    """
    do_not_sync()
    torch.set_num_threads(1)
    events.send_bytes(b".")
    space = load_space(space_file)
    shape = read_shape(find_base(space.base))
    with hold(path):
        folder = start_experiment(path, space, resume=path.exists() and (path / "space.yaml").exists())
        clear_leftovers(folder)
        table = open_table(folder, space, base_parameters=shape.num_parameters)
        table.add_baseline("pretrained")
        unfinished = [row for row in table.rows() if not row.state.is_finished and row.same_as is None]
        searcher = TableSearcher(
            table,
            folder,
            lambda number, point: searched_task(space, shape, number, point),
            space.dimensions(),
            [task_of(row, folder, shape) for row in unfinished],
            space.search.trials,
            num_trainable=lambda task: task.num_trainable(shape),
        )
        scheduler = AsyncHalving(table, max_epochs=EPOCHS, grace_epochs=1, reduction_factor=2)
        results, budget = ResultsFile(folder, shape.num_parameters), DiskBudget(folder, space.checkpoints)

        def after_event(seconds: float) -> None:
            budget.keep_within(table.rows(), {row.name for row in table.candidates()})
            results.write(table)
            events.send_bytes(b".")

        run_simulated(searcher, scheduler, lambda task: scripted(task, folder, shape), on_event=after_event)
        assert searcher.is_done
        after_event(0.0)


def do_not_sync() -> None:
    """Waiting for the disk would take most of the time, and only a loss of power would show the difference."""
    os.fsync = lambda fd: None
    listen(Engine, "connect", lambda connection, record: connection.execute("PRAGMA synchronous=OFF"))


def task_of(row: TrialRow, folder: ExperimentFolder, shape: BaseShape) -> TrialTask:
    space: Space = space_of_version(folder, row.space_version)
    if row.kind == "baseline":
        return baseline_task(space, shape, row.name)
    return searched_task(space, shape, int(row.name), dict(row.params))


def scripted(task: TrialTask, folder: ExperimentFolder, shape: BaseShape) -> Iterator[tuple[float, TrialResult]]:
    """A trial that trains nothing, but writes what one writes, and goes on from its checkpoint as one does.

    What an earlier run reported last comes again first. The results depend on the task and the epoch alone.
    """
    trial, num_epochs = folder.trial(task.name), max(task.num_epochs, 1)
    if trial.result.exists():
        yield 0.0, noisy_result(task, num_epochs, shape)
        return
    checkpoint = read_newest_checkpoint(trial.checkpoint)
    epoch = checkpoint.state["updates"] if checkpoint else 0
    if 0 < epoch < num_epochs:
        yield 0.0, noisy_result(task, epoch, shape)
    for now in range(epoch + 1, num_epochs + 1):
        tensors = Checkpoint({"weight": torch.full((3,), float(now))}, {"updates": now})
        write_checkpoint(trial.weights, tensors, num_kept=1)
        write_checkpoint(trial.checkpoint, tensors)
        if now < num_epochs:
            yield 1.0, noisy_result(task, now, shape)
    trial.result.write_text(json.dumps({}), encoding="utf-8")
    trial.remove_checkpoints()
    yield 1.0, noisy_result(task, num_epochs, shape)


def noisy_result(task: TrialTask, epoch: int, shape: BaseShape) -> TrialResult:
    size, noise = task.num_trainable(shape), random.Random(f"{task.fingerprint}/{epoch}").gauss(0, 0.3)
    spbleu = 2 + 0.2 * epoch + size / 10**5 + noise
    return scripted_result(epoch, max(task.num_epochs, 1), spbleu, size)


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Starts processes that have everything imported already, without the threads of this one."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["pytest", "langsearch.search.tuning"])
    return context


def live(processes: ForkServerContext, path: Path, space_file: Path, num_events: int | None, delay: float) -> bool:
    """Runs a driver; returns whether it was killed.

    Args:
        processes: Where it comes from.
        path: The experiment's folder.
        space_file: Its space.
        num_events: After how many events it is to be killed. None: not at all.
        delay: Seconds from the last of them to the kill.
    """
    receiver, sender = processes.Pipe(duplex=False)
    driver = processes.Process(target=drive, args=(path, space_file, sender))
    driver.start()
    sender.close()
    with closing(receiver):
        try:
            for _ in range(num_events if num_events is not None else 10**6):
                receiver.recv_bytes()
            driver.join(delay)
        except EOFError:  # it has ended
            driver.join()
        driver.kill()
        driver.join()
    assert driver.exitcode in (0, -9), "the driver failed"
    return driver.exitcode != 0


def comparable(row: TrialRow) -> dict[str, Any]:
    """A trial without what two equal runs do not share."""
    return {key: value for key, value in asdict(row).items() if key not in ("started", "finished")}


def read(path: Path) -> tuple[list[dict[str, Any]], list[str], list[TrialRow]]:
    """Reads all trials in the form that can be compared, the names of the front, and the searched trials."""
    folder = ExperimentFolder(path)
    table = open_table(folder, load_space(folder.space))
    rows = table.rows()
    return [comparable(row) for row in rows], [row.name for row in table.front()], rows[1:]


@pytest.mark.integration
@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
def test_a_driver_killed_at_twenty_random_moments_ends_as_an_undisturbed_one(
    sampler: str, processes: ForkServerContext, tmp_path: Path
) -> None:
    space_file = tmp_path / "small.yaml"
    space_file.write_text(SPACE.replace("SAMPLER", sampler), encoding="utf-8")
    path, chance = tmp_path / "killed", random.Random(f"moments/{sampler}")
    num_kills = 0
    while num_kills < NUM_KILLS:
        # The first event is the driver's beginning: every fifth kill is in its first milliseconds.
        early = num_kills % 5 == 0
        num_events, delay = (1, chance.uniform(0.0, 0.15)) if early else (chance.randint(2, 5), chance.uniform(0, 0.03))
        assert live(processes, path, space_file, num_events, delay), f"it ended before kill {num_kills + 1}"
        num_kills += 1
    assert not live(processes, path, space_file, None, 0.0)
    assert not live(processes, tmp_path / "undisturbed", space_file, None, 0.0)

    rows, front, searched = read(path)
    trained = [row for row in searched if row.same_as is None]
    assert len(trained) == NUM_TRIALS
    assert len({row.fingerprint for row in trained}) == NUM_TRIALS, "nothing is trained twice"
    assert {row.state for row in searched} == {State.COMPLETE, State.PRUNED}, "none runs, none failed"
    expected, expected_front, _ = read(tmp_path / "undisturbed")
    assert rows == expected
    assert front == expected_front
    assert files(path) == files(tmp_path / "undisturbed")
    assert results(path) == results(tmp_path / "undisturbed")


def files(path: Path) -> set[Path]:
    """The trials' files; weights are only those of the front."""
    return {file.relative_to(path) for file in path.glob("trials/**/*") if file.is_file()}


def results(path: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if key not in ("started", "finished")}
        for row in read_rows(path / "results.parquet")
    ]
