"""How threads of a step wait for each other, on a machine that is shared; `python -m tests.benchmarks.waiting`.

A step of adapters (d 128, 2+2 layers, 32 rows of 16 tokens a side) on two threads, with OpenMP's own way of waiting,
which spins, and with langsearch's, which sleeps (`langsearch.model.cpus.WAITING`): alone, and beside as many busy
processes as there are cores. Each measurement is a process of its own, and they take turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from langsearch.model.cpus import WAITING, available_cpus

_WAYS = {"spinning": {"OMP_WAIT_POLICY": "active"}, "as it comes": {}, "sleeping": WAITING}
_NUM_STEPS, _NUM_THREADS, _NUM_ROUNDS = 20, 2, 3


def main() -> None:
    """Runs the benchmark and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().step:
        print(json.dumps(_measure()))
        return
    print(f"{'':<28}{'ms a step':>12}{'CPU ms a step':>15}")
    for beside in (0, available_cpus()):
        found: dict[str, list[list[float]]] = {way: [] for way in _WAYS}
        with _busy(beside):
            for _ in range(_NUM_ROUNDS):
                for way, variables in _WAYS.items():
                    found[way].append(_run(variables))
        for way, rounds in found.items():
            wall, cpu = (statistics.median(values) for values in zip(*rounds, strict=True))
            place = "alone" if not beside else f"beside {beside} busy"
            print(f"{f'{way}, {place}':<28}{wall:>12.1f}{cpu:>15.1f}", flush=True)


def _run(variables: dict[str, str]) -> list[float]:
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")}
    command = [sys.executable, "-m", "tests.benchmarks.waiting", "--step"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env={**environment, **variables})
    found: list[float] = json.loads(ended.stdout)
    return found


@contextmanager
def _busy(num_processes: int) -> Iterator[None]:
    """Has so many processes compute all the while."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num_processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def _measure() -> list[float]:
    """Returns the median of a step's milliseconds, and the mean of its CPU milliseconds."""
    import torch

    from langsearch.model.device import Resident
    from tests.benchmarks.step_variants import Size, adapted, random_base, random_batch

    torch.manual_seed(0)
    torch.set_num_threads(_NUM_THREADS)
    device = torch.device("cpu")
    size = Size(d_model=128, layers=2, ffn_dim=512, heads=4, vocab=4000)
    step = adapted(random_base(size, Resident(device, torch.float32)), random_batch(size, 32, 16, device), 4)
    for _ in range(3):
        step()
    began, seconds = time.process_time(), []
    for _ in range(_NUM_STEPS):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return [1000 * statistics.median(seconds), 1000 * (time.process_time() - began) / _NUM_STEPS]


if __name__ == "__main__":
    main()
