"""How many CPUs this process may use, which in a container is less than the machine has. Needs no torch."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

WAITING = {"OMP_WAIT_POLICY": "passive"}
"""What OpenMP reads when PyTorch is first imported: threads that wait for each other sleep.

By default they spin. On cores that other processes want too, two spinning threads took 7 to 14 times as long as two
that sleep, and ten times the CPU time; on idle cores they took 0.4 of it (tests/benchmarks/README.md).
"""

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def wait_passively() -> None:
    """Has threads sleep while they wait, where other processes want the cores and unless the user says else.

    Of this process, if PyTorch is not imported yet, and of those that it starts. Others want the cores where more than
    half of them were taken within the last minute.
    """
    if os.getloadavg()[0] > available_cpus() / 2:
        for name, value in WAITING.items():
            os.environ.setdefault(name, value)


def available_cpus() -> int:
    """Returns how many CPUs this process may use, at least 1.

    That is what its affinity allows (taskset, Slurm, a container's cpuset), and no more than the quotas of the control
    groups that it is in (`docker --cpus`, Kubernetes' limits). A quota of parts of a CPU is rounded down.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(int(min([float(affinity), *_quotas()])), 1)


def _quotas() -> Iterator[float]:
    """Yields the CPUs of each quota that holds here: of the second version of control groups, and of the first."""
    for controllers, own in _own_groups():
        # Inside a container its own group is the root of what it sees, or has the name that it has outside.
        for group in {PurePosixPath("/"), own, *own.parents}:
            relative = group.relative_to("/")
            if not controllers:
                with suppress(OSError, ValueError):
                    quota, period = (_CGROUPS / relative / "cpu.max").read_text(encoding="utf-8").split()
                    if quota != "max":
                        yield int(quota) / int(period)
            elif "cpu" in controllers.split(","):
                for name in {"cpu", controllers}:
                    folder = _CGROUPS / name / relative
                    with suppress(OSError, ValueError):
                        quota, period = (
                            (folder / f"cpu.cfs_{what}_us").read_text(encoding="utf-8") for what in ("quota", "period")
                        )
                        if int(quota) > 0:  # -1: none
                            yield int(quota) / int(period)


def _own_groups() -> list[tuple[str, PurePosixPath]]:
    """Returns the control groups of this process, each with its controllers; of the second version they are ""."""
    try:
        lines = _OWN.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if path.startswith("/") and ".." not in path:
            groups.append((controllers, PurePosixPath(path)))
        else:
            groups.append((controllers, PurePosixPath("/")))
    return groups
