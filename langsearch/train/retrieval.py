"""How often a sentence's encoding is nearest to that of the same line in another language."""

import torch.nn.functional as F
from torch import Tensor


def retrieval_accuracy(states: Tensor, others: Tensor, lines: Tensor) -> float:
    """Returns the share of sentences whose nearest state of another language, by the cosine, is of the same line.

    Args:
        states: (sentences, d).
        others: (sentences, d), of the same lines in the other language.
        lines: (sentences,), the number of each line; those that read the same there have one number.
    """
    nearest = (F.normalize(states, dim=1) @ F.normalize(others, dim=1).T).argmax(dim=1)
    return float((lines[nearest.cpu()] == lines).float().mean())
