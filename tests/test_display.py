"""What a search shows: a live table of 80 columns on a terminal, plain lines where there is none."""

import io
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from langsearch.search.display import Display, short_count
from langsearch.study.rows import STOP_REQUESTED, State, TrialRow

if TYPE_CHECKING:
    from tests.search_fixtures import ResultMaker, TaskMaker

pytest_plugins = ["search_fixtures"]


def console(*, is_terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=80, height=40)


def text_of(found: Console) -> str:
    assert isinstance(found.file, io.StringIO)
    return found.file.getvalue()


def shown(display: Display) -> list[str]:
    """Returns the live table as lines of a terminal without colours."""
    plain = Console(file=io.StringIO(), force_terminal=False, width=80)
    plain.print(display._render())
    return text_of(plain).splitlines()


def play(display: Display, make_task: "TaskMaker", make_result: "ResultMaker") -> None:
    """The pretrained base, a complete trial on the front, one that runs and one that failed."""
    base = make_task("pretrained", epochs=1)
    display.started(base)
    display.epoch("pretrained", make_result(epoch=0, spbleu=2.0, trainable_parameters=0, finished=True))
    display.ended("pretrained", State.COMPLETE)
    for name in ("00000", "00001", "00002"):
        display.started(make_task(name))
    display.epoch("00000", make_result(epoch=2, spbleu=2.5, trainable_parameters=525_312))
    display.ended("00000", State.COMPLETE)
    display.epoch("00001", make_result(epoch=1, spbleu=1.25, seconds=60.0, trainable_parameters=2_427_264))
    display.ended("00002", State.FAILED, "out of memory: \x1b[31mno")
    display.front(["00000"])


def test_the_live_table_fits_in_80_columns(make_task: "TaskMaker", make_result: "ResultMaker") -> None:
    display = Display(console(is_terminal=True), "a-name-that-is-quite-long", 8, 1)
    play(display, make_task, make_result)
    lines = shown(display)
    assert max(len(line) for line in lines) <= 80
    header, base, best, running, failed, status, front = lines
    assert header.split() == ["trial", "epoch", "spBLEU", "to", "base", "params", "state", "left", "architecture"]
    assert base.split()[:4] == ["pretrained", "0/1", "2.00", "0"]
    assert best.split()[:6] == ["00000*", "2/2", "2.50", "+0.50", "525k", "complete"]
    assert running.split()[:6] == ["00001", "1/2", "1.25", "-0.75", "2.43M", "running"]
    assert running.split()[6] in ("1:00", "0:59"), "an epoch took a minute, one is left"
    assert failed.split()[:3] == ["00002", "0/2", "failed"]
    assert "3/9 trials" in status
    assert front == "* front: 00000 2.50 (525k)"


def test_many_trials_leave_room_for_the_front_and_those_that_run(
    make_task: "TaskMaker", make_result: "ResultMaker"
) -> None:
    display = Display(console(is_terminal=True), "tiny", 500, 0)
    for number in range(200):
        display.started(make_task(f"{number:05d}"))
        if number != 150:
            display.epoch(f"{number:05d}", make_result(epoch=2, spbleu=number / 10))
            display.ended(f"{number:05d}", State.COMPLETE)
    display.front(["00003", "00199"])
    lines = shown(display)
    assert len(lines) < 24
    assert {"00003*", "00150", "00198", "00199*"} <= {line.split()[0] for line in lines}


def test_a_summary_shows_as_text(make_task: "TaskMaker", monkeypatch: pytest.MonkeyPatch) -> None:
    display = Display(console(is_terminal=True), "[red]title", 1, 0)
    task = make_task("00000")
    monkeypatch.setattr(type(task), "summary", property(lambda _: "[bold]rank"))
    display.started(task)
    assert "[bold]rank" in shown(display)[1]
    assert "[red]title" in shown(display)[2]


@pytest.fixture
def piped() -> Console:
    return console(is_terminal=False)


@pytest.fixture
def played(piped: Console, make_task: "TaskMaker", make_result: "ResultMaker") -> Display:
    """A display in lines, behind what `play` does."""
    display = Display(piped, "tiny", 3, 1)
    with display.showing():
        play(display, make_task, make_result)
    return display


