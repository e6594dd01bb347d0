"""What the command line says, said to somebody who writes Python: options as the arguments of its functions."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from langsearch.space.problems import InputError

_FLAGS = ("resume", "resume-if-begun", "accept-changed-space", "compact", "quiet")
_FOREIGN = re.compile(r"(`(?!langsearch )\w[^`]* [^`]*`)")
"""A quoted command of another program, whose options are its own."""

_SET = re.compile(r"--set ([\w.]+|KEY)=([^\s,]+)")
_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)(?: ([A-Z][A-Z:|-]*\b|\d+|failed\b))?")


def in_python(sentence: str) -> str:
    """Returns a sentence of the command line with arguments in place of its options: `--resume` is `resume=True`."""
    sentence = sentence.replace("the same command", "the same call")
    parts = _FOREIGN.split(sentence)
    parts[::2] = [_OPTION.sub(_argument, _SET.sub(r'overrides={"\1": \2}', part)) for part in parts[::2]]
    return "".join(parts)


def _argument(found: re.Match[str]) -> str:
    option, value = found.groups()
    name = option.replace("-", "_")
    if option in _FLAGS:
        return f"{name}=True" + (f" {value}" if value else "")
    if value is None:
        return f"`{name}`"
    return f'{name}="{value}"' if value == "failed" else f"{name}={value}"


@contextmanager
def speaking_python() -> Iterator[None]:
    """Has problems of the input that are found in the context name arguments in place of options."""
    try:
        yield
    except InputError as error:
        raise InputError(map(in_python, error.problems)) from error
