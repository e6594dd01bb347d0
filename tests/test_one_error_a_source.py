"""A wrong column, or a wrong code, is one error: at the line of its source, with what is there and what was meant."""

from pathlib import Path

import pytest

from langsearch.experiment.environment import check_space
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space

SPACE = """\
base: tiny-m2m
languages: {high: [en, nl], low: [sw, cy, id]}
data:
  train:
    - {moses: welsh}
    - {tsv: swahili.tsv, columns: {en: English, sw: Kiswahili}}
    - {tsv: indonesian.tsv, header: [id, en]}
    - {tsv: dutch.tsv}
  validation: {holdout: 40}
  test: {embedded: quickstart, part: test}
  directions: [en-sw, sw-en, en-cy, cy-en, en-nl, nl-en, en-id, id-en]
architecture: {rank: 2}
evaluation: {spbleu: base}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pairs = {name: [f"{name} a{row}\t{name} b{row}" for row in range(60)] for name in ("cy", "sw", "id", "nl")}
    for number, ending in enumerate(("en", "cy")):
        lines = [row.split("\t")[number] for row in pairs["cy"]]
        (tmp_path / f"welsh.{ending}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, header, rows in (
        ("swahili", ["English\tKiswahili"], pairs["sw"]),
        ("indonesian", [], pairs["id"]),
        ("dutch", ["en\tnl"], pairs["nl"]),
    ):
        (tmp_path / f"{name}.tsv").write_text("\n".join([*header, *rows]) + "\n", encoding="utf-8")
    return tmp_path


def problems(here: Path, *changes: tuple[str, str]) -> list[str]:
    text = SPACE
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    (here / "my.yaml").write_text(text, encoding="utf-8")
    try:
        check_space(load_space("my.yaml"))
    except InputError as error:
        return [problem.replace(f"{here}/", "") for problem in error.problems]
    return []


def test_what_is_right_has_none(here: Path) -> None:
    assert problems(here) == []


def test_a_wrong_column_is_one_error_at_the_line_of_its_source(here: Path) -> None:
    assert problems(here, ("sw: Kiswahili", "sw: Swahili")) == [
        "my.yaml:6: `data.train[1]`: swahili.tsv: a column 'Swahili' must exist, as `columns` says, but it has "
        "'English' and 'Kiswahili'. Did you mean Kiswahili?"
    ]
    assert problems(here, (", sw: Kiswahili", "")) == [
        "my.yaml:6: `data.train[1]`: swahili.tsv: `columns` must name two of the languages or more, but names en."
    ]
    assert problems(here, ("header: [id, en]", "header: [ix, en]")) == [
        "my.yaml:7: `data.train[2]`: indonesian.tsv: columns for two of the languages or more must exist, but it has "
        "'ix' and 'en', of which en is a language of the space. Did you mean ix for id?"
    ]


def test_each_wrong_source_has_its_own_line(here: Path) -> None:
    found = problems(
        here, ("moses: welsh", "moses: walsh"), ("sw: Kiswahili", "sw: Swahili"), ("tsv: dutch", "tsv: deutsch")
    )
    assert [problem.partition(": ")[0] for problem in found] == ["my.yaml:5", "my.yaml:8", "my.yaml:6"]


def test_a_name_that_is_no_code_is_told_with_both_columns(here: Path) -> None:
    (found,) = problems(here, (", columns: {en: English, sw: Kiswahili}", ""))
    assert found.endswith("or write `columns: {en: English, CODE: Kiswahili}`.")


def test_an_unknown_code_among_the_languages_is_flagged_itself(here: Path) -> None:
    assert problems(here, ("cy, id]", "cy, idn]")) == [
        "my.yaml:2: `languages.low[2]` must be a code that `data.directions` has, but no direction has 'idn', and no "
        "table of languages. Did you mean id?"
    ]


def test_a_wrong_direction_is_told_once_for_each_code(here: Path) -> None:
    assert problems(here, ("en-id, id-en]", "en-id, id-en, en-idx, idx-en]")) == [
        "my.yaml:11: `data.directions[8]` must read SRC-TGT with two of the languages, but 'idx' is none of them, in "
        "en-idx, idx-en. Did you mean id?"
    ]
    assert problems(here, ("en-id, id-en]", "en-id, iden]")) == [
        "my.yaml:11: `data.directions[7]` must read SRC-TGT with two of the languages, but got 'iden'."
    ]
