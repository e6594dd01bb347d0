"""Decoding of mixed directions against a loop over the directions with `generate`, on one model with adapters.

Random weights hardly ever end a sentence, so hypotheses are as long as their limit: their sources and ten tokens.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from langsearch.adapters.learners import AdaptedModel
from langsearch.data.batches import BatchVocabulary, is_token, padded
from langsearch.data.directions import Direction, all_directions
from langsearch.evaluate.decoding import DecodingRow, decode_batches
from langsearch.evaluate.limits import PLUS_TOKENS
from langsearch.model.base import Base
from langsearch.space.settings import DecodingSettings
from tests.benchmarks.step_variants import NUM_MARKS, Size, adapted_model

_PAD, _EOS = 1, 2
"""Of M2M-100."""

_MEDIAN_TOKENS, _SPREAD, _MIN_TOKENS, _MAX_TOKENS = 30, 0.4, 5, 100
"""Lengths of the sources, lognormal, much as those of encyclopedic sentences."""

_ROWS_PER_BATCH = 128
"""Hypotheses decoded together, on either side."""


@dataclass(frozen=True)
class Sentences:
    """What is translated, and by which model."""

    learner: AdaptedModel
    vocabulary: BatchVocabulary
    rows: dict[Direction, list[DecodingRow]]

    def some(self, num_directions: int) -> "Sentences":
        """Returns those of so many directions, evenly spread over all."""
        directions = list(self.rows)
        kept = [directions[index * len(directions) // num_directions] for index in range(num_directions)]
        return Sentences(self.learner, self.vocabulary, {direction: self.rows[direction] for direction in kept})

    @property
    def num_rows(self) -> int:
        """How many sentences there are."""
        return sum(map(len, self.rows.values()))


def random_sentences(base: Base, size: Size, num_languages: int, num_sentences: int) -> Sentences:
    """Returns so many sentences of random ids in each of all directions between so many languages."""
    learner = adapted_model(base, num_languages)
    first = size.vocab - num_languages  # the last ids are the languages
    vocabulary = BatchVocabulary(
        pad_id=_PAD,
        eos_id=_EOS,
        decoder_start_id=_EOS,
        language_ids={language: first + index for index, language in enumerate(learner.languages)},
    )
    random = np.random.default_rng(0)
    rows: dict[Direction, list[DecodingRow]] = {}
    for direction in all_directions(learner.languages):
        lengths = random.lognormal(np.log(_MEDIAN_TOKENS), _SPREAD, num_sentences)
        rows[direction] = [
            DecodingRow(random.integers(NUM_MARKS, first, length).astype(np.int32), direction.src, direction.tgt)
            for length in lengths.clip(_MIN_TOKENS, _MAX_TOKENS).astype(int)
        ]
    return Sentences(learner, vocabulary, rows)


def decode_mixed(text: Sentences, beams: int) -> list[list[int]]:
    """Returns the tokens of every row, decoded by langsearch in batches of mixed directions."""
    rows = [row for of_direction in text.rows.values() for row in of_direction]
    found: list[list[int]] = [[] for _ in rows]
    for indices, hypotheses in decode_batches(
        text.learner,
        rows,
        vocabulary=text.vocabulary,
        languages=text.learner.languages,
        settings=DecodingSettings(beams=beams, rows_per_batch=_ROWS_PER_BATCH, max_length_factor=1.0),
    ):
        for index, tokens in zip(indices, hypotheses, strict=True):
            found[index] = tokens
    return found


@torch.inference_mode()
def decode_in_a_loop(text: Sentences, beams: int) -> list[list[int]]:
    """Returns the tokens of every row, decoded direction by direction by `generate`, with the same adapters.

    A batch has as many hypotheses as langsearch's at most, and ends with its longest.
    """
    model: Any = text.learner.model
    model.eval()
    num_rows = max(_ROWS_PER_BATCH // beams, 1)
    found: list[list[int]] = []
    for direction, rows in text.rows.items():
        src, tgt = (text.learner.languages.index(language) for language in (direction.src, direction.tgt))
        for start in range(0, len(rows), num_rows):
            batch = rows[start : start + num_rows]
            marks = text.vocabulary.src_marks([direction] * len(batch))
            ids, lengths = padded([row.tokens for row in batch], marks, text.vocabulary)
            languages = [torch.full((len(batch),), index, device=model.device) for index in (src, tgt)]
            with text.learner.route(*languages):
                output = model.generate(
                    input_ids=torch.from_numpy(ids).to(model.device),
                    attention_mask=torch.from_numpy(is_token(ids, lengths).astype(np.int64)).to(model.device),
                    forced_bos_token_id=text.vocabulary.language_ids[direction.tgt],
                    num_beams=beams,
                    do_sample=False,
                    max_new_tokens=int(max(len(row.tokens) for row in batch)) + PLUS_TOKENS + 2,
                )
            found += output.tolist()
    return found
