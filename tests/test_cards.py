"""Model cards of exported adapters: read by the hub's own reader, and their lines run."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from langsearch.adapters.learners import adapt
from langsearch.adapters.peft_export import load_export, read_export
from langsearch.data.directions import Direction
from langsearch.experiment.environment import Environment
from langsearch.experiment.folder import read_json, read_rows, write_rows
from langsearch.model.base import Base, load_base
from langsearch.model.device import Compute
from langsearch.space.architecture import Architecture
from langsearch.space.settings import Source
from langsearch.study.results import FinalResult
from langsearch.trial.card_examples import adapter_lines
from langsearch.trial.cards import MIN_SENTENCES, _names, _precision_lines, _use, hub_code
from langsearch.trial.export import export_front, export_trial, open_experiment
from langsearch.trial.scores import SCORES

pytest_plugins = ["search_fixtures"]


@pytest.fixture
def card(adapters: Path, monkeypatch: pytest.MonkeyPatch) -> ModelCard:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found: ModelCard = ModelCard.load(adapters / "README.md")
    return found


def code_of(text: str) -> list[str]:
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return str(block).splitlines()


def test_the_hub_reads_the_front_matter(card: ModelCard) -> None:
    data: Any = card.data
    assert (data.base_model, data.library_name, data.pipeline_tag) == ("tiny-m2m", "peft", "translation")
    assert data.language == ["en", "fr", "sw"]
    assert data.license == "cc-by-sa-4.0"
    assert {"translation", "lora", "langsearch"} <= set(data.tags)
    assert data.metrics == ["sacrebleu"]


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


def test_the_lines_load_what_computes_as_the_trial_does(
    card: ModelCard, adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(adapters)
    namespace: dict[str, object] = {}
    exec("\n".join(code_of(card.text)), namespace)  # the lines are our own
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
        found = model(**given).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with torch.no_grad(), model.disable_adapter():  # type: ignore[operator]
        plain = model(**given).logits
    assert (plain - expected).abs().max() > 1e-2, "the adapters change something"


def test_scores_of_few_sentences_are_in_the_card_and_not_in_its_metadata(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(trained, tmp_path / "experiments" / "tiny")
    folder, base, environment, table = open_experiment(copy)
    row = table.row("00000")
    assert row.result is not None and row.result.num_sentences == 3

    def metadata(name: str) -> tuple[Any, str]:
        export_trial(base, environment, folder, row, tmp_path / name)
        card = ModelCard.load(tmp_path / name / "README.md")
        return card.data, card.text

    data, text = metadata("few")
    assert (data.eval_results, data.model_name) == (None, None)
    assert f"Scores of fewer than {MIN_SENTENCES} sentences a direction say little" in text
    assert f"| validation | {row.result.spbleu:.2f} |" in text
    scores = copy / "trials" / "00000" / "scores.parquet"
    rows = read_rows(scores)
    write_rows(scores, [one | {"num_sentences": MIN_SENTENCES + index} for index, one in enumerate(rows)], SCORES)
    data, text = metadata("many")
    (result,) = data.eval_results
    assert (result.task_type, result.dataset_split, result.metric_type) == ("translation", "validation", "sacrebleu")
    assert result.metric_value == round(row.result.spbleu, 2)
    assert f"| {MIN_SENTENCES}–{MIN_SENTENCES + len(rows) - 1} |" in text
    assert "say little" not in text


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
        (whole, "all of validation |"),
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
        assert f"| {name}" in card.partition("the pretrained base |")[2]


def test_a_hub_base_is_named_in_lines_of_plain_peft_and_transformers(
    new_base: Callable[[], Base], make_architecture: Callable[..., Architecture]
) -> None:
    base = new_base()
    object.__setattr__(base, "name", "facebook/m2m100_418M")
    directions = [Direction("de", "en"), Direction("en", "de"), Direction("fr", "sw")]
    assert adapter_lines(base, directions, make_architecture()) == [
        "import peft, torch, transformers",
        'place = "facebook/m2m100_418M"',
        'tokenizer = transformers.M2M100Tokenizer.from_pretrained(place, src_lang="fr")',
        "base = transformers.AutoModelForSeq2SeqLM.from_pretrained(place, dtype=torch.float32)",
        'model = peft.PeftModel.from_pretrained(base, "src-fr", adapter_name="src-fr")',
        'model.load_adapter("tgt-sw", adapter_name="tgt-sw")',
        'model.base_model.set_adapter(["src-fr", "tgt-sw"])',
        'inputs = tokenizer(["Pourquoi y a-t-il une statue de cheval dans le parc ?"], return_tensors="pt")',
        'target = tokenizer.convert_tokens_to_ids("__sw__")',
        "ids = model.eval().generate(**inputs, forced_bos_token_id=target, num_beams=5, max_new_tokens=254)",
        "print(tokenizer.batch_decode(ids, skip_special_tokens=True)[0])",
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


@pytest.mark.parametrize(
    ("trainer", "compute", "said"),
    [
        ("auto", Compute(), None),
        ("fp32", Compute(cpu_precision="bf16"), None),
        ("auto", Compute(cpu_precision="bf16"), "with the base in bf16,"),
        ("bf16", Compute(), "with the base in bf16,"),
        ("auto", Compute(gpu=1), "with the base in bf16 or fp16,"),
    ],
)
def test_scores_of_a_lower_precision_than_the_examples_are_told(
    trainer: str, compute: Compute, said: str | None
) -> None:
    task: Any = SimpleNamespace(trainer=SimpleNamespace(precision=trainer))
    environment: Any = SimpleNamespace(compute=compute)
    text = " ".join(_precision_lines(environment, task))
    assert (said is None and text == "") or (said is not None and said in text)


def test_the_card_s_lines_say_what_to_install_and_the_command_translates_what_they_do(card: ModelCard) -> None:
    assert "`pip install peft transformers sentencepiece`" in card.text
    (active,) = re.findall(r"set_adapter\(\[\"src-(\w+)\", \"tgt-(\w+)\"\]\)", card.text)
    assert f"`langsearch translate . --from {active[0]} --to {active[1]}`" in card.text


def test_a_card_that_needs_langsearch_says_where_it_is_installed_from(
    base: Base, environment: Environment, make_architecture: Callable[..., Architecture]
) -> None:
    lines = list(_use(base, environment, make_architecture(), "PEFT cannot hold them."))
    text = " ".join(lines)
    assert text.startswith("## Translate  PEFT cannot hold them. With langsearch: `langsearch translate . --from ")
    assert "from a checkout of its repository (`pip install -e .` there), not by name" in text
    assert "```python" not in text


def test_files_of_one_name_are_told_apart_by_their_folders() -> None:
    train, test = Source("tsv", "/home/me/data/en-de.tsv", None), Source("tsv", "/home/me/test/en-de.tsv", None)
    assert _names([train]) == "tsv en-de.tsv"
    assert (_names([train], 1), _names([test], 1)) == ("tsv data/en-de.tsv", "tsv test/en-de.tsv")
