"""A cluster whose nodes come and go by Ray's autoscaler, of either version: a head, and fake nodes beside it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import ray
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from langsearch.cluster.nodes import live_nodes
from langsearch.experiment.folder import read_rows
from tests.cluster.operating import NAME, SPACE, CommandError, text_of
from tests.cluster.sandbox import LOGS, SHARED, make_sandbox, run

_CPUS = 2
_MAX_WORKERS = 2
_SECONDS_IDLE = 9
_HEAD = "ray.head.default"
_CONFIG: dict[str, object] = {
    "cluster_name": "fake",
    "max_workers": _MAX_WORKERS,
    "idle_timeout_minutes": _SECONDS_IDLE / 60,
    "provider": {
        # The defaults of Ray's own name for it are not in its wheel.
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
        "head_node_id": FAKE_HEAD_NODE_ID,
    },
    "head_node_type": _HEAD,
    "available_node_types": {
        _HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": _CPUS}, "node_config": {}, "min_workers": 0, "max_workers": _MAX_WORKERS},
    },
}
_ENVIRONMENT = {
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_FAKE_CLUSTER": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
}


def play_autoscaled(version: int) -> None:
    """A search begins without workers, gets them, and they go when it has ended; one that gets none can be stopped."""
    make_sandbox()
    run("ip", "link", "set", "lo", "up")
    os.environ |= {"RAY_AUTH_MODE": "disabled"}
    _start_head(version)
    ray.init("auto", log_to_driver=False)
    assert len(live_nodes()) == 1
    ended, num_nodes = _search(["--trials", "3", "--set", f"resources.cpu={_CPUS}"])
    log = _log()
    assert ended == 0, log
    assert f"No node has {_CPUS} CPU for a trial yet" in log, log
    assert num_nodes == 1 + _MAX_WORKERS, f"{num_nodes} nodes were there at once"
    rows = read_rows(SHARED / NAME / "results.parquet")
    assert [(row["name"], row["state"]) for row in rows] == [(f"{number:05}", "complete") for number in range(3)], log
    print("three trials are complete, on two nodes that came for them", flush=True)
    _wait_for_nodes(1)
    print("both are gone", flush=True)
    # One that waits for ever, since no kind of node is large enough, ends at once when it is asked to.
    line = ["--name", "large", "--trials", "1", "--set", f"resources.cpu={8 * _CPUS}"]
    ended, num_nodes = _search(line, interrupt_at="waits until the cluster brings one")
    assert (ended, num_nodes) == (130, 1), _log()
    ended, _ = _search(["--name", "large", "--trials", "1", "--set", f"resources.cpu={_CPUS}", "--resume-if-begun"])
    assert ended == 0, _log()
    print("a search that waited for a node was stopped, and went on with a smaller one", flush=True)


def _start_head(version: int) -> None:
    configuration = SHARED / "autoscaler.json"
    commands = ("setup", "initialization", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    lists: dict[str, object] = {f"{name}_commands": [] for name in commands}
    more: dict[str, object] = {
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "rsync_exclude": [],
        "rsync_filter": [],
    }
    configuration.write_text(json.dumps({**_CONFIG, **lists, **more}), encoding="utf-8")
    line = ["ray", "start", "--head", "--num-cpus=0", f"--autoscaling-config={configuration}"]
    own = {**os.environ, **_ENVIRONMENT, "RAY_enable_autoscaler_v2": str(version - 1)}
    with (LOGS / "head.log").open("wb") as file:
        subprocess.run([*line, "--include-dashboard=false"], stdout=file, stderr=file, env=own, check=True, timeout=120)


def _search(options: Sequence[str], interrupt_at: str | None = None) -> tuple[int, int]:
    """Runs a search; returns its exit code, and how many nodes there were at once."""
    space = SHARED / "space.yaml"
    space.write_text(SPACE, encoding="utf-8")
    line = [sys.executable, "-m", "langsearch", "run", str(space), "--address", "auto", "--experiments", str(SHARED)]
    line += ["--set", "trainer.epochs=1", "--set", "trainer.pairs_per_epoch=20"]
    most, end, is_interrupted = 0, time.monotonic() + 600, False
    with (LOGS / "search.log").open("wb") as file:
        started = subprocess.Popen([*line, *options], stdout=file, stderr=file, stdin=subprocess.DEVNULL)
    while started.poll() is None:
        most = max(most, len(live_nodes()))
        if time.monotonic() > end:
            raise CommandError(f"a search must end, but did not:\n{_log()}")
        if interrupt_at is not None and not is_interrupted and _has_waited(interrupt_at):
            started.send_signal(signal.SIGINT)
            is_interrupted, end = True, time.monotonic() + 60
        time.sleep(0.5)
    return started.returncode, most


def _has_waited(text: str) -> bool:
    """Returns whether a text is shown, and a trial was given to Tune some seconds ago."""
    trial = SHARED / "large" / "trials" / "00000"
    return text in _log() and trial.exists() and time.time() - trial.stat().st_mtime > 8


def _wait_for_nodes(num_nodes: int, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while len(live_nodes()) != num_nodes:
        if time.monotonic() > end:
            raise CommandError(f"{num_nodes} nodes must be there, but there are {len(live_nodes())}")
        time.sleep(1)


def _log() -> str:
    return re.sub(r"\s+\n", "\n", text_of(LOGS / "search.log"))


def monitor_logs() -> list[Path]:
    """Returns what the autoscaler has written."""
    return sorted(Path("/tmp/ray").glob("session_2*/logs/monitor.*"))
