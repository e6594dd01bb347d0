"""Decoding of rows in different directions in one batch: each row is forced into its own target language."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from langsearch.adapters.learners import Learner
from langsearch.data.batches import NUM_MARKS, BatchVocabulary, is_token, padded
from langsearch.data.directions import Direction
from langsearch.evaluate.beams import Beams, BeamSettings
from langsearch.evaluate.greedy import Greedy
from langsearch.evaluate.incremental import IncrementalDecoder
from langsearch.evaluate.limits import LengthLimits, length_limits
from langsearch.evaluate.sources import Sources
from langsearch.model.base import BaseTokenizer
from langsearch.model.memory import smallest_told
from langsearch.model.positions import num_positions
from langsearch.space.settings import DecodingSettings

_MIN_TOKENS = 64
"""What a hypothesis counts at least: however short it is, its next token has a logit for each of the vocabulary."""

_MIN_SHARE_LEAVING = 0.25
"""Rows leave when so many have ended: those that stay are copied, which has its price."""


Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class DecodingRow:
    """One sentence to translate."""

    tokens: np.ndarray
    """Piece ids of the source, (num_tokens,), without language and end tokens."""
    src: str
    tgt: str

    @property
    def direction(self) -> Direction:
        """From which language into which."""
        return Direction(self.src, self.tgt)

    @property
    def sentence(self) -> tuple[str, bytes]:
        """What the rows of one sentence have in common, whatever it is translated into."""
        return self.src, self.tokens.tobytes()


@dataclass(frozen=True)
class Decoded:
    """Translations in the order of their rows."""

    texts: list[str]
    is_cut: list[bool]
    """Whether each one ended by its limit: it is as long as it may be, and its end was not the model's choice."""

    def split(self, sizes: Mapping[Key, int]) -> "dict[Key, Decoded]":
        """Returns the translations in groups of so many rows each, which stand one behind the other."""
        found, start = {}, 0
        for key, size in sizes.items():
            part = slice(start, start + size)
            found[key] = Decoded(self.texts[part], self.is_cut[part])
            start = part.stop
        return found


def decode_rows(
    learner: Learner,
    rows: Sequence[DecodingRow],
    *,
    tokenizer: BaseTokenizer,
    vocabulary: BatchVocabulary,
    languages: Sequence[str],
    settings: DecodingSettings,
    limits: LengthLimits | None = None,
    num_parts: int = 1,
    after_batch: Callable[[], None] = lambda: None,
) -> Decoded:
    """Translates rows of any directions, batched by length.

    Args:
        learner: The model.
        rows: What to translate.
        tokenizer: Turns ids into text.
        vocabulary: The special ids.
        languages: What the learner's language indices refer to.
        settings: Beams, length and batch size.
        limits: How long hypotheses may get. None: as the settings say, without training references to learn it from.
        num_parts: Each batch is split into so many parts, where memory is short.
        after_batch: Called after every batch.
    """
    limits = limits or _limits_of(learner, settings)
    decoded = Decoded([""] * len(rows), [False] * len(rows))
    for indices, hypotheses in decode_batches(
        learner, rows, vocabulary=vocabulary, languages=languages, settings=settings, limits=limits, num_parts=num_parts
    ):
        for index, tokens, text in zip(indices, hypotheses, tokenizer.decode(hypotheses), strict=True):
            decoded.texts[index] = text
            decoded.is_cut[index] = _is_cut(tokens, rows[index], limits, vocabulary)
        after_batch()
    return decoded


@torch.inference_mode()
def decode_batches(
    learner: Learner,
    rows: Sequence[DecodingRow],
    *,
    vocabulary: BatchVocabulary,
    languages: Sequence[str],
    settings: DecodingSettings,
    limits: LengthLimits | None = None,
    num_parts: int = 1,
) -> Iterator[tuple[list[int], list[list[int]]]]:
    """Yields (indices of the rows, their token ids) as rows end, longest sources first; see `decode_rows`.

    A row that has ended leaves, and where enough have left, the next rows take their room.
    """
    limits = limits or _limits_of(learner, settings)
    model: Any = learner.model
    model.eval()
    queue = DecodingQueue(rows, settings, limits, num_parts)
    inputs = _Inputs(vocabulary, languages, limits, model.get_input_embeddings().weight.device)
    decoder = IncrementalDecoder(learner, vocabulary, settings.beams)
    search = _search(model, settings, vocabulary)
    flying: list[int] = []
    tokens: Tensor | None = None
    is_done: Tensor | None = None
    while flying or queue.is_waiting:
        new = queue.take(flying)
        with smallest_told(len(flying) + len(new), "decoded"):
            if new:
                batch = [rows[index] for index in new]
                hidden = decoder.add(inputs.sources(batch))
                first, is_done_at_once = search.add(decoder, hidden, inputs.longest(batch), inputs.marks(batch))
                tokens, is_done = _more(tokens, first), _more(is_done, is_done_at_once)
                flying += new
            assert tokens is not None and is_done is not None, "rows are in flight"
            ended, kept, tokens = _until_rows_leave(decoder, search, tokens, is_done)
        is_done = torch.zeros_like(kept, dtype=torch.bool)
        yield [flying[row] for row in ended], list(ended.values())
        flying = [flying[row] for row in kept.tolist()]


