"""What one trial takes of a machine, as Ray's tasks and as Ray Tune ask for it."""

import time
from collections.abc import Mapping
from typing import Any

import ray

from langsearch.space.run_sections import ResourcesSection


def amounts(resources: ResourcesSection) -> dict[str, float]:
    """Returns how much of each of Ray's resources a trial takes, by Ray's names."""
    gpu = resources.gpu / resources.trials_per_gpu
    return {"CPU": resources.cpu, **({"GPU": gpu} if gpu else {}), **resources.custom}


def num_threads(resources: ResourcesSection) -> int:
    """Returns the threads of PyTorch in a trial's worker."""
    return max(int(resources.cpu), 1)


def task_options(resources: ResourcesSection) -> dict[str, Any]:
    """Returns the options of a Ray task that takes as much as a trial, and is tried again as often."""
    return {
        "num_cpus": resources.cpu,
        "num_gpus": resources.gpu / resources.trials_per_gpu,
        "resources": dict(resources.custom),
        "max_retries": resources.max_failures,
    }


NUM_AHEAD = 8
"""Trials that wait where an autoscaler may start nodes for them."""

_SECONDS_BETWEEN_LOOKS = 2.0


class Capacity:
    """How many trials may run or wait; the cluster's size is looked at every two seconds.

    Args:
        wanted: What a trial takes, by Ray's names.
        num_ahead: How many may wait beyond those that fit.
    """

    def __init__(self, wanted: Mapping[str, float], num_ahead: int = 0) -> None:
        self._wanted, self._num_ahead = wanted, num_ahead
        self._looked, self._num_fit = float("-inf"), 1

    def __call__(self) -> int:
        """Returns the number, at least 1."""
        now = time.monotonic()
        if now - self._looked >= _SECONDS_BETWEEN_LOOKS:
            self._looked, self._num_fit = now, num_fit(ray.cluster_resources(), self._wanted)
        return self._num_fit + self._num_ahead


def num_fit(resources: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """Returns how many trials fit into a cluster's resources; at least one, which then waits for a node."""
    return max(min((int(resources.get(name, 0) / amount) for name, amount in wanted.items()), default=1), 1)
