"""Rows that two parts have in common: as a pair, or by one long sentence; and what a space with such parts is told."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from langsearch.data import overlap as overlap_module
from langsearch.data.keys import is_blank, is_long, sentence_key
from langsearch.data.overlap import Overlap, find_overlap
from langsearch.data.parallel import ParallelText
from langsearch.experiment.environment import check_space
from langsearch.experiment.opening import space_changes
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space
from tests.cli_fixtures import Command

pytest_plugins = ["cli_fixtures"]

LONG = "The ferry to the northern islands leaves every morning at half past six."
LONG_FR = "Le bac pour les îles du nord part tous les matins à six heures et demie."


@pytest.mark.parametrize(
    ("written", "otherwise"),
    [
        ("The house is old.", "the house is old"),
        ("“Well”, she said.", '"Well" , she said .'),
        ("Caf\u00e9", "Cafe\u0301"),
        ("zero\u200bwidth and soft\u00adhyphen\ufeff", "zerowidth and softhyphen"),
        ("１２ ﬁles", "12 files"),
        ("中文 句子 。", "中文句子。"),
        ("STRASSE", "Straße"),
        ("a\u00a0b\r", "a b"),
    ],
)
def test_a_sentence_written_otherwise_is_the_same_one(written: str, otherwise: str) -> None:
    assert sentence_key(written) == sentence_key(otherwise)


@pytest.mark.parametrize(
    ("one", "other"), [("की", "का"), ("Room 12", "Room 13"), ("…", "♪"), ("не", "нет"), ("ʻIolani", "Ilani")]
)
def test_sentences_with_other_letters_marks_or_digits_differ(one: str, other: str) -> None:
    assert sentence_key(one) != sentence_key(other)


@pytest.mark.parametrize(
    "blank",
    ["", " \t", "\u200b\u200c\u200d", "\u00ad", "\x00", "\ufeff", "\u3164", "\u2800", "\ufe0f", "\u2060 \u00a0"],
)
def test_what_shows_nothing_is_blank(blank: str) -> None:
    assert is_blank(blank)
    assert not is_blank(f"{blank}.")


def test_a_letter_of_chinese_counts_as_three() -> None:
    assert is_long("a" * 40) and not is_long("a" * 39)
    assert is_long("句" * 14) and not is_long("句" * 13)
    assert not is_long("å" * 39)


def text(en: list[str | None], fr: list[str | None], sw: list[str | None] | None = None) -> ParallelText:
    columns = {"en": tuple(en), "fr": tuple(fr)} | ({"sw": tuple(sw)} if sw is not None else {})
    return ParallelText(tuple(columns), columns, "made")


def overlaps(train: ParallelText, test: ParallelText) -> tuple[Overlap, ...]:
    languages = train.languages
    pairs = [(a, b) for index, a in enumerate(languages) for b in languages[index + 1 :]]
    return find_overlap({"train": train, "test": test}, pairs)


def test_a_short_sentence_with_another_translation_is_no_overlap() -> None:
    train = text(["Yes.", "Thank you!", "Run."], ["Oui.", "Merci !", "Cours."])
    assert not overlaps(train, text(["Yes.", "Run."], ["Si.", "Courez."]))
    (found,) = overlaps(train, text(["Sit.", "yes"], ["Assis.", "Oui"]))
    assert (found.part, found.other, found.share) == ("test", "train", 0.5)
    assert (found.rows.tolist(), found.other_rows.tolist()) == ([1], [0])


def test_a_pair_must_stand_together_in_one_row() -> None:
    train = text(["Yes.", "Run."], ["Oui.", "Cours."])
    assert not overlaps(train, text(["Yes."], ["Cours."]))


def test_a_long_sentence_is_enough_but_in_its_own_language_alone() -> None:
    train = text(["Yes.", LONG], ["Oui.", "…"])
    (found,) = overlaps(train, text(["One.", LONG.upper()], ["Un.", LONG_FR]))
    assert (found.rows.tolist(), found.other_rows.tolist(), found.languages) == ([1], [1], ("en",))
    assert not overlaps(train, text(["One."], [LONG]))


def test_of_many_languages_any_pair_counts_that_is_translated() -> None:
    train = text(["a", "b"], ["x", "y"], ["m", "n"])
    test = text(["b", "c"], ["q", "y"], ["n", "r"])
    (found,) = find_overlap({"train": train, "test": test}, [("en", "sw")])
    assert (found.rows.tolist(), found.other_rows.tolist()) == ([0], [1])
    assert not find_overlap({"train": train, "test": test}, [("en", "fr"), ("fr", "sw")])


def test_sentences_that_are_not_there_have_nothing_in_common() -> None:
    train, test = text([None, "a"], ["b", None]), text([None, "a"], ["b", None])
    assert not overlaps(train, test)


def test_all_repetitions_count_and_the_larger_part_is_looked_at_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap_module, "_ROWS_PER_BLOCK", 3)
    train = text([f"row {n}" for n in range(10)], [f"ligne {n}" for n in range(10)])
    test = text(["row 8", "none", "row 2", "row 8"], ["ligne 8", "rien", "ligne 2", "ligne 8"])
    (found,) = overlaps(train, test)
    assert (found.rows.tolist(), found.other_rows.tolist(), found.num_rows) == ([0, 2, 3], [8, 2, 8], 4)


def test_one_row_in_a_hundred_may_be_there() -> None:
    train = text([f"row {n}" for n in range(300)], [f"ligne {n}" for n in range(300)])
    mine = [f"mine {n}" for n in range(99)]
    (found,) = overlaps(train, text([*mine, "row 5"], [*mine, "ligne 5"]))
    assert found.share == 0.01 and not found.is_leak
    (found,) = overlaps(train, text([*mine[:98], "row 5"], [*mine[:98], "ligne 5"]))
    assert found.is_leak


SPACE = """\
base: tiny-m2m
languages: {high: [en, fr]}
data:
  train: {files: train}
  validation: {files: validation}
  test: {files: test}
