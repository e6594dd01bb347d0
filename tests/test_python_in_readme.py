"""README's section "From Python": its lines run as they stand, one block after the other."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECTION = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## From Python\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)

MAX_LINES = 40


def test_the_section_is_short_and_every_block_is_python() -> None:
    assert 0 < len(SECTION.splitlines()) <= MAX_LINES
    assert len(BLOCKS) == SECTION.count("```") / 2 == 2
    for block in BLOCKS:
        compile(block, "README.md", "exec")


@pytest.mark.integration
def test_its_lines_run_as_they_stand(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "search_spaces", tmp_path / "search_spaces")
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(BLOCKS)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    experiment = tmp_path / "experiments" / "first"
    assert f"Report: {experiment / 'report.html'}\n" in run.stdout
    assert (experiment / "report.html").is_file()
    assert (tmp_path / "adapters" / "README.md").is_file()
