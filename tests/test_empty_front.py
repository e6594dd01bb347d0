"""Where no trial keeps all constraints: what comes nearest is named, kept, exported, and how to admit it."""

import io
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from langsearch.experiment.disk import DiskBudget
from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.opening import open_table
from langsearch.experiment.results_parquet import write_results
from langsearch.experiment.study_reader import StudyReader
from langsearch.report import terminal
from langsearch.report.experiment_reader import read_experiment
from langsearch.report.page import render_page
from langsearch.report.sentences import headline, sentences
from langsearch.report.showing import print_experiment
from langsearch.report.summary import summarise
from langsearch.space.problems import InputError
from langsearch.space.schema import Space, load_space
from langsearch.space.search_sections import parse_constraint
from langsearch.space.settings import CheckpointSettings
from langsearch.study.constraints import Constraints
from langsearch.study.nearest import Miss, Nearest, Standing, find_nearest
from langsearch.study.results import FinalResult, TrialResult
from langsearch.study.table import TrialTable
from langsearch.trial.export import choose_trial, export_one

if TYPE_CHECKING:
    from tests.cli_fixtures import Command
    from tests.search_fixtures import ResultMaker, TableMaker

pytest_plugins = ["search_fixtures", "cli_fixtures"]


@pytest.mark.parametrize(
    ("text", "value", "words", "admitting"),
    [
        (
            "nonzero_parameters <= 2 %",
            24.12,
            "nonzero_parameters 2.41 %, 0.412 % above its bound of 2 %",
            "nonzero_parameters <= 2.42 %",
        ),
        (
            "trainable_parameters <= 25000",
            25344,
            "trainable_parameters 25,344, 344 above its bound of 25000",
            "trainable_parameters <= 25400",
        ),
        ("spbleu >= 8", 7.1234, "spbleu 7.12, 0.877 below its bound of 8", "spbleu >= 7.12"),
        ("spbleu >= 8", 7.12, "spbleu 7.12, 0.88 below its bound of 8", "spbleu >= 7.11"),
        (
            "nonzero_parameters <= 0 %",
            12,
            "nonzero_parameters 12, 12 above its bound of 0",
            "nonzero_parameters <= 12.1",
        ),
        ("train_seconds <= 0.5", 0.75, "train_seconds 0.75, 0.25 above its bound of 0.5", "train_seconds <= 0.751"),
    ],
)
def test_a_miss_says_by_how_much_and_names_a_bound_that_admits_it(
    text: str, value: float, words: str, admitting: str, make_result: "ResultMaker"
) -> None:
    constraint = parse_constraint(text)
    result = make_result(**{constraint.metric: value})
    found = Constraints(all=(constraint,), base_parameters=1000).violations(result, None)
    assert found is not None
    miss = Miss(constraint, found[str(constraint)])
    assert (miss.words, miss.admitting) == (words, admitting)
    wider = parse_constraint(admitting)
    kept = Constraints(all=(wider,), base_parameters=1000).violations(result, None)
    assert kept is not None and kept[str(wider)] <= 0


def test_a_loss_of_no_scored_direction_is_unknown_and_no_bound_is_named_for_it() -> None:
    miss = Miss(parse_constraint("worst_loss.low <= 0.5"), 1.0)
    assert miss.words.startswith("worst_loss.low unknown, since no direction of it is among those")
    assert miss.admitting is None


def test_the_nearest_is_trained_and_violates_least_in_sum() -> None:
    def standing(name: str, amounts: tuple[float, float], spbleu: float | None = 1.0) -> Standing:
        violations = dict(zip(("spbleu >= 8", "peak_memory <= 8"), amounts, strict=True))
        return Standing(name=name, violations=violations, spbleu=spbleu, trainable_parameters=1)

    far, near, better = standing("0", (0.3, -5.0)), standing("1", (0.1, 0.1)), standing("2", (0.2, -1.0), 2.0)
    never, kept = standing("3", (0.01, 0.0), None), standing("4", (-1.0, 0.0))
    found = find_nearest([far, near, better, never, kept])
    assert found is not None and (found.name, [miss.amount for miss in found.misses]) == ("2", [0.2])
    assert find_nearest([never, kept]) == Nearest("3", (Miss(parse_constraint("spbleu >= 8"), 0.01),))
    assert find_nearest([kept]) is None


