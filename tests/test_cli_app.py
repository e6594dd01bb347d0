import subprocess
import sys
from pathlib import Path

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
