"""A column of sentences that takes little memory: UTF-8 on the disk or in one piece, decoded when it is read."""

import mmap
import tempfile
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

MAX_BYTES_IN_MEMORY = 1 << 26
"""A column whose text is longer lies in a file without a name, which goes with the process."""

_ROWS_PER_BLOCK = 10_000
_BYTES_PER_BLOCK = 1 << 24

Form = Literal["NFC", "NFKC"]


@dataclass(frozen=True)
class _Chunk:
    """Some rows."""

    num_rows: int

    data: bytes | mmap.mmap = b""
    """UTF-8."""

    ends: NDArray[np.int64] | None = None
    """(num_rows + 1,): where the first row begins in `data`, then where each ends. None: no sentence is there."""

    missing: NDArray[np.bool_] | None = None
    """(num_rows,): which sentences are not there. None: all are."""

    is_lines: bool = False
    """Whether a row holds its line end too, which is no part of the sentence."""

    def rows(self, start: int, stop: int) -> list[str | None]:
        """Returns some rows, decoded."""
        if self.ends is None:
            return [None] * (stop - start)
        ends = self.ends[start : stop + 1].tolist()
        data = self.data[ends[0] : ends[-1]]
        first = ends[0]
        rows = [data[begin - first : end - first] for begin, end in pairwise(ends)]
        if self.is_lines:
            rows = [row.removesuffix(b"\n").removesuffix(b"\r") for row in rows]
        found: list[str | None] = [row.decode() for row in rows]
        if self.missing is not None:
            for row in np.flatnonzero(self.missing[start:stop]).tolist():
                found[row] = None
        return found


