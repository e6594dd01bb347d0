"""What is shown while a large text is split into pieces."""

import io

import pytest
from rich.console import Console

from langsearch.experiment.tokenizing import tokenizing


def test_without_a_terminal_a_line_for_every_tenth_says_how_long_it_still_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = iter(range(0, 10_000, 10))
    monkeypatch.setattr("langsearch.experiment.tokenizing.time.monotonic", lambda: float(next(now)))
    console = Console(file=io.StringIO(), width=40)
    with tokenizing(console) as tell:
        for done in range(2_000, 10_001, 500):  # an earlier build had done the first 2,000
            tell(done, 10_000)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[:3] == [
        "Splitting sentences into pieces: 2,000 of 10,000",
        "Splitting sentences into pieces: 3,000 of 10,000, 2 min 20 s left",
        "Splitting sentences into pieces: 4,000 of 10,000, 2 min 0 s left",
    ]
    assert len(lines) == 9


def test_a_terminal_has_a_bar_and_a_small_text_shows_nothing() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, legacy_windows=False)
    with tokenizing(console) as tell:
        tell(5, 10)
        tell(10, 10)
    assert isinstance(console.file, io.StringIO)
    assert "10/10" in console.file.getvalue()
    for other in (None, Console(file=io.StringIO())):
        with tokenizing(other):
            pass
        assert other is None or (isinstance(other.file, io.StringIO) and other.file.getvalue() == "")
