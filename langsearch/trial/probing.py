"""What a trial's encodings of validation sentences are worth: which language a probe reads, which lines are found."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from langsearch.adapters.learners import AdaptedModel
from langsearch.data.batches import BatchVocabulary
from langsearch.data.store import TokenStore
from langsearch.space.loss_settings import LossSettings
from langsearch.train.forward import EncoderSides
from langsearch.train.probe import fresh_probe_accuracy
from langsearch.train.retrieval import retrieval_accuracy
from langsearch.train.sampling import sampled_rows, sampled_states, states_of
from langsearch.train.teacher import base_teacher

_NUM_SENTENCES = 200
"""Of each language, at most."""

_MIN_SENTENCES = 10
"""Fewer fit no probe, and are found by chance."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """How often the line of a sentence is found in the pivot language, as shares of the sentences."""

    before: float
    """By the base."""

    after: float
    num_sentences: int


def probed(
    learner: AdaptedModel, store: TokenStore, vocabulary: BatchVocabulary, num_layers: int | None = None
) -> tuple[float, float] | None:
    """Returns the share of sentences whose language a fresh probe reads, and that of the most frequent language.

    None where some language has next to no sentences.

    Args:
        learner: The model as it is in its base, not in training mode.
        store: The validation sentences.
        vocabulary: The special tokens.
        num_layers: Of the encoder that are run. None: those below the first that looks at the target.
    """
    if num_layers is None:
        num_layers = EncoderSides.of(learner).num_by_source
    states, languages = [], []
    for index, language in enumerate(learner.languages):
        found = sampled_states(
            learner,
            store,
            vocabulary,
            language,
            num_layers=num_layers,
            num_sentences=_NUM_SENTENCES,
            precision=learner.model.lm_head.weight.dtype,
        ).cpu()
        states.append(found)
        languages.append(torch.full((len(found),), index))
    counts = [len(found) for found in states]
    if min(counts) < _MIN_SENTENCES:
        return None
    return fresh_probe_accuracy(torch.cat(states), torch.cat(languages)), max(counts) / sum(counts)


def probe_words(learner: AdaptedModel, store: TokenStore, vocabulary: BatchVocabulary) -> str:
    """Returns the same in words for a trial's note; none where it cannot be said."""
    found = probed(learner, store, vocabulary)
    if found is None:
        return ""
    return (
        f"after the last epoch a fresh probe reads the source's language of {100 * found[0]:.0f} % of validation "
        f"sentences (chance {100 * found[1]:.0f} %)"
    )


def encoding_findings(
    learner: AdaptedModel,
    store: TokenStore,
    vocabulary: BatchVocabulary,
    loss: LossSettings,
    earlier: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns what the terms on encodings have come to, before training and now, as JSON data; {} without such terms.

    Args:
        learner: The model with the weights that are kept, not in training mode.
        store: The validation sentences.
        vocabulary: The special tokens.
        loss: The terms.
        earlier: What an earlier epoch of the trial has returned: the base need not be asked again.
    """
    found: dict[str, Any] = {}
    if loss.align is not None:
        pivot = loss.align.pivot_of(learner.languages)
        before = {name: one["before"] for name, one in (earlier.get("retrieval") or {}).get("languages", {}).items()}
        languages = _retrieved(learner, store, vocabulary, pivot, before)
        if languages:
            found["retrieval"] = {"pivot": pivot, "languages": {name: asdict(one) for name, one in languages.items()}}
    if loss.language_adversary is not None and (now := probed(learner, store, vocabulary)) is not None:
        if (known := (earlier.get("probe") or {}).get("before")) is None:
            num_layers = EncoderSides.of(learner).num_by_source
            with base_teacher(learner).speaking() as base:
                read = probed(base, store, vocabulary, num_layers)
            known = None if read is None else read[0]
        found["probe"] = {"before": known, "after": now[0], "chance": now[1]}
    return found


def _retrieved(
    learner: AdaptedModel, store: TokenStore, vocabulary: BatchVocabulary, pivot: str, before: Mapping[str, float]
) -> dict[str, Found]:
    """Returns how often lines are found, by language; those with next to no lines in the pivot language are left out.

    Both sides are encoded by the same model: the base, then the trained one.
    """
    sampled = {
        language: sampled_rows(learner, store, [language, pivot], _NUM_SENTENCES)
        for language in learner.languages
        if language != pivot
    }
    rows = {language: found for language, found in sampled.items() if len(found) >= _MIN_SENTENCES}
    finding = partial(_found_by, store, vocabulary, pivot, EncoderSides.of(learner).num_by_source)
    base: dict[str, float] = {}
    if new := {language: found for language, found in rows.items() if language not in before}:
        with base_teacher(learner).speaking() as bare:
            base = finding(bare, new)
    now, known = finding(learner, rows), {**before, **base}
    return {
        language: Found(before=known[language], after=now[language], num_sentences=len(found))
        for language, found in rows.items()
    }


def _found_by(
    store: TokenStore,
    vocabulary: BatchVocabulary,
    pivot: str,
    num_layers: int,
    model: AdaptedModel,
    rows: Mapping[str, NDArray[np.int64]],
) -> dict[str, float]:
    """Returns how often a model as it is in its base finds the lines of each language's rows in the pivot language."""
    states = partial(
        states_of, model, store, vocabulary, num_layers=num_layers, precision=model.model.lm_head.weight.dtype
    )
    # Where all languages have the same lines, these are encoded once in the pivot language.
    pivots: dict[bytes, Tensor] = {}
    found = {}
    for language, own in rows.items():
        if (key := own.tobytes()) not in pivots:
            pivots[key] = states(pivot, own)
        found[language] = retrieval_accuracy(states(language, own), pivots[key], _lines(store, pivot, own.tolist()))
    return found


def _lines(store: TokenStore, language: str, rows: Sequence[int]) -> Tensor:
    """Returns a number for each line, (rows,); lines of the same words have the same."""
    numbers: dict[bytes, int] = {}
    return torch.tensor([numbers.setdefault(store.tokens(language, row).tobytes(), len(numbers)) for row in rows])
