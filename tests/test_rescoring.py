import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from langsearch.adapters.learners import Learner
from langsearch.evaluate.evaluation import Evaluation
from langsearch.evaluate.evaluation import evaluate as whole
from langsearch.evaluate.spbleu import Scores
from langsearch.experiment.folder import ExperimentFolder, read_json, write_json
from langsearch.experiment.task import TrialTask
from langsearch.space.problems import InputError
from langsearch.trial.export import open_experiment
from langsearch.trial.rescoring import print_evaluation
from langsearch.trial.trial import resident

pytest_plugins = ["search_fixtures"]


def evaluate(
    target: Path, split: str = "test", trial: str | None = None, space: Path | None = None, beams: int | None = None
) -> tuple[Scores, str]:
    stream = io.StringIO()
    scores = print_evaluation(Console(file=stream, width=120), target, split, trial, space, beams)
    return scores, stream.getvalue()


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_a_trial_is_scored_again_and_nothing_is_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = files(trained.parent)
    scores, text = evaluate(trained)
    assert files(trained.parent) == before
    assert list(tmp_path.iterdir()) == []
    assert text.startswith("Translating 8 sentences in 2 directions …\ntiny, trial 00000, test set, greedy\n")
    assert f"mean over 2 directions of 4 sentences: {scores.spbleu:.2f} spBLEU (stand-in tokenizer)" in text
    assert text.rstrip().endswith(scores.signature)
    assert re.search(r"^translations cut at their longest length: [\d.]+ %$", text, re.MULTILINE)


def test_the_validation_score_is_the_trials_own_where_the_settings_are(trained: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    text = (trained / "space.yaml").read_text(encoding="utf-8")
    space.write_text(re.sub(r"sentences: 4", "sentences: 3", text), encoding="utf-8")
    scores, shown = evaluate(_front(trained), "validation", space=space)
    result = json.loads((trained / "trials" / "00000" / "result.json").read_text(encoding="utf-8"))
    assert scores.spbleu == pytest.approx(result["spbleu"])
    assert (scores.spbleu_low, scores.spbleu_high) == pytest.approx((result["spbleu_low"], result["spbleu_high"]))
    assert "validation set" in shown


def test_a_trial_is_scored_in_the_type_that_its_search_computed_in(trained: Path, tmp_path: Path) -> None:
    experiment = tmp_path / trained.name
    shutil.copytree(trained, experiment)
    description, folder = read_json(experiment / "experiment.json"), ExperimentFolder(experiment).trial("00000")
    write_json(experiment / "experiment.json", {**description, "cpu_precision": {"name": "bf16", "ratio": 0.5}})
    task = TrialTask.read(folder)
    _, _, environment, _ = open_experiment(experiment)
    assert resident(environment, task).dtype is torch.float32, "the space asks for fp32"
    by_auto = replace(task, trainer=replace(task.trainer, precision="auto"))
    assert resident(environment, by_auto).dtype is torch.bfloat16


def _front(trained: Path) -> Path:
    """Exports into the experiment's front once."""
    from langsearch.trial.export import export_one

    if not (trained / "front" / "00000").exists():
        export_one(trained, "0", trained / "front" / "00000", "peft")
    return trained / "front" / "00000"


def test_adapters_of_a_front_find_their_data_and_score_as_their_trial(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    adapters = _front(trained)
    before = files(trained.parent)
    assert evaluate(adapters)[0] == evaluate(trained, trial="0")[0]
    assert files(trained.parent) == before
    assert list(tmp_path.iterdir()) == [], "nothing is written where the command runs"


def test_exported_adapters_say_word_for_word_what_the_trial_says_in_its_search_s_precision(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _front(trained)
    experiment = Path(shutil.copytree(trained, tmp_path / "experiments" / trained.name))
    description, trial = read_json(experiment / "experiment.json"), ExperimentFolder(experiment).trial("00000")
    write_json(experiment / "experiment.json", {**description, "cpu_precision": {"name": "bf16", "ratio": 0.5}})
    task = read_json(trial.task)
    write_json(trial.task, {**task, "trainer": {**task["trainer"], "precision": "auto"}})
    space = (experiment / "space.yaml").read_text(encoding="utf-8")
    (experiment / "space.yaml").write_text(re.sub("precision: fp32", "precision: auto", space), encoding="utf-8")
    said: list[tuple[object, object]] = []

    def watch(learner: Learner, *rest: object, **named: object) -> Evaluation:
        found = whole(learner, *rest, **named)  # type: ignore[arg-type]
        said.append((learner.model.dtype, found.hypotheses))
        return found

    monkeypatch.setattr("langsearch.trial.rescoring.evaluate", watch)
    by_trial, by_adapters = evaluate(experiment, trial="0")[0], evaluate(experiment / "front" / "00000")[0]
    assert said[0] == said[1] and said[0][0] is torch.bfloat16
    assert by_trial == by_adapters


def test_adapters_elsewhere_need_a_space(
    adapters: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^Scoring needs data: name a space with --space for the adapters in "):
        evaluate(adapters)
    assert evaluate(adapters, space=trained / "space.yaml")[0] == evaluate(trained, trial="0")[0]
    assert list(tmp_path.iterdir()) == []


def test_a_space_with_other_languages_is_refused(adapters: Path, trained: Path, tmp_path: Path) -> None:
    text = (trained / "space.yaml").read_text(encoding="utf-8").replace("low: [sw]", "low: [cy]")
    (tmp_path / "other.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(
        InputError, match=r"^The space must have the adapters' languages en, fr, sw, but has en, fr, cy"
    ):
        evaluate(adapters, space=tmp_path / "other.yaml")


@pytest.mark.parametrize(("split", "shown"), [("devtest", "test"), ("test", "test"), ("dev", "validation")])
def test_splits_have_the_names_of_flores_too(split: str, shown: str, trained: Path) -> None:
    assert f", {shown} set," in evaluate(trained, split)[1]


def test_baselines_are_scored_too_and_the_beams_may_be_given(trained: Path) -> None:
    assert "\ntiny, trial pretrained, test set, beam 2\n" in evaluate(trained, trial="pretrained", beams=2)[1]


@pytest.mark.parametrize(
    ("split", "trial", "message"),
    [
        ("train", None, r"^--split must be one of validation, dev, test, devtest, but got 'train'\.$"),
        ("test", "9", r"^--trial must name a trial, but '9' is none\."),
        ("test", "1", r"^A scored trial must have weights, but 00001 has none: it failed, out of memory: no\."),
    ],
)
def test_a_wrong_split_or_trial_is_refused(split: str, trial: str | None, message: str, trained: Path) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(trained, split, trial)


def test_a_folder_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"An experiment's folder holds a space\.yaml, but .* has none\.$"):
        evaluate(tmp_path)
