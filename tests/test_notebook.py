"""A notebook: README's lines in a kernel of Jupyter, cell by cell, and the table that is drawn in one."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.test_python_in_readme import BLOCKS, ROOT

TABLE = """
import time
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from rich.console import Console
from langsearch.search import notebook
from langsearch.search.display import Display
from langsearch.space.settings import TrainerSettings
from langsearch.experiment.task import TrialTask

InteractiveShell.instance()
task = TrialTask(name="00000", kind="searched", method="none", trainer=TrainerSettings(), architecture=None)
display = Display(Console(force_jupyter=True), "tiny", 1, 0)
with capture_output() as captured:
    with display.showing():
        display.look()
        display.started(task)
        notebook._SECONDS_BETWEEN_DRAWINGS = 0.0
        display.look()
    display.look()
first, *updates = captured.outputs
assert "0/1 trials" in first.data["text/html"] and "00000" not in first.data["text/html"]
assert len(updates) == 2 and all(update.update for update in updates), updates
assert "00000" in updates[0].data["text/html"] and "00000" in updates[0].data["text/plain"]
assert "started" not in captured.stdout, "the table takes the place of lines"
"""


def test_a_table_is_drawn_once_and_then_anew_in_its_place() -> None:
    run = subprocess.run([sys.executable, "-c", TABLE], capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr


@pytest.mark.integration
def test_the_readme_s_lines_run_in_the_cells_of_a_notebook(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "search_spaces", tmp_path / "search_spaces")
    lines = "\n".join(BLOCKS).replace("\nexperiment", "\n#\nexperiment").replace("\nls.", "\n#\nls.").split("\n#\n")
    cells: list[dict[str, Any]] = [
        {
            "cell_type": "code",
            "id": f"cell-{number}",
            "metadata": {},
            "source": cell,
            "outputs": [],
            "execution_count": None,
        }
        for number, cell in enumerate(lines)
    ]
    notebook = nbformat.from_dict({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    resources = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, timeout=240, kernel_name="python3", resources=resources)
    client.execute(env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)})
    outputs: dict[str, list[Any]] = {cell.source.strip(): cell.outputs for cell in notebook.cells}
    every = [output for found in outputs.values() for output in found]
    assert not [output for output in every if output.output_type in ("error", "stream")], every

    def html(begin: str) -> str:
        (found,) = [found for source, found in outputs.items() if source.startswith(begin)]
        return "".join(output.data["text/html"] for output in found if "text/html" in output.data)

    shown = html("experiment = ls.search")
    assert re.search(r"\d/2 trials", shown), shown
    assert "<table" in html("experiment.front()")
    assert html("experiment.report()").startswith("<iframe")
    assert len(outputs) > 6
