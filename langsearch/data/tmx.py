"""Translation memories: TMX 1.4, read as a stream. What an entity or a document type defines is never followed."""

import re
import zlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from xml.parsers import expat

import pyarrow as pa

from langsearch.data.columns import ColumnFile, Columns
from langsearch.data.compressed import open_bytes
from langsearch.data.lines import forms, sentence_problem, shorten
from langsearch.data.sentences import SentenceWriter
from langsearch.space.problems import InputError

_CODES = frozenset({"bpt", "ept", "it", "ph", "ut"})
"""Elements inside a segment that hold codes of a format, not text (TMX 1.4b, section 2.4)."""

_CHUNK = 1 << 20
_UNITS_AT_ONCE = 10_000
_BREAK = re.compile(r"[ \t]*[\r\n]+[ \t]*")


def open_tmx(path: Path) -> ColumnFile:
    """Returns a translation memory. Its columns are the languages of its variants; a unit is a row.

    Codes of a format are left out of a segment, and a line break in it is a space. A unit that lacks a language has no
    sentence there; of several variants in one language the first counts. The file is read as a stream, once for its
    languages and once for each `read`.

    Raises:
        InputError: If the file is no XML, or declares or uses an entity.
    """
    lines = array("q")  # 8 bytes a unit are all that is kept
    found: dict[str, None] = {}

    def note(unit: _Unit, line: int) -> None:
        lines.append(line)
        found.update(dict.fromkeys(unit))

    num_repeated = _read(path, note)
    names = tuple(found)
    # "en-US" is English where no other variant is.
    aliases = {base: name for name in reversed(names) if (base := name.partition("-")[0].lower()) not in names}

    def read(columns: Mapping[str, str]) -> Columns:
        return _columns(path, lines, columns)

    def place_of(name: str, row: int) -> str:
        return f"{path}:{lines[row]}: {name}"

    notes = forms([path])
    if num_repeated:
        notes = (*notes, f"further variants of a unit in one language left out: {num_repeated:,}")
    return ColumnFile(str(path), "a language", names, read, place_of, notes, aliases)


_Unit = dict[str, str]
"""The segment of each language, as the file names it."""


def _columns(path: Path, lines: Sequence[int], columns: Mapping[str, str]) -> Columns:
    if not lines:
        raise InputError(f"{path}: a translation memory must hold units (<tu>), but has none")
    writers = {language: SentenceWriter() for language in columns}
    waiting: list[_Unit] = []

    def flush() -> None:
        for language, name in columns.items():
            writers[language].add([unit.get(name) for unit in waiting])
        waiting.clear()

    def take(unit: _Unit, line: int) -> None:
        waiting.append(unit)
        if len(waiting) == _UNITS_AT_ONCE:
            flush()

    _read(path, take)
    flush()
    found: Columns = {language: writer.finish() for language, writer in writers.items()}
    problems: list[str] = []
    for language, name in columns.items():
        problems += shorten(
            f"{path}:{line}: {name}: {problem}"
            for line, sentence in zip(lines, found[language], strict=True)
            if sentence is not None and (problem := sentence_problem(sentence))
        )
    if problems:
        raise InputError(problems)
    return found


def _read(path: Path, take: Callable[[_Unit, int], None]) -> int:
    """Hands each unit and its line to `take`; returns how many variants were left out."""
    reader = _Reader(path, take)
    with open_bytes(path) as stream:
        reader.read(stream)
    return reader.num_repeated


class _Reader:
    """Gathers the segments of a stream of XML, a unit at a time."""

    def __init__(self, path: Path, take: Callable[[_Unit, int], None]) -> None:
        self.path = path
        self.num_repeated = 0
        self._take = take
        self._unit: _Unit | None = None
        self._line = 0
        self._language = ""
        self._text: list[str] | None = None
        self._codes = 0
        self._parser = parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.EntityDeclHandler = self._entity
        parser.SkippedEntityHandler = self._entity

    def read(self, stream: BinaryIO) -> None:
        """Reads all of a stream. Raises InputError with the line of what is wrong."""
        try:
            while chunk := stream.read(_CHUNK):
                self._parser.Parse(chunk, False)
            self._parser.Parse(b"", True)
        except expat.ExpatError as e:
            raise InputError(f"{self.path}:{e.lineno}: a translation memory must be XML, but got: {e}") from e
        except (OSError, EOFError, zlib.error, pa.ArrowException) as e:
            raise InputError(f"{self.path}: the file must be whole, but cannot be unpacked: {e}") from e

    def _entity(self, name: str, *_: Any) -> None:
        raise InputError(
            f"{self.path}:{self._parser.CurrentLineNumber}: a translation memory must not declare or use entities of "
            f"its own, since they can stand for any amount of text or for other files, but got {name!r}. "
            "Write the text itself"
        )

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "tu":
            self._unit, self._line = {}, self._parser.CurrentLineNumber
        elif name == "tuv":
            self._language = attributes.get("xml:lang") or attributes.get("lang") or ""
        elif name == "seg":
            if self._unit is None or not self._language:
                line = self._parser.CurrentLineNumber
                raise InputError(
                    f"{self.path}:{line}: a <seg> must stand in a <tu> and a <tuv> with an xml:lang, but does not"
                )
            self._text = []
        elif name in _CODES:
            self._codes += 1

    def _end(self, name: str) -> None:
        if name in _CODES:
            self._codes -= 1
        elif name == "tu" and self._unit is not None:
            self._take(self._unit, self._line)
            self._unit = None
        elif name == "seg" and self._unit is not None and self._text is not None:
            text = _BREAK.sub(" ", "".join(self._text)).strip()
            if self._language in self._unit:
                self.num_repeated += 1
            else:
                self._unit[self._language] = text
            self._text = None
        elif name == "tuv":
            self._language = ""

    def _characters(self, text: str) -> None:
        if self._text is not None and not self._codes:
            self._text.append(text)
