"""The dashboard's process: its address, its port, its folders and its end."""

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from langsearch.cli.app import app
from langsearch.dashboard.serving import open_dashboard
from langsearch.space.problems import InputError
from tests.dashboard_fixtures import LiveSearch

pytest_plugins = ["dashboard_fixtures"]


@pytest.mark.parametrize("given", [{"host": "0.0.0.0"}, {"token": "x"}, {"host": "0.0.0.0", "token": "  "}])
def test_a_host_needs_a_token_and_a_token_a_host(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--token"):
        open_dashboard([tmp_path], **given)
    options = [word for name, value in given.items() for word in (f"--{name}", value)]
    found = CliRunner().invoke(app, ["dashboard", str(tmp_path), *options])
    assert isinstance(found.exception, InputError)  # exit code 2


def test_a_taken_port_is_passed_over_unless_it_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port must be free, but {port} is taken"):
            open_dashboard([tmp_path], port=port)
        monkeypatch.setattr("langsearch.dashboard.serving.PORT", port)
        dashboard = open_dashboard([tmp_path])
        dashboard.close()
    assert int(dashboard.url.rstrip("/").rpartition(":")[2]) > port


def test_what_is_no_folder_is_refused_and_what_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="must be a folder"):
        open_dashboard([tmp_path / "file"])
    said: list[str] = []
    open_dashboard([tmp_path / "absent", tmp_path], port=0, tell=said.append).close()
    assert ["does not exist yet" in said[0], "holds no experiment yet" in said[1]] == [True, True]


@pytest.fixture
def process(search: LiveSearch) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "langsearch", "dashboard", str(search.folder.path), "--port", "0"]
    code = "import signal, runpy, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += f"sys.argv = {command[2:]!r}; runpy.run_module('langsearch', run_name='__main__')"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True) as process:
        yield process
        process.kill()


def test_the_command_prints_its_address_and_ends_quietly(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline()
    assert re.match(r"Dashboard: http://127\.0\.0\.1:\d+/ ", line)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert process.stderr.read() == ""
