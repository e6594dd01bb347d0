"""Lines of a text file, and the checks that every sentence must pass, whatever it was read from."""

import codecs
import mmap
import shutil
import tempfile
import zlib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pyarrow as pa

from langsearch.data.compressed import open_bytes, read_bytes
from langsearch.data.keys import is_blank
from langsearch.data.sentences import Sentences
from langsearch.space.problems import InputError

MAX_CHARACTERS = 20_000
"""A longer line is no sentence but a broken file."""

MAX_SHOWN = 5
"""Problems of one file are listed up to this many, then counted."""

_BYTES_AT_ONCE = 1 << 20

_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


def read_lines(path: Path) -> list[str]:
    r"""Returns the lines of a text file, without line ends and byte order mark; Unicode is left as it is.

    The text is UTF-8, or UTF-16 with a byte order mark, as Excel saves "Unicode text"; plain, `.gz` or `.zst`. Only
    "\n" and "\r\n" end a line: `str.splitlines` would also split at U+2028 and others, which sentences hold.

    Raises:
        InputError: If the file cannot be read, is empty, or is in another encoding or has other line ends.
    """
    data = _as_utf8(path, read_bytes(path))
    if not data:
        raise InputError(f"{path}: the file must hold one sentence a line, but is empty")
    if b"\r" in data and b"\n" not in data:
        raise InputError(
            f"{path}: lines must end in a line feed (Unix) or CR LF (Windows), but end in CR, as on old Macs. "
            "Save the file with other line ends"
        )
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


def forms(paths: Iterable[Path]) -> tuple[str, ...]:
    """Returns how files lie that are not plain UTF-8: compressed, UTF-16. One that cannot be read is left to others."""
    found: dict[str, None] = {}
    for path in paths:
        try:
            with path.open("rb") as file, open_bytes(path) as stream:
                is_compressed = file.read(3) != (first := stream.read(3))
        except (InputError, OSError, EOFError):
            continue
        if is_compressed:
            found["compressed"] = None
        if first[:2] in _UTF16:
            found["UTF-16"] = None
    return tuple(found)


def _as_utf8(path: Path, data: bytes) -> bytes:
    """Returns the bytes of a text in UTF-8 without its mark; what is neither UTF-16 nor UTF-32 is left as it is."""
    if data.startswith(_UTF32):
        raise InputError(f"{path}: text must be UTF-8 or UTF-16, but this is UTF-32. Save the file as UTF-8")
    for mark, encoding in _UTF16.items():
        if data.startswith(mark):
            try:
                return data.removeprefix(mark).decode(encoding).encode()
            except UnicodeDecodeError as e:
                line = data[: e.start].decode(encoding, errors="replace").count("\n") + 1
                raise InputError(
                    f"{path}:{line}: text must be UTF-16 as its byte order mark says, but got {e.reason} at byte "
                    f"{e.start + len(mark) + 1} of the file. Save the file as UTF-8"
                ) from e
    if b"\0" in data[:2]:
        raise InputError(
            f"{path}: text must be UTF-8, but this looks like UTF-16 without a byte order mark. Save the file as UTF-8"
        )
    return data.removeprefix(codecs.BOM_UTF8)


def read_column(path: Path) -> Sentences:
    """Returns the lines of a UTF-8 file as `read_lines` does; the file is mapped and no line is kept in memory.

    What is compressed is unpacked into a file without a name, which goes with the process.

    Raises:
        InputError: As `read_lines`.
    """
    try:
        data = _mapped(path)
        if data is None or (b"\r" in data[: 1 << 16] and data.find(b"\n") < 0):
            return Sentences.of(read_lines(path))  # says which line ends these are
        column = Sentences.lines(data, len(codecs.BOM_UTF8) if data[:3] == codecs.BOM_UTF8 else 0)
        for _ in column:  # decodes each line once
            pass
    except (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError):
        return Sentences.of(read_lines(path))  # says what is wrong
    return column


def _mapped(path: Path) -> mmap.mmap | None:
    """Returns a file's bytes, unpacked and mapped; None if it is empty or in another encoding."""
    with path.open("rb") as file, open_bytes(path) as stream:
        first = stream.read(4)
        if not first or first.startswith((*_UTF16, *_UTF32)) or b"\0" in first[:2]:
            return None
        if file.read(4) == first:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with tempfile.TemporaryFile() as unpacked:
            unpacked.write(first)
            shutil.copyfileobj(stream, unpacked, _BYTES_AT_ONCE)
            unpacked.flush()
            return mmap.mmap(unpacked.fileno(), 0, access=mmap.ACCESS_READ)


def sentence_problems(sentences: Iterable[str | None], before: str, *, after: str = "", first: int = 0) -> list[str]:
    """Returns what is wrong with the sentences: empty ones, huge ones, line breaks inside. None is skipped.

    Args:
        sentences: The rows.
        before: What stands before the row's number in a problem: the file.
        after: What stands after it.
        first: The number of the first row.
    """
    numbered = enumerate(sentences, start=first)
    return shorten(
        f"{before}{number}{after}: {problem}"
        for number, sentence in numbered
        if sentence is not None and (problem := sentence_problem(sentence))
    )


def sentence_problem(sentence: str) -> str | None:
    """Returns what is wrong with a sentence, None if nothing is."""
    if is_blank(sentence):
        return f"a sentence must not be empty{_invisible(sentence)}. Remove the row from all languages"
    if len(sentence) > MAX_CHARACTERS:
        rule = f"a sentence must have at most {MAX_CHARACTERS:,} characters"
        return f"{rule}, but has {len(sentence):,}. Is a line break missing?"
    return "a sentence must be one line, but holds a line break" if "\n" in sentence else None


def _invisible(sentence: str) -> str:
    """Returns what a sentence holds that looks empty and is more than spaces."""
    hidden = sorted({ord(character) for character in sentence if not character.isspace()})
    names = ", ".join(f"U+{code:04X}" for code in hidden[:MAX_SHOWN])
    return f", but nothing in it can be seen ({names})" if hidden else ""


def shorten(problems: Iterable[str]) -> list[str]:
    """Returns the first problems of one file; the last of them says how many more there are."""
    rest = iter(problems)
    shown = list(islice(rest, MAX_SHOWN))
    if more := sum(1 for _ in rest):
        shown[-1] += f" (and {more:,} more like this)"
    return shown
