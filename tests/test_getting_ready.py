"""Workers that are ready for the last scores before the last trial has ended."""

import os
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from langsearch.cluster import ray_session
from langsearch.search import getting_ready
from langsearch.search.getting_ready import ReadyWorkers


def test_no_more_are_begun_than_there_are_free_cores_and_none_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[dict[str, Any]] = []

    def remote(function: Any) -> Any:
        def options(**given: Any) -> Any:
            return SimpleNamespace(remote=lambda: begun.append(given))

        return SimpleNamespace(options=options)

    monkeypatch.setattr(getting_ready, "ray", SimpleNamespace(remote=remote))
    workers = ReadyWorkers(is_meant=True)
    for num_free, num_begun in ((0, 0), (1, 1), (1, 1), (0, 1), (2, 2)):
        workers.look(num_free)
        assert len(begun) == num_begun
    assert begun == [{"num_cpus": 0}] * 2
    ReadyWorkers(is_meant=False).look(2)
    assert len(begun) == 2


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(ray_session, "available_cpus", lambda: 1)
    ray_session.start_ray(1_000_000)
    yield
    ray.shutdown()


@pytest.mark.integration
def test_a_process_that_is_ready_waits_for_the_task_that_follows(one_core: None) -> None:
    # Within a function, so that they travel by themselves: a worker cannot import a test.
    def get_ready() -> int:
        getting_ready._get_ready()
        return os.getpid()

    class Trial:
        def begin(self) -> None:
            pass

    trial = ray.remote(Trial).options(num_cpus=1).remote()
    process = ray.get(ray.remote(get_ready).options(num_cpus=0).remote(), timeout=120)
    ray.get(trial.begin.remote(), timeout=120)
    time.sleep(4)  # beside a trial's process Ray would by itself end one that is idle for a second
    os.kill(process, 0)
