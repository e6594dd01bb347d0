"""Directions without training sentences are called zero-shot wherever directions are shown."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from langsearch.experiment.description import write_description
from langsearch.experiment.environment import build_environment, check_space
from langsearch.experiment.folder import read_rows
from langsearch.experiment.opening import open_table, start_experiment
from langsearch.experiment.results_parquet import write_results
from langsearch.experiment.task import searched_task
from langsearch.model.base import Base
from langsearch.report.experiment_reader import read_experiment
from langsearch.report.material import read_material
from langsearch.report.page_tables import facts
from langsearch.report.payload import score_payload
from langsearch.report.showing import find_trial, print_experiment, print_trial
from langsearch.space.schema import load_space
from langsearch.trial.evaluating import evaluate_trial, test_result
from langsearch.trial.export import export_one
from langsearch.trial.rescoring import print_evaluation
from langsearch.trial.trial import run_trial

pytest_plugins = ["search_fixtures"]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory, base: Base, tiny_space: str) -> Path:
    """An experiment of one trial that knows English with French and with Swahili, scored in all six directions."""
    folder = tmp_path_factory.mktemp("zero_shot")
    for pair in ("en\tfr", "en\tsw"):
        rows = "".join(f"{row} boats\t{row} {pair[-2:]}\n" for row in range(20))
        (folder / f"{pair.replace(chr(9), '-')}.tsv").write_text(f"{pair}\n{rows}", encoding="utf-8")
    text = tiny_space.replace("{embedded: quickstart, part: train}", f"{{tsv: {folder}/en-*.tsv}}")
    text = text.replace("directions: 2, sentences: 4", "directions: all, sentences: 2").replace(
        "epochs: 2", "epochs: 1"
    )
    (folder / "zero.yaml").write_text(text, encoding="utf-8")
    checked = check_space(load_space(folder / "zero.yaml", ["baselines=[]"]))
    opened = start_experiment(folder / "experiments" / "zero", checked.space, resume=False)
    environment = build_environment(checked, base, folder / "experiments" / ".store")
    table = open_table(opened, checked.space)
    point: dict[str, object] = {"rank.high": 2, "rank.low": 4, "trainer.lr": 0.01}
    task = searched_task(checked.space, checked.shape, 0, point)
    table.propose(checked.space.dimensions(), fingerprint=task.fingerprint)
    task.write(opened.trial("00000"))
    *_, result = run_trial(base, environment, task, opened.trial("00000"))
    table.complete("00000", result)
    evaluation = evaluate_trial(base, environment, opened.trial("00000"), "test", checked.space.evaluation.final)
    table.record_test("00000", test_result(evaluation))
    write_description(opened, checked, result.signature)
    write_results(opened, table, checked.shape.num_parameters)
    return opened.path


def printed(show: str, experiment: Path) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=160)
    read = read_experiment(experiment)
    if show == "experiment":
        print_experiment(console, read)
    elif show == "trial":
        print_trial(console, read, find_trial(read, "0"))
    else:
        print_evaluation(console, experiment, "test", None, None, None)
    return " ".join(stream.getvalue().split())


def test_files_tell_zero_shot_directions_and_their_mean(experiment: Path) -> None:
    (row,) = read_rows(experiment / "results.parquet")
    scores = [score for score in read_rows(experiment / "trials/00000/scores.parquet") if score["split"] == "test"]
    marked = {f"{score['src']}-{score['tgt']}": score["spbleu"] for score in scores if score["is_zero_shot"]}
    assert (row["test_num_directions"], row["test_num_zero_shot"]) == (6, 2)
    assert set(marked) == {"fr-sw", "sw-fr"}
    assert row["test_zero_shot_spbleu"] == pytest.approx(sum(marked.values()) / 2)
    assert json.loads((experiment / "experiment.json").read_text())["zero_shot"] == ["fr-sw", "sw-fr"]


def test_terminal_tables_tell_zero_shot_directions(experiment: Path) -> None:
    assert "6 (2 zero-shot)" in printed("experiment", experiment)
    assert "on test, 2 sentences, 6 directions (2 zero-shot)" in printed("experiment", experiment)
    # The search scores two of the six directions; which ones they are says its scores.parquet.
    assert "2 (of 6, 2 of those zero-shot)" in printed("trial", experiment)
    assert "6 (2 zero-shot)" in printed("trial", experiment)
    shown = printed("evaluation", experiment)
    assert shown.count("°") == 3  # two cells and what they mean
    assert "° zero-shot, without training sentences: 2 directions, mean" in shown


def test_the_report_marks_zero_shot_directions(experiment: Path) -> None:
    material = read_material(read_experiment(experiment))
    payload, _ = score_payload(material)
    assert payload["zero_shot"] == [[False, False, False], [False, False, True], [False, True, False]]
    assert dict(facts(material.experiment))["Zero-shot directions"] == "2, without training sentences: fr-sw, sw-fr"


def test_the_card_tells_zero_shot_directions_and_rows(experiment: Path, tmp_path: Path) -> None:
    export_one(experiment, "0", tmp_path / "out", "peft")
    text = " ".join((tmp_path / "out" / "README.md").read_text(encoding="utf-8").split())
    assert "Zero-shot, without training sentences, are 2 of 6 directions (mean spBLEU on test" in text
    assert "fr-sw, sw-fr." in text
    assert "- train: tsv en-*.tsv, 40 rows, of which a direction has 0–20" in text
    assert "- test: langsearch's embedded quickstart test, 104 sentences in every language" in text
