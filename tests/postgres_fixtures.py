"""A PostgreSQL server of a test's own; a module asks for it by `pytest_plugins = ["postgres_fixtures"]`."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


def find_programs() -> Path | None:
    """Returns the folder of PostgreSQL's server programs; Debian keeps them out of PATH."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    folders = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in folders), key=lambda path: int(path.parent.name), default=None)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a database on a fresh server that listens on loopback alone."""
    pytest.importorskip("psycopg", reason="needs langsearch[postgres]")
    programs = find_programs()
    if programs is None:
        pytest.skip("needs a PostgreSQL server's programs, such as Debian's package postgresql")
    user = pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() == 0:  # the server refuses to run as root
        user = "nobody"
    folder = Path(tempfile.mkdtemp(prefix="langsearch-postgres-"))
    shutil.chown(folder, user)
    port = free_port()
    data, given = folder / "data", user if os.geteuid() == 0 else None
    initdb: list[str | Path] = [
        programs / "initdb",
        "-D",
        data,
        "-U",
        "langsearch",
        "-A",
        "trust",
        "--no-sync",
        "-E",
        "UTF8",
    ]
    subprocess.run(initdb, check=True, user=given, stdout=subprocess.DEVNULL, cwd=folder)
    command: list[str | Path] = [
        programs / "postgres",
        "-D",
        data,
        "-p",
        str(port),
        "-h",
        "127.0.0.1",
        "-k",
        folder,
        "-F",
    ]
    command.append("-F")  # nothing here must outlive a power loss
    running = subprocess.Popen(command, user=given, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"postgresql+psycopg://langsearch@127.0.0.1:{port}/postgres"
        wait_for_database(url, running)
        yield url
    finally:
        running.send_signal(signal.SIGINT)  # fast shutdown
        running.wait(30)
        shutil.rmtree(folder)


def wait_for_database(url: str, running: "subprocess.Popen[bytes]") -> None:
    import psycopg

    for _ in range(100):
        assert running.poll() is None, "the server has ended"
        try:
            psycopg.connect(url.replace("+psycopg", "")).close()
        except psycopg.OperationalError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("the server must answer within 10 seconds")
