"""The trial table in PostgreSQL, on a real server of this test's own."""

import multiprocessing
import random
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from langsearch.study.front import Objective
from langsearch.study.rows import State
from langsearch.study.table import TrialTable

if TYPE_CHECKING:
    from tests.search_fixtures import ResultMaker

pytest_plugins = ["search_fixtures", "postgres_fixtures"]

OBJECTIVES = (Objective("spbleu", True), Objective("trainable_parameters", False))
DIMENSIONS = {
    "rank.high": optuna.distributions.CategoricalDistribution([0, 2, 4]),
    "trainer.lr": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
}


def open_table(url: str, name: str, sampler: str = "tpe") -> TrialTable:
    return TrialTable(url, name, OBJECTIVES, sampler=sampler, seed=3, num_trials=12)


def test_a_table_in_postgresql_gives_back_what_was_written(server: str, make_result: "ResultMaker") -> None:
    table = open_table(server, "written")
    table.add_baseline("pretrained")
    table.complete("pretrained", make_result(spbleu=1.0))
    for _ in range(4):
        table.propose(DIMENSIONS, fingerprint="f")
    table.report("00000", make_result(epoch=1, spbleu=4.25))
    table.complete("00001", make_result(spbleu=5.5))
    table.prune("00002", make_result(epoch=2, spbleu=0.1))
    table.fail("00003", "out of memory: 80 GiB " + "long " * 1000)
    again = open_table(server, "written")
    assert again.rows() == table.rows()
    assert [row.state for row in again.rows()[1:]] == [State.RUNNING, State.COMPLETE, State.PRUNED, State.FAILED]
    assert [row.name for row in again.front()] == ["00001"]


def test_proposals_are_those_that_sqlite_gives(server: str, tmp_path: Path, make_result: "ResultMaker") -> None:
    points: list[list[dict[str, Any]]] = []
    for url in (server, f"sqlite:///{tmp_path}/study.db"):
        points.append([])
        for number in range(12):
            table = open_table(url, "proposals")  # a new driver before every one
            points[-1].append(table.propose(DIMENSIONS)[1])
            table.complete(f"{number:05d}", make_result(spbleu=points[-1][-1]["rank.high"] + number / 10))
    assert points[0] == points[1]


def test_experiments_in_one_database_do_not_mix(server: str, make_result: "ResultMaker") -> None:
    first, second = open_table(server, "first"), open_table(server, "second")
    for table in (first, second, first):
        table.propose(DIMENSIONS)
    first.complete("00001", make_result(spbleu=5.0))
    assert [row.state for row in open_table(server, "first").rows()] == [State.RUNNING, State.COMPLETE]
    assert [row.state for row in open_table(server, "second").rows()] == [State.RUNNING]


def drive(url: str, name: str, make_result: "ResultMaker", opened: Event) -> None:
    """Goes on with a search of 12 scripted trials until all are complete."""
    table = open_table(url, name)
    opened.set()
    while True:
        for row in table.rows():
            if not row.state.is_finished:
                rank, lr = row.params["rank.high"], row.params["trainer.lr"]
                table.complete(row.name, make_result(spbleu=rank + 100 * lr, trainable_parameters=1 + rank))
        if table.num_searched == 12:
            return
        table.propose(DIMENSIONS)


def test_a_driver_killed_at_any_moment_leaves_the_table_of_an_undisturbed_run(
    server: str, make_result: "ResultMaker"
) -> None:
    processes = multiprocessing.get_context("fork")  # imports nothing anew
    started = time.monotonic()
    drive(server, "undisturbed", make_result, processes.Event())
    seconds = time.monotonic() - started
    seeded, num_killed = random.Random(1), 0
    while True:
        opened = processes.Event()
        driver = processes.Process(target=drive, args=(server, "disturbed", make_result, opened))
        driver.start()
        assert opened.wait(60)
        if num_killed < 10:
            driver.join(seeded.uniform(0.0, seconds / 8))
            driver.kill()
        driver.join(60)
        if driver.exitcode == 0:
            break
        num_killed += 1
        assert driver.exitcode == -signal.SIGKILL
        rows = open_table(server, "disturbed").rows()
        assert [row.name for row in rows] == [f"{number:05d}" for number in range(len(rows))]
        assert all(row.params.keys() == DIMENSIONS.keys() for row in rows), "half a trial"
    assert num_killed >= 3
    undisturbed, disturbed = open_table(server, "undisturbed"), open_table(server, "disturbed")
    assert [row.params for row in disturbed.rows()] == [row.params for row in undisturbed.rows()]
    assert all(row.state is State.COMPLETE for row in disturbed.rows())
    assert [row.name for row in disturbed.front()] == [row.name for row in undisturbed.front()]
