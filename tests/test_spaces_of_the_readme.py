"""The README's own spaces pass `check` with files made as they say; nothing is fetched for the small base."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from langsearch.search.checking import check_search
from langsearch.space.schema import load_space
from tests.test_readme import README, blocks

NUM_ROWS = 700
FLORES = {"en": "eng_Latn", "fr": "fra_Latn", "sw": "swh_Latn", "wo": "wol_Latn"}


def sentence(language: str, number: int, part: str) -> str:
    """One that no other part has, nor another language."""
    return f"{language} {part} sentence " + " ".join(f"{language}{digit}" for digit in f"{number:05d}")


def block_with(text: str) -> str:
    (block,) = [block for block in blocks(README, "yaml") if text in block]
    return block


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def checked(data: dict[str, Any], here: Path) -> Any:
    small = {"base": "tiny-m2m", "evaluation": {"spbleu": "base"}, "resources": {"gpu": 0, "cpu": 1}}
    (here / "my.yaml").write_text(yaml.safe_dump(data | small), encoding="utf-8")
    return check_search(load_space(here / "my.yaml"))


def test_the_english_centric_example_runs(here: Path) -> None:
    block = yaml.safe_load(block_with("GlobalVoices"))
    numbers = range(NUM_ROWS)
    for code in ("en", "sw"):
        write(here / f"data/GlobalVoices.en-sw.{code}", [sentence(code, number, "voices") for number in numbers])
    with gzip.open(here / "data/en-fr.jsonl.gz", "wt", encoding="utf-8") as file:
        for number in numbers:
            file.write(json.dumps({code: sentence(code, number, "films") for code in ("en", "fr")}) + "\n")
    rows = [f"{sentence('en', number, 'wolof')}\t{sentence('wo', number, 'wolof')}" for number in numbers]
    write(here / "data/en-wo.tsv", ["English\tWolof", *rows])
    for code, name in FLORES.items():
        lines = [sentence(code, number, "flores") for number in range(20)]
        write(here / f"data/flores200_dataset/devtest/{name}.devtest", lines)
    classes = {"high": ["en", "fr"], "low": ["sw", "wo"]}
    found = checked(block | {"languages": classes, "architecture": {"rank": 4}}, here)
    assert len(found.corpus.validation) == block["data"]["validation"]["holdout"]
    assert {str(direction) for direction in found.directions} == set(block["data"]["directions"])
    assert not found.zero_shot and all(rows.validation for rows in found.direction_rows.values())


def test_the_space_to_copy_runs(here: Path) -> None:
    block = yaml.safe_load(block_with("base: facebook/m2m100_418M"))
    block["architecture"]["encoder"] = {"source_layers": {"int": [0, 3]}}  # as many layers as the small base has
    languages = [language for members in block["languages"].values() for language in members]
    for part, num_rows in (("train", NUM_ROWS), ("test", 20)):
        for code in languages:
            lines = [sentence(code, number, part) for number in range(num_rows)]
            write(here / "data" / part / f"{code}.txt", lines)
    assert len(checked(block, here).corpus.validation) == block["data"]["validation"]["holdout"]
