"""Tokenized text in memory-mapped Arrow files: one file per language, each sentence once, shared by all directions.

Files are content addressed: the name holds a digest over the tokenizer and the text, so a file is built once and
reused by every experiment, and a change of either makes a new file. Workers of one machine share the mapped pages.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from langsearch.data.arrow_file import write_batch
from langsearch.data.encoding import MIN_FOR_PROCESSES, Encoder, Tokenize, num_cores
from langsearch.data.parallel import ParallelText
from langsearch.data.token_parts import held, read_parts, remove_abandoned, remove_parts, write_parts
from langsearch.space.problems import InputError

FORMAT = b"langsearch tokens 1"

MIN_FOR_PARTS = 50_000
"""Of fewer sentences a language is written at one go: nothing much is lost where that dies."""

_SENTENCES_PER_CALL = 10_000

Tell = Callable[[int, int], None]
"""Told how many sentences are split into pieces, and of how many."""


@dataclass(frozen=True)
class _Column:
    """One language, as views of its mapped file."""

    texts: Any
    """Arrow array of text (num_sentences,), null where the sentence is missing."""

    offsets: NDArray[np.int64]
    """(num_sentences + 1,): where each sentence begins in `ids`."""

    ids: NDArray[np.int32]
    """(num_tokens,): all token ids, one sentence after the other."""

    present: NDArray[np.uint8] | None
    """Arrow's bitmap, one bit a sentence: which of them are there. None: all are."""

    def is_present(self, row: int) -> bool:
        """Returns whether a sentence is there."""
        return self.present is None or bool(self.present[row >> 3] >> (row & 7) & 1)

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        """Returns the tokens of some sentences (stop - start,), -1 where one is missing."""
        lengths = np.diff(self.offsets[start : stop + 1]).astype(np.int32)
        if self.present is not None:
            first = start >> 3
            bits = np.unpackbits(self.present[first : (stop + 7) >> 3], bitorder="little")
            lengths[bits[start - 8 * first : stop - 8 * first] == 0] = -1
        return lengths


