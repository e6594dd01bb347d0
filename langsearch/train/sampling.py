"""What a model says of some sentences of a language, before anything looks at a target."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from langsearch.adapters.learners import AdaptedModel
from langsearch.data.batches import NUM_MARKS, BatchVocabulary, is_token, padded
from langsearch.data.directions import Direction
from langsearch.data.store import TokenStore
from langsearch.model.positions import num_positions
from langsearch.train.forward import lower_states
from langsearch.train.pooling import pooled

_AT_ONCE = 32


@torch.no_grad()
def sampled_states(
    model: AdaptedModel,
    store: TokenStore,
    vocabulary: BatchVocabulary,
    language: str,
    *,
    num_layers: int,
    num_sentences: int,
    precision: torch.dtype,
) -> Tensor:
    """Returns the mean states of sentences, evenly spaced over a store, (sentences, d) in fp32.

    Args:
        model: As it is in its base.
        store: The sentences; those that are missing or longer than the base's positions are none.
        vocabulary: The special tokens.
        language: One of the model's; where sources begin with their target, that is the first other one.
        num_layers: How many of the encoder's layers are run, as `layers_of` has them; they look at no target.
        num_sentences: At most so many.
        precision: The type that products are made in.
    """
    rows = sampled_rows(model, store, [language], num_sentences)
    return states_of(model, store, vocabulary, language, rows, num_layers=num_layers, precision=precision)


def sampled_rows(
    model: AdaptedModel, store: TokenStore, languages: Sequence[str], num_sentences: int
) -> NDArray[np.int64]:
    """Returns rows, evenly spaced, that are there in all of some languages and no longer than the base's positions.

    Args:
        model: The model.
        store: The sentences.
        languages: All of which must have a row.
        num_sentences: At most so many.
    """
    most = num_positions(model.model.config) - NUM_MARKS
    lengths = np.stack([store.lengths(language) for language in languages])
    rows = np.flatnonzero(((lengths >= 0) & (lengths <= most)).all(axis=0))
    return rows[np.linspace(0, len(rows) - 1, min(num_sentences, len(rows))).astype(np.int64)]


@torch.no_grad()
def states_of(
    model: AdaptedModel,
    store: TokenStore,
    vocabulary: BatchVocabulary,
    language: str,
    rows: NDArray[np.int64],
    *,
    num_layers: int,
    precision: torch.dtype,
) -> Tensor:
    """Returns the mean states of sentences, (rows, d) in fp32; the rest as in `sampled_states`.

    Args:
        model: As it is in its base.
        store: The sentences.
        vocabulary: The special tokens.
        language: Theirs.
        rows: (rows,); all are there, and no longer than the base's positions.
        num_layers: How many of the encoder's layers are run.
        precision: The type that products are made in.
    """
    if len(rows) == 0:
        return torch.zeros(0, model.model.lm_head.weight.shape[1])
    other = next(name for name in model.languages if name != language)
    (mark,) = vocabulary.src_marks([Direction(language, other)])
    device = model.model.lm_head.weight.device
    found = []
    for start in range(0, len(rows), _AT_ONCE):
        texts = [store.tokens(language, int(row)) for row in rows[start : start + _AT_ONCE]]
        ids, id_lengths = padded(texts, [mark] * len(texts), vocabulary)
        mask = torch.from_numpy(is_token(ids, id_lengths).astype(np.int64)).to(device)
        src, tgt = (torch.full((len(texts),), model.languages.index(name), device=device) for name in (language, other))
        with model.route(src, tgt):
            states = lower_states(model, torch.from_numpy(ids).to(device), mask, num_layers, precision)
        found.append(pooled(states, mask))
    return torch.cat(found)
