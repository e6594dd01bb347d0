"""Sentences that are not what they should be: what is told of each kind, and what a filter leaves out of training."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from langsearch.data.dirt import Dirt, find_dirt, length_proportions
from langsearch.data.parallel import ParallelText
from langsearch.data.scripts import _LATIN, _letters, foreign_share, scripts_of_language
from langsearch.experiment.earlier import load_begun_space, with_earlier_defaults
from langsearch.experiment.environment import build_environment, check_space
from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.opening import check_start
from langsearch.model.base import Base
from langsearch.space.data_filter import LOOKED_FOR
from langsearch.space.languages import all_languages
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space
from tests.cli_fixtures import Command

pytest_plugins = ["cli_fixtures"]


@pytest.mark.parametrize(
    ("code", "scripts"),
    [
        ("srp_Cyrl", {"Cyrl"}),
        ("sr", {"Cyrl", "Latn"}),
        ("hau_Latn", {"Latn"}),
        ("ha", {"Latn", "Arab"}),
        ("zh", {"Hans", "Hant"}),
        ("zho_Hant", {"Hant"}),
        ("zho_simpl", {"Hans"}),
        ("zh_CN", {"Hans"}),
        ("yue_Hant", {"Hant"}),
        ("ja_XX", {"Jpan"}),
        ("tyv_Cyrl", {"Cyrl"}),
        ("tyv", None),
    ],
)
def test_the_code_says_the_script_or_all_that_the_language_is_written_in(code: str, scripts: set[str] | None) -> None:
    assert scripts_of_language(code) == scripts


def test_every_language_of_the_tables_has_a_script_whose_letters_are_known() -> None:
    for language in all_languages():
        scripts = scripts_of_language(language.flores200)
        assert scripts is not None and foreign_share("", scripts) == (0.0, 0)


@pytest.mark.parametrize(
    ("sentence", "code", "is_foreign"),
    [
        ("Kuća je veoma stara.", "srp_Cyrl", True),
        ("Кућа је веома стара.", "srp_Cyrl", False),
        ("Kuća je veoma stara.", "sr", False),
        ("بابو أبينچ أ غدا", "hau_Latn", True),
        ("بابو أبينچ أ غدا", "ha", False),
        ("這個學生說他沒有時間來學開車。", "zho_Hans", True),
        ("这个学生说他没有时间来学开车。", "zho_Hans", False),
        ("这个学生说他没有时间来学开车。", "zho_Hant", True),
        ("這個學生說他沒有時間來學開車。", "zh", False),
        ("会議は午後三時に始まります。", "jpn_Jpan", False),
        ("회의는 세 시에 시작합니다.", "jpn_Jpan", True),
        ("Откройте файл README.md в редакторе", "rus_Cyrl", False),
        ("Open the settings page", "rus_Cyrl", True),
        ("12:30 — 45 %", "rus_Cyrl", False),
        ("Oʻzbekiston", "uzn_Latn", False),
        ("Ｆｕｌｌ　ｗｉｄｔｈ", "en", False),
    ],
)
def test_letters_of_another_script_are_seen(sentence: str, code: str, is_foreign: bool) -> None:
    scripts = scripts_of_language(code)
    assert scripts is not None
    share, num_letters = foreign_share(sentence, scripts)
    assert (share > 0.5 and num_letters >= 8) is is_foreign


def none_unknown(sentences: Sequence[str]) -> list[float]:
    return [0.0 for _ in sentences]


def some_unknown(sentences: Sequence[str]) -> list[float]:
    return [sentence.count("?") / len(sentence) for sentence in sentences]


def found(dirt: Dirt) -> dict[tuple[str, str], list[int]]:
    return {key: marked.rows.tolist() for key, marked in dirt.marked.items()}


def text(**columns: list[str | None]) -> ParallelText:
    return ParallelText(tuple(columns), {name: tuple(column) for name, column in columns.items()}, "made")


def test_each_kind_of_fault_is_found_and_the_worst_of_it() -> None:
    pairs = [(f"The road number {n} is closed.", f"La route numéro {n} est fermée.") for n in range(40)]
    pairs[3] = ("Press the red button", "Press the red button ")
    pairs[4] = ("2024", "2024")
    pairs[5] = ("No.", "Non, je ne crois pas que ce soit une bonne idée, et je te dis pourquoi demain matin à table.")
    pairs[6] = ("Nothing to be seen here.", "Здесь ничего не видно.")
    pairs[7] = ("What is this?", "Qu'est-ce ? ???????")
    pairs[8] = ("Yes", "D'accord")
    mine = text(en=[en for en, _ in pairs], fr=[fr for _, fr in pairs])
    dirt = find_dirt(mine, [("en", "fr")], LOOKED_FOR, some_unknown)
    assert found(dirt) == {
        ("en", "copies"): [3],
        ("fr", "copies"): [3],
        ("en", "lengths"): [5],
        ("fr", "lengths"): [5],
        ("fr", "script"): [6],
        ("fr", "unknown"): [7],
    }
    assert dirt.marked["fr", "lengths"].worst == 5
    assert dirt.marked["fr", "lengths"].degrees.tolist() > [3.0]


def test_languages_that_take_fewer_characters_fit_as_they_do_elsewhere_in_the_text() -> None:
    mine = text(en=[f"The road number {n} is closed to all traffic." for n in range(40)], zh=["道路封闭。"] * 40)
    assert not found(find_dirt(mine, [("en", "zh")], LOOKED_FOR, none_unknown))
    few = text(en=["The road is closed to all traffic until further notice."] * 5, zh=["路。"] * 5)
    assert not length_proportions(few, [("en", "zh")])
    assert not found(find_dirt(few, [("en", "zh")], LOOKED_FOR, none_unknown))


def test_only_pairs_that_are_translated_count_and_missing_sentences_do_not() -> None:
    mine = text(en=["a sentence", None], fr=["a sentence", "x"], de=[None, "x"])
    assert found(find_dirt(mine, [("en", "de")], LOOKED_FOR, none_unknown)) == {}
    assert found(find_dirt(mine, [("fr", "de")], LOOKED_FOR, none_unknown)) == {
        ("fr", "copies"): [1],
        ("de", "copies"): [1],
    }


def test_sentences_get_one_unicode_form() -> None:
    mine = text(en=["Cafe\u0301", "ﬁle", None], fr=["Café", "x", "y"])
    assert mine.normalized("nfc").sentences["en"] == ("Café", "ﬁle", None)
    assert mine.normalized("nfkc").sentences["en"] == ("Café", "file", None)
    assert mine.normalized("none") is mine
    assert mine.normalized("nfc").sentences["fr"] == mine.sentences["fr"]


SPACE = """\
base: tiny-m2m
languages: {high: [en, fr]}
data:
  train: {files: train}
  validation: {files: validation}
  test: {files: test}
