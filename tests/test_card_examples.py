"""The Python of model cards, run as it stands: for bases of every family, of languages old and new, and merged."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.adapters.merged_export import merge
from langsearch.adapters.peft_export import export_peft
from langsearch.data.directions import Direction
from langsearch.data.parallel import ParallelText
from langsearch.data.store import TokenStore
from langsearch.model.base import Base, load_base
from langsearch.model.finding import EMBEDDED_FOLDER, find_base, locate_base
from langsearch.model.new_languages import with_new_languages
from langsearch.space.architecture import Architecture
from langsearch.trial.card_examples import _input_line, adapter_lines, merged_lines
from langsearch.trial.example_sentences import example_sentence
from langsearch.trial.export import ExportForm, export_again
from langsearch.trial.translating import translate_lines

pytest_plugins = ["family_fixtures", "search_fixtures"]

LANGUAGES = ("en", "fr", "de", "sw")
DIRECTIONS = [Direction("de", "fr"), Direction("fr", "en"), Direction("en", "fr"), Direction("en", "de")]
SENTENCE = "The house is small."
NUM_NEW = 30
"""How long a random base may go on, which ends by nothing else."""


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has cards and merged models say as much."""
    monkeypatch.setattr("langsearch.adapters.merged_export.MAX_NEW_TOKENS", NUM_NEW)


def code_of(card: Path) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), flags=re.DOTALL)
    return str(block)


