"""What a fresh probe reads of the source's language from a trial's encodings of validation sentences."""

import torch

from langsearch.adapters.learners import AdaptedModel
from langsearch.data.batches import BatchVocabulary
from langsearch.data.store import TokenStore
from langsearch.train.forward import EncoderSides
from langsearch.train.probe import fresh_probe_accuracy
from langsearch.train.sampling import sampled_states

_NUM_SENTENCES = 200
"""Of each language, at most."""

_MIN_SENTENCES = 10
"""Fewer fit no probe."""


def probed(learner: AdaptedModel, store: TokenStore, vocabulary: BatchVocabulary) -> tuple[float, float] | None:
    """Returns the share of sentences whose language a fresh probe reads, and that of the most frequent language.

    None where some language has next to no sentences.

    Args:
        learner: The trained model, not in training mode.
        store: The validation sentences.
        vocabulary: The special tokens.
    """
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
