"""What `show` and `list` compare with, and how long a search has run, by what there is of it."""

import io
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from langsearch.report.experiment_reader import read_experiment
from langsearch.report.experiment_values import Experiment
from langsearch.report.listing import Listed, listing_table
from langsearch.report.showing import _so_far, find_trial, print_trial
from langsearch.report.summary import gain
from langsearch.report.terminal import print_front
from tests.report_fixtures import make_experiment

pytest_plugins = ["search_fixtures"]


@pytest.fixture
def experiment(trained: Path, tmp_path: Path) -> Experiment:
    return read_experiment(shutil.copytree(trained, tmp_path / "tiny", ignore=shutil.ignore_patterns("weights")))


def shown(experiment: Experiment) -> str:
    stream = io.StringIO()
    print_trial(Console(file=stream, width=100), experiment, find_trial(experiment, "0"))
    return stream.getvalue()


def test_a_column_of_a_baseline_that_was_not_run_is_left_out(experiment: Experiment) -> None:
    assert "to pre" in shown(experiment) and "to full" not in shown(experiment)
    full = [replace(trial, name="full_finetuning") for trial in experiment.trials if trial.name == "pretrained"]
    assert "to full" in shown(replace(experiment, trials=(*experiment.trials, *full)))


def test_the_front_has_no_such_column_where_no_baseline_was_run(experiment: Experiment) -> None:
    def front(some: Experiment) -> str:
        stream = io.StringIO()
        print_front(Console(file=stream, width=100), some)
        return stream.getvalue()

    searched = tuple(trial for trial in experiment.trials if trial.kind == "searched")
    assert "to pre" in front(experiment)
    assert "to pre" not in (alone := front(replace(experiment, trials=searched))) and "to full" not in alone
    assert "00000" in alone and "architecture" in alone


def test_list_has_the_column_if_some_experiment_has_the_baseline() -> None:
    listed = Listed(
        name="a", folder="a", state="done", num_ended=1, num_failed=0, num_trials=1, split="test", best="00000",
        spbleu=2.0, to_pretrained=0.5, to_full_finetuning=None, trainable_parameters=9, started=None, seconds=None,
    )  # fmt: skip

    def headings(*all_listed: Listed) -> list[str]:
        return [str(column.header) for column in listing_table(all_listed).columns]

    assert "to full" not in headings(listed) and "to pre" in headings(listed)
    assert "to full" in headings(listed, replace(listed, to_full_finetuning=0.1))


def test_a_search_that_runs_is_not_told_to_have_taken_no_time(experiment: Experiment) -> None:
    began = (datetime.now(UTC) - timedelta(minutes=5)).isoformat(timespec="seconds")
    first = replace(experiment, started=began, seconds=0.0)
    assert _so_far(first, is_running=True).startswith("5 min 0")
    assert _so_far(first, is_running=True).endswith(" so far")
    assert _so_far(replace(first, seconds=90.0), is_running=True) == "1 min 30 s before this run"
    assert _so_far(replace(first, seconds=90.0), is_running=False) == "1 min 30 s in all"
    assert _so_far(replace(first, started=None), is_running=True) == "running"


def test_scores_of_other_sentences_have_no_difference(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "flores8")
    rows = pq.read_table(folder / "results.parquet").to_pylist()
    for row in rows:
        if row["name"] == "00003":
            row |= {"state": "pruned", "num_sentences": 40, "is_front": False}
    pq.write_table(pa.Table.from_pylist(rows), folder / "results.parquet")
    trials = {trial.name: trial for trial in read_experiment(folder).trials}
    assert gain(trials["00003"], trials["pretrained"], "validation") is None
    assert gain(trials["00002"], trials["pretrained"], "validation") is not None
    assert gain(replace(trials["00002"], beams=9), trials["pretrained"], "validation") is None
