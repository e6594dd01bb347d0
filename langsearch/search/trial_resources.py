"""What one trial takes of a machine, as Ray's tasks and as Ray Tune ask for it."""

from typing import Any

from langsearch.space.run_sections import ResourcesSection


def amounts(resources: ResourcesSection) -> dict[str, float]:
    """Returns how much of each of Ray's resources a trial takes, by Ray's names."""
    gpu = resources.gpu / resources.trials_per_gpu
    return {"CPU": resources.cpu, **({"GPU": gpu} if gpu else {}), **resources.custom}


def task_options(resources: ResourcesSection) -> dict[str, Any]:
    """Returns the options of a Ray task that takes as much as a trial, and is tried again as often."""
    return {
        "num_cpus": resources.cpu,
        "num_gpus": resources.gpu / resources.trials_per_gpu,
        "resources": dict(resources.custom),
        "max_retries": resources.max_failures,
    }
