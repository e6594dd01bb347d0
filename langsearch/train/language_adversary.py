"""The loss term that has the encoder hide which language a sentence is in.

A linear classifier reads the source language from the mean encoding, and a gradient reversal (Ganin & Lempitsky 2015,
arXiv 1409.7495, sections 3 and 4.1) has the encoder learn the opposite of what helps it, as in ZX-Parse (2104.07554).
That its own classifier fails proves little: `probe.fresh_probe_accuracy` judges.

Shapes: rows = pairs of a batch, d = d_model.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langsearch.adapters.learners import AdaptedModel
from langsearch.data.batches import Batch, BatchVocabulary
from langsearch.data.store import TokenStore
from langsearch.space.loss_settings import LanguageAdversarySettings
from langsearch.train.forward import EncoderSides
from langsearch.train.pooling import pooled, tokens_of_rows
from langsearch.train.sampling import sampled_states
from langsearch.train.teacher import base_teacher
from langsearch.train.term import Need, Plain, States

_NAME = "language_adversary"
_NUM_SAMPLED = 32
"""Sentences of each language that the size of states is taken over."""

_WIDTH = 100


class LanguageAdversary(Plain):
    """The classifier's cross-entropy, whose gradient the encoder gets reversed; a `Term`.

    The classifier is trained with the adapters and stands in checkpoints, but is of no use afterwards.

    Args:
        settings: Its weight, how fast the reversal sets in, and the classifier's learning rate.
        learner: The model that is trained.
        store: Sentences, to see how large states are.
        vocabulary: The special tokens.
        precision: The type that products are made in.
        seed: Of the classifier's start.
    """

    def __init__(
        self,
        settings: LanguageAdversarySettings,
        learner: AdaptedModel,
        store: TokenStore,
        vocabulary: BatchVocabulary,
        precision: torch.dtype,
        seed: int,
    ) -> None:
        self.settings = settings
        self.reversal = 0.0
        output = learner.model.lm_head.weight
        num_layers = EncoderSides.of(learner).num_by_source
        with base_teacher(learner).speaking() as model:
            states = [
                sampled_states(
                    model,
                    store,
                    vocabulary,
                    language,
                    num_layers=num_layers,
                    num_sentences=_NUM_SAMPLED,
                    precision=precision,
                ).to(output.device)
                for language in model.languages
            ]
        size = torch.cat(states).square().mean().sqrt().clamp(min=1e-6)
        self.classifier = Classifier(len(learner.languages), output.shape[1], settings.lr_factor, size, seed)
        self.classifier.to(output.device)

    @property
    def needs(self) -> frozenset[Need]:
        """What the encoder says before it looks at the target."""
        return frozenset({"by_source"})

    def before_update(self, epoch: int, progress: float) -> None:
        """Sets how much of the gradient is reversed."""
        self.reversal = reversal(progress, self.settings.gamma)

    def loss(self, model: Any, states: States, batch: Batch) -> Tensor:
        """Returns the cross-entropy of each row's source language times its target tokens, summed, nats."""
        assert states.by_source is not None
        each = self.classifier.losses(pooled(states.by_source, batch.src_mask), batch.src_lang, self.reversal)
        return self.settings.weight * (each * tokens_of_rows(batch)).sum()

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns the classifier's."""
        return {f"{_NAME}.{name}": value for name, value in self.classifier.named_parameters()}

    def state(self) -> dict[str, Tensor]:
        """Returns the classifier, and the size of states: a resumed training has the same also on another device."""
        parameters = {name: parameter.data for name, parameter in self.parameters().items()}
        return parameters | {f"{_NAME}.size": self.classifier.size}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave."""
        for name, value in self.state().items():
            value.copy_(state[name])


class Classifier(nn.Module):
    """Reads a language from a mean state.

    Args:
        num_languages: How many there are.
        d: d_model.
        lr_factor: How much faster than the rest it learns at a width of 100. Adam moves each parameter that is stored
            by about the learning rate, whatever d is, and so a logit in proportion to d. Hence the classifier's
            parameters are 100 lr_factor / d times the stored ones: how fast logits move depends on no base.
        size: Of the base's states, their root mean square, by which states are divided: below the last norm they may
            be of any size, and how fast the classifier learns depends on it. It is one number for the whole training:
            were each state divided by its own, their size would tell what their direction hides.
        seed: Of its start, which is PyTorch's for a linear layer.
    """

    size: Tensor

    def __init__(self, num_languages: int, d: int, lr_factor: float, size: Tensor, seed: int) -> None:
        super().__init__()
        self.factor = _WIDTH * lr_factor / d
        self.register_buffer("size", size.clone())
        generator = torch.Generator().manual_seed(seed)
        start = (2 * torch.rand(num_languages, d + 1, generator=generator) - 1) * d**-0.5 / self.factor
        self.weight, self.bias = nn.Parameter(start[:, :d].clone()), nn.Parameter(start[:, d].clone())

    def losses(self, states: Tensor, languages: Tensor, reversal: float) -> Tensor:
        """Returns the cross-entropy of each row, nats, (rows,).

        Args:
            states: (rows, d). They get `-reversal` times the gradient.
            languages: (rows,), indices.
            reversal: From 0 to 1.
        """
        reversed_states: Tensor = _Reversal.apply(states, reversal)  # type: ignore[no-untyped-call]
        logits = self.factor * (reversed_states / self.size @ self.weight.T + self.bias)
        return F.cross_entropy(logits, languages, reduction="none")


def reversal(progress: float, gamma: float) -> float:
    """Returns 2 / (1 + exp(-gamma progress)) - 1 (arXiv 1409.7495, section 4.1), which grows from 0 to nearly 1."""
    return 2 / (1 + math.exp(-gamma * progress)) - 1


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return states.view_as(states)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * -ctx.factor, None