architecture: {rank: 4}
trainer: {tokens_per_batch: 100, accumulation: 1, max_length: 100}
evaluation: {spbleu: base}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for part in ("train", "validation", "test"):
        write(tmp_path / part, [(f"This is the {part} house {n}.", f"C'est la maison {part} {n}.") for n in range(40)])
    (tmp_path / "my.yaml").write_text(SPACE, encoding="utf-8")
    return tmp_path


def write(folder: Path, rows: list[tuple[str, str]]) -> None:
    folder.mkdir(exist_ok=True)
    for column, language in enumerate(("en", "fr")):
        (folder / f"{language}.txt").write_text("".join(f"{row[column]}\n" for row in rows), encoding="utf-8")


def rows_of(part: str) -> list[tuple[str, str]]:
    return [(f"This is the {part} house {n}.", f"C'est la maison {part} {n}.") for n in range(40)]


@pytest.mark.parametrize(
    ("line", "codes"),
    [
        ("\u200b\u200d", "U+200B, U+200D"),
        ("\u00ad", "U+00AD"),
        ("\x00", "U+0000"),
        ("\ufeff \ufeff", "U+FEFF"),
        ("\u2060\u3164", "U+2060, U+3164"),
    ],
)
def test_a_line_that_looks_empty_is_an_error_with_its_line(
    line: str, codes: str, folder: Path, langsearch: Command
) -> None:
    write(folder / "test", [*rows_of("test")[:2], ("A house.", line)])
    ended = langsearch("check", "my.yaml", "--no-measure")
    assert ended.code == 2
    rule = f"a sentence must not be empty, but nothing in it can be seen ({codes})."
    assert f"test/fr.txt:3: {rule} Remove the row from all languages" in ended.err


def test_faults_are_told_by_language_with_the_worst_line(folder: Path, langsearch: Command) -> None:
    clean = langsearch("check", "my.yaml", "--no-measure")
    assert "faults" not in clean.out and "warning" not in clean.out and "worst" not in clean.out
    copied = [(f"Untranslated line {n}", f"Untranslated line {n}") for n in range(10)]
    write(folder / "train", [*rows_of("train")[:30], *copied])
    write(folder / "test", [*rows_of("test")[:39], ("The last house of them.", "Последний из домов.")])
    ended = langsearch("check", "my.yaml", "--no-measure")
    assert ended.code == 0
    lines = [re.sub(r" +", " ", line.rstrip()) for line in ended.out.splitlines()]
    place = lines.index("sentences with faults, in % of a language's sentences")
    assert lines[place + 1 : place + 6] == [
        "language copies other script unknown pieces lengths",
        "en 8.33 %",
        "fr 8.33 % 0.833 % 0.833 %",
        "worst en, copies: train/en.txt:31: Untranslated line 0",
        "worst fr, copies: train/fr.txt:31: Untranslated line 0",
    ]
    told = "8.33 % of the sentences of fr are the same text as their translation, more than 5 %. Mend them, or leave "
    assert f"warning {told}them out of training: data.filter: {{copies: true}}." in lines
    faults = langsearch("check", "my.yaml", "--no-measure", "--json").out
    assert '"worst": "test/fr.txt:40: Последний из домов."' in faults


