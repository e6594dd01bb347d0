"""The moments of what a base's encoder says in each language, over the training part."""

import numpy as np
import torch

from langsearch.adapters.choices import parts_of
from langsearch.adapters.encoder_znorm import EncoderZNorm
from langsearch.adapters.learners import AdaptedModel
from langsearch.data.batches import collate
from langsearch.data.presence import even_rows
from langsearch.model.positions import num_positions
from langsearch.space.settings import TrainerSettings
from langsearch.train.forward import run_forward
from langsearch.train.loop import TrainingData
from langsearch.train.terms import precision_of

MAX_SENTENCES = 1000
"""Sentences of a language that are looked at, evenly spaced: some 30,000 tokens for d moments."""

_ROWS = 32


def measure_moments(learner: AdaptedModel, data: TrainingData, settings: TrainerSettings) -> None:
    """Sets the moments of a model whose architecture has `encoder_znorm`; does nothing to any other.

    The model must be new: its adapters add nothing yet, so that the states are the base's. Tokens of the language and
    the end count, padding does not.

    Args:
        learner: The model; its moments are set.
        data: The training part.
        settings: Says in which type products are made, and which sentences are too long.
    """
    found = [part for part in parts_of(learner.adapters) if isinstance(part, EncoderZNorm)]
    if not found:
        return
    device = learner.model.lm_head.weight.device
    width = learner.model.config.d_model
    sums = torch.zeros(2, len(data.languages), width, dtype=torch.float64)
    counts = torch.zeros(len(data.languages), dtype=torch.float64)
    precision = precision_of(learner, settings, device)
    longest = min(settings.max_length, num_positions(learner.model.config)) - 2
    learner.model.eval()
    for index, language in enumerate(data.languages):
        directions = [number for number, one in enumerate(data.directions) if one.src == language]
        if not directions:
            continue
        lengths = data.store.lengths(language), data.store.lengths(data.directions[directions[0]].tgt)
        rows = np.flatnonzero((lengths[0] >= 0) & (lengths[1] >= 0) & (np.maximum(*lengths) <= longest))
        rows = even_rows(rows, MAX_SENTENCES)
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            pairs = np.stack([np.full(len(part), directions[0]), part], axis=1).astype(np.int32)
            batch = collate(data.store, data.directions, pairs, data.vocabulary, data.languages).to(device)
            with torch.no_grad():
                states = run_forward(learner, batch, {"encoder"}, precision).encoder
            assert states is not None
            said = states[batch.src_mask > 0].double().cpu()
            sums[:, index] += torch.stack([said.sum(dim=0), said.square().sum(dim=0)])
            counts[index] += len(said)
    each = counts.clamp(min=1)[:, None]
    means = sums[0] / each
    found[0].set_moments(means, (sums[1] / each - means.square()).clamp(min=0), counts > 0)