def _until_rows_leave(
    decoder: IncrementalDecoder, search: "Greedy | Beams", tokens: Tensor, is_done: Tensor
) -> tuple[dict[int, list[int]], Tensor, Tensor]:
    """Goes on until enough rows in flight have ended, and lets these go.

    Args:
        decoder: Has read what was said before.
        search: Chooses what is said next.
        tokens: (rows, beams) what was chosen last.
        is_done: (rows,) whether rows have ended with it.

    Returns:
        The tokens of the rows that have ended, by their place; the places of those that have not, (kept,); and what was
        chosen for these last, (kept, beams).
    """
    ended: dict[int, list[int]] = {}
    with decoder.routed():
        while True:
            places = [row for row in is_done.nonzero().flatten().tolist() if row not in ended]
            if places:
                # At once: where a row waits for others to leave, it goes on, and nobody looks.
                ended.update(zip(places, search.found(torch.tensor(places, device=tokens.device)), strict=True))
            if len(ended) >= max(1.0, _MIN_SHARE_LEAVING * len(tokens)):
                break
            tokens, is_done = search.choose(decoder, decoder.step(tokens))
    kept = torch.tensor([row for row in range(len(tokens)) if row not in ended], dtype=torch.long, device=tokens.device)
    decoder.keep(kept)
    search.keep(kept)
    return ended, kept, tokens[kept]


def _more(first: Tensor | None, second: Tensor) -> Tensor:
    return second if first is None else torch.cat([first, second])


def _search(model: Any, settings: DecodingSettings, vocabulary: BatchVocabulary) -> Greedy | Beams:
    if settings.beams == 1:
        return Greedy(vocabulary.eos_id)
    told = model.generation_config
    penalty = 1.0 if told.length_penalty is None else float(told.length_penalty)
    return Beams(BeamSettings(settings.beams, penalty, told.early_stopping or False), vocabulary.eos_id)


class DecodingQueue:
    """Rows that wait to be decoded, longest sources first, and how many there is room for.

    What a row takes is its source and its longest hypothesis, padded to those of the rows it is decoded with, times the
    beams: more keys and values are never kept of it.

    Args:
        rows: What to translate.
        settings: Beams, and the tokens or hypotheses that there is room for.
        limits: How long hypotheses may get.
        num_parts: Only such a part of what the first rows would take is used, where memory is short.
    """

    def __init__(
        self, rows: Sequence[DecodingRow], settings: DecodingSettings, limits: LengthLimits, num_parts: int = 1
    ) -> None:
        self._src = [len(row.tokens) + NUM_MARKS for row in rows]
        self._tgt = [limits.tokens(row.direction, len(row.tokens)) + NUM_MARKS for row in rows]
        # The same sentence for its targets one after another, so that it is encoded once for them.
        sentences: dict[tuple[str, bytes], int] = {}
        numbers = [sentences.setdefault(row.sentence, index) for index, row in enumerate(rows)]
        self._waiting = sorted(range(len(rows)), key=lambda index: (self._src[index], -numbers[index], -index))
        self._settings = settings
        self._room = settings.tokens_per_batch if settings.rows_per_batch is None else settings.rows_per_batch
        if num_parts > 1:
            first = self._fitting([])
            used = self._size(len(first), *self._longest(first))
            self._room = min(self._room, used) // num_parts

    @property
    def is_waiting(self) -> bool:
        """Whether there are any."""
        return bool(self._waiting)

    def take(self, flying: Sequence[int]) -> list[int]:
        """Returns the next rows that fit beside those in flight; one at least if none is."""
        taken = self._fitting(flying)
        del self._waiting[len(self._waiting) - len(taken) :]
        return taken

    def _fitting(self, flying: Sequence[int]) -> list[int]:
        src, tgt = self._longest(flying)
        taken: list[int] = []
        for index in reversed(self._waiting):
            src, tgt = max(src, self._src[index]), max(tgt, self._tgt[index])
            num_rows = len(flying) + len(taken) + 1
            if num_rows > 1 and self._size(num_rows, src, tgt) > self._room:
                break
            taken.append(index)
        return taken

    def _longest(self, rows: Sequence[int]) -> tuple[int, int]:
        return max((self._src[row] for row in rows), default=0), max((self._tgt[row] for row in rows), default=0)

    def _size(self, num_rows: int, src: int, tgt: int) -> int:
        """Returns what so many rows of these lengths take, in hypotheses or in tokens."""
        num_hypotheses = num_rows * self._settings.beams
        if self._settings.rows_per_batch is not None:
            return num_hypotheses
        return max(src + tgt, _MIN_TOKENS) * num_hypotheses


