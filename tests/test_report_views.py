"""What the report works out: importance, timeline, sentence scores, costs, and the sentences about what to do."""

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from rich.console import Console
from sacrebleu.metrics import CHRF

from langsearch.report.advice import next_sentences
from langsearch.report.costs import cost_facts, costs
from langsearch.report.experiment_reader import read_details, read_experiment
from langsearch.report.experiment_values import SPLITS, CurvePoint, Experiment
from langsearch.report.importance import MIN_TRIALS, importances
from langsearch.report.page import render_page, with_code
from langsearch.report.sentences import demand_sentences, headline, language_gains, mean_ranks, sentences
from langsearch.report.showing import print_trial
from langsearch.report.summary import summarise
from langsearch.report.terminal import front_table
from langsearch.report.timeline import MAX_WORKER_LANES, timeline_figure
from langsearch.report.translations import read_translations
from langsearch.report.wording import split_words
from tests.report_fixtures import CLASSES, DIRECTIONS, Page, make_experiment


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_experiment(tmp_path_factory.mktemp("experiments") / "flores8")


@pytest.fixture(scope="module")
def experiment(folder: Path) -> Experiment:
    return read_experiment(folder)


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pq.read_table(folder / "results.parquet").to_pylist()
    return table


def changed(folder: Path, to: Path, change: Any) -> Experiment:
    """Returns a copy of an experiment whose rows went through a function."""
    copy = shutil.copytree(folder, to / "copy")
    rows = pq.read_table(copy / "results.parquet").to_pylist()
    pq.write_table(pa.Table.from_pylist([row | change(row) for row in rows]), copy / "results.parquet")
    return read_experiment(copy)


def _many(tmp_path: Path, num: int) -> Experiment:
    """Trials in which spBLEU depends on rank.low alone, and the size on both ranks."""
    tmp_path.mkdir(exist_ok=True)
    rows = []
    for number in range(num):
        low, high = (number * 7) % 16, (number // 16 * 5) % 16
        params = json.dumps({"rank.low": low, "rank.high": high, "kind": ["a", "b"][number % 2]})
        rows.append(
            {"name": f"{number:05d}", "kind": "searched", "state": "complete", "params": params}
            | {"spbleu": 10.0 + low, "trainable_parameters": 1000 * (low + high)}
        )
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "results.parquet")
    return read_experiment(tmp_path)


def test_importance_is_told_for_each_objective(tmp_path: Path) -> None:
    found = importances(_many(tmp_path / "many", 160), {"rank.low": IntDistribution(0, 15)})
    assert [entry.objective for entry in found] == ["spbleu", "trainable_parameters"]
    shares = dict(found[0].values)
    assert next(iter(shares)) == "rank.low"
    assert shares["rank.low"] > 0.9
    assert sum(shares.values()) == pytest.approx(1)
    size = dict(found[1].values)
    assert size["rank.low"] > 0.2 and size["rank.high"] > 0.2
    assert found[0].num_trials == 160


def test_importance_says_where_trials_are_too_few(experiment: Experiment, tmp_path: Path) -> None:
    for entry in importances(experiment, {}):
        assert entry.values == ()
        assert entry.reason == f"Too few complete trials: 7, and at least {MIN_TRIALS} are needed."
    page = Page(render_page(experiment))
    assert "No importance for spbleu: Too few complete trials: 7" in page.text
    assert page.data["importance"] == []


def test_importance_without_a_difference_says_so(folder: Path, tmp_path: Path) -> None:
    experiment = _many(tmp_path / "equal", 30)
    rows = pq.read_table(experiment.folder / "results.parquet").to_pylist()
    pq.write_table(pa.Table.from_pylist([row | {"spbleu": 1.0} for row in rows]), experiment.folder / "results.parquet")
    found = importances(read_experiment(experiment.folder), {})
    assert found[0].reason == "All complete trials have the same value."


def test_timeline_has_a_bar_for_each_trial_on_its_worker(experiment: Experiment, rows: list[dict[str, Any]]) -> None:
    figure = timeline_figure(experiment)
    assert figure is not None
    bars = {
        name: (start, length, lane)
        for trace in figure["data"]
        if trace["type"] == "bar"
        for name, start, length, lane in zip(trace["meta"], trace["base"], trace["x"], trace["y"], strict=True)
    }
    assert set(bars) == {row["name"] for row in rows}
    for row in rows:
        start, length, lane = bars[row["name"]]
        assert lane == row["worker"]
        assert 3600 * length == pytest.approx(row["seconds"], abs=2)
        assert start >= 0
    (crosses,) = [trace for trace in figure["data"] if trace["type"] == "scatter"]
    assert crosses["meta"] == [row["name"] for row in rows if row["state"] == "failed"]
    assert "tries 00008 again" in str(figure["data"])


