"""The command line as tests call it; a test module asks for it by `pytest_plugins = ["cli_fixtures"]`."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from langsearch.cli.app import main


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: object
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def langsearch(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs the command line in this process, in the test's folder and without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["langsearch", *map(str, arguments)])
        with pytest.raises(SystemExit, match=r"\d|^$") as caught:
            main()
        captured = capsys.readouterr()
        return Ended(caught.value.code or 0, captured.out, captured.err)

    return run
