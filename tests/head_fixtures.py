"""A cluster's head, started as its user would; a test module asks for it by `pytest_plugins = ["head_fixtures"]`."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Head:
    """A head of two cores on loopback that asks for a token, which the environment names."""

    gcs: int
    """The port for nodes."""

    dashboard: str
    """http://HOST:PORT."""

    client: str
    """ray://HOST:PORT."""

    folder: Path
    """Where its processes keep temporary files."""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A running head."""
    folder = Path(tempfile.mkdtemp(prefix="r"))  # a short path
    (folder / "token").write_text("a" * 64, encoding="utf-8")
    (folder / "tmp").mkdir()
    with socket.socket() as a, socket.socket() as b, socket.socket() as c, socket.socket() as d:
        for found in (a, b, c, d):
            found.bind(("127.0.0.1", 0))
        gcs, port, agent, client = (found.getsockname()[1] for found in (a, b, c, d))
    options = [
        "--num-cpus=2",
        "--node-ip-address=127.0.0.1",
        "--include-dashboard=true",
        f"--ray-client-server-port={client}",
        "--object-store-memory=200000000",
    ]
    ports = [f"--port={gcs}", f"--dashboard-port={port}", f"--dashboard-agent-listen-port={agent}"]
    line = ["ray", "start", "--head", "--block", f"--temp-dir={folder}/ray", *options, *ports]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(folder / "token"))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        started = subprocess.Popen(
            line,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(folder / "tmp")},
        )
        try:
            for number in (port, client):
                wait_for(number)
            yield Head(gcs, f"http://127.0.0.1:{port}", f"ray://127.0.0.1:{client}", folder / "tmp")
        finally:
            started.send_signal(signal.SIGTERM)
            try:
                started.wait(timeout=30)
            finally:
                shutil.rmtree(folder, ignore_errors=True)


def wait_for(port: int) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(f"nothing answers at port {port}")
