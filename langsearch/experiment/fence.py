"""What stands before every write: a run that has lost its experiment to another one writes nothing more.

The checks of this process are kept here, by the folder that they guard, so that whatever writes a file can ask without
being handed the lease: a driver asks its lease, a worker whether the lease of its driver is still there.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_checks: dict[Path, Callable[[], None]] = {}


@contextmanager
def fenced(folder: Path, check: Callable[[], None]) -> Iterator[None]:
    """Inside the context `check_fence` asks for all that lies in a folder.

    Args:
        folder: The experiment's, on this machine.
        check: Raises LeaseLostError once another run holds the experiment, or may.
    """
    set_fence(folder, check)
    try:
        yield
    finally:
        _checks.pop(folder.absolute(), None)


def set_fence(folder: Path, check: Callable[[], None]) -> None:
    """Does so for as long as the process lives, or until the folder gets another check."""
    _checks[folder.absolute()] = check


def check_fence(path: Path) -> None:
    """Called right before something is written: returns if this process may still write there.

    Raises:
        LeaseLostError: If the path lies in an experiment that another run has taken over, or may have.
    """
    if not _checks:
        return
    path = path.absolute()
    for folder, check in list(_checks.items()):
        if path == folder or folder in path.parents:
            check()
