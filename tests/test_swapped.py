"""Columns that are said to be in another language than they are: found where they are planted, and nowhere else."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml  # type: ignore[import-untyped]

from langsearch.data.embedded import PARTS, read_embedded
from langsearch.data.swapped import MIN_SENTENCES, Place, Profile, find_swapped, known_profiles, profile
from langsearch.experiment.environment import CheckedSpace, check_space
from langsearch.search.looking import look_at_data
from langsearch.search.sentence_lines import describe_sentences, find_dirt_of, sentence_lines
from langsearch.space.schema import load_space

LANGUAGES = ("en", "fr", "de", "es", "nl", "id", "sw", "cy")
ROWS = {name: [read_embedded("quickstart", part, [name]).sentences[name] for part in PARTS] for name in LANGUAGES}
TEXT = {name: [row for part in parts for row in part if row] for name, parts in ROWS.items()}
NUM_ROWS = len(TEXT["en"])


def columns(*sources: dict[str, str], size: int = 200) -> dict[Place, dict[str, Profile]]:
    """Sources of different sentences: of each column the language that it is said to be in, and the one that it is."""
    found: dict[Place, dict[str, Profile]] = {}
    for number, source in enumerate(sources):
        rows = range(number * NUM_ROWS // len(sources), (number + 1) * NUM_ROWS // len(sources))[:size]
        own = {said: profile([TEXT[meant][row] for row in rows]) for said, meant in source.items()}
        found["train", number] = {said: one for said, one in own.items() if one is not None}
    return found


def told(sources: Sequence[dict[str, str]], known: Sequence[str], size: int = 200) -> list[tuple[int, str, str]]:
    swapped = find_swapped(columns(*sources, size=size), known_profiles(known))
    return [(one.place[1], one.language, one.like) for one in swapped]


def right(*languages: str) -> dict[str, str]:
    return {language: language for language in languages}


@pytest.mark.parametrize("other", LANGUAGES[1:])
@pytest.mark.parametrize("size", [90, 200])
def test_a_planted_swap_is_found_and_what_is_right_is_not(other: str, size: int) -> None:
    swapped = {"en": other, other: "en"}
    sources = [right("en", other), swapped, right("en", "sw" if other != "sw" else "cy")]
    found = {(1, "en", other), (1, other, "en")}
    assert set(told(sources, LANGUAGES, size)) == found
    assert told([right("en", other), right("en", other), right(*LANGUAGES)], LANGUAGES, size) == []


def test_a_swap_in_every_source_of_a_pair_is_found_by_what_english_looks_like() -> None:
    swapped = {"en": "id", "id": "en"}
    assert (0, "en", "id") in told([swapped, swapped], ["en", "id"])
    # Only English is known: of the other one all there is are the swapped columns themselves.
    assert told([swapped, swapped], ["en"]) == [(0, "id", "en"), (1, "id", "en")]


def test_languages_that_nothing_is_known_of_are_told_by_the_other_sources() -> None:
    swapped, others = {"cy": "sw", "sw": "cy"}, [right("sw", "cy"), right("cy", "de"), right("sw", "de")]
    assert set(told([swapped, *others], [])) == {(0, "cy", "sw"), (0, "sw", "cy")}
    assert told(others, []) == []


def test_a_right_source_is_not_blamed_for_a_swapped_one() -> None:
    swapped, known = {"en": "cy", "cy": "en"}, ["en"]
    assert {number for number, *_ in told([right("en", "cy"), swapped], known)} == {1}


def test_one_wrong_column_is_found_and_a_rotation_of_three() -> None:
    english_twice = {"en": "en", "id": "en"}
    assert told([english_twice, right("en", "id")], LANGUAGES) == [(0, "id", "en")]
    rotated = {"en": "id", "id": "sw", "sw": "en"}
    assert set(told([rotated], LANGUAGES)) == {(0, "en", "id"), (0, "id", "sw"), (0, "sw", "en")}


def test_of_a_small_column_nothing_is_said() -> None:
    few = [*TEXT["id"][: MIN_SENTENCES - 1], None, None]
    assert profile(few) is None and profile(["Ya."] * 100) is None
    assert profile(TEXT["id"][:90]) is not None
    assert find_swapped({("train", 0): {}}, known_profiles(LANGUAGES)) == []
    assert known_profiles(["wol", "eng"]).keys() == {"eng"}


@pytest.mark.shared
def test_all_real_bitexts_that_are_swapped_are_found_and_no_text_that_is_right_is(shared_folder: Path) -> None:
    """What search_spaces/data.md says: corpora of many kinds with English, and all pairs of FLORES-101's languages."""
    known = known_profiles(["eng"])
    bitexts: list[tuple[str, dict[str, Profile]]] = []
    for file in sorted((shared_folder / "data" / "corpora").glob("eng-*.parquet")):
        table, code = pq.read_table(file), file.stem.partition("-")[2]
        texts = {name: table[name].to_pylist() for name in ("eng", code)}
        own = {name: profile(text[:: max(1, len(text) // 500)]) for name, text in texts.items()}
        bitexts.append((code, {name: one for name, one in own.items() if one is not None}))
    assert len(bitexts) == 29 and all(len(columns) == 2 for _, columns in bitexts)
    right: dict[Place, dict[str, Profile]] = {("train", index): found for index, (_, found) in enumerate(bitexts)}
    assert find_swapped(right, known) == []
    for index, (code, found) in enumerate(bitexts):
        swapped = {**right, ("train", index): {"eng": found[code], code: found["eng"]}}
        assert {one.place for one in find_swapped(swapped, known)} == {("train", index)}, code
    lines = {
        file.stem: file.read_text(encoding="utf-8").splitlines()
        for file in sorted((shared_folder / "data" / "flores101" / "dev").glob("*.txt"))
    }
    flores = {name: one for name, text in lines.items() if (one := profile(text)) is not None}
    pairs = list(combinations(flores, 2))
    assert len(pairs) == 435
    assert find_swapped({("train", i): {a: flores[a], b: flores[b]} for i, (a, b) in enumerate(pairs)}, known) == []


def write(path: Path, lines: Sequence[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def checked(tmp_path: Path, sources: list[dict[str, Any]], validation: dict[str, Any]) -> CheckedSpace:
    space = {
        "base": "tiny-m2m",
        "languages": {"high": ["en"], "low": ["id", "sw"]},
        "data": {
            "train": sources,
            "validation": validation,
            "test": {"embedded": "quickstart", "part": "test"},
            "allow_overlap": True,
        },
        "architecture": {"rank": 2},
        "evaluation": {"spbleu": "base"},
    }
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(space), encoding="utf-8")
    return check_space(load_space(tmp_path / "my.yaml"))


def test_check_says_which_source_has_them_and_what_to_change(tmp_path: Path) -> None:
    half = NUM_ROWS // 2
    table = [f"{indonesian}\t{english}" for indonesian, english in zip(TEXT["id"], TEXT["en"], strict=True)]
    bare = write(tmp_path / "bare.tsv", table[:half])
    named = write(tmp_path / "named.tsv", ["one\ttwo", *table[half:]])
    for ending, language in (("en", "sw"), ("sw", "en")):
        write(tmp_path / f"pair.{ending}", TEXT[language])
    sources: list[dict[str, Any]] = [
        {"tsv": bare, "header": ["en", "id"]},
        {"tsv": named, "columns": {"en": "one", "id": "two"}},
        {"moses": str(tmp_path / "pair")},
        {"embedded": "quickstart", "part": "train"},
    ]
    space = checked(tmp_path, sources, {"holdout": 60})
    dirt = find_dirt_of(space)
    warnings = [text for label, text in sentence_lines(space, dirt) if label == "warning" and "looks like" in text]
    assert [text.partition("write ")[2] for text in warnings] == [
        "`header: [id, en]`.",
        "`columns: {en: two, id: one}`.",
        "`columns: {en: sw, sw: en}`.",
    ]
    assert (
        "`data.train[0]`: in tsv in " in warnings[0]
        and "bare.tsv, the column of en looks like id, and that of id " in warnings[0]
    )
    lines = (tmp_path / "my.yaml").read_text(encoding="utf-8").splitlines()
    for text, name in zip(warnings, ("bare.tsv", "named.tsv", "pair"), strict=True):
        number = int(text.partition("my.yaml:")[2].partition(":")[0])
        assert name in "\n".join(lines[number - 1 : number + 6])
    assert len(describe_sentences(space, dirt)["swapped"]) == 6
    assert look_at_data(space, dirt).swapped == warnings
    sources[0]["header"] = ["id", "en"]
    sources[1]["columns"] = {"en": "two", "id": "one"}
    sources[2]["columns"] = {"en": "sw", "sw": "en"}
    assert find_dirt_of(checked(tmp_path, sources, {"holdout": 60})).swapped == ()


def test_parts_that_have_sources_of_their_own_are_looked_at_too(tmp_path: Path) -> None:
    table = [f"{indonesian}\t{english}" for indonesian, english in zip(TEXT["id"], TEXT["en"], strict=True)]
    swahili = [f"{english}\t{other}" for english, other in zip(TEXT["en"], TEXT["sw"], strict=True)]
    validation = [
        {"tsv": write(tmp_path / "dev.tsv", table), "header": ["en", "id"]},
        {"tsv": write(tmp_path / "dev2.tsv", swahili), "header": ["en", "sw"]},
        {"embedded": "quickstart", "part": "validation"},
    ]
    space = checked(tmp_path, [{"embedded": "quickstart", "part": "train"}], validation)  # type: ignore[arg-type]
    assert {one.place for one in find_dirt_of(space).swapped} == {("validation", 0)}
