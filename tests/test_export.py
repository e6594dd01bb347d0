import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.adapters.peft_export import load_export, read_export
from langsearch.evaluate.evaluation import evaluation_set
from langsearch.experiment.environment import Environment, check_space
from langsearch.model.base import Base
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space
from langsearch.trial.export import choose_trial, export_front, export_one, open_experiment
from langsearch.trial.translating import translate_lines
from langsearch.trial.trial import load_trained

pytest_plugins = ["search_fixtures"]


def test_the_trial_that_is_asked_for_is_exported_with_equal_weights(trained: Path, adapters: Path) -> None:
    folder, base, environment, _ = open_experiment(trained)
    learner = load_trained(base, environment, folder.trial("00000"))
    assert isinstance(learner, AdaptedModel)
    expected = {name: tensor.clone() for name, tensor in learner.state().items()}
    learner.remove()
    exported = read_export(adapters)
    again = adapt(base, exported.architecture, exported.languages)
    load_export(again, adapters)
    assert set(exported.languages) == {"en", "fr", "sw"}
    for name, tensor in again.state().items():
        assert torch.allclose(tensor, expected[name], atol=1e-7), name


def test_one_adapter_is_written_for_each_language_and_side(trained: Path, tmp_path: Path) -> None:
    names = export_one(trained, "00000", tmp_path / "out", "peft")
    assert names == ["src-en", "src-fr", "src-sw", "tgt-en", "tgt-fr", "tgt-sw"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, "base", "README.md", "langsearch.json"}


def test_the_best_trial_of_the_front_is_exported_unless_one_is_named(trained: Path, tmp_path: Path) -> None:
    assert len(export_one(trained, None, tmp_path / "out", "peft")) == 6
    assert "trial 00000" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_a_trial_that_shares_a_result_exports_the_trained_weights(trained: Path, tmp_path: Path) -> None:
    export_one(trained, "2", tmp_path / "out", "peft")
    assert "trial 00002" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_the_card_tells_scores_signature_and_a_way_to_load(trained: Path, adapters: Path) -> None:
    card = (adapters / "README.md").read_text(encoding="utf-8")
    result = json.loads((trained / "trials" / "00000" / "result.json").read_text(encoding="utf-8"))
    assert f"| validation | {result['spbleu']:.2f} |" in card
    assert result["signature"] in card
    assert 'PeftModel.from_pretrained(base, "src-en", adapter_name="src-en")' in card
    assert 'model.load_adapter("tgt-fr", adapter_name="tgt-fr")' in card
    assert max(len(line) for line in card.splitlines()) <= 120


