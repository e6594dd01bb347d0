"""The errors that the command line says in a sentence: wrong input, and an experiment that another run has now."""

from __future__ import annotations  # `help` shows annotations as they are written here

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """Input that a person can put right. The command line prints it and exits with code 2.

    Args:
        problems: One sentence a problem: the rule, then the value, then the way out.
    """

    __module__ = "langsearch"  # where users have it from; a traceback names it so

    def __init__(self, problems: Iterable[str] | str) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        assert self.problems, "an InputError without a problem"
        super().__init__("\n".join(self.problems))


class SearchStoppedError(Exception):
    """A search that has ended before it was done. What is finished stays, and resume=True goes on.

    The command line says it in a sentence, and exits with code 1.
    """

    __module__ = "langsearch"


class LeaseLostError(Exception):
    """Another run has taken over the experiment, or may have: this one must write nothing more, and ends.

    It is no OSError, so that nothing that goes on without a file goes on without this.
    """

    __module__ = "langsearch"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Has an error of the system inside the context say which file it is about, as one of a write does not."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def near_names(name: str, valid: Iterable[str], limit: int = 3) -> str:
    """Returns " Did you mean a, b?" for the valid names that look like `name`, or the whole short list.

    Args:
        name: What was written.
        valid: The names that would have been right.
        limit: The most names to suggest.
    """
    names = list(valid)
    return did_you_mean(name, names, limit) or (f" Valid: {', '.join(names)}." if len(names) <= 20 else "")


def did_you_mean(name: str, valid: Iterable[str], limit: int = 3) -> str:
    """Returns " Did you mean a, b?" for the valid names that look like `name`, "" if none does; see `near_names`."""
    close = difflib.get_close_matches(name, list(valid), n=limit, cutoff=0.5)
    if len(name) == 2:  # any two codes that share a letter are alike by half: sv may mean sw, but de does not mean en
        close = [other for other in close if len(other) != 2 or other[0] == name[0]]
    return f" Did you mean {', '.join(close)}?" if close else ""
