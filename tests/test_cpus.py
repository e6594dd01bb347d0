import os
from pathlib import Path

import pytest
import torch

from langsearch.model import cpus, device
from langsearch.model.cpus import available_cpus

QUOTAS = {
    "no control groups": ({}, "", 8),
    "a container, version 2": ({"cpu.max": "250000 100000"}, "0::/\n", 2),
    "less than one": ({"cpu.max": "50000 100000"}, "0::/\n", 1),
    "no quota, version 2": ({"cpu.max": "max 100000"}, "0::/\n", 8),
    "a service or a job, version 2": ({"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, "0::/a/b\n", 3),
    "more than there are": ({"cpu.max": "6400000 100000"}, "0::/\n", 8),
    "a container, version 1": (
        {"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        "3:cpuset:/\n2:cpu,cpuacct:/docker/1f\n",
        4,
    ),
    "no quota, version 1": ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "1:cpu:/\n", 8),
    "version 1, by its long name": (
        {"cpu,cpuacct/x/cpu.cfs_quota_us": "500000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
        "4:cpu,cpuacct:/x\n",
        5,
    ),
    "a group outside of what is seen": ({"cpu.max": "200000 100000"}, "0::/../other\n", 2),
}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of eight CPUs, whose control groups are in a folder."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(cpus, "_CGROUPS", tmp_path)
    monkeypatch.setattr(cpus, "_OWN", tmp_path / "own")
    return tmp_path


@pytest.mark.parametrize(("files", "own", "expected"), QUOTAS.values(), ids=QUOTAS)
def test_a_quota_is_obeyed(files: dict[str, str], own: str, expected: int, machine: Path) -> None:
    (machine / "own").write_text(own, encoding="utf-8")
    for name, text in files.items():
        (machine / name).parent.mkdir(parents=True, exist_ok=True)
        (machine / name).write_text(text, encoding="utf-8")
    assert available_cpus() == expected


def test_a_process_that_may_use_some_cpus_alone_counts_those(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    assert available_cpus() == 2


def test_pytorch_takes_no_more_threads_than_there_are_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(device, "available_cpus", lambda: before)
    device.limit_threads()
    assert taken == []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    device.limit_threads()
    assert taken == [before]


def test_threads_sleep_while_they_wait_where_others_want_the_cores_unless_the_user_says_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(cpus, "available_cpus", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (1.9, 9.0, 9.0))
    cpus.wait_passively()
    assert "OMP_WAIT_POLICY" not in os.environ, "idle cores: spinning is the faster way"
    monkeypatch.setattr(os, "getloadavg", lambda: (2.1, 0.0, 0.0))
    cpus.wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    cpus.wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "active"
