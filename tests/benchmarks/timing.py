"""Times taken in turn, so that a machine whose speed drifts gives the same ratios; a step ends when its device has."""

import time
from collections.abc import Callable, Mapping

import torch


def synchronize(device: torch.device) -> None:
    """Waits for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(step: Callable[[], object], device: torch.device) -> float:
    """Returns how long a step takes, from a device that is idle to one that is idle again; on a CPU its own seconds."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    synchronize(device)
    started = clock()
    step()
    synchronize(device)
    return clock() - started


def time_in_turn(
    steps: Mapping[str, Callable[[], None]],
    device: torch.device,
    *,
    num_rounds: int,
    num_warm: int = 2,
    seconds: float = float("inf"),
) -> dict[str, list[float]]:
    """Returns the seconds of each step in each round, every round making one of each.

    Args:
        steps: What is timed, by name.
        device: Where they run.
        num_rounds: At most so many rounds.
        num_warm: Rounds before them that do not count.
        seconds: No further round is begun that would end after so many; one is always made.
    """
    taken: dict[str, list[float]] = {name: [] for name in steps}
    started = time.perf_counter()
    for round_ in range(num_warm + num_rounds):
        began = time.perf_counter()
        for name, step in steps.items():
            found = seconds_of(step, device)
            if round_ >= num_warm:
                taken[name].append(found)
        now = time.perf_counter()
        if round_ >= num_warm and (now - started) + (now - began) > seconds:
            break
    return taken