@pytest.mark.parametrize(
    ("trial", "message"),
    [
        ("7", r"^--trial must name a trial, but '7' is none\..*00000"),
        ("pretraind", r"^--trial must name a trial, but 'pretraind' is none\. Did you mean pretrained\?$"),
        ("../00000", r"^--trial must name a trial, but '\.\./00000' is none"),
        ("²", r"^--trial must name a trial, but '²' is none"),
        ("pretrained", r"^PEFT adapters need a trial with adapters, but pretrained is the base as it is\.$"),
        ("1", r"^An exported trial must have been trained, but 00001 has not started\.$"),
    ],
)
def test_a_trial_that_cannot_be_exported_is_refused(trial: str, message: str, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        export_one(trained, trial, tmp_path / "out", "peft")
    assert list(tmp_path.iterdir()) == []


def test_a_trial_without_weights_is_refused(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "experiments" / "copy"
    shutil.copytree(trained, copy)
    shutil.rmtree(copy / "trials" / "00000" / "weights")
    with pytest.raises(InputError, match=r"^An exported trial must have weights, .* 00000 has none: it is complete, "):
        export_one(copy, "0", tmp_path / "out", "peft")
    assert not (tmp_path / "out").exists()


def test_a_target_with_other_files_is_refused_and_an_earlier_export_replaced(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"must be new or an earlier export, but .*mine holds other files"):
        export_one(trained, "0", tmp_path / "mine", "peft")
    for _ in range(2):
        export_one(trained, "0", tmp_path / "out", "peft")


def test_an_unknown_format_and_a_folder_that_is_no_experiment_are_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--format must be peft or merged, but got 'onnx'\.$"):
        export_one(trained, "0", tmp_path / "out", "onnx")
    with pytest.raises(InputError, match=rf"holds a space\.yaml, but {re.escape(str(tmp_path))} has none\.$"):
        export_one(tmp_path, "0", tmp_path / "out", "peft")


def test_without_a_complete_trial_there_is_no_best_one(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "experiments" / "copy"
    shutil.copytree(trained, copy)
    (copy / "study.db").unlink()
    _, _, _, table = open_experiment(copy)
    with pytest.raises(InputError, match=r"must be complete to be chosen, but none is\. Name one with --trial\.$"):
        choose_trial(table, None)


def test_the_front_is_exported_and_who_left_it_is_removed(
    trained: Path, tmp_path: Path, base: Base, environment: Environment
) -> None:
    copy = tmp_path / "experiments" / "copy"
    shutil.copytree(trained, copy)
    folder, _, _, _ = open_experiment(copy)
    export_one(copy, "0", copy / "front" / "00044", "peft")
    (copy / "front" / "notes").mkdir()
    (copy / "front" / "notes" / "mine.txt").touch()
    assert export_front(check_space(load_space(folder.space)), folder) == [copy / "front" / "00000"]
    assert sorted(path.name for path in (copy / "front").iterdir()) == ["00000", "notes"]


def test_an_experiment_opens_with_its_test_sentences(trained: Path) -> None:
    _, base, environment, _ = open_experiment(trained)
    vocabulary = base.vocabulary(environment.languages)
    settings = environment.evaluation.final
    data = evaluation_set(environment.test, environment.directions, settings, environment.classes, vocabulary)
    assert {len(rows) for rows in data.rows.values()} == {4}


def test_a_merged_export_translates_as_the_adapters_do(trained: Path, adapters: Path, tmp_path: Path) -> None:
    lines = ["The house is small.", "I drink water in the morning.", "My brother has a dog."]
    expected = list(translate_lines(adapters, [line.encode() for line in lines], "en", "fr"))
    assert export_one(trained, "0", tmp_path / "trial", "merged", direction="en-fr") == ["en-fr"]
    assert export_one(adapters, None, tmp_path / "again", "merged", direction="en-fr") == ["en-fr"]
    for name in ("trial", "again"):
        model: Any = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / name)
        tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / name)
        ids = [model.generate(**tokenizer([line], return_tensors="pt"))[0] for line in lines]
        assert tokenizer.batch_decode(ids, skip_special_tokens=True) == expected
        card = (tmp_path / name / "README.md").read_text(encoding="utf-8")
        assert "from en to fr" in card
        assert "ct2-transformers-converter" in card
        assert max(len(line) for line in card.splitlines()) <= 120


def test_compact_exports_compute_the_same_and_say_what_they_lost(adapters: Path, tmp_path: Path, base: Base) -> None:
    notes: list[str] = []
    names = export_one(adapters, None, tmp_path / "same", "peft", is_compact=True, note=notes.append)
    assert names == [path.name for path in sorted(adapters.iterdir()) if path.is_dir() and path.name != "base"]
    assert notes[0].endswith("nothing is lost.")
    assert notes[0] in (tmp_path / "same" / "README.md").read_text(encoding="utf-8")
    lines = [b"The house is small."]
    assert list(translate_lines(tmp_path / "same", lines, "en", "sw")) == list(
        translate_lines(adapters, lines, "en", "sw")
    )
    export_one(adapters, None, tmp_path / "small", "peft", energy=0.7, note=notes.append)
    assert "relative error of the products" in notes[1]
    small, whole = read_export(tmp_path / "small").architecture, read_export(adapters).architecture
    assert small.num_parameters(base.shape) < whole.num_parameters(base.shape)


@pytest.mark.parametrize(
    ("format_name", "options", "message"),
    [
        ("merged", {}, r"^--direction SRC-TGT must be given with --format merged, and only there"),
        ("peft", {"direction": "en-fr"}, r"^--direction SRC-TGT must be given with --format merged, and only there"),
        (
            "merged",
            {"direction": "en-fr", "is_compact": True},
            "^--compact and --energy must be given with --format peft",
        ),
        ("peft", {"energy": 1.5}, r"^--energy must lie above 0 and at most at 1, but got 1\.5\.$"),
        (
            "merged",
            {"direction": "en-xx"},
            r"^A direction must be SRC-TGT with languages of the space, but got 'en-xx'",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(
    format_name: str, options: dict[str, Any], message: str, adapters: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        export_one(adapters, None, tmp_path / "out", format_name, **options)
    assert list(tmp_path.iterdir()) == []


def test_adapters_have_no_trials_and_are_not_written_over(adapters: Path) -> None:
    with pytest.raises(InputError, match="--trial must be for an experiment"):
        export_one(adapters, "0", adapters.parent / "out", "peft")
    with pytest.raises(InputError, match="--to must be another folder"):
        export_one(adapters, None, adapters, "peft")
