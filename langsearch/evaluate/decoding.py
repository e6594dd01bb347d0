"""Decoding of rows in different directions in one batch: each row is forced into its own target language."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessorList

from langsearch.adapters.learners import Learner
from langsearch.data.batches import NUM_MARKS, BatchVocabulary, is_token, padded
from langsearch.data.directions import Direction
from langsearch.evaluate.greedy import greedy_search
from langsearch.evaluate.limits import LengthLimits, length_limits
from langsearch.model.base import BaseTokenizer
from langsearch.model.memory import smallest_told
from langsearch.model.positions import num_positions
from langsearch.space.settings import DecodingSettings

_MIN_TOKENS = 64
"""What a hypothesis counts at least: however short it is, its next token has a logit for each of the vocabulary."""


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


@dataclass(frozen=True)
class Decoded:
    """Translations in the order of their rows."""

    texts: list[str]
    is_cut: list[bool]
    """Whether each one ended by its limit: it is as long as it may be, and its end was not the model's choice."""


class ForceLanguageAndEnd:
    """A logits processor that makes each row start with its own language and end at its own longest length.

    Exact for greedy and beams; a list given as `forced_bos_token_id` is silently wrong, and language tokens in
    `decoder_input_ids` change the beams' lengths. Without language ids rows start with their text. The length limit
    is a row's own, so that a translation does not depend on the other rows of its batch.
    """

    def __init__(self, language_ids: Tensor | None, max_lengths: Tensor, eos_id: int) -> None:
        self._language_ids, self._max_lengths, self._eos_id = language_ids, max_lengths, eos_id
        self._first_end = int(max_lengths.min())
        self._num_ids = 0 if language_ids is None else int(language_ids.max()) + 1

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Called by `generate` before each token; (rows * beams, length), (rows * beams, vocab) -> (…, ids)."""
        length = input_ids.shape[1]
        num_beams = scores.shape[0] // self._max_lengths.shape[0]
        if length == 1 and self._language_ids is not None:
            forced = self._language_ids.repeat_interleave(num_beams)
            # Languages that are new to the base have ids behind its own, for this step alone.
            size = scores.shape[0], max(scores.shape[1], self._num_ids)
            return scores.new_full(size, -torch.inf).scatter_(1, forced[:, None], 0.0)
        if length < self._first_end:
            return scores
        ends = (self._max_lengths <= length).repeat_interleave(num_beams)
        scores = scores.masked_fill(ends[:, None], -torch.inf)
        scores[:, self._eos_id] = scores[:, self._eos_id].masked_fill(ends, 0.0)
        return scores


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
            # `generate` repeats the decoder's start before its hypotheses.
            decoded.is_cut[index] = _is_cut(tokens[settings.beams > 1 :], rows[index], limits, vocabulary)
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
    """Yields (indices of the rows, their token ids) batch by batch, longest sources first; see `decode_rows`."""
    limits = limits or _limits_of(learner, settings)
    model: Any = learner.model
    model.eval()
    device = model.get_input_embeddings().weight.device
    index_of = {language: index for index, language in enumerate(languages)}
    whole = decoding_batches(rows, settings, limits)
    parts = [part.tolist() for batch in whole for part in np.array_split(batch, min(num_parts, len(batch)))]
    for indices in parts:
        batch = [rows[index] for index in indices]
        directions = [row.direction for row in batch]
        ids, lengths = padded([row.tokens for row in batch], vocabulary.src_marks(directions), vocabulary)
        src_ids = torch.from_numpy(ids).to(device)
        src_mask = torch.from_numpy(is_token(ids, lengths).astype(np.int64)).to(device)
        src_lang = torch.tensor([index_of[row.src] for row in batch], device=device)
        tgt_lang = torch.tensor([index_of[row.tgt] for row in batch], device=device)
        marks = vocabulary.tgt_marks(directions)
        forced = None if marks is None else torch.tensor(marks, device=device)
        num_marks = _num_tgt_marks(vocabulary)
        longest = torch.tensor(
            [limits.tokens(row.direction, len(row.tokens)) + num_marks for row in batch], device=device
        )
        with smallest_told(len(batch), "decoded"):
            if settings.beams == 1:
                found = greedy_search(learner, src_ids, src_mask, src_lang, tgt_lang, forced, longest, vocabulary)
            else:
                with learner.route(src_lang, tgt_lang):
                    output = model.generate(
                        input_ids=src_ids,
                        attention_mask=src_mask,
                        num_beams=settings.beams,
                        do_sample=False,
                        max_new_tokens=int(longest.max()),
                        logits_processor=LogitsProcessorList([ForceLanguageAndEnd(forced, longest, vocabulary.eos_id)]),
                    )
                found = output.tolist()
        yield indices, found


def decoding_batches(rows: Sequence[DecodingRow], settings: DecodingSettings, limits: LengthLimits) -> list[list[int]]:
    """Returns which rows are decoded together: like in length, longest sources first, and as many as there is room for.

    What a row takes is its source and its longest hypothesis, padded to those of its batch, times the beams: so many
    keys and values are kept of it. A batch has one row at least.
    """
    order = sorted(range(len(rows)), key=lambda index: (-len(rows[index].tokens), index))
    batches: list[list[int]] = []
    src_len = tgt_len = 0
    for index in order:
        row = rows[index]
        src, tgt = len(row.tokens) + NUM_MARKS, limits.tokens(row.direction, len(row.tokens)) + NUM_MARKS
        num_hypotheses = (len(batches[-1]) + 1) * settings.beams if batches else 0
        tokens = max(max(src_len, src) + max(tgt_len, tgt), _MIN_TOKENS) * num_hypotheses
        has_room = tokens <= settings.tokens_per_batch
        if settings.rows_per_batch is not None:
            has_room = num_hypotheses <= settings.rows_per_batch
        if batches and has_room:
            batches[-1].append(index)
            src_len, tgt_len = max(src_len, src), max(tgt_len, tgt)
        else:
            batches.append([index])
            src_len, tgt_len = src, tgt
    return batches


def _limits_of(learner: Learner, settings: DecodingSettings) -> LengthLimits:
    return length_limits(settings, num_positions(learner.model.config))


def _num_tgt_marks(vocabulary: BatchVocabulary) -> int:
    """Returns the tokens of a hypothesis beside its text: its end, and its language if there is one."""
    return 2 if vocabulary.form.has_tgt_mark else 1


def _is_cut(tokens: Sequence[int], row: DecodingRow, limits: LengthLimits, vocabulary: BatchVocabulary) -> bool:
    """Returns whether a hypothesis is as long as it may be, its end included, which the limit then forced."""
    length = list(tokens).index(vocabulary.eos_id) + 1
    return length == limits.tokens(row.direction, len(row.tokens)) + _num_tgt_marks(vocabulary)