def test_a_filter_leaves_sentences_out_of_training_alone_and_says_how_many(folder: Path, langsearch: Command) -> None:
    spoiled = [("Untranslated line", "Untranslated line"), ("The last house of them.", "Последний из домов.")]
    for part in ("train", "validation", "test"):
        write(folder / part, [*rows_of(part)[:38], *spoiled])
    rules = "data.filter={copies: true, script: true, lengths: 4, unknown: 0.2, overlap: true}"
    told = langsearch("check", "my.yaml", "--no-measure", "--set", rules, "--set", "data.allow_overlap=true")
    assert told.code == 0
    counts = "copies en 1, fr 1; script fr 1; unknown fr 1; overlap en 2, fr 2"
    assert f"filter      4 sentences ({counts}); 2 rows are left out of training" in told.out
    checked = check_space(load_space("my.yaml", ["data.filter={script: 0.6}", "data.allow_overlap=true"]))
    assert len(checked.corpus.train) == 40, "rows keep their numbers"
    assert checked.corpus.train.sentences["fr"][-2:] == ("Untranslated line", None)
    assert checked.corpus.train.sentences["en"][-1] == "The last house of them."
    assert checked.corpus.test.sentences["fr"][-1] == "Последний из домов."


def test_rows_in_common_can_be_left_out_of_training_but_not_of_what_selects(folder: Path) -> None:
    write(folder / "test", [*rows_of("train")[:4], *rows_of("test")[4:]])
    with pytest.raises(InputError, match=r"out of train: data\.filter: \{overlap: true\}"):
        check_space(load_space("my.yaml"))
    checked = check_space(load_space("my.yaml", ["data.filter={overlap: true}"]))
    assert checked.corpus.train.sentences["en"][:5] == (*[None] * 4, "This is the train house 4.")
    assert checked.filtered is not None and checked.filtered.num_rows == 4
    write(folder / "test", [*rows_of("validation")[:4], *rows_of("test")[4:]])
    with pytest.raises(InputError, match=r"`data\.test` must have no rows in common with data\.validation"):
        check_space(load_space("my.yaml", ["data.filter={overlap: true}"]))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{script: 2}", "`data.filter.script` must be true, false or a number from 0 to 1, but got 2"),
        ("{lengths: 0.5}", "`data.filter.lengths` must be true, false or a number from 1, but got 0.5"),
        ("{copies: 1}", "`data.filter.copies` must be"),
        ("{ratio: 3}", "`data.filter.ratio` must be a key of `data.filter`"),
    ],
)
def test_a_wrong_filter_is_told(value: str, expected: str, folder: Path) -> None:
    with pytest.raises(InputError, match=re.escape(expected)):
        load_space("my.yaml", [f"data.filter={value}"])


def test_the_form_is_recorded_and_the_tokens_are_of_it(folder: Path, embedded_base: Base) -> None:
    write(folder / "train", [("Cafe\u0301 \u2167", f"maison {n}") for n in range(3)])
    stored = {}
    for form in ("nfc", "nfkc", "none"):
        checked = check_space(load_space("my.yaml", [f"data.normalize={form}"]), is_begun=True)
        stored[form] = build_environment(checked, embedded_base, folder / ".store").train.text("en", 0)
    assert stored == {"nfc": "Café Ⅷ", "nfkc": "Café VIII", "none": "Cafe\u0301 Ⅷ"}
    assert "normalize: nfc" in load_space("my.yaml").text
    with pytest.raises(InputError, match=r"`data\.normalize` must be .*nfd"):
        load_space("my.yaml", ["data.normalize=nfd"])


def test_an_experiment_from_before_keeps_its_sentences_as_they_were_read(folder: Path) -> None:
    begun = ExperimentFolder(folder / "experiments" / "my")
    begun.path.mkdir(parents=True)
    space = load_space("my.yaml")
    begun.space.write_text(space.text.replace("  normalize: nfc\n", ""), encoding="utf-8")
    assert load_begun_space(begun.space).data.normalize == "none"
    resumed = with_earlier_defaults(begun, space)
    assert resumed.data.normalize == "none"
    check_start(begun.path, resumed, resume=True)
    begun.space.write_text(space.text, encoding="utf-8")
    assert load_begun_space(begun.space).data.normalize == "nfc"
    check_start(begun.path, with_earlier_defaults(begun, space), resume=True)
    with pytest.raises(InputError, match=r"data\.normalize: nfc -> nfkc"):
        check_start(begun.path, load_space("my.yaml", ["data.normalize=nfkc"]), resume=True)


def test_what_passes_for_latin_at_a_glance_has_letters_of_no_other_script() -> None:
    words = {word for word, codes in _letters().items() for code in codes if _LATIN.fullmatch(chr(code))}
    assert words == {"LATIN"}
