"""Items made ahead in a thread."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Made(Generic[T]):
    item: T


@dataclass(frozen=True)
class _Ended:
    error: BaseException | None


def made_ahead(items: Callable[[], Iterable[T]], num_ahead: int) -> Iterator[T]:
    """Yields items that a thread makes, up to so many before they are asked for.

    The thread begins with the first item that is asked for, and has ended when this ends or is closed, also in the
    middle. What making an item raises is raised here, behind the items that were made before it.

    Args:
        items: Gives what is gone through; called and gone through in the thread.
        num_ahead: At least 1.
    """
    made: queue.Queue[_Made[T] | _Ended] = queue.Queue(num_ahead)
    is_over = threading.Event()

    def make() -> None:
        error = None
        try:
            for item in items():
                made.put(_Made(item))
                if is_over.is_set():
                    return
        except BaseException as raised:
            error = raised
        made.put(_Ended(error))

    thread = threading.Thread(target=make, name="batches ahead", daemon=True)
    thread.start()
    try:
        while isinstance(found := made.get(), _Made):
            yield found.item
        if found.error is not None:
            raise found.error
    finally:
        is_over.set()
        # One that waits for room gets it, and then sees that nothing more is wanted.
        while thread.is_alive():
            try:
                made.get_nowait()
            except queue.Empty:
                thread.join(0.01)
