"""Text from files for a terminal and for scripts: nothing in it moves the cursor or changes colours."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""C0 and C1 controls, line separators, and what turns the direction of the text around it."""

_CONTROL_IN_JSON = re.compile(r"[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Those that JSON does not escape by itself."""


def printable(text: str) -> str:
    """Returns a text on one line: white space as spaces, other control characters as U+FFFD."""
    return _CONTROL.sub(lambda found: " " if found[0].isspace() else "\ufffd", text)


def printable_lines(text: str) -> str:
    """Returns a text with its lines kept, otherwise as `printable`."""
    return "\n".join(printable(line) for line in text.splitlines())


class Unpadded:
    """Prints a table without blanks at the ends of its lines, which would be in the way where it is copied.

    Args:
        table: What is printed.
    """

    def __init__(self, table: RenderableType) -> None:
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for line in console.render_lines(self._table, options, pad=False):
            while line and not line[-1].text.strip():
                line.pop()
            if line:
                yield from line[:-1]
                yield Segment(line[-1].text.rstrip(), line[-1].style)
            yield Segment.line()


def json_text(value: Any) -> str:
    """Returns a value as JSON; numbers that JSON does not have, such as NaN, are null."""
    text = json.dumps(_finite(value), ensure_ascii=False, indent=2, allow_nan=False)
    return _CONTROL_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list | tuple) else value