def test_scores_of_a_cheap_rung_have_no_difference_to_the_base(
    piped: Console, played: Display, make_result: "ResultMaker"
) -> None:
    played.epoch("00001", make_result(epoch=1, spbleu=1.25, num_sentences=1))
    played.epoch("00001", make_result(epoch=2, spbleu=1.5))
    *_, rung, whole = (line for line in text_of(piped).splitlines() if line.startswith("00001  "))
    assert "spBLEU  1.25 " in rung and "(" not in rung
    assert "spBLEU  1.50 (-0.50)" in whole


@pytest.mark.usefixtures("played")
def test_without_a_terminal_there_are_lines_and_no_control_characters(piped: Console) -> None:
    lines = text_of(piped).splitlines()
    assert any("00001" in line and "spBLEU  1.25 (-0.75)" in line for line in lines)
    assert any("out of memory" in line for line in lines)
    assert not [sign for sign in text_of(piped) if ord(sign) < 32 and sign != "\n"]


def test_a_terminal_gets_the_live_table(make_task: "TaskMaker", make_result: "ResultMaker") -> None:
    terminal = console(is_terminal=True)
    display = Display(terminal, "tiny", 3, 1)
    with display.showing():
        play(display, make_task, make_result)
    assert "* front: 00000 2.50 (525k)" in text_of(terminal)


def test_only_planned_trials_count_as_ended_after_a_resume(make_task: "TaskMaker", make_result: "ResultMaker") -> None:
    def row(name: str, state: State, **values: Any) -> TrialRow:
        return TrialRow(name=name, kind="searched", state=state, params={}, fingerprint=None, **values)

    rows = [
        row("00000", State.COMPLETE, result=make_result()),
        row("00001", State.COMPLETE, result=make_result(), same_as="00000"),
        row("00002", State.PRUNED, cause="violates trainable_parameters <= 9"),
        row("00003", State.FAILED, cause="worker lost", retried_as="00004"),
        row("00004", State.FAILED, cause="worker lost"),
        row("00005", State.PRUNED, cause=STOP_REQUESTED),
    ]
    display = Display(console(is_terminal=True), "tiny", 4, 0)
    display.known(rows, {row.name: make_task(row.name) for row in rows})
    assert "3/4 trials" in shown(display)[-2]
    assert display.num_started == 0
    display.started(make_task("00006"), retry_of="00004")
    assert "2/4 trials" in shown(display)[-2]
    display.ended("00006", State.FAILED)
    assert "3/4 trials" in shown(display)[-2]
    assert display.num_started == 1


def test_a_score_that_is_not_of_the_last_epoch_says_so(make_task: "TaskMaker", make_result: "ResultMaker") -> None:
    piped = console(is_terminal=False)
    display = Display(piped, "tiny", 1, 0)
    display.started(make_task("00000"))
    display.epoch("00000", make_result(epoch=1, spbleu=3.99))
    display.epoch("00000", make_result(epoch=2, spbleu=3.99, kept_epoch=1))
    first, second = text_of(piped).splitlines()[1:]
    assert "spBLEU  3.99 · loss 5.000" in first
    assert "epoch  2/2   spBLEU  3.99 kept from epoch 1 · loss 5.000" in second
    display.epoch("00000", make_result(epoch=2, spbleu=3.99, kept_epoch=1, epoch_spbleu=3.5))
    assert "spBLEU  3.99 kept from epoch 1, this one 3.50 · loss" in text_of(piped).splitlines()[-1]


def test_quiet_shows_nothing(make_task: "TaskMaker", make_result: "ResultMaker") -> None:
    for is_terminal in (True, False):
        found = console(is_terminal=is_terminal)
        display = Display(found, "tiny", 3, 1, is_quiet=True)
        with display.showing():
            play(display, make_task, make_result)
            display.message("a sentence")
        assert text_of(found) == ""


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (8448, "8.45k"), (525_312, "525k"), (999_950, "1.00M"), (2_427_264, "2.43M")],
)
def test_counts_have_three_digits(count: int, text: str) -> None:
    assert short_count(count) == text


def test_of_what_is_not_trained_no_epoch_is_said(make_task: "TaskMaker", make_result: "ResultMaker") -> None:
    piped = console(is_terminal=False)
    display = Display(piped, "name", 1, 1)
    for name, epochs in (("pretrained", 0), ("00000", 2)):
        display.started(make_task(name, epochs=epochs))
        display.epoch(name, make_result(epoch=epochs, spbleu=2.0))
    base, trial = (line for line in text_of(piped).splitlines() if "spBLEU" in line)
    assert base.startswith("pretrained      scored       spBLEU  2.00")
    assert trial.startswith("00000           epoch  2/2   spBLEU  2.00")
