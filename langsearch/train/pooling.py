"""One state for a sentence: the mean over its tokens, without the one that names a language."""

import torch
from torch import Tensor

from langsearch.adapters.learners import Learner
from langsearch.data.batches import IGNORED_LABEL, Batch
from langsearch.model.layers import layers_of
from langsearch.train.forward import EncoderSides


def pooled(states: Tensor, mask: Tensor) -> Tensor:
    """Returns the mean state of each sentence in fp32, (rows, len, d) -> (rows, d).

    Args:
        states: Of its tokens. The first is the language's in every family, on the side of the source.
        mask: (rows, len), 0 at padding, which does not count.
    """
    weights = mask.to(torch.float32)
    weights[:, 0] = 0
    # Padding may hold anything, also what is not finite.
    found = states.float().masked_fill(weights[..., None] == 0, 0).sum(dim=1)
    return found / weights.sum(dim=1, keepdim=True).clamp(min=1)


def tokens_of_rows(batch: Batch) -> Tensor:
    """Returns how many labels of each row count, (rows,) fp32: what a sum over rows weighs, to be one over tokens."""
    return (batch.labels != IGNORED_LABEL).sum(dim=1).float()


def learns_below_the_target(learner: Learner, sides: EncoderSides) -> bool:
    """Returns whether something is trained in the encoder below the first layer that looks at the target."""
    layers = layers_of(learner.model.model.encoder)[: sides.num_by_source]
    return any(parameter.requires_grad for layer in layers for parameter in layer.parameters())