def run(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs the Python of a card in its folder, and returns what it printed."""
    monkeypatch.chdir(folder)
    capsys.readouterr()
    exec(compile(code, "card", "exec"), {})  # the lines are our own
    return capsys.readouterr().out


def trained(base: Base, architecture: Architecture, languages: tuple[str, ...] = LANGUAGES) -> AdaptedModel:
    """A model whose adapters and rows are all random, as after much training."""
    learner = adapt(base, architecture, languages)
    generator = torch.Generator().manual_seed(0)
    for layer in learner.lora.layers.values():
        for slot in layer.slots:
            _, b = layer.pair(slot)
            b.copy_(torch.randn(b.shape, generator=generator))
    if learner.rows is not None:
        learner.rows.weight.data += 0.2 * torch.randn(learner.rows.weight.shape, generator=generator)
    return learner


def says(base: Base, learner: AdaptedModel, direction: Direction, languages: tuple[str, ...], num_new: int) -> str:
    """What the base says with a direction's adapters, by ids that langsearch itself gives."""
    vocabulary = base.vocabulary(languages)
    (tokens,) = base.tokenizer.encode([SENTENCE])
    (mark,) = vocabulary.src_marks([direction])
    merged: Any = merge(learner, direction)
    marks = vocabulary.tgt_marks([direction])
    said = merged.generate(
        input_ids=torch.tensor([[mark, *tokens, vocabulary.eos_id]]),
        forced_bos_token_id=marks[0] if marks else None,
        num_beams=5,
        max_new_tokens=num_new,
        bad_words_ids=[[language.index] for language in base.new_languages] or None,
    )
    (text,) = base.tokenizer.decode(said.tolist())
    return text


@pytest.mark.usefixtures("short")
def test_the_lines_translate_with_bases_of_every_family(
    family_folder: Path,
    make_architecture: Callable[..., Architecture],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = load_base(str(family_folder))
    architecture = make_architecture()
    learner = trained(base, architecture)
    export_peft(learner, tmp_path / "out", base.name, "# Card\n", base.tokenizer)
    lines = adapter_lines(base, DIRECTIONS, architecture)
    assert 'model.base_model.set_adapter(["src-en", "tgt-fr"])' in lines
    expected = says(base, learner, Direction("en", "fr"), LANGUAGES, NUM_NEW)
    assert run("\n".join(lines), tmp_path / "out", monkeypatch, capsys) == f"{expected}\n"
    assert expected and not re.search(r"__|_[A-Z]|</?s>", expected)


@pytest.mark.usefixtures("short")
def test_a_merged_card_translates_with_bases_of_every_family(
    family_folder: Path,
    make_architecture: Callable[..., Architecture],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = load_base(str(family_folder))
    learner = trained(base, make_architecture())
    export_peft(learner, tmp_path / "out", base.source, "# Card\n", base.tokenizer)
    expected = says(base, learner, Direction("en", "fr"), LANGUAGES, NUM_NEW)
    export_again(tmp_path / "out", tmp_path / "merged", ExportForm("merged", "en-fr"))
    assert run(code_of(tmp_path / "merged" / "README.md"), tmp_path / "merged", monkeypatch, capsys) == f"{expected}\n"


@pytest.mark.parametrize("direction", [Direction("en", "tyv"), Direction("tyv", "en")], ids=str)
@pytest.mark.usefixtures("short")
def test_the_lines_translate_from_and_into_a_language_that_is_new_to_the_base(
    direction: Direction,
    family_folder: Path,
    make_architecture: Callable[..., Architecture],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    languages = ("en", "de", "tyv")
    base = with_new_languages(load_base(str(family_folder)), {"tyv": "sw"})
    slots = {language: language for language in languages}
    architecture = make_architecture({"en": 2, "tyv": 3}, slots, new_languages=(("tyv", "sw"),))
    learner = trained(base, architecture, languages)
    export_peft(learner, tmp_path / "out", base.source, "# Card\n", base.tokenizer)
    code = "\n".join(adapter_lines(base, [direction], architecture)).replace('["..."]', f'["{SENTENCE}"]')
    printed = run(code, tmp_path / "out", monkeypatch, capsys)
    assert printed == f"{says(base, learner, direction, languages, NUM_NEW)}\n"


@pytest.mark.parametrize("name", ["tiny-m2m", "tiny-m2m-2"])
def test_an_embedded_base_loads_in_fp32_and_its_language_tokens_are_special(name: str) -> None:
    folder = find_base(name)
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, src_lang="en")
    ids = load_base(name).tokenizer.language_ids
    assert len(ids) == 100 and set(ids.values()) <= set(tokenizer.all_special_ids)
    inputs = tokenizer([SENTENCE], return_tensors="pt")
    assert inputs["input_ids"][0, 0] == ids["en"]
    said = model.generate(**inputs, forced_bos_token_id=ids["fr"], max_new_tokens=20)
    (text,) = tokenizer.batch_decode(said, skip_special_tokens=True)
    assert text and "__" not in text


def test_an_embedded_base_is_the_one_that_experiments_know() -> None:
    known = {
        "tiny-m2m": ("d1f6980e6d13b8ca", "448d7fd70043d9f4"),
        "tiny-m2m-2": ("b64bf0caac99dd84", "448d7fd70043d9f4"),
    }
    assert {path.name for path in EMBEDDED_FOLDER.iterdir()} == known.keys()
    found = {name: (locate_base(name).fingerprint(), load_base(name).tokenizer.fingerprint) for name in known}
    assert found == known


def test_the_card_of_a_trial_runs_as_it_stands_and_says_what_langsearch_says(
    adapters: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = code_of(adapters / "README.md")
    (expected,) = translate_lines(adapters, [SENTENCE.encode()], "en", "fr")
    assert 'set_adapter(["src-en", "tgt-fr"])' in code
    assert run(code, adapters, monkeypatch, capsys) == f"{expected}\n"


def test_adapters_of_an_embedded_base_bring_it_along_and_their_card_needs_no_langsearch(
    adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = shutil.copytree(adapters, tmp_path / "elsewhere")
    code = code_of(elsewhere / "README.md")
    assert 'place = "base"' in code and "langsearch" not in code
    found = {path.name: path.read_bytes() for path in (elsewhere / "base").iterdir()}
    assert found == {path.name: path.read_bytes() for path in (EMBEDDED_FOLDER / "tiny-m2m").iterdir()}
    monkeypatch.setitem(sys.modules, "langsearch", None)
    assert run(code, elsewhere, monkeypatch, capsys).strip()


def test_the_card_of_a_merged_trial_runs_as_it_stands(
    adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    export_again(adapters, tmp_path / "merged", ExportForm("merged", "en-sw"))
    (expected,) = translate_lines(adapters, [SENTENCE.encode()], "en", "sw")
    card = (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
    assert "`pip install torch transformers sentencepiece`" in card
    assert run(code_of(tmp_path / "merged" / "README.md"), tmp_path / "merged", monkeypatch, capsys) == f"{expected}\n"


def test_a_card_from_another_language_than_english_translates_a_free_sentence_in_it(
    new_base: Callable[[], Base],
) -> None:
    (line,) = [line for line in merged_lines(new_base(), Direction("fr", "en")) if line.startswith("inputs")]
    assert example_sentence("fra_Latn") == example_sentence("fr")
    assert line == 'inputs = tokenizer(["Pourquoi y a-t-il une statue de cheval dans le parc ?"], return_tensors="pt")'


def test_a_card_of_a_language_that_the_embedded_data_lack_shows_a_short_sentence_of_validation(tmp_path: Path) -> None:
    sentences: dict[str, list[str | None]] = {
        "tyv": ["x" * 200, None, "```\nimport os\n```", "a\tb c d e f", 'Бажың "бичии", \\ дыр.', "Өске домак."],
        "en": ["One."] * 6,
    }
    store = TokenStore.build(
        ParallelText(("tyv", "en"), sentences, "own"), lambda texts: [[1] for _ in texts], "test", tmp_path
    )
    assert example_sentence("tyv", store) == ('Бажың "бичии", \\ дыр.', "a sentence in tyv of the validation part")
    assert example_sentence("tyv") == ("...", "a sentence in tyv")
    assert example_sentence("eng_Latn", store)[0] == SENTENCE
    line = _input_line(Direction("tyv", "en"), store)
    said: list[Any] = []
    exec(line, {"tokenizer": lambda texts, **_: said.extend(texts)})  # escaped, as Python reads it
    assert said == ['Бажың "бичии", \\ дыр.'] and "Бажың" in line