def test_many_workers_share_lanes_by_host(folder: Path, tmp_path: Path) -> None:
    experiment = changed(folder, tmp_path, lambda row: {"worker": f"node-1/{row['name']}"})
    figure = timeline_figure(experiment)
    assert figure is not None
    assert len(figure["layout"]["yaxis"]["categoryarray"]) == 16 <= MAX_WORKER_LANES
    extra = [
        {"name": f"{number:05d}", "state": "complete", "worker": f"node-1/{number}"}
        | {"started": f"2026-11-20T{number // 60:02d}:{number % 60:02d}:00"}
        | {"finished": f"2026-11-20T{number // 60:02d}:{number % 60:02d}:59"}
        for number in range(60)
    ]
    (tmp_path / "serial").mkdir()
    pq.write_table(pa.Table.from_pylist(extra), tmp_path / "serial" / "results.parquet")
    figure = timeline_figure(read_experiment(tmp_path / "serial"))
    assert figure is not None
    assert figure["layout"]["yaxis"]["categoryarray"] == ["node-1 #1"]


def test_sentences_are_scored_one_by_one_and_sorted_out(experiment: Experiment) -> None:
    summary = summarise(experiment)
    found = read_translations(experiment, summary)
    assert found is not None
    assert summary.best is not None
    assert found.systems == ("pretrained", "full_finetuning", summary.best.name)
    assert (found.num_scored, found.num_all) == (112, 112)
    line = found.sentences[0]
    expected = CHRF().sentence_score(line.hypotheses[2] or "", [line.reference]).score
    assert line.chrf[2] == pytest.approx(expected)
    assert sum(line.is_spread for line in found.sentences) == 60


