from dataclasses import dataclass
from typing import Any

import pytest

from langsearch.space.problems import InputError
from langsearch.study.retrying import choose_failed
from langsearch.study.rows import State


@dataclass(frozen=True)
class Row:
    """As much of a table's row as retrying looks at."""

    name: str
    state: State
    cause: str | None = None
    retried_as: str | None = None
    kind: str = "searched"


ROWS: list[Any] = [
    Row("pretrained", State.COMPLETE, kind="baseline"),
    Row("full_finetuning", State.FAILED, "out of memory: CUDA", kind="baseline"),
    Row("00000", State.COMPLETE),
    Row("00001", State.FAILED, "out of memory: 3 GiB"),
    Row("00002", State.FAILED, "non-finite loss: in update 7"),
    Row("00003", State.FAILED, "out of memory: 4 GiB", retried_as="00007"),
    Row("00004", State.PRUNED),
    Row("00005", State.RUNNING),
    Row("00006", State.FAILED, "ValueError: out of range"),
    Row("00007", State.COMPLETE),
]


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("failed", ["00001", "00002", "00006"]),
        ("Failed", ["00001", "00002", "00006"]),
        ("1", ["00001"]),
        ("6, 2,00002", ["00002", "00006"]),
        ("out of memory", ["00001"]),
        ("out of", ["00001"]),
        ("OUT OF MEMORY: 3", ["00001"]),
        ("non-finite", ["00002"]),
        ("ValueError", ["00006"]),
    ],
)
def test_failed_trials_are_chosen_by_all_numbers_or_cause(what: str, names: list[str]) -> None:
    assert choose_failed(ROWS, what) == names


@pytest.mark.parametrize("what", ["stalled", "", ",", "memory", "12x"])
def test_what_matches_no_failed_trial_is_told_with_those_there_are(what: str) -> None:
    with pytest.raises(InputError, match="must be failed, numbers such as 12,17, or how a cause begins") as caught:
        choose_failed(ROWS, what)
    assert caught.value.problems == (
        f"--retry must be failed, numbers such as 12,17, or how a cause begins, but got {what!r}, "
        "which no failed trial matches.",
        "  ValueError: 00006",
        "  non-finite loss: 00002",
        "  out of memory: 00001, 00003 (retried as 00007)",
    )


def test_numbers_of_other_trials_are_told_all_at_once() -> None:
    with pytest.raises(InputError, match="must name failed trials") as caught:
        choose_failed(ROWS, "0,1,3,4,5,99")
    rule = "--retry must name failed trials, but got"
    assert caught.value.problems == (
        f"{rule} 00000: it is complete.",
        f"{rule} 00003: it was retried already, as 00007.",
        f"{rule} 00004: it is pruned.",
        f"{rule} 00005: it is running.",
        f"{rule} 00099: there is none of that number.",
        "  ValueError: 00006",
        "  non-finite loss: 00002",
        "  out of memory: 00001",
    )


def test_nothing_is_retried_where_nothing_failed() -> None:
    with pytest.raises(InputError, match=r"No searched trial has failed\.$"):
        choose_failed([row for row in ROWS if row.state is not State.FAILED], "failed")
