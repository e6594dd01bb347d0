"""A real search from Python, and all that can be asked of what it leaves."""

import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

import langsearch as ls
from langsearch.adapters.peft_export import read_export
from langsearch.experiment.folder import read_rows
from langsearch.experiment.results_parquet import RESULTS

SPACE: dict[str, Any] = {
    "name": "small",
    "base": "tiny-m2m",
    "languages": {"high": ["en", "fr"], "low": ["sw"]},
    "data": {part: {"embedded": "quickstart", "part": part} for part in ("train", "validation", "test")},
    "architecture": {"rank": 4, "encoder": {"modules": ["q_proj", "fc1"]}, "decoder": {"modules": ["q_proj", "fc1"]}},
    "trainer": {
        "epochs": 1,
        "pairs_per_epoch": 24,
        "precision": "fp32",
        "tokens_per_batch": 600,
        "accumulation": 1,
        "lr": {"choice": [0.003, 0.01]},
    },
    "evaluation": {
        "spbleu": "base",
        "search": {"directions": 2, "sentences": 3},
        "final": {"directions": 2, "sentences": 4, "beams": 1},
    },
    "baselines": ["pretrained"],
    "search": {"trials": 1, "sampler": "random", "scheduler": "none"},
    "resources": {"cpu": 1},
}


@dataclass(frozen=True)
class Searched:
    """A search of one trial and the pretrained base, and what it printed."""

    experiment: ls.Experiment
    printed: str


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searched]:
    folder = tmp_path_factory.mktemp("python")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "200")
        with (folder / "printed.txt").open("w+") as file:
            patch.setattr("sys.stdout", file)
            experiment = ls.search(ls.load_space(SPACE), folder / "experiments")
            file.seek(0)
            printed = file.read()
    yield Searched(experiment, printed)
    ray.shutdown()


def test_a_search_returns_its_experiment_and_tells_how_it_goes(searched: Searched) -> None:
    experiment = searched.experiment
    assert (experiment.folder.name, experiment.name, experiment.state) == ("small", "small", "done")
    assert repr(experiment) == f"<Experiment {str(experiment.folder)!r}: 1 of 1 trials, done>"
    assert experiment.space == ls.load_space(experiment.folder / "space.yaml")
    assert "pretrained      started" in searched.printed
    assert "Warning: a trial makes " in searched.printed
    assert "Warning: Trials are compared on 3 sentences a direction" in searched.printed
    assert f"Report: {experiment.folder / 'report.html'}" in searched.printed
    assert ls.open_experiment(str(experiment.folder)) == experiment
    assert not ray.is_initialized()


def test_results_are_the_rows_of_the_file_as_a_data_frame(searched: Searched) -> None:
    results = searched.experiment.results()
    assert list(results.columns) == RESULTS.names
    rows = read_rows(searched.experiment.folder / "results.parquet")
    assert results.name.tolist() == [row["name"] for row in rows] == ["pretrained", "00000"]
    front = searched.experiment.front()
    assert front.name.tolist() == ["00000"]
    assert front.spbleu[0] == rows[1]["spbleu"]
    assert (front.columns[0], front.columns[1]) == ("name", "test_spbleu") and set(front.columns) == set(RESULTS.names)


def test_a_trial_is_shown_by_number_or_name_and_an_absent_one_is_refused(searched: Searched) -> None:
    trial = searched.experiment.trial(0)
    assert trial == searched.experiment.trial("00000")
    assert (trial["trial"]["state"], len(trial["curve"])) == ("complete", 1)
    with pytest.raises(ls.InputError, match="must name a trial of small, but '7' is none"):
        searched.experiment.trial(7)


def test_the_report_is_a_path_that_a_notebook_shows_as_the_page(searched: Searched) -> None:
    page = searched.experiment.report()
    assert page == searched.experiment.folder / "report.html"
    assert isinstance(page, Path)
    shown = page._repr_html_()
    assert shown.startswith('<iframe title="report.html" sandbox="allow-scripts"')
    assert shown.count("<") == 2, "the page is text within an attribute"


def test_a_notebook_shows_an_experiment_as_its_front(searched: Searched) -> None:
    shown = searched.experiment._repr_mimebundle_()
    assert "00000" in shown["text/plain"] and "pretrained" in shown["text/plain"]
    assert shown["text/html"].startswith("<pre")