class Sentences(Sequence["str | None"]):
    """Sentences by row; None where one is not there. Equal to any sequence of the same sentences.

    What `select`, `without`, `normalized` and `joined` return are views of the same text. Not to be pickled: workers
    get the token store.
    """

    def __init__(
        self,
        chunks: Sequence[_Chunk],
        rows: NDArray[np.int64] | range | None = None,
        left_out: NDArray[np.int64] | None = None,
        form: Form | None = None,
    ) -> None:
        self._chunks = tuple(chunk for chunk in chunks if chunk.num_rows)
        self._starts = np.cumsum([0, *(chunk.num_rows for chunk in self._chunks)]).tolist()
        self._rows = range(self._starts[-1]) if rows is None else rows
        self._left_out = np.zeros(0, np.int64) if left_out is None else left_out
        self._form = form

    @classmethod
    def of(cls, sentences: Iterable[str | None]) -> "Sentences":
        """Returns sentences that come one after the other, as a column of their own."""
        if isinstance(sentences, Sentences):
            return sentences
        writer = SentenceWriter()
        source = iter(sentences)
        while part := list(islice(source, _ROWS_PER_BLOCK)):
            writer.add(part)
        return writer.finish()

    @classmethod
    def lines(cls, data: bytes | mmap.mmap, start: int = 0) -> "Sentences":
        r"""Returns the lines of a text, without their ends "\n" and "\r\n"; they are decoded when they are read.

        Args:
            data: UTF-8.
            start: Where the first line begins.
        """
        found = [np.array([start], np.int64)]
        for first in range(start, len(data), _BYTES_PER_BLOCK):
            block = np.frombuffer(data[first : first + _BYTES_PER_BLOCK], np.uint8)
            found.append(np.flatnonzero(block == ord("\n")) + first + 1)
        if len(data) > start and data[-1:] != b"\n":
            found.append(np.array([len(data)], np.int64))
        ends = np.concatenate(found)
        return cls([_Chunk(len(ends) - 1, data, ends, is_lines=True)])

    @classmethod
    def absent(cls, num_rows: int) -> "Sentences":
        """Returns so many rows without a sentence."""
        return cls([_Chunk(num_rows)])

    @classmethod
    def joined(cls, columns: Sequence["Sentences"]) -> "Sentences":
        """Returns columns one below the other."""
        return cls([chunk for column in columns for chunk in column._whole()._chunks])

    def _whole(self) -> "Sentences":
        """Returns this column if it is as it was read, else a copy that is."""
        is_whole = isinstance(self._rows, range) and len(self) == self._starts[-1] and not len(self._left_out)
        return self if is_whole and self._form is None else Sentences.of(iter(self))

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> "Sentences":
        """Returns the given rows, in the given order; a range takes no memory."""
        if isinstance(rows, range) and isinstance(self._rows, range):
            chosen: range | NDArray[np.int64] = (
                self._rows[rows.start : rows.stop : rows.step] if len(rows) else range(0)
            )
        else:
            own = (
                np.arange(self._rows.start, self._rows.stop, self._rows.step)
                if isinstance(self._rows, range)
                else self._rows
            )
            chosen = own[np.asarray(rows, np.int64)]
        left_out = self._left_out
        if len(left_out):
            at = np.arange(len(self))[np.asarray(rows, np.int64)]
            left_out = np.flatnonzero(np.isin(at, left_out))
        return Sentences(self._chunks, chosen, left_out, self._form)

    def without(self, rows: NDArray[np.int64]) -> "Sentences":
        """Returns the column with further sentences not there; all others keep their rows."""
        return Sentences(self._chunks, self._rows, np.union1d(self._left_out, rows), self._form)

    def normalized(self, form: Form) -> "Sentences":
        """Returns the column in a Unicode form."""
        return Sentences(self._chunks, self._rows, self._left_out, form)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str | None]:
        for start in range(0, len(self), _ROWS_PER_BLOCK):
            yield from self._block(start, min(start + _ROWS_PER_BLOCK, len(self)))

    @overload
    def __getitem__(self, index: int) -> str | None: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str | None, ...]: ...
    def __getitem__(self, index: int | slice) -> "str | tuple[str | None, ...] | None":
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return tuple(self._block(start, max(start, stop)))
            return tuple(self[row] for row in range(start, stop, step))
        row = range(len(self))[index]
        return self._block(row, row + 1)[0]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Sentences({list(self[:3])}, … {len(self):,} rows)"

    def __reduce__(self) -> Any:
        return Sentences.of, (tuple(self),)

    def _block(self, start: int, stop: int) -> list[str | None]:
        """Returns the sentences of some rows."""
        rows = self._rows[start:stop]
        if isinstance(rows, range) and rows.step == 1:
            found = self._consecutive(rows.start, rows.stop) if len(rows) else []
        else:
            found = [self._consecutive(row, row + 1)[0] for row in np.asarray(rows).tolist()]
        if len(self._left_out):
            first, last = np.searchsorted(self._left_out, [start, stop])
            for row in self._left_out[first:last].tolist():
                found[row - start] = None
        form = self._form
        if form is None:
            return found
        return [
            row
            if row is None or row.isascii() or unicodedata.is_normalized(form, row)
            else unicodedata.normalize(form, row)
            for row in found
        ]

    def _consecutive(self, start: int, stop: int) -> list[str | None]:
        found: list[str | None] = []
        index = bisect_right(self._starts, start) - 1
        while start < stop:
            first = self._starts[index]
            end = min(stop, self._starts[index + 1])
            found += self._chunks[index].rows(start - first, end - first)
            start, index = end, index + 1
        return found


class SentenceWriter:
    """Takes sentences in and makes a column of them; holds 64 MB of text at most, the rest is in a file."""

    def __init__(self) -> None:
        self._file: Any = tempfile.SpooledTemporaryFile(max_size=MAX_BYTES_IN_MEMORY)  # noqa: SIM115
        self._lengths: list[NDArray[np.int32]] = []

    def add(self, sentences: Sequence[str | None]) -> None:
        """Takes in further rows."""
        encoded = [None if sentence is None else sentence.encode() for sentence in sentences]
        self._lengths.append(np.array([-1 if row is None else len(row) for row in encoded], np.int32))
        self._file.write(b"".join(row for row in encoded if row is not None))

    def finish(self) -> Sentences:
        """Returns what was taken in."""
        lengths = np.concatenate([np.zeros(0, np.int32), *self._lengths])
        self._lengths = []
        missing = lengths < 0
        if missing.all():
            return Sentences.absent(len(lengths))
        ends = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(np.maximum(lengths, 0), out=ends[1:])
        if ends[-1] <= MAX_BYTES_IN_MEMORY:
            self._file.seek(0)
            data: bytes | mmap.mmap = self._file.read()
        else:
            self._file.flush()
            data = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        self._file.close()
        return Sentences([_Chunk(len(lengths), data, ends, missing if missing.any() else None)])