def test_largest_gains_and_losses_are_among_the_sentences(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / "trials" / "full_finetuning" / "translations.parquet"
    lines = pq.read_table(path).to_pylist()
    own = [line for line in lines if line["split"] == "test"]
    own[5]["hypothesis"], own[77]["hypothesis"] = "?", own[77]["reference"]
    pq.write_table(pa.Table.from_pylist(own[::-1]), path)  # in another order, too
    experiment = read_experiment(copy)
    found = read_translations(experiment, summarise(experiment))
    assert found is not None
    gains = {
        (line.src, line.tgt, line.row): line.chrf[2] - line.chrf[1]
        for line in found.sentences
        if line.chrf[2] is not None and line.chrf[1] is not None
    }
    assert max(gains, key=lambda key: gains[key]) == (own[5]["src"], own[5]["tgt"], own[5]["row"])
    assert min(gains, key=lambda key: gains[key]) == (own[77]["src"], own[77]["tgt"], own[77]["row"])


def test_costs_are_the_trials_time_at_the_stated_price(experiment: Experiment, rows: list[dict[str, Any]]) -> None:
    seconds = sum(row["seconds"] for row in rows)
    hours = seconds / 3600 / 2  # two trials share a GPU
    assert costs(experiment).gpu_hours == pytest.approx(hours)
    facts = cost_facts(experiment, 2.5)
    assert facts["Cost"] == f"{hours * 2.5:,.2f} at 2.5 per GPU hour"
    assert (facts["GPU hours"] or "").startswith(f"{hours:,.2f} (0.5 per trial")
    assert "no price was stated" in (cost_facts(experiment, None)["Cost"] or "")
    assert f"{hours * 2.5:,.2f} at 2.5 per GPU hour" in Page(render_page(experiment, 2.5)).text


def test_trials_that_share_a_result_cost_nothing(folder: Path, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    experiment = changed(folder, tmp_path, lambda row: {"same_as": "00000" if row["name"] == "00001" else None})
    expected = sum(row["seconds"] for row in rows if row["name"] != "00001")
    assert costs(experiment).trial_seconds == pytest.approx(expected)


def test_demand_is_that_of_the_best_members_files(folder: Path, experiment: Experiment) -> None:
    summary = summarise(experiment)
    assert summary.best is not None
    architecture = read_details(experiment, summary.best.name).architecture
    assert architecture is not None
    scores = {
        name: {
            (row["src"], row["tgt"]): row["spbleu"]
            for row in pq.read_table(folder / "trials" / name / "scores.parquet").to_pylist()
            if row["split"] == "test"
        }
        for name in (summary.best.name, "full_finetuning", "pretrained")
    }
    text = " ".join(demand_sentences(experiment, summary, architecture, scores))
    params = dict(summary.best.params)
    ranks = ", ".join(f"{name} {params[f'rank.{name}']}" for name in CLASSES)
    assert f"mean over its adapted places: {ranks}." in text
    border = params["encoder.source_layers"]
    assert f"encoder layers 0–{border - 1} by the source language" in text
    assert "decoder layers 0–11 by the target language" in text
    gains = language_gains(scores[summary.best.name], scores["full_finetuning"])
    most = max(gains, key=lambda code: gains[code])
    own = [
        scores[summary.best.name][direction] - scores["full_finetuning"][direction]
        for direction in DIRECTIONS
        if most in direction
    ]
    assert gains[most] == pytest.approx(sum(own) / len(own))
    assert f"gain most (mean over the directions from and into each): {most} " in text
    assert mean_ranks(architecture)["sw"] == params["rank.low"]


def test_advice_gives_its_reasons(experiment: Experiment) -> None:
    summary = summarise(experiment)
    assert summary.best is not None
    best = summary.best
    dimensions = {
        "rank.low": IntDistribution(1, int(best.params["rank.low"])),
        "rank.high": CategoricalDistribution((0, 1, int(best.params["rank.high"]), 99)),
    }
    found = next_sentences(experiment, summary, dimensions, (), {})
    low = best.params["rank.low"]
    assert f"`rank.low` of trial {best.name} is {low}, the largest that was searched: widen its range." in found
    assert not any("rank.high" in line for line in found)
    assert any("1 trial failed" in line and "--retry failed" in line for line in found)  # the other was tried again
    assert with_code("a `<b>` c") == "a <code>&lt;b&gt;</code> c"


def _point(epoch: int, spbleu: float) -> CurvePoint:
    return CurvePoint(
        epoch=epoch, updates=None, train_loss=None, spbleu=spbleu, lr=None, seconds=None, nonzero_parameters=None
    )


@pytest.mark.parametrize(
    ("width", "gain", "is_told"), [(2.51, 0.08, False), (2.51, 0.7, True), (0.1, 0.08, True), (0.1, 0.04, False)]
)
def test_more_epochs_are_advised_only_where_the_last_one_gained_more_than_noise(
    width: float, gain: float, is_told: bool, folder: Path, tmp_path: Path
) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        return {f"spbleu_{end}": row["spbleu"] and row["spbleu"] + half for end, half in ends.items()}

    ends = {"low": -width / 2, "high": width / 2}
    experiment = changed(folder, tmp_path, change)
    summary = summarise(experiment)
    assert summary.best is not None
    curve = [_point(14, 15.0), _point(15, 15.0 + gain)]
    text = " ".join(next_sentences(experiment, summary, {}, (), {summary.best.name: curve}))
    assert ("raise `trainer.epochs`" in text) == is_told


def test_a_window_that_was_cut_off_says_where(experiment: Experiment) -> None:
    best = summarise(experiment).best
    assert best is not None
    windows = {"decoder.layers.start": 10, "encoder.layers.start": 0}
    shown = {}
    for length in (2, 3):
        lengths = {"decoder.layers.length": length, "encoder.layers.length": 12}
        stream = io.StringIO()
        print_trial(Console(file=stream, width=100), experiment, replace(best, params=windows | lengths))
        shown[length] = [line.strip() for line in stream.getvalue().splitlines() if "layers.length" in line]
    assert [line.split(maxsplit=1)[1] for line in shown[2]] == ["2", "12"]
    assert [line.split(maxsplit=1)[1] for line in shown[3]] == ["3, cut off: up to layer 11", "12"]


def test_headline_claims_no_gain_that_may_be_chance(folder: Path, tmp_path: Path) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        return {"test_to_full": 0.1, "test_to_full_low": -0.2, "test_to_full_high": 0.4} if row["is_front"] else {}

    experiment = changed(
        folder, tmp_path, lambda row: dict.fromkeys(["test_to_full", "test_to_full_low"]) | change(row)
    )
    summary = summarise(experiment)
    assert headline(summary).startswith("The best adapters cannot be told from full fine-tuning (")
    assert "95 % −0.20 to +0.40" in headline(summary)
    assert any("may be chance" in line for line in next_sentences(experiment, summary, {}, (), {}))


def test_best_member_is_chosen_by_the_whole_validation_part(folder: Path, tmp_path: Path) -> None:
    front = [trial.name for trial in summarise(read_experiment(folder)).front]
    experiment = changed(folder, tmp_path, lambda row: {"full_spbleu": 99.0} if row["name"] == front[0] else {})
    best = summarise(experiment).best
    assert best is not None
    assert best.name == front[0]
    assert any("by its score on validation, 99.00" in line for line in sentences(experiment, summarise(experiment), {}))


def test_scores_on_a_share_of_the_validation_part_are_never_called_the_whole(folder: Path, tmp_path: Path) -> None:
    part = {"full_num_sentences": 20, "full_num_directions": 12}
    experiment = changed(folder, tmp_path, lambda row: part if row["full_spbleu"] else {})
    about = json.loads((experiment.folder / "experiment.json").read_text(encoding="utf-8"))
    (experiment.folder / "experiment.json").write_text(json.dumps(about | {"num_validation_sentences": 52}))
    experiment = read_experiment(experiment.folder)
    page = Page(render_page(experiment))
    words = "20 of 52 validation sentences in 12 of 56 directions"
    assert f"It was chosen by its score on {words}," in page.text
    assert page.data["trials"]["split_words"]["full"] == words
    assert f"{words} (candidates)" in page.html
    assert "all of validation" not in page.html
    stream = io.StringIO()
    best = summarise(experiment).best
    assert best is not None
    print_trial(Console(file=stream, width=100), experiment, best)
    assert "20 of 52 validation sentences" in stream.getvalue()


def test_scores_by_other_beams_say_so_where_they_stand_beside_one_another(folder: Path, tmp_path: Path) -> None:
    same = {"num_sentences": 52, "num_directions": 56, "full_num_sentences": 52, "full_num_directions": 56}
    experiment = changed(folder, tmp_path, lambda row: same | {"beams": 1} if row["full_spbleu"] else {"beams": 1})

    def with_beams(beams: int) -> Experiment:
        text = f"evaluation: {{final: {{directions: all, beams: {beams}}}}}\n"
        (experiment.folder / "space.yaml").write_text(text)
        return read_experiment(experiment.folder)

    other, alike = with_beams(5), with_beams(1)
    words = {split: split_words(split, other) for split in SPLITS}
    assert words == {"validation": "validation, greedy", "full": "validation, beam 5", "test": "test, beam 5"}
    assert {split_words(split, alike) for split in SPLITS} == {"validation", "test"}
    page = Page(render_page(other))
    assert page.data["trials"]["split_words"] == words
    assert "Scores on validation, greedy." in page.text
    assert "chosen by its score on validation, beam 5," in page.text and "while searching, greedy, it had" in page.text
    assert "on test, beam 5" in str(front_table(other).title)
    best = summarise(other).best
    assert best is not None
    stream = io.StringIO()
    print_trial(Console(file=stream, width=100), other, best)
    assert all(words[split] in stream.getvalue() for split in SPLITS)


def test_infeasible_trials_are_counted_and_named(folder: Path, tmp_path: Path) -> None:
    broken = json.dumps({"worst_class_spbleu >= 12": 0.25})
    experiment = changed(
        folder, tmp_path, lambda row: {"is_feasible": False, "violations": broken} if row["name"] == "00006" else {}
    )
    page = Page(render_page(experiment))
    assert "1 trial violated a constraint, and so cannot be on the front." in page.text
    trials = page.data["trials"]
    place = trials["name"].index("00006")
    assert trials["violations"][place] == "worst_class_spbleu >= 12 by 25 %"
    assert trials["feasible"][place] is False


def test_scores_of_the_whole_validation_part_are_kept_apart(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / "trials" / "00001" / "scores.parquet"
    lines = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist(lines + [line | {"split": "full", "spbleu": 77.0} for line in lines[:5]]), path)
    details = read_details(read_experiment(copy), "00001")
    assert sum(score.split == "full" for score in details.scores) == 5
    assert not any(score.spbleu == 77.0 for score in details.scores if score.split != "full")


def test_columns_are_the_results(experiment: Experiment, rows: list[dict[str, Any]]) -> None:
    trials = Page(render_page(experiment)).data["trials"]
    assert trials["name"] == [row["name"] for row in rows]
    for place, row in enumerate(rows):
        score = trials["validation"][place]
        if row["spbleu"] is None:
            assert score is None
        else:
            assert score == pytest.approx([row[f"spbleu{end}"] for end in ("", "_low", "_high")] + [100, 56], abs=1e-4)
        assert trials["parameters"][place] == row["trainable_parameters"]
        assert trials["params"]["rank.low"][place] == json.loads(row["params"]).get("rank.low")
        curve = pq.read_table(experiment.folder / "trials" / row["name"] / "curve.parquet") if row["epochs"] else None
        assert len(trials["curve"][place]) == (0 if curve is None else curve.num_rows)


def test_another_objective_has_a_figure_of_its_own(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    about = json.loads((copy / "experiment.json").read_text(encoding="utf-8"))
    about["objectives"] = {"spbleu": "max", "peak_memory": "min"}
    (copy / "experiment.json").write_text(json.dumps(about), encoding="utf-8")
    page = Page(render_page(read_experiment(copy)))
    assert "validation, against peak memory" in page.text
    figure = page.data["front"][-1]
    assert re.search("peak memory", figure["layout"]["xaxis"]["title"]["text"])
    front = next(trace for trace in figure["data"] if trace["name"] == "front")
    assert all(x > 9e9 for x in front["x"])
