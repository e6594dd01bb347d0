"""Commands print what they have to say, and nothing of what libraries warn of."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.search_fixtures import TINY

FIXED = ("architecture.rank=4", "trainer.lr=0.01", "trainer.epochs=1")
COMMANDS = (
    "run tiny.yaml --trials 1",
    f"train tiny.yaml --to trained {' '.join(f'--set {setting}' for setting in FIXED)}",
    "translate trained/adapters --from en --to fr",
    "evaluate experiments/tiny",
    "export experiments/tiny --trial 0 --to exported",
    "export exported --to compact --energy 0.9",
    "export experiments/tiny --trial 0 --to merged --format merged --direction en-fr",
    "report experiments/tiny",
    "learn subspace tiny.yaml --epochs 2",
)


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_no_library_warns_on_the_terminal(tmp_path: Path) -> None:
    """With warnings that Python hides by default shown, too: they are errors of a later version."""
    text = TINY.replace("{choice: [0, 2]}", "{choice: [2, 4]}").replace("full_finetuning, shared_lora, published", "")
    (tmp_path / "tiny.yaml").write_text(text, encoding="utf-8")
    for command in COMMANDS:
        run = subprocess.run(
            [sys.executable, "-W", "default", "-m", "langsearch", *command.split()],
            cwd=tmp_path,
            input="Good morning.\n",
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert (run.returncode, run.stderr) == (0, ""), f"{command}: {run.stdout[-2000:]}{run.stderr}"