def test_the_best_adapters_translate_and_are_exported_and_scored(searched: Searched, tmp_path: Path) -> None:
    experiment = searched.experiment
    assert experiment.adapters() == experiment.folder / "front" / "00000"
    texts = ["Good morning.", "", "The house is old."]
    found = ls.translate(experiment, texts, "en", "fr", beams=1)
    assert [bool(text) for text in found] == [True, False, True]
    assert ls.translate(experiment.adapters(), texts[2], "eng", "fra_Latn", beams=1) == found[2:]
    to = experiment.export(tmp_path / "adapters", 0, compact=True)
    assert set(read_export(to).languages) == {"en", "fr", "sw"}
    assert ls.translate(to, texts, "en", "fr", beams=1) == found
    scores = experiment.evaluate("validation", 0, beams=1, quiet=True)
    row = experiment.front().iloc[0]
    assert math.isclose(scores.spbleu, row.full_spbleu)
    with pytest.raises(ls.InputError, match=r"is not there\. Export another trial: experiment\.export\("):
        experiment.adapters("pretrained")


def test_a_translation_that_is_cut_is_warned_of(searched: Searched) -> None:
    with pytest.warns(UserWarning, match=r"Cut before they were translated: 1 \(lines 2\)"):
        ls.translate(searched.experiment, ["One.", "one two three four five six"], "en", "fr", beams=1, max_length=5)
    with pytest.raises(ls.InputError, match="Input must be UTF-8, but line 1 is not"):
        ls.translate(searched.experiment, "\ud800", "en", "fr")


def test_a_second_call_is_refused_and_a_resumed_one_finds_nothing_to_do(
    searched: Searched, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = searched.experiment.folder.parent
    with pytest.raises(ls.InputError, match=r"Go on with it by resume=True, or start another with name=NAME\."):
        ls.search(SPACE, folder)
    assert ls.search(SPACE, folder, resume=True) == searched.experiment
    assert "the search had ended before. For more: resume=True trials=N\n" in capsys.readouterr().out
    assert ls.search(SPACE, folder, resume=True, quiet=True) == searched.experiment
    assert capsys.readouterr().out == ""


def test_check_says_what_a_search_would_be_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = ls.check(SPACE)
    assert found["baselines"] == ["pretrained"]
    assert capsys.readouterr().out == "", "what is returned is shown once"
    assert repr(found).startswith("small: the space is right. Nothing was started.\n")
    assert json.loads(json.dumps(found))["name"] == "small"
    assert ls.check(SPACE, {"search.trials": 9})["search"]["trials"] == 9
    assert list(tmp_path.iterdir()) == []


@pytest.mark.integration
def test_an_interrupted_search_raises_and_a_resumed_one_goes_on(tmp_path: Path) -> None:
    experiments = tmp_path / "experiments"
    space = ls.load_space(SPACE, {"trainer.epochs": 40, "search.trials": 2})

    def interrupt() -> None:
        for _ in range(600):
            if list(experiments.glob("small/trials/0*/checkpoint/*")):
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.1)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt, match="Go on with the same call and resume=True"):
        ls.search(space, experiments)
    thread.join()
    stopped = ls.open_experiment(experiments / "small")
    assert stopped.state == "stopped"
    assert ls.search(space, experiments, resume=True, quiet=True).state == "done"
    assert len(stopped.results()) == 3


def test_one_architecture_is_trained_from_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ls.InputError, match=r"but 1 are searched: trainer\.lr\. Fix each with overrides="):
        ls.train(SPACE)
    experiment = ls.train(SPACE, overrides={"trainer.lr": 0.01}, quiet=True)
    assert (experiment.folder, experiment.state) == (Path("experiments/small-train").resolve(), "done")
    assert experiment.results().name.tolist() == ["pretrained", "00000"]
    assert capsys.readouterr().out == ""
    assert ls.translate(experiment, ["Good morning."], "en", "sw", beams=1)
    architecture = experiment.folder / "trials" / "00000" / "architecture.json"
    again = ls.train(architecture, tmp_path / "again", overrides={"trainer.epochs": 1, "name": "again"}, quiet=True)
    assert again.results().spbleu.tolist() == experiment.results().spbleu.tolist()
    with pytest.raises(ls.InputError, match=r"resume=True"):
        ls.train(architecture, tmp_path / "again")
