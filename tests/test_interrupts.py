import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from langsearch.cli.interrupted import interrupt_at_sigterm
from langsearch.cluster.interrupts import gentle_interrupts, keeping_sigterm


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_the_first_ctrl_c_asks_and_the_second_one_interrupts() -> None:
    asked: list[int] = []
    with pytest.raises(KeyboardInterrupt), gentle_interrupts(asked.append):
        send(signal.SIGINT)
        assert asked == [signal.SIGINT]
        send(signal.SIGINT)
    assert asked == [signal.SIGINT]


def test_sigterm_asks_and_never_interrupts() -> None:
    asked: list[int] = []
    with gentle_interrupts(asked.append):
        send(signal.SIGTERM)
        send(signal.SIGTERM)
    assert asked == [signal.SIGTERM]


def test_afterwards_signals_are_as_before() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with gentle_interrupts():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_outside_of_the_main_thread_nothing_changes() -> None:
    seen: list[object] = []

    def run() -> None:
        with gentle_interrupts():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


@pytest.fixture
def raising() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    interrupt_at_sigterm()
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("raising")
def test_the_first_sigterm_interrupts_a_command_and_later_ones_let_it_put_things_in_order() -> None:
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGTERM)
    send(signal.SIGTERM)


@pytest.mark.usefixtures("raising")
def test_where_ray_sets_a_handler_of_its_own_sigterm_interrupts_then_and_later() -> None:
    with pytest.raises(KeyboardInterrupt), keeping_sigterm():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        send(signal.SIGTERM)
    with pytest.raises(SystemExit), keeping_sigterm():
        sys.exit(1)
    interrupt_at_sigterm()
    with keeping_sigterm():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGTERM)


def test_where_nothing_handles_sigterm_what_ray_sets_stays() -> None:
    before, others = signal.getsignal(signal.SIGTERM), signal.SIG_IGN
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with keeping_sigterm():
            signal.signal(signal.SIGTERM, others)
        assert signal.getsignal(signal.SIGTERM) is others
    finally:
        signal.signal(signal.SIGTERM, before)
