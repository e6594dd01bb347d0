"""Twenty times kill -9 of a driver or a worker at random moments, on the disk and on an object store.

Deselected by default: `python -m pytest -m integration tests/integration/test_random_kills.py -s` shows the figures.
"""

import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

from langsearch.experiment.folder import read_rows
from langsearch.experiment.remote import Remote, local_copy
from tests.integration.harness import Driver, Experiment
from tests.s3_fixtures import s3_url

pytest_plugins = ["s3_fixtures"]
pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]

NUM_KILLS = 20

SETTINGS = ("trainer.pairs_per_epoch=60", "resources.max_failures=20")
"""Trials of seconds, so that some are left to be hit, each more often than a search allows by itself."""


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[str]:
    """Where Ray keeps its sockets and logs; their paths must be short."""
    folder = tempfile.mkdtemp(prefix="ray-")
    yield folder
    rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ray_folder: str) -> dict[str, dict[str, Any]]:
    """The rows of a search of thirty trials that nothing happens to."""
    experiment = Experiment(tmp_path_factory.mktemp("undisturbed"), SETTINGS, {"RAY_TMPDIR": ray_folder})
    experiment.run()
    experiment.assert_ended(30)
    return experiment.comparable()


def kill_one(driver: Driver, victim: str) -> str | None:
    """Kills a driver, or a worker of a driver that goes on; returns which it was, None if there was none any more."""
    if victim == "worker":
        workers = driver.workers()
        if not workers or driver.has_ended:
            return None
        try:
            os.kill(workers[0], signal.SIGKILL)
        except ProcessLookupError:
            return None
        driver.wait_for_or_end(lambda: workers[0] not in driver.workers())
        return victim
    return victim if driver.kill() else None


@pytest.mark.parametrize("place", ["disk", "store", "store, each time another machine"])
def test_no_trial_is_lost_or_doubled(
    place: str,
    undisturbed: dict[str, dict[str, Any]],
    ray_folder: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chance, killed = random.Random(f"moments {place}"), Counter[str]()
    begun, num_trained, num_runs, num_same, number = time.monotonic(), 0, 0, 0, 0
    while sum(killed.values()) < NUM_KILLS:
        # On a fast machine a search ends before it was hit so often: the next one takes the rest.
        url = None
        if place != "disk":
            url = s3_url(request.getfixturevalue("s3_port"), f"{tmp_path.name}/experiments{number}")
        experiment = Experiment(tmp_path / f"it{number}", SETTINGS, {"RAY_TMPDIR": ray_folder}, url=url)
        before, is_begun = sum(killed.values()), False
        while sum(killed.values()) < NUM_KILLS and not is_over(experiment):
            assert len(experiment.drivers) < 3 * NUM_KILLS, "a search is hit, or it ends"
            if place.endswith("machine"):  # what the machine before had not sent is gone with it
                monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / f"cache{number}-{len(experiment.drivers)}"))
            elif url is not None:
                monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / "cache"))
            is_begun = is_begun or (len(experiment.drivers) > 0 and has_begun(experiment, url))
            disturb(experiment, ["--resume"] * is_begun, chance, killed)
        assert sum(killed.values()) > before, "a search ended before it was hit at all"
        trained, rows = whole(experiment)
        num_same += sum(rows.get(name) == row for name, row in undisturbed.items())
        num_trained, num_runs, number = num_trained + trained, num_runs + len(experiment.drivers), number + 1
        if place == "disk":
            assert rows == undisturbed
    minutes = (time.monotonic() - begun) / 60
    print(
        f"\n{place}: {killed['driver']} drivers and {killed['worker']} workers killed, {num_runs} runs of {number} "
        f"searches, {minutes:.1f} minutes; {num_trained} trials trained, each once, none lost; "
        f"{num_same} of {number * len(undisturbed)} rows are those of an undisturbed search."
    )


def is_over(experiment: Experiment) -> bool:
    """Whether the last run has ended by itself, with all done."""
    return bool(experiment.drivers) and experiment.drivers[-1].code == 0


def disturb(experiment: Experiment, options: list[str], chance: random.Random, killed: Counter[str]) -> None:
    """Runs a search and kills workers of it, and in the end the driver, at random moments; counts them."""
    with experiment.running(*options) as driver:
        victims = [] if sum(killed.values()) % 4 == 0 else chance.choices(["worker", "driver"], k=2)
        if not victims:  # while it starts
            driver.sleep(chance.uniform(0.2, 8))
        for victim in [*victims, "driver"]:
            if victims:
                driver.wait_for_or_end(driver.workers)
                driver.sleep(chance.uniform(0, 1.2))
            if (found := kill_one(driver, victim)) is not None:
                killed[found] += 1
            if driver.has_ended or sum(killed.values()) >= NUM_KILLS:
                break
        if not driver.has_ended:
            killed["driver"] += driver.kill()
    assert "Traceback" not in driver.output, driver.output[-3000:]
    driver.wait_until_gone()


def whole(experiment: Experiment) -> tuple[int, dict[str, dict[str, Any]]]:
    """Lets a search end, and sees that no trial or epoch is lost or doubled; returns how many were trained, and all."""
    experiment.run("--resume")
    trained = experiment.assert_ended(30)
    for name, row in trained.items():
        curve = [epoch["epoch"] for epoch in read_rows(experiment.trial(name) / "curve.parquet")]
        assert curve == list(range(1, row["epochs"] + 1)), f"{name} has each of its epochs once"
    return len(trained), experiment.comparable()


def has_begun(experiment: Experiment, url: str | None) -> bool:
    """Whether a run has begun the experiment, so that the next one must go on with it.

    A run that is killed before it sends anything has begun it on its own machine alone.
    """
    if url is None:
        return experiment.path.exists()
    return Remote(url).child("tiny").exists("space.yaml") or (local_copy(url) / "tiny" / "space.yaml").exists()
