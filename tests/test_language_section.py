"""The section `languages`: classes, and the languages that are new to a base."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from langsearch.experiment.environment import check_space
from langsearch.experiment.task import TrialTask, baseline_task
from langsearch.search import known_pieces
from langsearch.search.checking import describe_check, print_check
from langsearch.search.sizes import parameter_range
from langsearch.space.architecture import Architecture
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space
from tests.space_fixtures import SMALL, TINY, load, problems

NEW = "languages={high: [en, fr], low: [tyv], new: {tyv: {like: sw}}}"


def write_sentences(folder: Path, tyv: list[str]) -> str:
    """Writes parallel sentences in three languages, and returns the space that reads them."""
    lines = [f"One house {number}." for number in range(len(tyv))]
    for part in ("train", "test"):
        (folder / part).mkdir()
        for language, texts in {
            "en": lines,
            "fr": [f"Une maison {number}." for number in range(len(tyv))],
            "tyv": tyv,
        }.items():
            (folder / part / f"{language}.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    train, test = (f"{{files: {folder / part}}}" for part in ("train", "test"))
    data = f"data: {{train: {train}, validation: {{holdout: 1}}, test: {test}, allow_overlap: true}}\n"
    head, _, tail = SMALL.partition("data:")
    evaluation = "evaluation: {spbleu: base}\n"
    return f"{head}{data}{evaluation}architecture:{tail.partition('architecture:')[2]}"


def test_new_says_how_languages_of_other_classes_begin(tmp_path: Path) -> None:
    space = load(tmp_path, SMALL, NEW)
    assert space.classes == {"high": ("en", "fr"), "low": ("tyv",)}
    assert space.new_languages == {"tyv": "sw"}
    assert load(tmp_path).new_languages == {}
    again = load(tmp_path, space.text)
    assert again == space
    assert again.new_languages == {"tyv": "sw"}


def test_an_architecture_has_the_new_languages_and_goes_through_json(tmp_path: Path) -> None:
    architecture = load(tmp_path, SMALL, NEW).architecture({}, TINY)
    assert architecture.new_languages == (("tyv", "sw"),)
    text = architecture.to_json()
    assert json.loads(text)["new_languages"] == {"tyv": "sw"}
    assert Architecture.from_json(text) == architecture
    plain = load(tmp_path).architecture({}, TINY)
    assert "new_languages" not in json.loads(plain.to_json()), "older fingerprints must hold"
    with pytest.raises(ValueError, match="A new language must have a slot, but got alt"):
        Architecture(slots=(("tyv", "tyv"),), adapters=(), new_languages=(("alt", "tyv"),))


def test_every_baseline_says_what_it_does_with_a_new_language(tmp_path: Path) -> None:
    overrides = (NEW, "baselines=[pretrained, full_finetuning, shared_lora]")
    space, plain = load(tmp_path, SMALL, *overrides), load(tmp_path, SMALL, overrides[1])
    tasks = {item.name: baseline_task(space, TINY, item.name) for item in space.baselines}
    assert [tasks[name].num_trainable(TINY) for name in ("pretrained", "full_finetuning")] == [
        0,
        TINY.num_parameters + TINY.d_model,
    ]
    assert tasks["pretrained"].summary == "the base as it is, sw for tyv"
    assert tasks["full_finetuning"].summary == "all parameters and 1 new language"
    assert tasks["shared_lora"].summary.endswith("39 sites · 1 new language")
    for name, task in tasks.items():
        bare = baseline_task(plain, TINY, name)
        assert bare.fingerprint != task.fingerprint
        assert task.num_trainable(TINY) - bare.num_trainable(TINY) == (0 if name == "pretrained" else TINY.d_model)
    assert isinstance(baseline_task(plain, TINY, "full_finetuning"), TrialTask)
    assert baseline_task(plain, TINY, "full_finetuning").architecture is None


def test_all_problems_of_new_languages_are_told_with_their_lines(tmp_path: Path) -> None:
    text = SMALL.replace(
        "languages: {high: [en, fr], low: [sw]}\n",
        "languages:\n  high: [en, fr]\n  low: [tyv, xal, bua]\n  new:\n    tyv: {like: tyv}\n    xal: {like: bua}\n"
        "    bua: {like: a-b}\n    alt: {like: en}\n",
    )
    found = [problem for problem in problems(tmp_path, text) if "languages.new" in problem]
    assert found == [
        "small.yaml:6: `languages.new.tyv.like` must be a language that the base has a token for, but got itself.",
        "small.yaml:7: `languages.new.xal.like` must be a language that the base has a token for, but got 'bua', which "
        "is new too.",
        "small.yaml:8: `languages.new.bua.like` must be a language code of letters, digits and _, but got 'a-b'",
        "small.yaml:9: `languages.new.alt` must be a language of a class, since `new` says only how it begins, but is "
        "in none. Add it to one, by the same code. Did you mean xal?",
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            "{high: [en, fr], new: [tyv]}",
            "`languages.new` is no name for a class: it says how languages begin that the base has no token for, such "
            "as {tyv: {like: kaz}}, but got ['tyv']. Name the class otherwise.",
        ),
        ("{high: [en, fr], new: {tyv: kaz}}", "`languages.new.tyv` must be a mapping, but got 'kaz'"),
        ("{high: [en, tyv], new: {tyv: {}}}", "`languages.new.tyv.like` must be given, but is missing."),
        (
            "{high: [en, tyv], new: {tyv: {lik: kaz}}}",
            "`languages.new.tyv.lik` must be a key of `languages.new.tyv`, but is none.",
        ),
        ("{new: {tyv: {like: kaz}}}", "`languages` must have at least two languages"),
    ],
)
def test_a_wrong_form_of_new_is_told(value: str, expected: str, tmp_path: Path) -> None:
    assert any(expected in problem for problem in problems(tmp_path, SMALL, f"languages={value}"))


def test_problems_with_the_base_are_told_with_their_lines(tmp_path: Path) -> None:
    space = load(
        tmp_path, SMALL, "languages={high: [en, fr], low: [tyv, sw, alt], new: {tyv: {like: qq}, sw: {like: en}}}"
    )
    with pytest.raises(InputError) as caught:
        check_space(space)
    text = str(caught.value)
    assert "`languages.new.tyv.like` must be among the 100 known here, but got 'qq'." in text
    assert "`languages.new.sw` must be a language that the base has no token for, but it has one, __sw__. Leave" in text
    assert "but got 'alt'." in text
    assert "can begin as another: languages: {new: {tyv: {like: kaz}}}." in text


def test_check_shows_how_new_languages_begin_and_counts_their_rows(tmp_path: Path) -> None:
    space = load(tmp_path, write_sentences(tmp_path, ["One house."] * 8), NEW)
    checked = check_space(space)
    console = Console(file=io.StringIO(), width=200)
    print_check(console, checked)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "new         tyv begins as sw, with a token of its own, __tyv__: 128 parameters" in shown
    assert "unknown     of a language's pieces the base's tokenizer does not know: none" in shown
    assert "warning" not in shown
    described = describe_check(checked)
    assert described["new_languages"] == {"tyv": {"like": "sw", "token": "__tyv__"}}
    count = space.architecture({}, checked.shape).num_parameters(checked.shape)
    assert parameter_range(checked) == (count, count)
    without = load_space(tmp_path / "small.yaml").architecture({}, checked.shape).num_parameters(checked.shape)
    assert count == without + 128


def test_check_warns_of_a_language_whose_pieces_the_base_does_not_know(tmp_path: Path) -> None:
    # Two of eight sentences are in a script that the tokenizer has never seen.
    strange = ["ᠳᠡᠯᠡᠬᠡᠢ ᠶᠢᠨ"] * 2 + ["One house."] * 6
    checked = check_space(load(tmp_path, write_sentences(tmp_path, strange), NEW))
    console = Console(file=io.StringIO(), width=300)
    print_check(console, checked)
    assert isinstance(console.file, io.StringIO)
    share = describe_check(checked)["unknown_pieces"]
    assert share["en"] == share["fr"] == 0
    assert 0.01 < share["tyv"] < 0.5
    shown = f"of the pieces of tyv at most 1 % should be unknown to the base, but {100 * share['tyv']:.2g} % are"
    assert shown in console.file.getvalue()


def test_several_such_languages_are_warned_of_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checked = check_space(load(tmp_path, write_sentences(tmp_path, ["One house."] * 8), NEW))
    shares = {"en": 0.001, "fr": 0.02, "tyv": 0.45}
    monkeypatch.setattr(known_pieces, "unknown_shares", lambda _: shares)
    (text,) = (text for label, text in known_pieces.language_lines(checked) if label == "warning")
    assert text.startswith("of the pieces of fr, tyv at most 1 % should be unknown to the base, but 2 % to 45 %")


def test_a_plain_list_of_languages_is_told_how_a_single_class_is_written(tmp_path: Path) -> None:
    (told,) = problems(tmp_path, SMALL, "languages=[en, fr]")
    assert told.endswith(
        "`languages` must be classes of languages, each with ranks of its own, but got ['en', 'fr']. "
        "Of a single class: {all: ['en', 'fr']}"
    )