@pytest.fixture
def bounded(trained: Path, tmp_path: Path) -> Path:
    """The trained experiment as if its one complete trial violated a bound on its size, and nothing else were there."""
    copy = tmp_path / "experiments" / "tiny"
    shutil.copytree(trained, copy, ignore=shutil.ignore_patterns("study.db", "results.parquet"))
    folder = ExperimentFolder(copy)
    text = load_space(folder.space, ["search.constraints=[trainable_parameters <= 1 %, spbleu >= 0]"]).text
    folder.space.write_text(text, encoding="utf-8")
    about = folder.description.read_text(encoding="utf-8")
    listed = '"constraints": [\n  "trainable_parameters <= 1 %",\n  "spbleu >= 0"\n ]'
    folder.description.write_text(about.replace('"constraints": []', listed), encoding="utf-8")
    from langsearch.experiment.folder import read_json
    from langsearch.study.results import TrialResult

    space = load_space(folder.space)
    table = open_table(folder, space)
    for name in ("00000", "00001"):
        table.propose(space.dimensions(), fingerprint=name)
    table.complete("00000", TrialResult(**read_json(folder.trial("00000").result)))
    table.reject("00001", {"trainable_parameters <= 1 %": 0.001, "spbleu >= 0": 0.0})
    write_results(folder, table, read_json(folder.description)["base_parameters"])
    return copy


def test_the_terminal_show_and_the_report_name_the_nearest_and_what_to_change(bounded: Path) -> None:
    experiment = read_experiment(bounded)
    summary = summarise(experiment)
    percent = next(trial.trainable_percent for trial in experiment.trials if trial.name == "00000")
    assert percent is not None and percent > 1
    told = f"Trial 00000 comes nearest: trainable_parameters {percent:.3g} %, "
    told += f"{percent - 1:.3g} % above its bound of 1 %."
    assert headline(summary) == "No trial keeps all constraints, so nothing is on the front."
    found = sentences(experiment, summary, {})
    assert found[0] == told
    assert found[1] == "Of 2 trials, constraints are violated as follows: `trainable_parameters <= 1 %` by 2."
    assert found[2].startswith("`trainable_parameters <= 1.4")
    assert "--accept-changed-space --set 'search.constraints=[trainable_parameters <= 1.4" in found[2]
    assert ", spbleu >= 0]'" in found[2] and "leave some room" not in found[2], "a size is not measured again"
    assert found[3].endswith(f"`langsearch export {bounded} --trial 0 --to DIR`.")
    for show in (terminal.print_front, print_experiment):
        stream = io.StringIO()
        show(Console(file=stream, width=80), experiment)
        assert all(sentence in stream.getvalue() for sentence in found[:4])
    page = render_page(experiment)
    assert told.replace(" %", "\u00a0%") in page and f"<code>langsearch export {bounded} --trial 0" in page


def test_the_admitting_bound_admits_the_trial_with_its_weights(bounded: Path, langsearch: "Command") -> None:
    found = sentences(read_experiment(bounded), summarise(read_experiment(bounded)), {})
    bound = found[2].split("`")[1]
    folder = ExperimentFolder(bounded)
    space = load_space(folder.space, [f"search.constraints=[{bound}]"])
    folder.space.write_text(space.text, encoding="utf-8")
    (bounded / "study.db").rename(bounded / "old.db")
    table = open_table(folder, space)
    from langsearch.experiment.folder import read_json
    from langsearch.study.results import TrialResult

    table.propose(space.dimensions(), fingerprint="0")
    table.complete("00000", TrialResult(**read_json(folder.trial("00000").result)))
    assert [row.name for row in table.front()] == ["00000"]


