import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import typer.main
from rich.console import Console
from typer.testing import CliRunner

from langsearch.cli import adapters, interrupted, learn, search
from langsearch.cli.app import app
from langsearch.cli.interrupted import KEPT, interrupt_at_sigterm

pytest_plugins = ["search_fixtures"]


def test_the_module_runs_as_the_command_does_and_exits_with_its_code(space_file: Path) -> None:
    command = [sys.executable, "-m", "langsearch"]
    shown = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout == "0.1.0\n"
    wrong = subprocess.run(
        [*command, "check", "tiny.yaml", "--set", "trainer.epoch=3"],
        capture_output=True,
        text=True,
        check=False,
        cwd=space_file.parent,
    )
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: --set trainer.epoch=3: `trainer.epoch` must be a key of `trainer`")


def test_help_lists_the_commands_on_the_way_of_a_search_and_asks_for_no_more_than_80_columns() -> None:
    group = typer.main.get_command(app)
    names = list(group.commands)  # type: ignore[attr-defined]
    assert names == [
        *("check", "run", "train", "extend", "evaluate", "translate", "export", "report", "dashboard"),
        *("submit", "status", "fetch", "doctor", "list", "show", "learn"),
    ]
    for arguments in ([], *([name] for name in names), ["learn", "sides"], ["learn", "subspace"]):
        long, short = (CliRunner().invoke(app, [*arguments, option]) for option in ("--help", "-h"))
        assert (long.exit_code, long.output) == (0, short.output)
        assert max(len(line) for line in long.output.splitlines()) <= 80


@pytest.fixture
def set_back() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    interrupt_at_sigterm()
    yield
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "words", "code"), [(signal.SIGINT, "", 130), (signal.SIGTERM, " by SIGTERM", 143)])
@pytest.mark.usefixtures("set_back")
@pytest.mark.parametrize(
    ("arguments", "module", "way_on"),
    [
        (["check", "a.yaml"], search, ""),
        (["run", "a.yaml"], search, f" {KEPT}"),
        (["train", "a.yaml"], adapters, f" {KEPT}"),
        (["learn", "sides", "a.yaml"], learn, f" {KEPT}"),
    ],
)
def test_ctrl_c_and_sigterm_end_a_command_with_a_sentence_and_an_exit_code(
    arguments: list[str],
    module: ModuleType,
    way_on: str,
    number: int,
    words: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None  # as Ray does

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").touch()
    monkeypatch.setattr(module, "load_with_options", interrupt)
    told = io.StringIO()
    monkeypatch.setattr(interrupted, "err", Console(file=told, width=80))
    assert CliRunner().invoke(app, arguments).exit_code == code
    assert told.getvalue() == f"Interrupted{words}.{way_on}\n"


def test_every_command_tells_that_it_was_interrupted() -> None:
    group = typer.main.get_command(app)
    commands = dict(group.commands)  # type: ignore[attr-defined]
    commands |= commands.pop("learn").commands
    assert {name for name, command in commands.items() if not hasattr(command.callback, "__wrapped__")} == set()


WINDOWS = "import sys; sys.platform = 'win32'; sys.argv[0] = {program!r}; import langsearch"


def test_on_windows_the_way_out_is_told_when_it_is_imported() -> None:
    sentence = (
        "langsearch must run on Linux or macOS, but this is Windows: use the Windows Subsystem for Linux "
        "(wsl --install), and install langsearch there."
    )
    for program in ("-m", "langsearch", "C:\\venv\\Scripts\\langsearch.exe"):
        code = WINDOWS.format(program=program)
        command = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (command.returncode, command.stdout, command.stderr) == (1, "", f"error: {sentence}\n")
    code = WINDOWS.format(program="script.py")
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert imported.stderr.splitlines()[-1] == f"ImportError: {sentence}"
