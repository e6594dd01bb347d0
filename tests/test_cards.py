"""Model cards of exported adapters: read by the hub's own reader, and their lines run."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from langsearch.adapters.learners import adapt
from langsearch.adapters.peft_export import load_export, read_export
from langsearch.data.directions import Direction
from langsearch.experiment.environment import Environment
from langsearch.experiment.folder import read_json, read_rows
from langsearch.model.base import Base, load_base
from langsearch.space.architecture import Architecture
from langsearch.study.results import FinalResult
from langsearch.trial.cards import hub_code, load_lines
from langsearch.trial.export import export_front, export_trial, open_experiment

pytest_plugins = ["search_fixtures"]


@pytest.fixture
def card(adapters: Path, monkeypatch: pytest.MonkeyPatch) -> ModelCard:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found: ModelCard = ModelCard.load(adapters / "README.md")
    return found


def code_of(text: str) -> list[str]:
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return str(block).splitlines()


def test_the_hub_reads_the_front_matter(card: ModelCard, trained: Path) -> None:
    row = next(row for row in read_rows(trained / "results.parquet") if row["name"] == "00000")
    data: Any = card.data
    assert (data.base_model, data.library_name, data.pipeline_tag) == ("tiny-m2m", "peft", "translation")
    assert data.language == ["en", "fr", "sw"]
    assert data.license == "cc-by-sa-4.0"
    assert {"translation", "lora", "langsearch"} <= set(data.tags)
    assert data.metrics == ["sacrebleu"]
    (result,) = data.eval_results
    assert (result.task_type, result.dataset_split, result.metric_type) == ("translation", "validation", "sacrebleu")
    assert result.metric_value == round(row["spbleu"], 2)


def test_the_card_tells_architecture_scores_and_data(card: ModelCard, trained: Path) -> None:
    row = next(row for row in read_rows(trained / "results.parquet") if row["name"] == "00000")
    about = read_json(trained / "experiment.json")
    interval = f"{row['spbleu_low']:.2f}–{row['spbleu_high']:.2f}"
    assert f"| validation | {row['spbleu']:.2f} | {interval} | {row['num_directions']} | 3 |" in card.text
    assert f"`{row['signature']}`" in card.text
    assert f"{row['trainable_parameters']:,} stored parameters, {row['trainable_percent']:.2f} %" in card.text
    assert "| encoder 0-2 | q v | src | 2;4 |" in card.text
    assert f"quickstart train, {about['num_train_sentences']} sentences" in card.text
    assert "- low: sw" in card.text
    assert "Not scored on a test set." in card.text


def test_the_five_lines_run_alone_and_translate_as_the_trial_does(
    card: ModelCard, adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = code_of(card.text)
    assert len(lines) == 5
    monkeypatch.chdir(adapters)
    namespace: dict[str, object] = {}
    exec("\n".join(lines), namespace)  # the lines are our own
    model = namespace["model"]
    assert isinstance(model, torch.nn.Module)
    base = load_base("tiny-m2m")
    ids = base.vocabulary(["en", "fr", "sw"]).language_ids
    given = {
        "input_ids": torch.tensor([[ids["en"], 100, 7, 250, 31, 2]]),
        "decoder_input_ids": torch.tensor([[2, ids["fr"], 77, 300]]),
    }
    exported = read_export(adapters)
    learner = adapt(base, exported.architecture, exported.languages)
    load_export(learner, adapters)
    src, tgt = (torch.tensor([exported.languages.index(code)]) for code in ("en", "fr"))
    with torch.no_grad(), learner.route(src, tgt):
        expected = learner.model(**given).logits
    with torch.no_grad():
        found = model.float().eval()(**given).logits
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    with torch.no_grad(), model.disable_adapter():  # type: ignore[operator]
        plain = model(**given).logits
    assert (plain - expected).abs().max() > 1e-2, "the adapters change something"


def test_every_member_of_the_front_has_a_card(
    trained: Path, tmp_path: Path, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:

    from langsearch.experiment.environment import check_space
    from langsearch.experiment.folder import ExperimentFolder
    from langsearch.space.schema import load_space

    copy = tmp_path / "experiments" / "tiny"
    shutil.copytree(trained, copy)
    folders = export_front(check_space(load_space(copy / "space.yaml")), ExperimentFolder(copy))
    _, _, _, table = open_experiment(copy)
    assert {folder.name for folder in folders} == {row.name for row in table.front()}
    for folder in folders:
        assert ModelCard.load(folder / "README.md").data.base_model == "tiny-m2m"


def test_the_card_says_how_much_of_the_validation_part_was_scored_in_the_end(trained: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(trained, tmp_path / "experiments" / "tiny")
    folder, base, environment, table = open_experiment(copy)
    whole, directions = read_json(copy / "experiment.json")["num_validation_sentences"], len(environment.directions)
    for num_sentences, name in (
        (4, f"4 of {whole} validation sentences in all directions"),
        (whole, "whole validation"),
    ):
        final = FinalResult(
            full_spbleu=3.0,
            full_spbleu_low=2.0,
            full_spbleu_high=4.0,
            full_worst_class_spbleu=1.0,
            full_chrf=None,
            full_num_sentences=num_sentences,
            full_num_directions=directions,
        )
        table.record_final("00000", final)
        export_trial(base, environment, folder, table.row("00000"), tmp_path / str(num_sentences))
        card = (tmp_path / str(num_sentences) / "README.md").read_text(encoding="utf-8")
        assert f"| {name.removesuffix(' part')}" in card
        assert ("whole validation" in card) == (num_sentences == whole)


def test_a_hub_base_is_named_in_five_lines_of_plain_peft(
    new_base: Callable[[], Base], make_architecture: Callable[..., Architecture]
) -> None:
    base = new_base()
    object.__setattr__(base, "name", "facebook/m2m100_418M")
    directions = [Direction("de", "en"), Direction("en", "de"), Direction("fr", "sw")]
    lines = load_lines(base, directions, make_architecture())
    assert lines == [
        "import peft, transformers",
        'base = transformers.AutoModelForSeq2SeqLM.from_pretrained("facebook/m2m100_418M")',
        'model = peft.PeftModel.from_pretrained(base, "src-fr", adapter_name="src-fr")',
        'model.load_adapter("tgt-sw", adapter_name="tgt-sw")',
        'model.base_model.set_adapter(["src-fr", "tgt-sw"])',
    ]


@pytest.mark.parametrize(
    ("code", "expected"),
    [("en", "en"), ("no", "no"), ("nob", "no"), ("zho_simpl", "zh"), ("wol", "wo"), ("nso", "nso"), ("kea", "kea")],
)
def test_languages_have_the_hubs_codes(code: str, expected: str) -> None:
    assert hub_code(code) == expected


def test_norwegian_stays_text_for_a_reader_of_yaml_1_1() -> None:
    from huggingface_hub import ModelCardData

    assert "'no'" in ModelCardData(language=["no"]).to_yaml()
