"""What is said where translations were cut: by a training, in the results, and below the front."""

import io
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from langsearch.experiment.folder import ExperimentFolder, read_rows
from langsearch.report.experiment_reader import read_experiment
from langsearch.report.terminal import front_table
from langsearch.study.results import cut_words
from langsearch.trial.standalone import train_single

pytest_plugins = ["search_fixtures"]


def test_up_to_1_percent_nothing_is_said() -> None:
    assert cut_words(None) == cut_words(0.0) == cut_words(0.01) == ""
    assert cut_words(0.0101) == "1.0 % of the translations were cut at their longest length"
    assert cut_words(0.0, 2, "test") == "2 test sources were cut"


def test_a_training_says_it_and_keeps_the_counts_of_each_direction(
    space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stream = io.StringIO()
    overrides = ["architecture.rank=2", "trainer.lr=0.01", "trainer.epochs=1", "evaluation.search.max_length=12"]
    overrides.append("evaluation.search.max_length_factor=0.01")
    result = train_single(Console(file=stream, width=300), space_file, None, tmp_path / "to", overrides).result
    assert result.cut_share is not None and result.cut_share > 0.5 and result.num_cut_sources > 0
    assert f" · {cut_words(result.cut_share, result.num_cut_sources)}" in stream.getvalue()
    rows = read_rows(ExperimentFolder(tmp_path / "to").trial("00000").scores)
    assert sum(row["num_cut"] for row in rows) == result.cut_share * sum(row["num_sentences"] for row in rows)
    assert sum(row["num_cut_sources"] for row in rows) == result.num_cut_sources


def test_the_front_is_shown_with_its_warnings(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(trained, folder)
    warning = cut_words(0.25, what="test")
    rows = [row | {"note": f"odd; {warning}"} for row in pq.read_table(folder / "results.parquet").to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(folder / "results.parquet")), folder / "results.parquet")
    stream = io.StringIO()
    Console(file=stream, width=120).print(front_table(read_experiment(folder)))
    assert f"00000: {warning}" in stream.getvalue() and "odd" not in stream.getvalue()
    assert stream.getvalue().count("`max_length_factor`") == 1, "with what mends it"
