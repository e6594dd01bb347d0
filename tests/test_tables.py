"""Numbers, tables and matrices over a few hand-written rows; every expected number is worked out in the test."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from langsearch.report import wording
from langsearch.report.advice import next_sentences
from langsearch.report.experiment_reader import read_experiment
from langsearch.report.experiment_values import Experiment, Score
from langsearch.report.listing import list_experiments
from langsearch.report.matrices import (
    adapted_sites,
    class_pair_averages,
    ordered_languages,
    rank_matrix,
    score_matrix,
)
from langsearch.report.page_tables import class_pair_rows, class_pairs
from langsearch.report.quoted_commands import reproduce_command, resume_command
from langsearch.report.sentences import headline, sentences
from langsearch.report.showing import print_experiment
from langsearch.report.summary import gain, summarise
from langsearch.report.terminal import front_table
from langsearch.report.trial_columns import trial_columns
from langsearch.space.architecture import Architecture, Site, SiteAdapters

CLASSES = {"high": ["en", "fr"], "low": ["wo"]}
LONG_SUMMARY = (
    "rank high 2, medium 2, low 8; source-indexed encoder layers 0-8; pruned to 0.9 from epoch 2 on; all modules"
)


def _row(name: str, spbleu: float | None, parameters: int, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "kind": "searched" if name.isdigit() else "baseline",
        "state": "complete",
        "cause": None,
        "spbleu": spbleu,
        "spbleu_low": None if spbleu is None else spbleu - 0.5,
        "spbleu_high": None if spbleu is None else spbleu + 0.5,
        "num_sentences": 100,
        "num_directions": 6,
        "test_spbleu": None,
        "test_spbleu_low": None,
        "test_spbleu_high": None,
        "test_num_sentences": None,
        "test_num_directions": None,
        "trainable_parameters": parameters,
        "trainable_percent": parameters / 10_000,
        "nonzero_parameters": parameters,
        "is_front": False,
        "summary": LONG_SUMMARY,
    }
    return row | changes


def _tested(row: dict[str, Any], spbleu: float) -> dict[str, Any]:
    test = {"test_spbleu": spbleu, "test_spbleu_low": spbleu - 0.2, "test_spbleu_high": spbleu + 0.2}
    return row | test | {"test_num_sentences": 1012, "test_num_directions": 6}


def _experiment(folder: Path, rows: list[dict[str, Any]], **about: Any) -> Experiment:
    folder.mkdir()
    value = {"name": "tiny", "classes": CLASSES, "languages": ["en", "fr", "wo"], "signature": "tok:flores101"} | about
    (folder / "experiment.json").write_text(json.dumps(value), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), folder / "results.parquet")
    return read_experiment(folder)


def _printed(experiment: Experiment, width: int = 80) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(front_table(experiment))
    return capture.get().splitlines()


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    rows = [
        _tested(_row("00000", 12.0, 10_000, is_front=True), 11.6),
        _tested(_row("00001", 14.0, 40_000, is_front=True), 12.9),
        _tested(_row("00002", 13.0, 20_000, is_front=True), 13.4),
        _row("00003", 11.0, 30_000),
        _row("00004", 9.0, 30_000, state="pruned"),
        _tested(_row("pretrained", 8.0, 0), 7.9),
        _tested(_row("full_finetuning", 12.5, 1_000_000), 12.0),
    ]
    return _experiment(tmp_path / "tiny", rows)


def test_best_and_smallest_come_from_validation(experiment: Experiment) -> None:
    summary = summarise(experiment)
    assert summary.split == "test"
    assert [trial.name for trial in summary.front] == ["00000", "00002", "00001"]
    assert summary.best is not None
    assert summary.best.name == "00001"  # 14.0 on validation, though 00002 leads on test
    assert summary.smallest is not None
    assert summary.smallest.name == "00002"  # 13.0 > 12.5, and 00000 has 12.0
    assert gain(summary.best, summary.full_finetuning, "test") == pytest.approx(0.9)
    assert (
        headline(summary)
        == "The best adapters score 0.90 spBLEU more than full fine-tuning, training 4.00 % of the parameters."
    )


def test_sentences_carry_numbers_and_intervals(experiment: Experiment) -> None:
    scores = {
        "00001": {("en", "fr"): 3.0, ("fr", "en"): 1.0, ("en", "wo"): 2.0},
        "full_finetuning": {("en", "fr"): 2.0, ("fr", "en"): 2.0},
    }
    assert sentences(experiment, summarise(experiment), scores) == (
        "The best member of the front is trial 00001: 12.90 spBLEU (95 % interval 12.70–13.10) on test, with "
        "40.0k trainable parameters (4.00 % of the base). "
        "It was chosen by its validation score, 14.00 spBLEU (95 % interval 13.50–14.50).",
        "Against full fine-tuning, 12.00 spBLEU (95 % interval 11.80–12.20), that is +0.90 spBLEU; "
        "the two intervals do not overlap. It is better in 1 of 2 directions.",
        "Against the pretrained base, 7.90 spBLEU (95 % interval 7.70–8.10), that is +5.00 spBLEU; "
        "the two intervals do not overlap.",
        "The smallest member that beats full fine-tuning on validation is trial 00002, with 20.0k trainable parameters "
        "(2.00 % of the base); on test it has 13.40 spBLEU (95 % interval 13.20–13.60), +1.40.",
        "5 trials: 4 complete, 1 stopped early (pruned) and 0 failed.",
    )


def test_a_front_that_loses_says_so(tmp_path: Path) -> None:
    rows = [_row("00000", 10.0, 10_000, is_front=True), _row("full_finetuning", 12.5, 1_000_000)]
    experiment = _experiment(tmp_path / "losing", rows)
    summary = summarise(experiment)
    assert (
        headline(summary)
        == "The best adapters come within 2.50 spBLEU of full fine-tuning, training 1.00 % of the parameters."
    )
    found = sentences(experiment, summary, {})
    assert "No member of the front beats full fine-tuning on validation." in found
    assert "There is no score of the pretrained base to compare with." in found
    assert found[0].endswith("Nothing has been scored on a test set.")


def test_a_best_member_that_is_not_tested_yet_is_compared_on_validation(tmp_path: Path) -> None:
    rows = [
        _tested(_row("00000", 12.0, 10_000, is_front=True), 11.6),
        _row("00001", 14.0, 40_000, is_front=True),
        _tested(_row("pretrained", 8.0, 0), 7.9),
        _tested(_row("full_finetuning", 12.5, 1_000_000), 12.0),
    ]
    experiment = _experiment(tmp_path / "extended", rows)
    summary = summarise(experiment)
    assert (summary.split, summary.best and summary.best.name) == ("validation", "00001")
    assert "score 1.50 spBLEU more than full fine-tuning" in headline(summary)
    text = " ".join(sentences(experiment, summary, {}))
    assert "trial 00001: 14.00 spBLEU (95 % interval 13.50–14.50) on validation" in text
    assert "Trial 00001 has not been scored on the test set yet, others have." in text
    assert "Against full fine-tuning, 12.50 spBLEU" in text
    assert not re.search("not known|There is no|Nothing has", text)
    table = " ".join(" ".join(_printed(experiment)).split())
    assert "tiny: spBLEU on validation" in table
    assert "Trial 00001 has not been scored on the test set yet" in table
    assert "Trial 00001 has not been scored" in next_sentences(experiment, summary, {}, (), {})[-1]


def test_the_side_without_a_score_is_the_one_that_is_missed(tmp_path: Path) -> None:
    rows = [
        _tested(_row("00000", 12.0, 10_000, is_front=True), 11.6),
        _tested(_row("pretrained", 8.0, 0), 7.9),
        _row("full_finetuning", 12.5, 1_000_000),
    ]
    experiment = _experiment(tmp_path / "later", rows)
    found = sentences(experiment, summarise(experiment), {})
    assert "There is no test score of full fine-tuning to compare with." in found


def test_proposals_that_were_too_large_to_be_trained_are_told_apart(tmp_path: Path) -> None:
    rejected = {"state": "pruned", "cause": "violates trainable_parameters <= 9", "is_feasible": False}
    rows = [
        _row("00000", 12.0, 10_000, is_front=True, is_feasible=True, same_as=None, retried_as=None),
        _row("00001", 11.0, 20_000, state="pruned"),
        _row("00002", None, 0, state="pruned", cause="stopped on request"),
        *[_row(f"{number:05d}", None, 0, **rejected) for number in range(3, 23)],
        _row("00023", 12.0, 10_000, same_as="00000"),
        _row("00024", None, 0, state="failed", cause="worker lost", retried_as="00025"),
        _row("00025", None, 0, state="running"),
    ]
    experiment = _experiment(tmp_path / "bounded", rows, num_trials=4)
    summary = summarise(experiment)
    assert (summary.num_ended, summary.num_rejected, summary.num_infeasible) == (3, 20, 0)
    assert sentences(experiment, summary, {})[-1] == (
        "6 trials: 2 complete, 2 stopped early (pruned), 1 failed and 1 still running. "
        "20 proposals were never trained: too large for the constraints."
    )
    (listed,) = list_experiments([experiment.folder])
    assert (listed.num_ended, listed.num_trials, listed.num_failed) == (3, 4, 0)
    console = Console(width=200)
    with console.capture() as capture:
        print_experiment(console, experiment)
    (line,) = [line for line in capture.get().splitlines() if line.startswith("trials")]
    assert line == (
        "trials       3 of 4 ended (1 complete, 2 pruned), 1 to go on; beside them 20 never trained: too large for the "
        "constraints, 1 with another's result, 1 tried again"
    )
    assert [trial.counts for trial in experiment.trials].count(True) == 4
    columns = trial_columns(experiment, summary, {}, {}, ())
    assert columns["state"][1:4] == ["pruned", "pruned", "rejected"]
    assert columns["state_words"]["rejected"] == "never trained"


def test_the_front_is_found_where_no_trial_is_marked(tmp_path: Path) -> None:
    rows = [
        _row("00000", 10.0, 10),
        _row("00001", 9.0, 20),
        _row("00002", 11.0, 30),
        _row("00003", 99.0, 5, state="pruned"),
    ]
    summary = summarise(_experiment(tmp_path / "running", rows))
    assert [trial.name for trial in summary.front] == ["00000", "00002"]


def test_a_front_that_the_constraints_left_empty_is_not_filled_by_the_report(tmp_path: Path) -> None:
    full = {"full_spbleu": 9.0, "full_spbleu_low": 8.0, "full_spbleu_high": 10.0, "is_feasible": True}
    rows = [
        _row("00000", 10.0, 10, **full),
        _row("00001", 12.0, 20, is_feasible=False),
        _tested(_row("pretrained", 8.0, 0), 7.9),
    ]
    experiment = _experiment(tmp_path / "none", rows)
    summary = summarise(experiment)
    assert (summary.front, summary.best) == ((), None)
    assert headline(summary) == "No trial keeps all constraints, so nothing is on the front."
    assert sentences(experiment, summary, {}) == (
        "2 trials violated a constraint, and so cannot be on the front.",
        "2 trials: 2 complete, 0 stopped early (pruned) and 0 failed.",
    )


def test_table_fits_eighty_columns_and_cuts_no_number(experiment: Experiment) -> None:
    lines = _printed(experiment)
    assert max(map(len, lines)) <= 80
    assert lines[0].strip() == "tiny: spBLEU on test, 1,012 sentences, 6 directions"
    rows = {
        name: line for line in lines for name in ("00000", "00001", "00002", "pretrained", "full fine") if name in line
    }
    assert rows["00001"].split()[:7] == ["*", "00001", "12.90", "12.70–13.10", "+0.90", "40.0k", "4.00"]
    assert rows["pretrained"].split()[:7] == ["=", "pretrained", "7.90", "7.70–8.10", "−4.10", "0", "0"]
    assert rows["full fine"].split()[:8] == ["=", "full", "fine-tuning", "12.00", "11.80–12.20", "–", "1.00M", "100"]
    order = [line.split()[1] if line.startswith(("*", " *", "=", " =")) else line.split()[0] for line in rows.values()]
    assert order == ["00001", "00002", "00000", "pretrained", "full"]
    # Six-digit numbers and the longest names still fit.
    assert not any("…" in line for line in lines if "00001" in line or "full fine" in line)


def test_table_wraps_summaries_and_keeps_their_words(experiment: Experiment) -> None:
    text = " ".join(line[58:].strip() for line in _printed(experiment))
    assert "rank high 2, medium 2, low 8;" in text


def test_table_without_test_scores_says_that_selection_flatters(tmp_path: Path) -> None:
    rows = [
        _row("00000", 10.0, 10_000, is_front=True),
        _row("full_finetuning", None, 1_000_000, state="failed", cause="no memory"),
    ]
    text = " ".join(" ".join(_printed(_experiment(tmp_path / "untested", rows))).split())
    assert "tiny: spBLEU on validation, 100 sentences, 6 directions" in text
    assert "these scores chose the front, so they flatter it" in text
    assert "failed: no memory" in text


def test_table_names_a_stand_in_tokenizer(tmp_path: Path) -> None:
    rows = [_row("00000", 10.0, 10_000, is_front=True)]
    experiment = _experiment(tmp_path / "standin", rows, tokenizer={"name": "spm:base", "stand_in": True})
    assert "spBLEU (stand-in tokenizer spm:base) on validation" in " ".join(_printed(experiment))


def test_table_shows_markup_as_text(tmp_path: Path) -> None:
    rows = [_row("00000", 10.0, 10_000, is_front=True, summary="[bold]rank[/bold]")]
    experiment = _experiment(tmp_path / "markup", rows, name="[red]tiny")
    text = " ".join(_printed(experiment))
    assert "[bold]rank[/bold]" in text
    assert "[red]tiny:" in text


def test_table_without_any_trial_is_still_a_table(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "space.yaml").write_text("name: empty\n", encoding="utf-8")
    assert "no trial on the front" in " ".join(" ".join(_printed(read_experiment(tmp_path / "empty"))).split())


def test_class_pairs_average_their_directions(experiment: Experiment) -> None:
    scores = {("en", "fr"): 3.0, ("fr", "en"): 1.0, ("en", "wo"): 4.0, ("fr", "wo"): 8.0, ("wo", "en"): 5.0}
    assert class_pair_averages(experiment, scores) == {
        ("high", "high"): 2.0,
        ("high", "low"): 6.0,
        ("low", "high"): 5.0,
    }
    by_trial = {"00001": scores}
    pairs = class_pairs(experiment, by_trial)
    assert pairs == (("high", "high"), ("high", "low"), ("low", "high"))
    (row,) = class_pair_rows(experiment, summarise(experiment), by_trial, pairs)
    assert (row.label, row.averages, row.overall) == ("00001", (2.0, 6.0, 5.0), 4.2)


def test_score_matrix_has_sources_as_rows(experiment: Experiment) -> None:
    assert ordered_languages(experiment) == ("en", "fr", "wo")
    assert score_matrix({("en", "wo"): 1.234}, ("en", "wo")) == ((None, 1.234), (None, None))


def test_rank_matrix_follows_slots_and_sites() -> None:
    first, second = Site("encoder", 0, "fc1"), Site("decoder", 1, "q_proj")
    architecture = Architecture(
        slots=(("en", "shared"), ("fr", "shared"), ("wo", "wo")),
        adapters=(SiteAdapters(first, "src", (("shared", 2), ("wo", 8))), SiteAdapters(second, "tgt", (("wo", 4),))),
    )
    sites = adapted_sites({"00000": architecture})
    assert sites == (first, second)
    matrix = rank_matrix(architecture, ("en", "fr", "wo"), (*sites, Site("decoder", 2, "fc2")))
    assert matrix.ranks == ((2, 0, 0), (2, 0, 0), (8, 4, 0))
    assert matrix.sides == ("src", "tgt", "")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1.00k"),
        (99_960, "100k"),
        (999_600, "1.00M"),
        (15_335_424, "15.3M"),
        (2_000_000_000, "2.00B"),
    ],
)
def test_parameters_have_three_digits(count: int, text: str) -> None:
    assert wording.parameters(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.21, "4.2 s"), (59.99, "1 min 00 s"), (3599.7, "1 h 00 min"), (30519.0, "8 h 28 min")]
)
def test_durations_carry_over(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text


def test_small_numbers_are_not_rounded_to_nothing() -> None:
    assert [wording.percent(value) for value in (0.0, 0.004, 0.4, 2.49, 12.345, 100.0)] == [
        "0",
        "0.004",
        "0.40",
        "2.49",
        "12.3",
        "100",
    ]
    assert [wording.difference(value) for value in (0.001, -0.001, -1.5, 2.25)] == ["0.00", "0.00", "−1.50", "+2.25"]
    assert (
        wording.interval(Score(spbleu=1.0, low=None, high=2.0, num_sentences=None, num_directions=None))
        == wording.MISSING
    )


def test_commands_quote_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    rows = [_row("00000", 1.0, 1)]
    experiment = _experiment(tmp_path / "experiments" / "a; b", rows, name="a; b", num_trials=4)
    assert reproduce_command(experiment) == (
        "langsearch run 'experiments/a; b/space.yaml' --name 'a; b-again' --trials 4"
    )


def test_commands_go_on_with_the_experiment_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("experiments", "x", "here"):
        (tmp_path / name).mkdir()
    rows = [_row("00000", 1.0, 1, state="running")]
    usual, other = (_experiment(tmp_path / place / "a", rows, name="a", num_trials=5) for place in ("experiments", "x"))
    renamed = _experiment(tmp_path / "x" / "b", rows, name="a")
    monkeypatch.chdir(tmp_path)
    assert resume_command(usual) == "langsearch run experiments/a/space.yaml --resume --trials 5"
    assert resume_command(usual, num_trials=9) == "langsearch run experiments/a/space.yaml --resume --trials 9"
    assert resume_command(other, "--retry", "failed") == (
        "langsearch run x/a/space.yaml --experiments x --resume --retry failed --trials 5"
    )
    assert resume_command(renamed) == "langsearch run x/b/space.yaml --experiments x --name b --resume"
    assert reproduce_command(other) == "langsearch run x/a/space.yaml --experiments x --name a-again --trials 5"
    advice = next_sentences(other, summarise(other), {}, (), {})
    assert advice == (f"1 trial had not ended: `{resume_command(other)}` goes on.",)
    monkeypatch.chdir("here")
    assert resume_command(renamed) == (
        f"langsearch run {tmp_path}/x/b/space.yaml --experiments {tmp_path}/x --name b --resume"
    )
    (tmp_path / "experiments" / "a" / ".remote").mkdir()
    assert " --experiments URL --resume " in resume_command(usual)
