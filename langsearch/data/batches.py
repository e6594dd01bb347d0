"""The tensors of a batch.

Sizes in shapes: rows = pairs in a batch, src_len and tgt_len = longest side with its language and end token.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from langsearch.data.directions import Direction

if TYPE_CHECKING:  # PyArrow, which what knows no sentences need not have
    from langsearch.data.store import TokenStore

IGNORED_LABEL = -100
"""The label of padding, which the loss leaves out (PyTorch's default `ignore_index`)."""

NUM_MARKS = 2
"""Tokens that a side has at most beside its text: the language and the end."""


@dataclass(frozen=True)
class SentenceForm:
    """Where a base has its language tokens. Both sides end with eos."""

    src_mark: Literal["src", "tgt"] = "src"
    """Whose language the source begins with: its own, or that of the target (SMaLL-100)."""

    has_tgt_mark: bool = True
    """Whether the target begins with its language."""


@dataclass(frozen=True)
class BatchVocabulary:
    """The ids of the special tokens of a base, and where they stand."""

    pad_id: int
    eos_id: int
    decoder_start_id: int
    language_ids: Mapping[str, int]
    """The token of each language, by the space's code."""

    form: SentenceForm = SentenceForm()

    first_new_id: int | None = None
    """The base reads tokens from this id on, but can never say one, so that they are no labels. None: there are none.
    """

    def src_marks(self, directions: Sequence[Direction]) -> list[int]:
        """Returns the token that the source of each direction begins with."""
        by_src = self.form.src_mark == "src"
        return [self.language_ids[direction.src if by_src else direction.tgt] for direction in directions]

    def tgt_marks(self, directions: Sequence[Direction]) -> list[int] | None:
        """Returns the token that the target of each direction begins with; None if they begin with their text."""
        return [self.language_ids[direction.tgt] for direction in directions] if self.form.has_tgt_mark else None


@dataclass(frozen=True)
class Batch:
    """Pairs of mixed directions, in the form of the base: `SentenceForm`."""

    src_ids: Tensor
    """(rows, src_len) int64: language, text, eos, pads."""

    src_mask: Tensor
    """(rows, src_len) int64: 1 at tokens, 0 at pads."""

    decoder_input_ids: Tensor
    """(rows, tgt_len) int64: the decoder's start, then the target's tokens without their last."""

    labels: Tensor
    """(rows, tgt_len) int64: language if the form has it, text, eos, then -100; -100 also for a new language."""

    src_lang: Tensor
    """(rows,) int64: index of the source language."""

    tgt_lang: Tensor
    """(rows,) int64: index of the target language."""

    num_tgt_tokens: int
    """Labels that count, over the batch."""

    sentences: Tensor | None = None
    """(rows,) int64: which row of the store each pair is; only where a loss term needs it."""

    source_of: Tensor | None = None
    """(rows,) int64: which sentence each row's source is, those of one language one after the other; only where asked
    for. Rows of one number have the same source, token by token."""

    first_rows: Tensor | None = None
    """(sources,) int64: a row of each source, by its number. None where no source stands in two rows."""

    pivot_ids: Tensor | None = None
    """(pivots, pivot_len) int64: the same lines in the pivot language, each once. None where not asked for, or where no
    row has one."""

    pivot_mask: Tensor | None = None
    """(pivots, pivot_len) int64: 1 at tokens, 0 at pads."""

    pivot_of: Tensor | None = None
    """(rows,) int64: which of the pivots says what the row's source says; -1 where the source is in the pivot language
    itself, or its line is not there in it."""

    taught_ids: Tensor | None = None
    """(taught, k) int32: a teacher's most likely tokens in the place of each label that counts and that it knows, row
    by row. None where there is no teacher whose tokens are kept."""

    taught_log_probs: Tensor | None = None
    """(taught, k) float32: the logarithms of their probabilities, nats."""

    is_taught: Tensor | None = None
    """(num_tgt_tokens,) bool: which labels that count a teacher knows. None: all."""

    counted: Tensor | None = None
    """(num_tgt_tokens,) int64: where labels count, in the order of the flattened labels. None: not looked up."""

    is_src_padded: bool = True
    """Whether `src_mask` has a 0, or may have one."""

    def taught(self, ids: Tensor, log_probs: Tensor, is_taught: Tensor | None) -> "Batch":
        """Returns the batch with what a teacher says; its rows must stay where they are from now on."""
        return replace(self, taught_ids=ids, taught_log_probs=log_probs, is_taught=is_taught)

    def pinned(self) -> "Batch":
        """Returns the batch in memory from which a GPU copies while the host goes on."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device | str) -> "Batch":
        """Returns the batch on a device."""
        return self._each(lambda value: value.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **changed)


def collate(
    store: "TokenStore",
    directions: Sequence[Direction],
    rows: NDArray[np.int32],
    vocabulary: BatchVocabulary,
    languages: Sequence[str],
    *,
    with_sentences: bool = False,
    with_sources: bool = False,
    pivot: str | None = None,
    length_multiple: int = 1,
    max_length: int | None = None,
) -> Batch:
    """Returns the tensors of a microbatch.

    Args:
        store: The tokens.
        directions: Those that the plan was made with.
        rows: (rows, 2): index of the direction, row of the sentence.
        vocabulary: The special tokens.
        languages: The order that `src_lang` and `tgt_lang` count in: the slots of the adapters.
        with_sentences: Say also which row of the store each pair is.
        with_sources: Say also which rows have the same source.
        pivot: Give also the rows' lines in this language. None: not.
        length_multiple: Both lengths are padded up to a multiple of this.
        max_length: But not above this. None: however long that is.

    Raises:
        ValueError: If a sentence is missing in its language.
    """
    pairs = [(directions[index], row) for index, row in rows.tolist()]
    of_rows = [direction for direction, _ in pairs]
    src_texts, tgt_texts = zip(*((store.tokens(d.src, row), store.tokens(d.tgt, row)) for d, row in pairs), strict=True)
    batch = batch_of_texts(
        src_texts, tgt_texts, of_rows, vocabulary, languages, length_multiple=length_multiple, max_length=max_length
    )
    pivots = {} if pivot is None else _pivots(store, pairs, pivot, vocabulary, length_multiple, max_length)
    return replace(
        batch,
        pivot_ids=pivots.get("pivot_ids"),
        pivot_mask=pivots.get("pivot_mask"),
        pivot_of=pivots.get("pivot_of"),
        sentences=torch.from_numpy(rows[:, 1].astype(np.int64)) if with_sentences else None,
        source_of=_source_of(pairs, vocabulary.src_marks(of_rows), languages) if with_sources else None,
    )


def batch_of_texts(
    src_texts: Sequence[NDArray[np.int32]],
    tgt_texts: Sequence[NDArray[np.int32]],
    of_rows: Sequence[Direction],
    vocabulary: BatchVocabulary,
    languages: Sequence[str],
    *,
    length_multiple: int = 1,
    max_length: int | None = None,
) -> Batch:
    """Returns the tensors of pairs whose pieces are given; see `collate`.

    Args:
        src_texts: The pieces of each source, (num_tokens,), without language and end.
        tgt_texts: Those of each target.
        of_rows: The direction of each pair.
        vocabulary: The special tokens.
        languages: The order that `src_lang` and `tgt_lang` count in.
        length_multiple: Both lengths are padded up to a multiple of this.
        max_length: But not above this. None: however long that is.
    """
    round_up = length_multiple, max_length
    src_ids, src_lengths = padded(src_texts, vocabulary.src_marks(of_rows), vocabulary, *round_up)
    tgt_ids, tgt_lengths = padded(tgt_texts, vocabulary.tgt_marks(of_rows), vocabulary, *round_up)
    decoder_input_ids = np.empty_like(tgt_ids)
    decoder_input_ids[:, 0] = vocabulary.decoder_start_id
    decoder_input_ids[:, 1:] = tgt_ids[:, :-1]
    is_label = is_token(tgt_ids, tgt_lengths)
    if vocabulary.first_new_id is not None:
        is_label[:, 0] &= tgt_ids[:, 0] < vocabulary.first_new_id
    labels = np.where(is_label, tgt_ids, IGNORED_LABEL)
    position = {language: index for index, language in enumerate(languages)}
    return Batch(
        src_ids=torch.from_numpy(src_ids),
        src_mask=torch.from_numpy(is_token(src_ids, src_lengths).astype(np.int64)),
        decoder_input_ids=torch.from_numpy(decoder_input_ids),
        labels=torch.from_numpy(labels),
        src_lang=torch.tensor([position[direction.src] for direction in of_rows], dtype=torch.int64),
        tgt_lang=torch.tensor([position[direction.tgt] for direction in of_rows], dtype=torch.int64),
        num_tgt_tokens=int(is_label.sum()),
        is_src_padded=bool(src_lengths.min() < src_ids.shape[1]),
    )


def _pivots(
    store: "TokenStore",
    pairs: Sequence[tuple[Direction, int]],
    pivot: str,
    vocabulary: BatchVocabulary,
    length_multiple: int,
    max_length: int | None,
) -> dict[str, Tensor]:
    """Returns the lines of rows in a pivot language as fields of a batch; none where no row has one.

    Where sources begin with their target, so does the line in the pivot language: both are encoded for the same one.
    """
    lengths = np.array([store.lengths(pivot, row, row + 1)[0] for _, row in pairs])
    is_there = (lengths >= 0) & (lengths + NUM_MARKS <= (max_length or np.inf))
    marks = vocabulary.src_marks([Direction(pivot, direction.tgt) for direction, _ in pairs])
    number: dict[tuple[int, int], int] = {}
    pivot_of = [
        number.setdefault((row, mark), len(number)) if direction.src != pivot and has else -1
        for (direction, row), mark, has in zip(pairs, marks, is_there.tolist(), strict=True)
    ]
    if not number:
        return {}
    texts, own_marks = [store.tokens(pivot, row) for row, _ in number], [mark for _, mark in number]
    ids, id_lengths = padded(texts, own_marks, vocabulary, length_multiple, max_length)
    return {
        "pivot_ids": torch.from_numpy(ids),
        "pivot_mask": torch.from_numpy(is_token(ids, id_lengths).astype(np.int64)),
        "pivot_of": torch.tensor(pivot_of, dtype=torch.int64),
    }


def _source_of(pairs: Sequence[tuple[Direction, int]], marks: Sequence[int], languages: Sequence[str]) -> Tensor:
    """Returns the number of each row's source, (rows,); where sources begin with their target, these tell them apart.

    Args:
        pairs: The direction of each row, and the row of the store.
        marks: The token that the source of each begins with.
        languages: The order that they are counted in.
    """
    position = {language: index for index, language in enumerate(languages)}
    sources = [(position[d.src], row, mark) for (d, row), mark in zip(pairs, marks, strict=True)]
    number = {source: index for index, source in enumerate(sorted(set(sources)))}
    return torch.tensor([number[source] for source in sources], dtype=torch.int64)


def padded(
    texts: Sequence[NDArray[np.int32]],
    marks: Sequence[int] | None,
    vocabulary: BatchVocabulary,
    multiple: int = 1,
    most: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns ids (rows, length) as [mark] text [eos] pads, and lengths (rows,).

    Args:
        texts: The pieces of each row, (num_tokens,).
        marks: The token that each row begins with. None: the rows begin with their text.
        vocabulary: The special tokens.
        multiple: The length is rounded up to a multiple of this.
        most: But not above this. None: however long that is.
    """
    first = 0 if marks is None else 1
    lengths = np.fromiter((len(tokens) for tokens in texts), np.int64, len(texts)) + first + 1
    longest = int(lengths.max())
    rounded = -(-longest // multiple) * multiple
    length = rounded if most is None else max(min(rounded, most), longest)
    ids = np.full((len(texts), length), vocabulary.pad_id, np.int64)
    place = np.arange(ids.shape[1])
    is_text = (place >= first) & (place < lengths[:, None] - 1)
    # A mask is filled row by row, which is the order of the joined texts.
    ids[is_text] = np.concatenate(texts)
    if marks is not None:
        ids[:, 0] = marks
    ids[np.arange(len(texts)), lengths - 1] = vocabulary.eos_id
    return ids, lengths


def is_token(ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Returns (rows, length): whether there is a token and no pad."""
    return np.arange(ids.shape[1]) < lengths[:, None]
