"""The lines of shell in an error cut a test part off a source, whatever its kind is."""

import subprocess
from pathlib import Path

import pytest

from langsearch.space.cut_recipe import NUM_ROWS, cut_recipe, cut_recipe_of
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space
from langsearch.space.settings import SourceKind

ROWS = [f"row {number}" for number in range(NUM_ROWS + 50)]


def run(recipe: str, folder: Path) -> None:
    lines = [line.removeprefix("    ") for line in recipe.splitlines()[1:]]
    subprocess.run(["bash", "-euc", "\n".join(lines)], cwd=folder, check=True)


def write(path: Path, rows: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def read(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("kind", ["tsv", "jsonl"])
@pytest.mark.parametrize("header", [[], ["en\tsw"]])
def test_a_file_of_lines_keeps_its_header_in_both_parts(kind: SourceKind, header: list[str], tmp_path: Path) -> None:
    name = f"my data/en sw.{kind}"
    write(tmp_path / name, [*header, *ROWS])
    run(cut_recipe([(kind, name, bool(header))]), tmp_path)
    assert read(tmp_path / f"my data/en sw.test.{kind}") == [*header, *ROWS[-NUM_ROWS:]]
    assert read(tmp_path / f"my data/en sw.train.{kind}") == [*header, *ROWS[:-NUM_ROWS]]


def test_the_files_of_a_bitext_are_cut_alike(tmp_path: Path) -> None:
    for ending in ("en", "cy"):
        write(tmp_path / "data" / f"x.en-cy.{ending}", [f"{row} {ending}" for row in ROWS])
    run(cut_recipe([("moses", "data/x.en-cy", False)]), tmp_path)
    for ending in ("en", "cy"):
        rows = [f"{row} {ending}" for row in ROWS]
        assert read(tmp_path / "data" / f"x.en-cy.test.{ending}") == rows[-NUM_ROWS:]
        assert read(tmp_path / "data" / f"x.en-cy.train.{ending}") == rows[:-NUM_ROWS]


def test_the_files_of_a_folder_are_cut_alike(tmp_path: Path) -> None:
    for code in ("en", "sw", "cy"):
        write(tmp_path / "train" / f"{code}.txt", [f"{row} {code}" for row in ROWS])
    run(cut_recipe([("files", "train", False)]), tmp_path)
    assert read(tmp_path / "train-test" / "sw.txt") == [f"{row} sw" for row in ROWS[-NUM_ROWS:]]
    assert read(tmp_path / "train-train" / "cy.txt") == [f"{row} cy" for row in ROWS[:-NUM_ROWS]]


def test_of_what_is_no_file_of_lines_nothing_is_said() -> None:
    for kind, path in (("parquet", "a.parquet"), ("tsv", "a.tsv.gz"), ("tsv", "data/*.tsv"), ("jsonl", "list.json")):
        assert cut_recipe([(kind, path, True)]) == ""  # type: ignore[list-item]
    assert "for b.jsonl," in cut_recipe([("parquet", "a.parquet", False), ("jsonl", "b.jsonl", False)])


def test_what_a_space_has_written_is_read_right_or_wrong() -> None:
    assert "(head -n 1 a.tsv; tail" in cut_recipe_of([{"tmx": "b.tmx"}, {"tsv": "a.tsv", "columns": {"en": "x"}}])
    assert "(head -n 1" not in cut_recipe_of({"tsv": ["a.tsv"], "header": ["en", "sw"]})
    wrongs: tuple[object, ...] = (None, 3, [3], {"tsv": 3}, {"tsv": []})
    for wrong in wrongs:
        assert cut_recipe_of(wrong) == ""


SPACE = """\
base: tiny-m2m
languages: {high: [en, nl]}
data: {train: TRAIN, validation: {holdout: 40}, test: {holdout: 40}}
architecture: {rank: 2}
"""


@pytest.mark.parametrize(
    ("train", "source"),
    [
        ("{moses: [data/en-nl, b]}", ("moses", "data/en-nl", False)),
        ("{tsv: data/en-nl.tsv}", ("tsv", "data/en-nl.tsv", True)),
        ("[{tmx: a.tmx}, {tsv: b.tsv, header: [en, nl]}]", ("tsv", "b.tsv", False)),
    ],
)
def test_a_test_part_that_would_be_held_out_of_train_has_the_lines_for_its_first_source(
    train: str, source: tuple[SourceKind, str, bool], tmp_path: Path
) -> None:
    (tmp_path / "my.yaml").write_text(SPACE.replace("TRAIN", train), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_space(tmp_path / "my.yaml")
    (problem,) = caught.value.problems
    assert problem.endswith(f"cut rows off for it first.{cut_recipe([source])}")
