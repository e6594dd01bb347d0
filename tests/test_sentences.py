"""Columns that take little memory hold the very sentences that they were given."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from langsearch.data import sentences as sentences_module
from langsearch.data.lines import read_column, read_lines
from langsearch.data.parallel import ParallelText, concatenate
from langsearch.data.sentences import Sentences
from langsearch.space.problems import InputError

ROWS: tuple[str | None, ...] = ("one", None, "", "четыре", "五\u2028五", "Cafe\u0301", None, "eight")


@pytest.fixture(params=["in memory", "on the disk"])
def column(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Sentences:
    monkeypatch.setattr(sentences_module, "_ROWS_PER_BLOCK", 3)
    if request.param == "on the disk":
        monkeypatch.setattr(sentences_module, "MAX_BYTES_IN_MEMORY", 4)
    return Sentences.of(iter(ROWS))


def test_sentences_come_back_in_every_way(column: Sentences) -> None:
    assert len(column) == 8 and column == ROWS and ROWS == column  # noqa: SIM300
    assert tuple(column) == column[:] == ROWS
    assert [column[row] for row in range(-8, 8)] == [ROWS[row] for row in range(-8, 8)]
    for start, stop, step in ((2, 7, 1), (0, 8, 3), (7, 0, -2), (5, 5, 1), (-3, 99, 1), (6, 2, 1)):
        assert column[start:stop:step] == ROWS[start:stop:step]
    with pytest.raises(IndexError, match="out of range"):
        column[8]
    assert column != ROWS[:7] and column != (*ROWS[:7], "nine")


def test_views_of_views_are_what_tuples_would_be(column: Sentences) -> None:
    def check(view: Sentences, expected: Sequence[str | None], depth: int) -> None:
        assert view == tuple(expected)
        if not depth or not expected:
            return
        rng = random.Random(depth + len(expected))
        rows = [rng.randrange(len(expected)) for _ in range(5)]
        check(view.select(rows), [expected[row] for row in rows], depth - 1)
        part = range(1, len(expected), 2)
        check(view.select(part), [expected[row] for row in part], depth - 1)
        out = sorted(set(rows[:2]))
        left = [None if row in out else sentence for row, sentence in enumerate(expected)]
        check(view.without(np.array(out)), left, depth - 1)

    check(column, ROWS, 4)


def test_a_unicode_form_is_given_when_a_sentence_is_read(column: Sentences) -> None:
    assert column.normalized("NFC")[5] == "Café" and column[5] == "Cafe\u0301"
    assert column.normalized("NFC").select([5, 0]) == ("Café", "one")


def test_columns_below_each_other_and_rows_that_are_not_there() -> None:
    joined = Sentences.joined([Sentences.of(["a", "b"]), Sentences.absent(3), Sentences.of([]), Sentences.of(["c"])])
    assert joined == ("a", "b", None, None, None, "c")
    assert joined[1:5] == ("b", None, None, None) and joined[5] == "c"
    text = concatenate([ParallelText(("en",), {"en": ("x",)}, "1"), ParallelText(("fr",), {"fr": ("y",)}, "2")])
    assert text == ParallelText(("en", "fr"), {"en": ("x", None), "fr": (None, "y")}, "1 + 2")
    assert text.select(range(1, 2)) == ParallelText(("en", "fr"), {"en": (None,), "fr": ("y",)}, "1 + 2")


@pytest.mark.parametrize(
    "data",
    [
        b"a\nb\n",
        b"a\nb",
        b"a\r\n\r\nb\r\n",
        b"\xef\xbb\xbfa\nb\n",
        b"\n",
        b"\xd0\x91\xe2\x80\xa8x\n\ny\r",
        b"x" * 40 + b"\n",
    ],
)
def test_a_mapped_file_has_the_lines_of_one_that_is_read(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentences_module, "_BYTES_PER_BLOCK", 3)
    path = tmp_path / "x.txt"
    path.write_bytes(data)
    assert read_column(path) == read_lines(path)


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"", "is empty"), (b"a\nb\xff\n", r"x.txt:2: text must be UTF-8, but got 0xff at byte 2"), (None, "readable")],
)
def test_a_file_that_cannot_be_mapped_is_told_as_one_that_cannot_be_read(
    data: bytes | None, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError, match=expected):
        read_column(path)
