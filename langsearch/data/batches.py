"""The order in which pairs are trained on, and the tensors of a batch.

Sizes in shapes: rows = pairs in a batch, src_len and tgt_len = longest side with its language and end token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from langsearch.data.directions import Direction
from langsearch.space.problems import InputError

if TYPE_CHECKING:  # PyArrow, which what knows no sentences need not have
    from langsearch.data.store import TokenStore

IGNORED_LABEL = -100
"""The label of padding, which the loss leaves out (PyTorch's default `ignore_index`)."""

NUM_MARKS = 2
"""Tokens that a side has at most beside its text: the language and the end."""

_MICROBATCHES_PER_CHUNK = 100
_ROWS_STREAM, _COUNTS_STREAM, _ORDER_STREAM = 0, 1, 2


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

    def to(self, device: torch.device | str) -> "Batch":
        """Returns the batch on a device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in values.items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class EpochPlan:
    """The pairs of one epoch, cut into microbatches."""

    microbatches: tuple[NDArray[np.int32], ...]
    """In training order; each (rows, 2): index of the direction, row of the sentence."""

    num_pairs: int
    """Pairs in the epoch, repetitions counted."""

    num_left_out: int
    """Pairs that are too long, over all directions; never drawn."""


@dataclass(frozen=True)
class SourceWeights:
    """How often rows are drawn by the source that they are from; sources stand one below the other."""

    ends: tuple[int, ...]
    """The row behind the last one of each source."""

    weights: tuple[float, ...]
    """Of each source, above 0. A row of weight 2 comes twice as often as one of weight 1 in the same direction."""

    @classmethod
    def of(cls, weights: Sequence[float], rows_by_source: Sequence[int]) -> "SourceWeights | None":
        """Returns the weights of sources with so many rows each; None if all weigh the same."""
        if len(set(weights)) < 2:
            return None
        return cls(tuple(np.cumsum(rows_by_source).tolist()), tuple(weights))


def plan_epoch(
    store: "TokenStore",
    directions: Sequence[Direction],
    *,
    epoch: int,
    seed: int,
    temperature: float,
    max_tokens: int,
    pairs_per_epoch: int | None,
    max_length: int,
    weights: SourceWeights | None = None,
) -> EpochPlan:
    """Returns the microbatches of an epoch; the arguments alone decide them, so that a run resumes at any epoch.

    A direction with n pairs gets a share proportional to n ** (1 / temperature) of the epoch, exact to one pair, and
    goes on in the next epoch where it stopped: no pair comes again before all of its direction have come.

    Args:
        store: The tokens. A pair is there if both sides are.
        directions: The directions, all mixed in each microbatch.
        epoch: Which epoch, from 0.
        seed: At least 0.
        temperature: Above 0. 1: proportional to size; large: all directions alike.
        max_tokens: A microbatch has rows * max(src_len, tgt_len) <= max_tokens.
        pairs_per_epoch: Pairs drawn. None: as many as there are over all directions.
        max_length: Pairs with a side of more tokens (with language and end), or above `max_tokens`, are left out.
        weights: Pairs of a source of weight w count w times, in what is drawn of a direction and in its size; then
            no pair comes again before all of its direction and source have come. None: all pairs count once.

    Raises:
        ValueError: If an argument is out of range.
        InputError: If no direction has a pair.
    """
    if epoch < 0 or seed < 0 or temperature <= 0 or (pairs_per_epoch is not None and pairs_per_epoch < 1):
        got = f"epoch={epoch}, seed={seed}, temperature={temperature}, pairs_per_epoch={pairs_per_epoch}"
        raise ValueError(f"epoch, seed >= 0, temperature > 0 and pairs_per_epoch >= 1 must hold, but got {got}")
    usable, lengths, num_left_out = _usable_pairs(store, directions, min(max_length, max_tokens))
    streams = _streams(usable, lengths, weights)
    sizes = np.array([len(stream.rows) for stream in streams])
    if not sizes.sum():
        rule = f"Training needs a pair with both sides of at most {min(max_length, max_tokens)} tokens"
        raise InputError(f"{rule}, but {len(directions)} directions have none ({num_left_out} are longer)")
    shares = _shares(streams, len(directions), temperature)
    num_pairs = round(sum(stream.size for stream in streams)) if pairs_per_epoch is None else pairs_per_epoch
    counts = [_counts(sizes, shares, num_pairs, seed, earlier) for earlier in range(epoch + 1)]
    starts = sum(counts[:-1], start=np.zeros_like(sizes))
    pairs = np.empty((num_pairs, 2), np.int32)
    longest = np.empty(num_pairs, np.int32)
    end = 0
    for stream, start, count in zip(streams, starts.tolist(), counts[-1].tolist(), strict=True):
        if not count:
            continue
        begin, end = end, end + count
        drawn = _draw(len(stream.rows), start, count, (seed, _ROWS_STREAM, *stream.entropy))
        pairs[begin:end, 0] = stream.direction
        pairs[begin:end, 1] = stream.rows[drawn]
        longest[begin:end] = stream.lengths[drawn]
    rng = np.random.default_rng((seed, _ORDER_STREAM, epoch))
    return EpochPlan(_cut(pairs, longest, max_tokens, rng), num_pairs, num_left_out)


def collate(
    store: "TokenStore",
    directions: Sequence[Direction],
    rows: NDArray[np.int32],
    vocabulary: BatchVocabulary,
    languages: Sequence[str],
    *,
    with_sentences: bool = False,
) -> Batch:
    """Returns the tensors of a microbatch.

    Args:
        store: The tokens.
        directions: Those that the plan was made with.
        rows: (rows, 2): index of the direction, row of the sentence.
        vocabulary: The special tokens.
        languages: The order that `src_lang` and `tgt_lang` count in: the slots of the adapters.
        with_sentences: Say also which row of the store each pair is.

    Raises:
        ValueError: If a sentence is missing in its language.
    """
    pairs = [(directions[index], row) for index, row in rows.tolist()]
    of_rows = [direction for direction, _ in pairs]
    src_ids, src_lengths = padded(
        [store.tokens(d.src, row) for d, row in pairs], vocabulary.src_marks(of_rows), vocabulary
    )
    tgt_ids, tgt_lengths = padded(
        [store.tokens(d.tgt, row) for d, row in pairs], vocabulary.tgt_marks(of_rows), vocabulary
    )
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
        src_lang=torch.tensor([position[d.src] for d, _ in pairs], dtype=torch.int64),
        tgt_lang=torch.tensor([position[d.tgt] for d, _ in pairs], dtype=torch.int64),
        num_tgt_tokens=int(is_label.sum()),
        sentences=torch.from_numpy(rows[:, 1].astype(np.int64)) if with_sentences else None,
    )


def padded(
    texts: Sequence[NDArray[np.int32]], marks: Sequence[int] | None, vocabulary: BatchVocabulary
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns ids (rows, length) as [mark] text [eos] pads, and lengths (rows,).

    Args:
        texts: The pieces of each row, (num_tokens,).
        marks: The token that each row begins with. None: the rows begin with their text.
        vocabulary: The special tokens.
    """
    first = 0 if marks is None else 1
    lengths = np.fromiter((len(tokens) for tokens in texts), np.int64, len(texts)) + first + 1
    ids = np.full((len(texts), int(lengths.max())), vocabulary.pad_id, np.int64)
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


def _usable_pairs(
    store: "TokenStore", directions: Sequence[Direction], limit: int
) -> tuple[list[NDArray[np.int32]], list[NDArray[np.int32]], int]:
    """Returns for each direction its rows and the length of their longer side, and how many pairs are too long."""
    usable, lengths, num_left_out = [], [], 0
    for direction in directions:
        src, tgt = store.lengths(direction.src), store.lengths(direction.tgt)
        rows = np.flatnonzero((src >= 0) & (tgt >= 0)).astype(np.int32)
        longer = np.maximum(src[rows], tgt[rows]) + NUM_MARKS
        fits = longer <= limit
        usable.append(rows[fits])
        lengths.append(longer[fits])
        num_left_out += int((~fits).sum())
    return usable, lengths, num_left_out


@dataclass(frozen=True)
class _Stream:
    """The pairs of a direction, or of one source in it, of which none comes again before all have come."""

    direction: int
    rows: NDArray[np.int32]
    lengths: NDArray[np.int32]
    weight: float
    entropy: tuple[int, ...]

    @property
    def size(self) -> float:
        return self.weight * len(self.rows)


def _streams(
    usable: Sequence[NDArray[np.int32]], lengths: Sequence[NDArray[np.int32]], weights: SourceWeights | None
) -> list[_Stream]:
    streams = []
    for direction, (rows, longer) in enumerate(zip(usable, lengths, strict=True)):
        if weights is None:
            streams.append(_Stream(direction, rows, longer, 1.0, (direction,)))
            continue
        cuts = np.searchsorted(rows, weights.ends[:-1])
        parts = zip(np.split(rows, cuts), np.split(longer, cuts), weights.weights, strict=True)
        streams += [_Stream(direction, *part, (direction, source)) for source, part in enumerate(parts)]
    return streams


def _shares(streams: Sequence[_Stream], num_directions: int, temperature: float) -> NDArray[np.float64]:
    """Returns what each stream is drawn in proportion to: its part of its direction's share."""
    sizes = np.array([stream.size for stream in streams])
    directions = np.array([stream.direction for stream in streams])
    of_direction = np.bincount(directions, sizes, num_directions)[directions]
    # Divided first, so that a huge size to a huge power cannot overflow.
    powers = (of_direction / of_direction.max()) ** (1 / temperature)
    parts: NDArray[np.float64] = np.divide(sizes, of_direction, out=np.zeros_like(sizes), where=of_direction > 0)
    shares: NDArray[np.float64] = powers * parts
    return shares


def _counts(
    sizes: NDArray[np.int64], shares: NDArray[np.float64], num_pairs: int, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Returns the pairs of each stream in an epoch: systematic sampling, so each is within one of its share."""
    rng = np.random.default_rng((seed, _COUNTS_STREAM, epoch))
    order = rng.permutation(np.flatnonzero(sizes))
    weights = shares[order]
    ends = np.cumsum(weights) * (num_pairs / weights.sum())
    ends[-1] = num_pairs
    # The offset keeps clear of 0 and 1, so that rounding never moves a share that is a whole number.
    bounds = np.floor(ends + rng.uniform(1e-3, 1 - 1e-3)).astype(np.int64)
    counts = np.zeros_like(sizes)
    counts[order] = np.diff(bounds, prepend=0)
    return counts


def _draw(size: int, start: int, count: int, entropy: tuple[int, ...]) -> NDArray[np.int64]:
    """Returns positions `start` to `start + count` of an endless row of permutations of `size`."""
    first, last = start // size, (start + count - 1) // size
    passes = [np.random.default_rng((*entropy, number)).permutation(size) for number in range(first, last + 1)]
    begin = start - first * size
    return np.concatenate(passes)[begin : begin + count]


def _cut(
    pairs: NDArray[np.int32], longest: NDArray[np.int32], max_tokens: int, rng: np.random.Generator
) -> tuple[NDArray[np.int32], ...]:
    """Returns microbatches of pairs of like length, in random order. Sorting in chunks keeps their mix random."""
    shuffled = rng.permutation(len(pairs))
    rows_per_microbatch = max(1, int(max_tokens / longest.mean()))
    chunk_size = rows_per_microbatch * _MICROBATCHES_PER_CHUNK
    microbatches = []
    for start in range(0, len(pairs), chunk_size):
        chunk = shuffled[start : start + chunk_size]
        chunk = chunk[np.argsort(-longest[chunk], kind="stable")]
        begin = 0
        while begin < len(chunk):
            # The first is the longest, so the others fit where it fits.
            end = begin + max_tokens // int(longest[chunk[begin]])
            microbatches.append(pairs[chunk[begin:end]])
            begin = end
    return tuple(microbatches[index] for index in rng.permutation(len(microbatches)))
