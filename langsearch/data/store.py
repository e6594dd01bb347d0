"""Tokenized text in memory-mapped Arrow files: one file per language, each sentence once, shared by all directions.

Files are content addressed: the name holds a digest over the tokenizer and the text, so a file is built once and
reused by every experiment, and a change of either makes a new file. Workers of one machine share the mapped pages.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from langsearch.data.parallel import ParallelText
from langsearch.space.problems import InputError, naming

FORMAT = b"langsearch tokens 1"

Tokenize = Callable[[Sequence[str]], list[list[int]]]
"""Sentences to token ids, without language and end tokens."""

_SENTENCES_PER_CALL = 10_000


@dataclass(frozen=True)
class _Column:
    """One language, as views of its mapped file."""

    texts: Any
    """Arrow array of text (num_sentences,), null where the sentence is missing."""

    offsets: NDArray[np.int64]
    """(num_sentences + 1,): where each sentence begins in `ids`."""

    ids: NDArray[np.int32]
    """(num_tokens,): all token ids, one sentence after the other."""

    lengths: NDArray[np.int32]
    """(num_sentences,): tokens of each sentence, -1 where it is missing."""


class TokenStore:
    """Token ids and text by language and row. Read-only; may be shared by threads; pickles as its file names."""

    def __init__(self, columns: Mapping[str, _Column], files: Mapping[str, Path]) -> None:
        self._columns = dict(columns)
        self.files: dict[str, Path] = dict(files)
        self.languages: tuple[str, ...] = tuple(files)
        self.num_sentences: int = len(next(iter(columns.values())).lengths) if columns else 0

    @classmethod
    def build(cls, text: ParallelText, tokenize: Tokenize, tokenizer_fingerprint: str, folder: Path) -> "TokenStore":
        """Returns the store of a text; tokenizes only the languages that have no whole file yet.

        A file is written aside and renamed, so that a build that dies, or two at once, leave no half file. A file
        that is torn or foreign is built anew.

        Args:
            text: What to store.
            tokenize: Called with up to 10,000 sentences; must not depend on the language.
            tokenizer_fingerprint: Names the tokenizer's result: equal only if all ids are equal.
            folder: Where the files are; made if absent.

        Raises:
            ValueError: If `tokenize` does not return one list of ids for each sentence.
        """
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        files = {}
        for language in text.languages:
            sentences = text.sentences[language]
            key = _key(sentences, tokenizer_fingerprint)
            path = folder / f"{quote(language, safe='')}-{key[:16]}.arrow"
            if not _is_intact(path, key):
                try:
                    _write(path, key, sentences, tokenize)
                except OSError:
                    if is_new:
                        with suppress(OSError):  # where it holds files it stays
                            folder.rmdir()
                    raise
            files[language] = path
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
        counts = {str(files[language]): len(column.lengths) for language, column in columns.items()}
        if len(set(counts.values())) > 1:
            problems.append(f"Token files of one store must have equally many sentences, but got {counts}")
        if problems:
            raise InputError(problems)
        return cls(columns, files)

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenStore.open, (self.files,)

    def lengths(self, language: str) -> NDArray[np.int32]:
        """Returns the number of tokens of each sentence (num_sentences,), -1 where it is missing. Read-only."""
        return self._columns[language].lengths

    def tokens(self, language: str, row: int) -> NDArray[np.int32]:
        """Returns the token ids of a sentence (num_tokens,), as a view of the mapped file.

        Raises:
            ValueError: If the sentence is missing in this language.
        """
        column = self._columns[language]
        if column.lengths[row] < 0:
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
    offsets = tokens.offsets.to_numpy()
    lengths = np.diff(offsets).astype(np.int32)
    lengths[tokens.is_null().to_numpy(zero_copy_only=False)] = -1
    lengths.flags.writeable = False
    return _Column(texts, offsets, tokens.values.to_numpy(), lengths), batch, metadata


def _is_intact(path: Path, key: str) -> bool:
    if not path.is_file():
        return False
    try:
        _, batch, metadata = _open(path)
    except (OSError, pa.ArrowException, _ForeignFileError):
        return False
    return metadata.get(b"key") == key.encode() and metadata.get(b"checksum") == _checksum(batch)


def _write(path: Path, key: str, sentences: Sequence[str | None], tokenize: Tokenize) -> None:
    batch = _record_batch(sentences, tokenize)
    metadata = {b"format": FORMAT, b"key": key.encode(), b"checksum": _checksum(batch)}
    batch = batch.replace_schema_metadata(metadata)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with naming(path), temporary.open("wb") as file:
            with pa.ipc.new_file(file, batch.schema) as writer:
                writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
