"""The table of results.parquet in search_spaces/results.md, and its lines of pandas, Polars and DuckDB."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from langsearch.experiment.folder import read_rows
from langsearch.experiment.results_parquet import RESULTS

pytest_plugins = ["search_fixtures"]

PAGE = (Path(__file__).parents[1] / "search_spaces" / "results.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## What results.parquet holds")[2].partition("\n## ")[0]


def test_the_table_has_every_column_once_in_the_files_order() -> None:
    rows = re.findall(r"^\| (`.*?) \| (.+?) \|$", SECTION, flags=re.MULTILINE)
    columns = [name for names, _ in rows for name in re.findall(r"`(\w+)`", names)]
    assert sorted(columns) == sorted(RESULTS.names)
    assert [name for name in columns if name in ("name", "state", "spbleu", "test_spbleu", "params")] == [
        "name",
        "state",
        "spbleu",
        "test_spbleu",
        "params",
    ]


@pytest.mark.parametrize("library", ["pandas", "polars", "duckdb"])
def test_three_lines_show_the_front(library: str, trained: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    examples = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)
    (lines,) = [example for example in examples if example.startswith(f"import {library}\n")]
    assert len([line for line in lines.splitlines() if line]) == 3
    folder = tmp_path / "experiments" / "quickstart"
    folder.mkdir(parents=True)
    shutil.copy(trained / "results.parquet", folder)
    run = subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    front = [row for row in read_rows(trained / "results.parquet") if row["is_front"]]
    assert front
    for row in front:
        assert row["name"] in run.stdout
        assert f"{row['spbleu']:.3f}"[:-1] in run.stdout
    assert "pretrained" not in run.stdout
