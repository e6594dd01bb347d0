"""The commands that train, score, use and export adapters, and the report's."""

import io
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli_fixtures import Command

pytest_plugins = ["cli_fixtures", "search_fixtures"]


def test_evaluate_prints_the_score_with_its_signature(trained: Path, langsearch: "Command") -> None:
    ended = langsearch("evaluate", trained, "--split", "devtest", "--trial", "0")
    assert (ended.code, ended.err) == (0, "")
    assert "\ntiny, trial 00000, test set, greedy\n" in ended.out
    assert ended.out.splitlines()[-1].startswith("nrefs:1|")


def test_export_then_translate_reads_lines_and_writes_lines(
    trained: Path, tmp_path: Path, langsearch: "Command", monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = langsearch("export", trained, "--to", "out")
    # Whether they beat the base, which is told before, is not the same on every machine.
    assert ended.code == 0 and ended.out.endswith("Wrote 6 adapters and a card to out\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"The house is small.\n\nWater")))
    ended = langsearch("translate", "out", "--from", "en", "--to", "fr", "--beams", "1")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.count("\n") == 3
    assert [bool(line) for line in ended.out.splitlines()] == [True, False, True]


def test_adapters_are_merged_and_compacted(adapters: Path, langsearch: "Command") -> None:
    ended = langsearch("export", adapters, "--to", "merged", "--format", "merged", "--direction", "en-fr")
    assert (ended.code, ended.out) == (0, "Wrote a model for en-fr and a card to merged\n")
    ended = langsearch("export", adapters, "--to", "small", "--energy", "0.9")
    assert ended.code == 0
    assert re.fullmatch(
        r"Compacted: [\d,]+ -> [\d,]+ stored parameters, ranks [\d,]+ -> [\d,]+ in all; relative error of the products "
        r"[\d.]+%, at most [\d.]+% of one\.\nWrote 6 adapters and a card to small\n",
        ended.out,
    )


def test_translate_refuses_broken_utf8_with_its_line(
    adapters: Path, langsearch: "Command", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Water\ncaf\xe9\n")))
    ended = langsearch("translate", adapters, "--from", "en", "--to", "fr")
    message = "error: Input must be UTF-8, but line 2 is not (invalid continuation byte).\n"
    assert (ended.code, ended.err) == (2, message)


def test_train_writes_adapters_that_evaluate_takes(space_file: Path, langsearch: "Command") -> None:
    fixed = ["architecture.rank=2", "trainer.lr=0.01", "trainer.epochs=1"]
    ended = langsearch("train", space_file, "--to", "out/first", *(part for item in fixed for part in ("--set", item)))
    assert (ended.code, ended.err) == (0, "")
    assert re.search(r"^epoch 1/1  spBLEU [\d.]+ \(", ended.out, flags=re.MULTILINE)
    ended = langsearch("evaluate", "out/first/adapters", "--space", space_file, "--split", "validation")
    assert (ended.code, ended.err) == (0, "")


def test_report_writes_the_page_and_shows_the_front(trained: Path, langsearch: "Command") -> None:
    ended = langsearch("report", trained)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-1] == f"Report: {trained / 'report.html'}"
    assert "00000" in ended.out
