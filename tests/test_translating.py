import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from langsearch.adapters.export_folder import FORMAT_FILE
from langsearch.evaluate.decoding import decode_rows
from langsearch.model.finding import EMBEDDED_FOLDER
from langsearch.space.problems import InputError
from langsearch.trial import translating
from langsearch.trial.translating import CutLines, translate_lines

pytest_plugins = ["search_fixtures"]

LINES = [b"The house is small.\n", b"\n", b"Where is the water?\r\n", b"   \n", b"No newline"]


def translate(adapters: Path, *lines: bytes, src: str = "en", tgt: str = "fr", beams: int = 1) -> list[str]:
    return list(translate_lines(adapters, lines, src, tgt, beams))


def test_every_line_gives_a_line_and_an_empty_one_an_empty_one(adapters: Path) -> None:
    translations = translate(adapters, *LINES)
    assert [bool(line) for line in translations] == [True, False, True, False, True]
    assert not any("\n" in line or "__" in line for line in translations)
    assert translate(adapters) == []


def test_a_line_translates_alike_alone_and_among_others(adapters: Path) -> None:
    assert translate(adapters, LINES[0]) == translate(adapters, *LINES)[:1]
    many = LINES[:3] * 30  # more than are translated at once
    assert translate(adapters, *many) == translate(adapters, *LINES[:3]) * 30


def test_any_code_that_means_a_language_serves(adapters: Path) -> None:
    assert translate(adapters, LINES[0], src="eng", tgt="fra_Latn") == translate(adapters, LINES[0])


def test_beams_are_heard(adapters: Path) -> None:
    assert len(translate(adapters, *LINES, beams=3)) == len(LINES)


def test_lines_are_read_as_they_are_needed(adapters: Path) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield LINES[0]

    assert next(translate_lines(adapters, endless(), "en", "fr", 1))


def test_both_unknown_languages_are_told_with_near_ones(adapters: Path) -> None:
    with pytest.raises(InputError, match="enn") as caught:
        translate(adapters, *LINES, src="enn", tgt="swh_Arab")
    assert len(caught.value.problems) == 2
    assert all("en, fr, sw" in problem or "Did you mean" in problem for problem in caught.value.problems)


def test_broken_utf8_is_refused_with_its_line(adapters: Path) -> None:
    with pytest.raises(InputError, match=r"^Input must be UTF-8, but line 3 is not \(invalid start byte\)\.$"):
        translate(adapters, LINES[0], LINES[1], b"caf\xff\n")


def test_a_folder_that_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^Adapters must be a folder that `langsearch export` wrote, but "):
        translate(tmp_path)


def test_another_place_of_the_base_may_be_given(adapters: Path, tmp_path: Path) -> None:
    shutil.copytree(EMBEDDED_FOLDER / "tiny-m2m", tmp_path / "base")
    moved = list(translate_lines(adapters, LINES, "en", "fr", 1, str(tmp_path / "base")))
    assert moved == translate(adapters, *LINES)
    with pytest.raises(
        InputError, match=r"^A base must be an embedded name \(tiny-m2m, tiny-m2m-2\), a folder or a hub id"
    ):
        next(translate_lines(adapters, LINES, "en", "fr", 1, "no-such-base"))


def test_a_line_longer_than_the_bases_positions_is_an_error_or_cut_where_it_is_asked_for(adapters: Path) -> None:
    lines = [LINES[0], b"the water is here " * 100]
    with pytest.raises(InputError, match=r"at most 254 tokens, .* but longer are lines 2\. .* --max-length 256\.$"):
        translate(adapters, *lines)
    cut = CutLines()
    found = list(translate_lines(adapters, lines, "en", "fr", beams=1, max_length=12, cut=cut))
    assert cut.sources == [2] and all(found)
    assert cut.words.startswith("Cut before they were translated: 1 (lines 2).")
    assert found[0] == translate(adapters, LINES[0])[0]
    with pytest.raises(InputError, match=r"^--max-length must be from 3 to the base's 256 positions, but got 257\.$"):
        list(translate_lines(adapters, lines, "en", "fr", max_length=257))


def test_where_memory_runs_out_it_is_decoded_with_less_at_once(
    adapters: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole, tries = decode_rows, list[int]()

    def short(*values: Any, num_parts: int, **options: Any) -> Any:
        tries.append(num_parts)
        if num_parts < 4:
            raise torch.OutOfMemoryError("no")
        return whole(*values, num_parts=num_parts, **options)

    lines = [b"Good morning.\n", b"Thank you.\n"]
    expected = list(translate_lines(adapters, lines, "en", "fr", 1))
    monkeypatch.setattr(translating, "decode_rows", short)
    assert list(translate_lines(adapters, lines, "en", "fr", 1)) == expected
    assert tries == [1, 2, 4]
    assert "Memory ran out: once more with 1/4 of a batch at once." in caplog.text


def test_a_direction_that_was_not_trained_and_one_without_adapters_are_told(adapters: Path, tmp_path: Path) -> None:
    def note(folder: Path, src: str = "en", tgt: str = "fr") -> str:
        cut = CutLines()
        assert list(translate_lines(folder, [LINES[0]], src, tgt, 1, cut=cut))
        return cut.words

    assert note(adapters) == ""
    folder = Path(shutil.copytree(adapters, tmp_path / "adapters"))
    about = json.loads((folder / FORMAT_FILE).read_text())
    assert "en-fr" in about["directions"]
    (folder / FORMAT_FILE).write_text(json.dumps({**about, "directions": ["en-sw", "sw-en"]}))
    assert note(folder) == "The adapters were not trained on en-fr: what they say of it is zero-shot."
    del about["directions"]  # as earlier versions wrote it
    for group in about["architecture"]["adapters"]:
        group["ranks"] = {"sw": group["ranks"]["sw"]}
    (folder / FORMAT_FILE).write_text(json.dumps(about))
    assert note(folder) == "No adapter is for en-fr: the base alone translates."
    assert note(folder, "en", "sw") == ""