architecture: {rank: 4}
evaluation: {spbleu: base}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A space of 200, 100 and 100 rows that differ."""
    monkeypatch.chdir(tmp_path)
    for part, num_rows in (("train", 200), ("validation", 100), ("test", 100)):
        write(tmp_path / part, [(f"{part} {n}", f"{part} numéro {n}") for n in range(num_rows)])
    (tmp_path / "my.yaml").write_text(SPACE, encoding="utf-8")
    return tmp_path


def write(folder: Path, rows: list[tuple[str, str]]) -> None:
    folder.mkdir(exist_ok=True)
    for column, language in enumerate(("en", "fr")):
        (folder / f"{language}.txt").write_text("".join(f"{row[column]}\n" for row in rows), encoding="utf-8")


def the_same_folder_by_another_path(folder: Path) -> None:
    (folder / "copy").symlink_to(folder / "train")
    (folder / "my.yaml").write_text(SPACE.replace("test: {files: test}", "test: {files: copy}"), encoding="utf-8")


def copied_rows(folder: Path) -> None:
    rows = [(f"test {n}", f"test numéro {n}") for n in range(90)]
    write(folder / "test", [*rows, *[(f"Train {n} .", f"train  numéro {n}") for n in range(10)]])


def one_sentence(folder: Path) -> None:
    write(folder / "train", [(LONG, "x"), *[(f"train {n}", f"train numéro {n}") for n in range(199)]])
    write(folder / "test", [("a", "b"), (LONG, LONG_FR)])


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (
            the_same_folder_by_another_path,
            "my.yaml:6: `data.test` must have no rows in common with data.train, but 200 of 200 rows of test are in "
            "train too (100 %, at most 1 %): copy/en.txt:1 = train/en.txt:1, copy/en.txt:2 = train/en.txt:2, "
            "copy/en.txt:3 = train/en.txt:3, copy/en.txt:4 = train/en.txt:4, copy/en.txt:5 = train/en.txt:5 and 195 "
            "more. Leave them out of one of the two (out of train: data.filter: {overlap: true}), or go on by "
            "data.allow_overlap: true; scores will then be too good.",
        ),
        (
            copied_rows,
            "my.yaml:6: `data.test` must have no rows in common with data.train, but 10 of 100 rows of test are in "
            "train too (10 %, at most 1 %): test/en.txt:91 = train/en.txt:1, test/en.txt:92 = train/en.txt:2, "
            "test/en.txt:93 = train/en.txt:3, test/en.txt:94 = train/en.txt:4, test/en.txt:95 = train/en.txt:5 and 5 "
            "more. Leave them",
        ),
        (
            one_sentence,
            "`data.test` must have no rows in common with data.train, but 1 of 2 rows of test are in train too (50 %, "
            "at most 1 %): test/en.txt:2 = train/en.txt:1. Leave them",
        ),
    ],
)
def test_parts_with_rows_in_common_are_refused_with_their_lines(
    spoil: Callable[[Path], None], expected: str, folder: Path, langsearch: Command
) -> None:
    assert langsearch("check", "my.yaml", "--no-measure").code == 0
    spoil(folder)
    ended = langsearch("check", "my.yaml", "--no-measure", "--set", "trainer.init_from=nowhere")
    assert ended.code == 2
    assert expected in ended.err
    assert "nowhere" in ended.err, "with all other problems"
    allowed = langsearch("check", "my.yaml", "--no-measure", "--set", "data.allow_overlap=true")
    assert allowed.code == 0
    assert re.search(r"^overlap     \d+ of \d+ rows of (train|test) are in (test|train) too", allowed.out, re.MULTILINE)


def test_held_out_rows_are_named_where_they_were_written(folder: Path) -> None:
    write(folder / "train", [(f"train {n}", f"train numéro {n}") for n in (*range(50), 7)])
    with pytest.raises(InputError, match=r"`data\.validation` must have no rows in common with data\.train") as caught:
        check_space(load_space("my.yaml", ["data.validation={holdout: 5}"]))
    shown = "1 of 5 rows of validation are in train too (20 %, at most 1 %): train/en.txt:51 = train/en.txt:8."
    assert shown in str(caught.value)


def test_few_common_rows_are_told(folder: Path, langsearch: Command) -> None:
    write(folder / "test", [("train 3", "train numéro 3"), *[(f"test {n}", f"essai {n}") for n in range(99)]])
    ended = langsearch("check", "my.yaml", "--no-measure")
    assert ended.code == 0
    shown = "1 of 100 rows of test are in train too (1 %, at most 1 %): test/en.txt:1 = train/en.txt:4\n"
    assert f"overlap     {shown}" in ended.out


def test_one_source_in_two_parts_may_be_allowed_and_allowed_later(folder: Path) -> None:
    twice = ["data.test={files: train}"]
    with pytest.raises(
        InputError, match=r"both read files in train\. Cut rows off into a file of its own.* or go on by"
    ):
        load_space("my.yaml", twice)
    space = load_space("my.yaml", [*twice, "data.allow_overlap=true"])
    assert [found.share for found in check_space(space).overlaps] == [1.0]
    assert space_changes(load_space("my.yaml").text, load_space("my.yaml", ["data.allow_overlap=true"]).text) == {}


def test_what_is_begun_is_not_compared_again(folder: Path) -> None:
    copied_rows(folder)
    assert check_space(load_space("my.yaml"), is_begun=True).overlaps == ()


@pytest.mark.parametrize("space", ["quickstart", "grains"])
def test_embedded_data_has_no_rows_in_common(space: str) -> None:
    path = Path(__file__).parents[1] / "search_spaces" / f"{space}.yaml"
    assert check_space(load_space(path)).overlaps == ()


@pytest.mark.shared
def test_the_splits_of_flores_have_no_rows_in_common(shared_folder: Path) -> None:
    from langsearch.data.readers import read_source
    from langsearch.space.settings import Source

    languages = ("en", "fr", "zh", "hi", "sw", "wo")
    path = str(shared_folder / "data" / "flores101")
    dev, devtest = (read_source(Source("flores101", path, split), languages) for split in ("dev", "devtest"))
    assert not overlaps(dev, devtest)
