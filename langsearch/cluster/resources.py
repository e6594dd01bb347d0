"""What one trial takes of a machine, as Ray's tasks and as Ray Tune ask for it."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from langsearch.space.run_sections import ResourcesSection


def amounts(resources: ResourcesSection) -> dict[str, float]:
    """Returns how much of each of Ray's resources a trial takes, by Ray's names."""
    gpu = resources.gpu / resources.trials_per_gpu
    return {"CPU": resources.cpu, **({"GPU": gpu} if gpu else {}), **resources.custom}


def num_threads(resources: ResourcesSection) -> int:
    """Returns the threads of PyTorch in a trial's worker."""
    return max(int(resources.cpu), 1)


def task_options(resources: ResourcesSection, selector: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Returns the options of a Ray task that takes as much as a trial, and is tried again as often.

    Args:
        resources: What a trial takes.
        selector: Of the nodes that it may run on, by Ray's labels. None: all.
    """
    return {
        **({"label_selector": dict(selector)} if selector else {}),
        "num_cpus": resources.cpu,
        "num_gpus": resources.gpu / resources.trials_per_gpu,
        "resources": dict(resources.custom),
        "max_retries": resources.max_failures,
    }


NUM_AHEAD = 8
"""Trials that wait where an autoscaler may start nodes for them."""

_SECONDS_BETWEEN_LOOKS = 2.0


Look = Callable[[], Iterable[Mapping[str, float]]]


class Capacity:
    """How many trials may run or wait; the cluster's nodes are looked at every two seconds.

    Args:
        wanted: What a trial takes, by Ray's names.
        num_ahead: How many may wait beyond those that fit.
        look: Returns what each node that may run trials has.
    """

    def __init__(self, wanted: Mapping[str, float], num_ahead: int, look: Look) -> None:
        self._wanted, self._num_ahead, self._look = wanted, num_ahead, look
        self._looked, self._num_fit = float("-inf"), 1

    def __call__(self) -> int:
        """Returns the number, at least 1."""
        now = time.monotonic()
        if now - self._looked >= _SECONDS_BETWEEN_LOOKS:
            self._looked, self._num_fit = now, num_fit(self._look(), self._wanted)
        return self._num_fit + self._num_ahead


def num_fit(nodes: Iterable[Mapping[str, float]], wanted: Mapping[str, float]) -> int:
    """Returns how many trials fit on nodes; at least one, which then waits for a node.

    A trial runs on one node: what is left over on several of them is not added up.

    Args:
        nodes: What each of them has, by Ray's names.
        wanted: What a trial takes.
    """
    return max(sum(_num_fit_on(node, wanted) for node in nodes), 1)


def _num_fit_on(node: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    # Shares of a GPU are not exact in binary: three thirds are one GPU.
    return min((int(node.get(name, 0.0) / amount + 1e-6) for name, amount in wanted.items() if amount), default=1)
