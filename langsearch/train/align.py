"""The loss term that pulls a sentence's encoding to that of the same line in a pivot language.

Both are means over tokens behind the last layer that looks at the source alone; the pivot's is of the base without
adapters and gets no gradient, else both would collapse. Idea and forms: 2305.03510 (its release normalises neither the
features of the squared error nor stops gradients; its contrast has the scale 100).

Shapes: rows = pairs of a batch, d = d_model.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from langsearch.adapters.learners import AdaptedModel
from langsearch.data.batches import Batch, BatchVocabulary
from langsearch.data.store import TokenStore
from langsearch.space.loss_settings import AlignSettings
from langsearch.space.problems import InputError
from langsearch.train.forward import EncoderSides, lower_states
from langsearch.train.pooling import pooled, tokens_of_rows
from langsearch.train.sampling import sampled_states
from langsearch.train.teacher import base_teacher
from langsearch.train.term import Need, Plain, States

_NUM_SAMPLED = 256
"""Sentences of the pivot language that its variance is taken over."""

_STATE = "align.variance"


class Align(Plain):
    """The distance between sentences and their lines in the pivot language; a `Term`.

    Rows in the pivot language, and rows whose line it does not have, add nothing.

    Args:
        settings: Its weight, distance, scale and warmup.
        pivot: The pivot language.
        learner: The model that is trained.
        store: Where the sentences are.
        vocabulary: The special tokens.
        precision: The type that products are made in.

    Raises:
        InputError: If there are fewer than two sentences in the pivot language.
    """

    def __init__(
        self,
        settings: AlignSettings,
        pivot: str,
        learner: AdaptedModel,
        store: TokenStore,
        vocabulary: BatchVocabulary,
        precision: torch.dtype,
    ) -> None:
        self.settings, self.pivot, self.precision = settings, pivot, precision
        self.base = base_teacher(learner)
        self.num_layers = EncoderSides.of(learner).num_by_source
        self.share = 0.0
        self.variance = self._variance(store, vocabulary) if settings.kind == "mse" else torch.ones(())

    @property
    def needs(self) -> frozenset[Need]:
        """What the encoder says before it looks at the target, and the lines in the pivot language."""
        return frozenset({"by_source", "sentences", "pivots"})

    def before_update(self, epoch: int, progress: float) -> None:
        """Lets the weight grow over the warmup."""
        self.share = min(progress / self.settings.warmup, 1.0) if self.settings.warmup > 0 else 1.0

    def loss(self, model: Any, states: States, batch: Batch) -> Tensor:
        """Returns the distance of each row that has a pivot times its target tokens, summed."""
        assert states.by_source is not None
        # Pairs of back-translation have no line of their own.
        if batch.pivot_ids is None or batch.pivot_mask is None or batch.pivot_of is None or self.share == 0:
            return torch.zeros((), device=batch.src_ids.device)
        assert batch.sentences is not None
        wanted = self._states(batch.pivot_ids, batch.pivot_mask)[batch.pivot_of.clamp(min=0)]
        found = pooled(states.by_source, batch.src_mask)
        is_aligned = batch.pivot_of >= 0
        if self.settings.kind == "mse":
            each = squared_error(found, wanted, self.variance)
        else:
            each = contrast(found, wanted, batch.sentences, is_aligned, self.settings.scale)
        return self.settings.weight * self.share * (each * tokens_of_rows(batch) * is_aligned).sum()

    def state(self) -> dict[str, Tensor]:
        """Returns the variance: a resumed training has the same also on another device."""
        return {_STATE: self.variance} if self.settings.kind == "mse" else {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave."""
        self.variance = state.get(_STATE, self.variance).to(self.variance.device)

    def _states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Returns what the base says of sentences in the pivot language, (sentences, d), without gradients."""
        with self.base.speaking() as model:
            return pooled(lower_states(model, ids, mask, self.num_layers, self.precision), mask)

    def _variance(self, store: TokenStore, vocabulary: BatchVocabulary) -> Tensor:
        """Returns the variance of sentences in the pivot language, the mean over d, of some evenly over the store.

        It is one number for the whole training, so that the loss of a row does not depend on the rows beside it.
        """
        with self.base.speaking() as model:
            found = sampled_states(
                model,
                store,
                vocabulary,
                self.pivot,
                num_layers=self.num_layers,
                num_sentences=_NUM_SAMPLED,
                precision=self.precision,
            )
        if len(found) < 2:
            raise InputError(
                f"`trainer.loss.align` needs sentences in its pivot {self.pivot} to train on, but has {len(found)}."
            )
        return found.var(dim=0, correction=0).mean().clamp(min=1e-12)


def squared_error(found: Tensor, wanted: Tensor, variance: Tensor) -> Tensor:
    """Returns the mean over d of the squared error in units of the variance, (rows, d), (rows, d) -> (rows,).

    Such a loss is about 2 of sentences that have nothing to do with each other, on every base.
    """
    return (found - wanted).square().mean(dim=1) / variance


def contrast(found: Tensor, wanted: Tensor, sentences: Tensor, is_aligned: Tensor, scale: float) -> Tensor:
    """Returns the symmetric contrastive loss of each row, nats, (rows,).

    The mean of the cross-entropies of S = scale cos(found_i, wanted_j) along rows and along columns, whose labels are
    the diagonal (2305.03510). A row whose line is another one's too is no negative of it: it would be a false one.

    Args:
        found: (rows, d).
        wanted: (rows, d).
        sentences: (rows,): which line each is.
        is_aligned: (rows,): which rows take part; what the others get means nothing.
        scale: One over the temperature.
    """
    similar = scale * F.normalize(found, dim=1) @ F.normalize(wanted, dim=1).T
    is_own = torch.eye(len(found), dtype=torch.bool, device=found.device)
    is_out = (sentences[:, None] == sentences) | ~is_aligned | ~is_aligned[:, None]
    similar = similar.masked_fill(is_out & ~is_own, -torch.inf)
    along = [F.log_softmax(similar, dim=dim).diagonal() for dim in (0, 1)]
    return -(along[0] + along[1]) / 2
