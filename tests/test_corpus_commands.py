"""What `check` shows of many bitexts and `run` refuses of them; the sources that search_spaces/data.md names."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from langsearch.space.run_sections import SOURCE_KINDS
from tests.format_fixtures import bitext, write
from tests.space_fixtures import load, problems

if TYPE_CHECKING:
    from tests.cli_fixtures import Command

pytest_plugins = ["cli_fixtures", "search_fixtures"]

SPACE = """\
base: tiny-m2m
languages: {high: [en, fr], low: [sw]}
data: {train: {tsv: a.tsv}, validation: {holdout: 3}, test: {tsv: c.tsv}}
architecture: {rank: 4}
"""


@pytest.fixture
def bitexts(space_file: Path) -> Path:
    """A small space with tables beside it: en-sw of 700 rows, en-fr of 200, fr-sw of 100."""
    for src, tgt, num in (("en", "sw", 700), ("en", "fr", 200), ("fr", "sw", 100)):
        bitext(space_file.parent, src, tgt, num)
    return space_file


def test_check_shows_what_was_read_and_the_rows_of_every_direction(bitexts: Path, langsearch: "Command") -> None:
    train = "data.train=[{tsv: 'en-*.tsv', max_rows: 100}, {tsv: fr-sw.tsv, weight: 2}]"
    command = ("check", bitexts, "--no-measure", "--set", train, "--set", "data.validation={holdout: 30}")
    ended = langsearch(*command)
    assert (ended.code, ended.err) == (0, "")
    shown = [" ".join(line.split()) for line in ended.out.splitlines()]
    for line in (
        "sentences train 270 · validation 30 · test 104",
        "train tsv in en-*.tsv: 2 files, 200 rows, at most 100 of a set of languages",
        "train tsv in fr-sw.tsv: 100 rows, weight 2",
        "validation 30 rows held out of train: every source in proportion",
        "rows train 90 · validation 10 · test 104: en-fr and back, en-sw and back, fr-sw and back",
    ):
        assert line in shown, ended.out
    told = json.loads(langsearch(*command, "--json").out)
    assert told["rows"]["sw-fr"] == {"train": 90, "validation": 10, "test": 104}
    assert told["zero_shot"] == []


def test_check_calls_a_direction_without_training_rows_zero_shot(bitexts: Path, langsearch: "Command") -> None:
    command = ("check", bitexts, "--no-measure", "--set", "data.train={tsv: 'en-*.tsv'}")
    out = langsearch(*command).out
    assert "6 in 3 class pairs, 2 of them zero-shot" in out
    assert "zero-shot · validation 52 · test 104: fr-sw and back" in out
    assert json.loads(langsearch(*command, "--json").out)["zero_shot"] == ["fr-sw", "sw-fr"]


WRONG = {
    "a direction that is scored on nothing": (
        ("data.train={tsv: 'en-*.tsv'}", "data.validation={holdout: 30}"),
        "`data.validation` must have a sentence in every direction, but has none for 2 of 6: fr-sw, sw-fr. "
        "Leave them out",
    ),
    "a spreadsheet": (
        ("data.train={tsv: book.xlsx}",),
        "--set data.train={tsv: book.xlsx}: `data.train`: book.xlsx: a tsv source must end in .tsv or .txt or .tab, "
        "also with .gz or .zst behind it",
    ),
    "a key of another kind": (
        ("data.train={tsv: en-sw.tsv, split: train}",),
        "--set data.train={tsv: en-sw.tsv, split: train}: `data.train.split` belongs to datasets, but got tsv",
    ),
    "a weight of what is not trained on": (
        ("data.test={tsv: en-sw.tsv, weight: 2}",),
        "--set data.test={tsv: en-sw.tsv, weight: 2}: `data.test.weight` belongs to data.train, of "
        "which rows are drawn",
    ),
    "a column of no language": (
        ("data.train={tsv: en-sw.tsv, columns: {eng: en}}",),
        "--set data.train={tsv: en-sw.tsv, columns: {eng: en}}: `data.train.columns.eng` must be a language of "
        "the space",
    ),
    "the same file in two parts": (
        ("data.train={tsv: [en-sw.tsv, en-fr.tsv]}", "data.test={tsv: en-fr.tsv}"),
        "--set data.test={tsv: en-fr.tsv}: `data.test` must not share a source with data.train, but both read",
    ),
    "no path": (
        ("data.train={tsv: []}",),
        "--set data.train={tsv: []}: `data.train.tsv` must be a path, a pattern such as data/*.tsv, or a list of them",
    ),
    "rows of what is not held out": (
        ("data.train={tsv: en-sw.tsv, rows: last}",),
        "--set data.train={tsv: en-sw.tsv, rows: last}: `data.train.rows` belongs to {holdout: N}",
    ),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_wrong_data_is_told_before_anything_starts(
    changes: tuple[str, ...], message: str, bitexts: Path, langsearch: "Command"
) -> None:
    before = sorted(bitexts.parent.rglob("*"))
    ended = langsearch("run", bitexts, *(part for change in changes for part in ("--set", change)))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: {message}")
    assert sorted(bitexts.parent.rglob("*")) == before


def test_an_unknown_kind_lists_those_that_are_read(tmp_path: Path) -> None:
    told = problems(tmp_path, SPACE, "data.train={csv: x.csv}")
    assert any("`data.train.csv` must be a key of `data.train`, but is none." in problem for problem in told)


@pytest.mark.shared
@pytest.mark.integration
def test_real_english_centric_corpora_go_through_check_with_three_lines(
    shared_folder: Path, tmp_path: Path, langsearch: "Command"
) -> None:
    data = shared_folder / "data"
    lines = [
        f"  train: {{parquet: {data}/corpora/eng-*.parquet, max_rows: 200}}",
        f"  validation: {{flores101: dev, folder: {data}/flores101}}",
        f"  test: {{flores101: devtest, folder: {data}/flores101}}",
    ]
    names = sorted(path.stem.removeprefix("eng-") for path in (data / "corpora").glob("eng-*.parquet"))
    languages = f"languages: {{high: [eng, fra], low: [{', '.join(name for name in names if name != 'fra')}]}}"
    evaluation = "evaluation: {spbleu: base, search: {max_length: 256}, final: {max_length: 256}}"
    head, tail = f"base: tiny-m2m\n{languages}\ndata:", "architecture: {rank: 4}"
    space = write(tmp_path, {"real.yaml": "\n".join([head, *lines, tail, evaluation, ""])}) / "real.yaml"
    ended = langsearch("check", space, "--no-measure")
    assert (ended.code, ended.err) == (0, ""), ended.err
    assert "29 files, 5,800 rows" in ended.out
    assert "870 in 4 class pairs, 812 of them zero-shot" in ended.out


PAGE = (Path(__file__).parents[1] / "search_spaces" / "data.md").read_text(encoding="utf-8")


def test_every_source_on_the_page_is_a_source_of_a_space(tmp_path: Path) -> None:
    table = PAGE.partition("| Text | In the space |")[2].partition("\n\n")[0]
    cells = "".join(line.rpartition(" | ")[2] for line in table.splitlines()[2:])
    sources = re.findall(r"`(\{.*?\})`", cells)
    assert len(sources) >= 11
    kinds = {load(tmp_path, SPACE.replace("{tsv: a.tsv}", source, 1)).data.train[0].kind for source in sources}
    assert kinds == set(SOURCE_KINDS) - {"embedded"}


def test_the_many_bitexts_of_the_page_are_a_space(tmp_path: Path) -> None:
    section = PAGE.partition("## Many bitexts in one space")[2]
    block = section.partition("```yaml\n")[2].partition("```")[0]
    head, _, tail = SPACE.partition("data:")
    space = load(tmp_path, head + block + tail.partition("\n")[2])
    assert [(source.kind, source.max_rows, source.weight) for source in space.data.train] == [
        ("parquet", 50_000, 1.0),
        ("moses", None, 3.0),
        ("tmx", None, 1.0),
    ]
    assert (space.data.holdout, space.data.holdout_rows) == (600, "spread")
