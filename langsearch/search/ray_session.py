"""Starting Ray on this machine, or connecting to a cluster, with the settings that a search needs."""

import logging
import os
import socket

import ray
import torch

from langsearch.model.base import SharedBase
from langsearch.space.problems import InputError
from langsearch.space.schema import Space

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


def connect(address: str) -> None:
    """Connects to a running cluster. Raises InputError if there is none at the address."""
    problem = f"--address must be that of a running Ray cluster, but nothing answers at {address!r}"
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        # Ray itself would try for many minutes, and log all the while.
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_CONNECT).close()
        except (OSError, OverflowError) as error:
            raise InputError(f"{problem} ({error}).") from error
    set_environment()
    if not ray.is_initialized():
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError) as error:
            raise InputError(f"{problem} ({error}).") from error


def start_ray(shared: SharedBase) -> None:
    """Starts Ray on this machine alone, unless this process has a Ray already."""
    set_environment()
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


def set_environment() -> None:
    """Sets the variables that a search needs, where the user has not."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def check_local_resources(space: Space, address: str | None) -> None:
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


def max_concurrent(cpus: float, gpus: float) -> int:
    """Returns how many trials fit at once, so that none is proposed before it can start with the latest results."""
    available = ray.cluster_resources()
    fits = [int(available.get("CPU", 1) / cpus)] + ([int(available.get("GPU", 0) / gpus)] if gpus else [])
    return max(min(fits), 1)
