"""Lines of a text file, and the checks that every sentence must pass, whatever it was read from."""

from collections.abc import Iterable
from pathlib import Path

from langsearch.space.problems import InputError

MAX_CHARACTERS = 20_000
"""A longer line is no sentence but a broken file."""

MAX_SHOWN = 5
"""Problems of one file are listed up to this many, then counted."""

_BOM = b"\xef\xbb\xbf"


def read_lines(path: Path) -> list[str]:
    r"""Returns the lines of a UTF-8 file, without line ends and byte order mark; Unicode is left as it is.

    Only "\n" and "\r\n" end a line: `str.splitlines` would also split at U+2028 and others, which sentences hold.

    Raises:
        InputError: If the file cannot be read, is empty, or has lines that are not UTF-8.
    """
    try:
        data = path.read_bytes().removeprefix(_BOM)
    except OSError as e:
        raise InputError(f"{path}: the file must be readable, but got: {e.strerror}") from e
    if not data:
        raise InputError(f"{path}: the file must hold one sentence a line, but is empty")
    raw_lines = data.removesuffix(b"\n").split(b"\n")
    lines = []
    problems = []
    for number, raw in enumerate(raw_lines, start=1):
        try:
            lines.append(raw.removesuffix(b"\r").decode("utf-8"))
        except UnicodeDecodeError as e:
            byte = f"0x{raw[e.start]:02x} at byte {e.start + 1} of the line"
            problems.append(f"{path}:{number}: text must be UTF-8, but got {byte}. Save the file as UTF-8")
    if problems:
        raise InputError(shorten(problems))
    return lines


def sentence_problems(sentences: Iterable[str | None], before: str, *, after: str = "", first: int = 0) -> list[str]:
    """Returns what is wrong with the sentences: empty ones, huge ones, line breaks inside. None is skipped.

    Args:
        sentences: The rows.
        before: What stands before the row's number in a problem: the file.
        after: What stands after it.
        first: The number of the first row.
    """
    problems = []
    for number, sentence in enumerate(sentences, start=first):
        if sentence is None:
            continue
        if not sentence or sentence.isspace():
            problems.append(f"{before}{number}{after}: a sentence must not be empty. Remove the row from all languages")
        elif len(sentence) > MAX_CHARACTERS:
            rule = f"a sentence must have at most {MAX_CHARACTERS:,} characters"
            problems.append(f"{before}{number}{after}: {rule}, but has {len(sentence):,}. Is a line break missing?")
        elif "\n" in sentence:
            problems.append(f"{before}{number}{after}: a sentence must be one line, but holds a line break")
    return shorten(problems)


def shorten(problems: list[str]) -> list[str]:
    """Returns the first problems of one file; the last of them says how many more there are."""
    more = len(problems) - MAX_SHOWN
    if more <= 0:
        return problems
    return [*problems[: MAX_SHOWN - 1], f"{problems[MAX_SHOWN - 1]} (and {more:,} more like this)"]
