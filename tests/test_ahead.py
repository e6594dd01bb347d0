import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from langsearch.train.ahead import made_ahead


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batches ahead"]


def test_items_come_in_their_order_and_from_another_thread() -> None:
    made_in: set[threading.Thread] = set()

    def items() -> Iterator[int]:
        for number in range(50):
            made_in.add(threading.current_thread())
            yield number

    assert list(made_ahead(items, 3)) == list(range(50))
    assert threading.current_thread() not in made_in and len(made_in) == 1
    assert not threads()


def test_no_more_are_made_than_there_is_room_for() -> None:
    made: list[int] = []
    is_made = threading.Semaphore(0)

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            is_made.release()
            yield number

    with closing(made_ahead(items, 2)) as found:  # type: ignore[type-var]
        assert next(found) == 0
        # One that was taken, two that wait, and one in the thread's hands.
        for _ in range(4):
            assert is_made.acquire(timeout=10)
        assert not is_made.acquire(timeout=0.05)
        assert made == [0, 1, 2, 3]


@pytest.mark.parametrize("num_taken", [0, 1, 5])
def test_the_thread_ends_when_it_is_closed_in_the_middle(num_taken: int) -> None:
    closed: list[bool] = []

    def items() -> Iterator[int]:
        try:
            yield from range(1_000_000)
        finally:
            closed.append(True)

    found: Any = made_ahead(items, 2)
    for _ in range(num_taken):
        next(found)
    found.close()
    assert not threads()
    assert closed == [True] * (num_taken > 0), "with none asked for the thread never began"


@pytest.mark.parametrize("num_before", [0, 1, 7])
@pytest.mark.parametrize("error", [ValueError("torn"), MemoryError(), KeyboardInterrupt()])
def test_an_error_is_raised_behind_what_was_made_before_it(num_before: int, error: BaseException) -> None:
    def items() -> Iterator[int]:
        yield from range(num_before)
        raise error

    found = made_ahead(items, 2)
    assert [next(found) for _ in range(num_before)] == list(range(num_before))
    with pytest.raises(type(error)) as raised:
        next(found)
    assert raised.value is error
    assert not threads()


def test_an_error_in_beginning_is_raised_too() -> None:
    def items() -> Iterator[int]:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        next(made_ahead(items, 1))
