"""Where the command line prints: what was asked for goes to `out`, what went wrong to `err`."""

import sys

from rich.console import Console

out, err = Console(highlight=False), Console(stderr=True, highlight=False)


def print_text(text: str) -> None:
    """Prints a text as it is, in lines as long as it takes."""
    out.print(text, markup=False, soft_wrap=True)


def write(text: str) -> None:
    """Writes what comes piece by piece, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()