class TokenStore:
    """Token ids and text by language and row. Read-only; may be shared by threads; pickles as its file names."""

    def __init__(self, columns: Mapping[str, _Column], files: Mapping[str, Path]) -> None:
        self._columns = dict(columns)
        self.files: dict[str, Path] = dict(files)
        self.languages: tuple[str, ...] = tuple(files)
        self.num_sentences: int = len(next(iter(columns.values())).texts) if columns else 0

    @classmethod
    def build(
        cls,
        text: ParallelText,
        tokenize: Tokenize,
        tokenizer_fingerprint: str,
        folder: Path,
        *,
        num_processes: int | None = None,
        tell: Tell = lambda done, total: None,
    ) -> "TokenStore":
        """Returns the store of a text; tokenizes only the languages that have no whole file yet.

        A file is written aside and renamed, so that a build that dies, or two at once, leave no half file. A file
        that is torn or foreign is built anew. Large languages are written in parts: a build that dies goes on
        where it stopped, and of two at once one waits for the other.

        Args:
            text: What to store.
            tokenize: Called with up to 10,000 sentences; must not depend on the language.
            tokenizer_fingerprint: Names the tokenizer's result: equal only if all ids are equal.
            folder: Where the files are; made if absent.
            num_processes: That split a large text into pieces; `tokenize` is then pickled. None: one a core.
            tell: Told how far a large text is.

        Raises:
            ValueError: If `tokenize` does not return one list of ids for each sentence.
        """
        with _made(folder):
            remove_abandoned(folder, time.time())
            return cls._build(text, tokenize, tokenizer_fingerprint, folder, num_processes, tell)

    @classmethod
    def _build(
        cls,
        text: ParallelText,
        tokenize: Tokenize,
        tokenizer_fingerprint: str,
        folder: Path,
        num_processes: int | None,
        tell: Tell,
    ) -> "TokenStore":
        files, missing = {}, {}
        for language in text.languages:
            key = _key(text.sentences[language], tokenizer_fingerprint)
            path = folder / f"{quote(language, safe='')}-{key[:16]}.arrow"
            files[language] = path
            if not _is_intact(path, key):
                missing[language] = key
        total = len(text) * len(missing)
        if len(text) < MIN_FOR_PARTS:
            for language, key in missing.items():
                _write(files[language], key, _record_batch(text.sentences[language], tokenize))
            return cls.open(files)
        processes = (num_processes or num_cores()) if total >= MIN_FOR_PROCESSES else 1
        with Encoder(tokenize, processes) as encoder:
            for number, (language, key) in enumerate(missing.items()):
                done = number * len(text)
                _write_in_parts(
                    files[language],
                    key,
                    text.sentences[language],
                    encoder,
                    lambda num, done=done: tell(done + num, total),  # type: ignore[misc]
                )
        return cls.open(files)

    @classmethod
    def open(cls, files: Mapping[str, Path]) -> "TokenStore":
        """Returns the store in files that `build` made, as `TokenStore.files` names them.

        Raises:
            InputError: If a file is missing, torn or foreign, or the files have unequal numbers of sentences.
        """
        columns, problems = {}, []
        for language, path in files.items():
            try:
                columns[language] = _open(path)[0]
            except (OSError, pa.ArrowException, _ForeignFileError) as e:
                problems.append(f"{path}: the file must be a whole token file, but got: {e}. Build the store again")
        counts = {str(files[language]): len(column.texts) for language, column in columns.items()}
        if len(set(counts.values())) > 1:
            problems.append(f"Token files of one store must have equally many sentences, but got {counts}")
        if problems:
            raise InputError(problems)
        return cls(columns, files)

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenStore.open, (self.files,)

    def lengths(self, language: str, start: int = 0, stop: int | None = None) -> NDArray[np.int32]:
        """Returns the number of tokens of sentences (num,), -1 where one is missing. Read-only.

        Args:
            language: Theirs.
            start: The first row.
            stop: The row behind the last one. None: to the end.
        """
        lengths = self._columns[language].lengths(start, self.num_sentences if stop is None else stop)
        lengths.flags.writeable = False
        return lengths

    def lengths_of(self, language: str, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        """Returns the number of tokens (num_rows,) of sentences that are all there."""
        offsets = self._columns[language].offsets
        return (offsets[rows + 1] - offsets[rows]).astype(np.int32)

    def tokens(self, language: str, row: int) -> NDArray[np.int32]:
        """Returns the token ids of a sentence (num_tokens,), as a view of the mapped file.

        Raises:
            ValueError: If the sentence is missing in this language.
        """
        column = self._columns[language]
        if not column.is_present(row):
            raise ValueError(f"A sentence must be there to be read, but row {row} is missing in {language}")
        return column.ids[column.offsets[row] : column.offsets[row + 1]]

    def text(self, language: str, row: int) -> str:
        """Returns a sentence as it was read. Raises ValueError if it is missing in this language."""
        sentence = self._columns[language].texts[row].as_py()
        if sentence is None:
            raise ValueError(f"A sentence must be there to be read, but row {row} is missing in {language}")
        return str(sentence)


class _ForeignFileError(Exception):
    """An Arrow file that no store has written."""


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Makes a folder; where it is new and cannot be written, nothing of it is left."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except OSError:
        if is_new:
            with suppress(OSError):  # where it holds files it stays
                folder.rmdir()
        raise


def _key(sentences: Sequence[str | None], tokenizer_fingerprint: str) -> str:
    digest = hashlib.sha256(FORMAT)
    for part in chain([tokenizer_fingerprint], sentences):
        # A length before each part keeps ["ab", "c"] apart from ["a", "bc"]; -1 says missing.
        data = b"" if part is None else part.encode()
        digest.update(b"%d:" % (-1 if part is None else len(data)))
        digest.update(data)
    return digest.hexdigest()


def _checksum(batch: Any) -> bytes:
    digest = hashlib.sha256()
    for array in batch.columns:
        for buffer in array.buffers():
            if buffer is not None:
                digest.update(memoryview(buffer))
    return digest.hexdigest().encode()


def _open(path: Path) -> tuple[_Column, Any, dict[bytes, bytes]]:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    metadata = reader.schema.metadata or {}
    if metadata.get(b"format") != FORMAT or reader.num_record_batches != 1:
        raise _ForeignFileError(f"format {metadata.get(b'format')!r} instead of {FORMAT!r}")
    batch = reader.get_batch(0)
    texts, tokens = batch.column("text"), batch.column("tokens")
    bitmap = tokens.buffers()[0]
    present = None if bitmap is None or not tokens.null_count else np.frombuffer(bitmap, np.uint8)
    return _Column(texts, tokens.offsets.to_numpy(), tokens.values.to_numpy(), present), batch, metadata


def _is_intact(path: Path, key: str) -> bool:
    if not path.is_file():
        return False
    try:
        _, batch, metadata = _open(path)
    except (OSError, pa.ArrowException, _ForeignFileError):
        return False
    return metadata.get(b"key") == key.encode() and metadata.get(b"checksum") == _checksum(batch)


def _write_in_parts(
    path: Path, key: str, sentences: Sequence[str | None], encoder: Encoder, tell: Callable[[int], None]
) -> None:
    parts = path.with_name(f".{path.name}.parts")
    with held(parts):
        if not _is_intact(path, key):  # another build may have written it meanwhile
            write_parts(parts, sentences, encoder, tell)
            _write(path, key, read_parts(parts))
        remove_parts(parts)


def _write(path: Path, key: str, batch: Any) -> None:
    write_batch(path, batch, {b"format": FORMAT, b"key": key.encode(), b"checksum": _checksum(batch)})


def _record_batch(sentences: Sequence[str | None], tokenize: Tokenize) -> Any:
    present = [sentence for sentence in sentences if sentence is not None]
    ids, counts = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    for start in range(0, len(present), _SENTENCES_PER_CALL):
        part = present[start : start + _SENTENCES_PER_CALL]
        rows = tokenize(part)
        if len(rows) != len(part):
            raise ValueError(f"`tokenize` must return a list for each of {len(part)} sentences, but got {len(rows)}")
        ids.append(np.fromiter(chain.from_iterable(rows), dtype=np.int32))
        counts.append(np.fromiter(map(len, rows), dtype=np.int64, count=len(rows)))
    missing = np.fromiter((sentence is None for sentence in sentences), dtype=np.bool_, count=len(sentences))
    lengths = np.zeros(len(sentences), np.int64)
    lengths[~missing] = np.concatenate(counts)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    tokens = pa.LargeListArray.from_arrays(
        pa.array(offsets), pa.array(np.concatenate(ids)), mask=pa.array(missing) if missing.any() else None
    )
    return pa.record_batch({"text": pa.array(sentences, pa.large_string()), "tokens": tokens})
