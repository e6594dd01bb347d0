import os
import signal
import threading

import pytest

from langsearch.cluster.interrupts import gentle_interrupts


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_the_first_ctrl_c_asks_and_the_second_one_interrupts() -> None:
    asked: list[int] = []
    with pytest.raises(KeyboardInterrupt), gentle_interrupts(lambda: asked.append(1)):
        send(signal.SIGINT)
        assert asked == [1]
        send(signal.SIGINT)
    assert asked == [1]


def test_sigterm_asks_and_never_interrupts() -> None:
    asked: list[int] = []
    with gentle_interrupts(lambda: asked.append(1)):
        send(signal.SIGTERM)
        send(signal.SIGTERM)
    assert asked == [1]


def test_afterwards_signals_are_as_before() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with gentle_interrupts(lambda: None):
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_outside_of_the_main_thread_nothing_changes() -> None:
    seen: list[object] = []

    def run() -> None:
        with gentle_interrupts(lambda: None):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
