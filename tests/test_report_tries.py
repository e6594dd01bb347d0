"""What the report, `show` and the summary say of tuned baselines: their tries, and what they cost beside the search."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from langsearch.report.costs import budgets, costs
from langsearch.report.experiment_reader import read_experiment
from langsearch.report.experiment_values import Experiment
from langsearch.report.page import render_page
from langsearch.report.page_tables import failure_groups
from langsearch.report.showing import find_trial, print_trial
from langsearch.report.summary import summarise
from langsearch.report.terminal import print_front
from langsearch.report.timeline import timeline_figure
from langsearch.report.tries import try_rows, try_sentences
from tests.report_fixtures import make_experiment

FULL = "full_finetuning"


def add_tries(folder: Path, *, is_chosen: bool = True, cause: str = "non-finite loss: nan") -> Path:
    """Makes full fine-tuning the second of three tries, of which the third has failed."""
    rows = pq.read_table(folder / "results.parquet").to_pylist()
    own = next(row for row in rows if row["name"] == FULL)
    others = [row for row in rows if row["name"] != FULL]
    tries: list[dict[str, Any]] = []
    for number, (rate, score) in enumerate([(3e-4, 16.0), (1e-4, 17.9), (2e-3, None)], 1):
        params = f'{{"trainer.lr": {rate}}}'
        tries.append(own | {"name": f"{FULL}-try-{number}", "kind": "try", "params": params, "spbleu": score})
        tries[-1] |= {"seconds": 1800.0, "test_spbleu": None, "is_front": False}
    tries[-1] |= {"state": "failed", "cause": cause, "seconds": None}
    adopted = [own | {"tuned_from": f"{FULL}-try-2", "seconds": 1800.0}] if is_chosen else []
    rows = [*others, *adopted, *tries]
    schema = pa.Table.from_pylist([row | {"tuned_from": row.get("tuned_from")} for row in rows])
    pq.write_table(schema, folder / "results.parquet")
    return folder


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return read_experiment(add_tries(make_experiment(tmp_path / "flores8")))


def test_each_try_is_told_with_its_rate_its_epochs_and_its_score(experiment: Experiment) -> None:
    rows = try_rows(experiment)
    found = [(row.number, row.lr, row.epochs, row.score and row.score.spbleu, row.is_chosen) for row in rows]
    assert found == [(1, 3e-4, 15, 16.0, False), (2, 1e-4, 15, 17.9, True), (3, 2e-3, 15, None, False)]
    assert {row.label for row in rows} == {"full fine-tuning"}
    assert try_sentences(experiment)[0] == (
        "Full fine-tuning was tuned: 3 tries at rates from 0.0001 to 0.002, 1 of them failed. It is try 2, at 0.0001 "
        "and 15 epochs: spBLEU 17.90 on validation, the first one 16.00."
    )


def test_tries_are_no_baselines_and_no_trials_of_the_search(experiment: Experiment) -> None:
    summary = summarise(experiment)
    assert len(summary.baselines) == 4
    assert sum(summary.num_by_state.values()) == 12
    assert not [trial for trial in experiment.trials if trial.kind == "try"]


def test_what_a_tuned_baseline_cost_is_counted_once_and_told_beside_the_search(
    experiment: Experiment, tmp_path: Path
) -> None:
    untuned = read_experiment(make_experiment(tmp_path / "untuned"))
    assert budgets(untuned) == ()
    # Two tries of half an hour in place of one training of 2,900 s.
    assert costs(experiment).trial_seconds == pytest.approx(costs(untuned).trial_seconds - 2900 + 2 * 1800)
    by_label = {budget.label: budget for budget in budgets(experiment)}
    assert by_label["full fine-tuning"].words == "2 trials, 1 h 00 min"
    assert by_label["shared LoRA"].num_trials == 1
    search = [trial for trial in untuned.trials if trial.kind == "searched" and trial.seconds is not None]
    assert by_label["the search"].num_trials == len(search)
    assert by_label["the search"].seconds == pytest.approx(sum(trial.seconds or 0 for trial in search))
    (budget,) = [text for text in try_sentences(experiment) if text.startswith("Budgets")]
    assert "full fine-tuning 2 trials, 1 h 00 min" in budget


def test_the_page_has_a_table_of_tries_and_escapes_what_they_say(experiment: Experiment, tmp_path: Path) -> None:
    page = render_page(experiment)
    assert "Tuned baselines" in page
    assert "Budget of full fine-tuning" in page
    assert page.count('<span class="badge best">taken</span>') == 1
    hostile = read_experiment(add_tries(make_experiment(tmp_path / "hostile"), cause="<script>alert(1)</script>"))
    assert "<script>alert(1)</script>" not in render_page(hostile)
    assert "Tuned baselines" not in render_page(read_experiment(make_experiment(tmp_path / "untuned")))


def test_the_summary_and_show_tell_of_tries(experiment: Experiment) -> None:
    console = Console(record=True, width=200, file=None, quiet=False, force_terminal=False)
    with console.capture() as captured:
        print_front(console, experiment)
        print_trial(console, experiment, find_trial(experiment, f"{FULL}-try-1"))
        print_trial(console, experiment, find_trial(experiment, FULL))
    text = captured.get()
    assert "Full fine-tuning was tuned: 3 tries" in text
    assert "Budgets, training and validation: the search 1" in text
    assert "trainer.lr" in text
    assert f"tuned from   {FULL}-try-2\n" in text


def test_before_a_baseline_is_made_of_its_tries_the_sentence_says_so(tmp_path: Path) -> None:
    early = read_experiment(add_tries(make_experiment(tmp_path / "early"), is_chosen=False))
    assert try_sentences(early)[0].endswith("; none was taken yet.")
    assert "full fine-tuning 2 trials" in try_sentences(early)[-1]


def test_the_timeline_has_the_tries_and_not_the_baseline_that_has_their_result(experiment: Experiment) -> None:
    figure = timeline_figure(experiment)
    assert figure is not None
    text = str(figure["data"])
    assert f"{FULL}-try-1" in text
    assert "full fine-tuning" not in text


def test_the_timeline_and_the_failures_know_whatever_trained_beside_the_trials(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "flores8")
    rows = pq.read_table(folder / "results.parquet").to_pylist()
    own = next(row for row in rows if row["name"] == "00001")
    again = own | {"state": "failed", "cause": "non-finite loss: nan", "is_front": False}
    beside = [again | {"name": "00001-seed-2", "kind": "seed"}, again | {"name": "wide", "kind": "donor"}]
    beside.append(again | {"name": "cut", "kind": "cut"})
    beside.append(own | {"name": f"{FULL}-seed-2", "kind": "seed", "seed_of": FULL, "state": "complete"})
    pq.write_table(
        pa.Table.from_pylist([{"seed_of": None} | row for row in (*rows, *beside)]), folder / "results.parquet"
    )
    experiment = read_experiment(folder)
    figure = timeline_figure(experiment)
    assert figure is not None
    shown = {name for trace in figure["data"] for name in trace["meta"]}
    assert {"00001-seed-2", "wide"} <= shown
    assert "cut" not in shown
    (baselines,) = [trace for trace in figure["data"] if trace["name"] == "baselines"]
    assert f"{FULL}-seed-2" in baselines["meta"], "drawn as what it is another training of"
    (group,) = [group for group in failure_groups(experiment, {}) if group.cause == "non-finite loss: nan"]
    assert {"00001-seed-2", "wide"} <= set(group.names)
