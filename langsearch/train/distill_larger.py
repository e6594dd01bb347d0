"""The loss term of a larger base as teacher, of which the most likely next tokens are kept.

L = (1 - w) CE + w tau^2 D over k + 1 outcomes, see `truncated`; Ferraz et al. 2023 (arXiv 2311.01070) teach a small
model by a large one in this way, with all outcomes.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from langsearch.data.batches import Batch
from langsearch.data.directions import Direction
from langsearch.space.loss_settings import DistillSettings
from langsearch.train.cross_entropy import CrossEntropy, smoothed_cross_entropy
from langsearch.train.larger_teacher import LargerReader
from langsearch.train.term import Need, Plain, States
from langsearch.train.truncated import truncated_divergence


class DistillLarger(Plain):
    """The cross-entropy with a larger base beside it; a `Term` that stands for both.

    Pairs of back-translation, and those of languages that are new to the base, are learned by the cross-entropy alone.

    Args:
        settings: Its weight, divergence and temperature.
        cross_entropy: The term whose place it takes.
        reader: What the teacher says.
    """

    def __init__(self, settings: DistillSettings, cross_entropy: CrossEntropy, reader: LargerReader) -> None:
        self.settings, self.cross_entropy, self.reader = settings, cross_entropy, reader
        self._has_read = False

    @property
    def needs(self) -> frozenset[Need]:
        """The decoder's states, and which sentences they are of."""
        return frozenset({"decoder", "sentences"})

    def before_epoch(
        self, directions: Sequence[Direction], microbatches: Sequence[NDArray[np.int32]]
    ) -> Iterator[None]:
        """Has the teacher read the epoch's pairs that nobody has asked it for."""
        yield from self.reader.read(directions, microbatches)
        self._has_read = True

    def attached(self, batch: Batch) -> Batch:
        """Returns a batch with what the teacher says of it; as it is before an epoch, where memory is tried out."""
        return self.reader.attached(batch) if self._has_read else batch

    def loss(self, model: Any, states: States, batch: Batch) -> Tensor:
        """Returns the sum over target tokens, nats."""
        if batch.taught_ids is None or batch.taught_log_probs is None:
            return self.cross_entropy.loss(model, states, batch)
        student, labels = states.decoder, states.labels
        assert student is not None and labels is not None
        weight, smoothing, w = model.lm_head.weight, self.cross_entropy.label_smoothing, self.settings.weight
        rest = torch.zeros((), device=student.device)
        if (is_taught := batch.is_taught) is not None:
            rest = smoothed_cross_entropy(student[~is_taught], weight, labels[~is_taught], smoothing)
            student, labels = student[is_taught], labels[is_taught]
        own = smoothed_cross_entropy(student, weight, labels, smoothing)
        teaching = truncated_divergence(
            student, batch.taught_ids, batch.taught_log_probs, weight, self.settings.kind, self.settings.temperature
        )
        return rest + (1 - w) * own + w * teaching