def test_export_says_why_none_is_chosen_and_exports_an_infeasible_one(bounded: Path, langsearch: "Command") -> None:
    ended = langsearch("export", bounded, "--to", "out")
    assert ended.code == 2
    assert "must keep all constraints to be chosen, but none does. Trial 00000 comes nearest: " in ended.err
    assert "Name it with --trial 0" in ended.err
    assert langsearch("export", bounded, "--to", "out", "--trial", "0").code == 0
    assert (bounded.parents[1] / "out" / "langsearch.json").exists()
    ended = langsearch("export", bounded, "--to", "other", "--trial", "1")
    assert "00001 has none: it was never trained, since its size violates trainable_parameters <= 1 %" in ended.err
    assert "must keep all constraints" in langsearch("translate", bounded, "--from", "en", "--to", "fr").err


def test_the_weights_of_the_nearest_stay_however_little_room_there_is(bounded: Path) -> None:
    from langsearch.search.tuning import kept_names

    folder = ExperimentFolder(bounded)
    table = open_table(folder, load_space(folder.space))
    assert (table.candidates(), kept_names(table)) == ([], {"00000"})
    budget = DiskBudget(folder, CheckpointSettings(keep="front", max_gigabytes=1e-9))
    budget.keep_within(table.rows(), kept_names(table), set(table.returning()))
    assert any(folder.trial("00000").weights.iterdir())
    budget.keep_within(table.rows(), set(), set(table.returning()))
    assert not folder.trial("00000").weights.exists()
    with pytest.raises(InputError, match=r"00000 has none: it is complete, but .* Train it again with: langsearch tr"):
        export_one(bounded, "0", bounded.parent / "out", "peft")


def bounded_at_8(trained: Path, folder: Path, result: TrialResult) -> tuple[ExperimentFolder, Space, TrialTable]:
    """An experiment of one trial, whose spBLEU must be 8 at least."""
    copy = folder / "experiments" / "tiny"
    shutil.copytree(trained, copy, ignore=shutil.ignore_patterns("study.db", "results.parquet", "trials"))
    experiment = ExperimentFolder(copy)
    bounded = load_space(experiment.space, ["search.constraints=[spbleu >= 8]"])
    experiment.space.write_text(bounded.text, encoding="utf-8")
    space = load_space(experiment.space)
    table = open_table(experiment, space)
    table.propose(space.dimensions(), fingerprint="0")
    table.complete("00000", result)
    return experiment, space, table


def test_final_scores_that_violate_a_constraint_are_told_as_by_how_much(
    trained: Path, tmp_path: Path, make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    folder, space, table = bounded_at_8(trained, tmp_path, make_result(spbleu=9.0))
    assert [row.name for row in table.front()] == ["00000"]
    low = FinalResult(
        full_spbleu=6.0,
        full_spbleu_low=5.0,
        full_spbleu_high=7.0,
        full_worst_class_spbleu=1.0,
        full_chrf=None,
        full_num_sentences=9,
        full_num_directions=2,
    )
    table.record_final("00000", low)
    assert table.front() == []
    with pytest.raises(InputError, match=r"Trial 00000 comes nearest: spbleu 6, 2 below its bound of 8\. Name it with"):
        choose_trial(table, None)
    write_results(folder, table, 1000)
    stored = read_experiment(folder.path)
    reader = StudyReader(folder, space, 1000)
    live = reader.read()
    assert reader.read().rows[-1] is live.rows[-1], "a row that has not changed is the same object"
    reader.close()
    assert dict(live.rows[-1].violations or {}) == dict(stored.trials[0].violations) == {"spbleu >= 8": 0.25}
    assert sentences(stored, summarise(stored), {})[0] == "Trial 00000 comes nearest: spbleu 6, 2 below its bound of 8."


def test_a_bound_on_scores_is_named_with_a_warning_that_they_are_taken_again(
    trained: Path, tmp_path: Path, make_result: "ResultMaker"
) -> None:
    folder, _, table = bounded_at_8(trained, tmp_path, make_result(spbleu=7.0))
    write_results(folder, table, 1000)
    experiment = read_experiment(folder.path)
    (told,) = [text for text in sentences(experiment, summarise(experiment), {}) if "would admit it" in text]
    assert told.endswith("By `evaluation.final` it is scored once more, and must keep that too: leave some room.")