@dataclass(frozen=True)
class _Inputs:
    """Makes tensors of rows."""

    vocabulary: BatchVocabulary
    languages: Sequence[str]
    limits: LengthLimits
    device: torch.device

    def sources(self, batch: Sequence[DecodingRow]) -> Sources:
        """Returns their sources, padded, and what their hypotheses begin with."""
        directions = [row.direction for row in batch]
        marks = self.vocabulary.src_marks(directions)
        ids, lengths = padded([row.tokens for row in batch], marks, self.vocabulary)
        mask = is_token(ids, lengths).astype(np.int64)
        first_rows: dict[tuple[object, ...], int] = {}
        same = [
            first_rows.setdefault((mark, *row.sentence), place)
            for place, (mark, row) in enumerate(zip(marks, batch, strict=True))
        ]
        number = {row: index for index, row in enumerate(first_rows.values())}
        starts = [[self.vocabulary.decoder_start_id]] * len(batch)
        if (tgt_marks := self.vocabulary.tgt_marks(directions)) is not None:
            starts = [[*start, mark] for start, mark in zip(starts, tgt_marks, strict=True)]
        return Sources(
            ids=torch.from_numpy(ids).to(self.device),
            mask=torch.from_numpy(mask).to(self.device),
            src_lang=self._tensor([self.languages.index(row.src) for row in batch]),
            tgt_lang=self._tensor([self.languages.index(row.tgt) for row in batch]),
            starts=self._tensor(starts),
            first_rows=self._tensor(list(number)),
            source_of=self._tensor([number[row] for row in same]),
        )

    def longest(self, batch: Sequence[DecodingRow]) -> Tensor:
        """Returns the most tokens of their hypotheses, (rows,), language and end included."""
        num_marks = _num_tgt_marks(self.vocabulary)
        return self._tensor([self.limits.tokens(row.direction, len(row.tokens)) + num_marks for row in batch])

    def marks(self, batch: Sequence[DecodingRow]) -> Tensor | None:
        """Returns the tokens that their hypotheses begin with, (rows,); None where the base has none there."""
        marks = self.vocabulary.tgt_marks([row.direction for row in batch])
        return None if marks is None else self._tensor(marks)

    def _tensor(self, values: Sequence[Any]) -> Tensor:
        return torch.tensor(values, device=self.device)


def _limits_of(learner: Learner, settings: DecodingSettings) -> LengthLimits:
    return length_limits(settings, num_positions(learner.model.config))


def _num_tgt_marks(vocabulary: BatchVocabulary) -> int:
    """Returns the tokens of a hypothesis beside its text: its end, and its language if there is one."""
    return 2 if vocabulary.form.has_tgt_mark else 1


def _is_cut(tokens: Sequence[int], row: DecodingRow, limits: LengthLimits, vocabulary: BatchVocabulary) -> bool:
    """Returns whether a hypothesis is as long as it may be, its end included, which the limit then forced."""
    length = list(tokens).index(vocabulary.eos_id) + 1
    return length == limits.tokens(row.direction, len(row.tokens)) + _num_tgt_marks(vocabulary)


def translate_pieces(
    learner: Learner,
    rows: Sequence[DecodingRow],
    vocabulary: BatchVocabulary,
    languages: Sequence[str],
    num_parts: int = 1,
) -> list[list[int] | None]:
    """Returns the pieces of each greedy translation, without language and end; None of one that was cut.

    They may be as long as their sources and ten tokens more, as back-translation wants them (arXiv 2004.11867: as long
    as the source).

    Args:
        learner: The model; it is left in evaluation mode.
        rows: What to translate.
        vocabulary: The special ids.
        languages: What the learner's language indices refer to.
        num_parts: As in `decode_rows`.
    """
    settings = DecodingSettings(beams=1, max_length_factor=1.0)
    limits = _limits_of(learner, settings)
    found: list[list[int] | None] = [None] * len(rows)
    for indices, hypotheses in decode_batches(
        learner, rows, vocabulary=vocabulary, languages=languages, settings=settings, limits=limits, num_parts=num_parts
    ):
        for index, tokens in zip(indices, hypotheses, strict=True):
            if not _is_cut(tokens, rows[index], limits, vocabulary):
                text = tokens[: tokens.index(vocabulary.eos_id)]
                found[index] = text[1:] if vocabulary.form.has_tgt_mark else text
    return found
