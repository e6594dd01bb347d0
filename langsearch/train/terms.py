"""The loss terms of a training, as its settings name them."""

import logging
from collections.abc import Sequence

import torch

from langsearch.adapters.learners import AdaptedModel, Learner
from langsearch.data.batches import BatchVocabulary
from langsearch.data.store import TokenStore
from langsearch.model.device import product_dtype
from langsearch.space.settings import TrainerSettings
from langsearch.train.align import Align
from langsearch.train.cross_entropy import CrossEntropy
from langsearch.train.distill import Distill
from langsearch.train.distill_larger import DistillLarger
from langsearch.train.forward import EncoderSides
from langsearch.train.language_adversary import LanguageAdversary
from langsearch.train.larger_teacher import LargerReader
from langsearch.train.pooling import learns_below_the_target
from langsearch.train.term import Term

logger = logging.getLogger(__name__)


def make_terms(
    settings: TrainerSettings,
    learner: Learner,
    store: TokenStore,
    languages: Sequence[str],
    vocabulary: BatchVocabulary,
) -> tuple[Term, ...]:
    """Returns the loss terms that the settings ask for.

    Args:
        settings: How to train.
        learner: What is trained.
        store: The sentences that it is trained on.
        languages: What their language indices refer to.
        vocabulary: The special tokens.

    Raises:
        InputError: If a teacher's adapters do not fit, or there are no sentences in a pivot language.
    """
    cross_entropy, loss = CrossEntropy(settings.label_smoothing), settings.loss
    if not isinstance(learner, AdaptedModel):
        assert not loss.written(), "full fine-tuning, which is a baseline, learns by cross-entropy alone"
        return (cross_entropy,)
    terms: list[Term] = [cross_entropy]
    if loss.distill is not None and (larger := loss.distill.larger) is not None:
        precision = precision_of(learner, settings, learner.model.device)
        reader = LargerReader(larger, learner, store, vocabulary, precision, loss.distill.temperature)
        terms = [DistillLarger(loss.distill, cross_entropy, reader)]
    elif loss.distill is not None:
        terms = [Distill(loss.distill, cross_entropy, learner)]
    pooled = [name for name in loss.written() if name != "distill"]
    if pooled and not learns_below_the_target(learner, EncoderSides.of(learner)):
        logger.warning(
            "No adapter is indexed by the source below the encoder's first that is by the target: %s", _off(pooled)
        )
        return tuple(terms)
    given = learner, store, vocabulary, precision_of(learner, settings, learner.model.device)
    if loss.align is not None:
        terms.append(Align(loss.align, loss.align.pivot_of(languages), *given))
    if loss.language_adversary is not None:
        terms.append(LanguageAdversary(loss.language_adversary, *given, settings.seed))
    return tuple(terms)


def _off(names: Sequence[str]) -> str:
    listed = " and ".join(f"`trainer.loss.{name}`" for name in names)
    return f"{listed} would teach nothing, and {'is' if len(names) == 1 else 'are'} left out."


def precision_of(learner: Learner, settings: TrainerSettings, device: torch.device) -> torch.dtype:
    """Returns the type of products: that of a base which is resident in another than fp32, else the settings'."""
    resident: torch.dtype = learner.model.lm_head.weight.dtype
    return resident if resident is not torch.float32 else product_dtype(settings.precision, device)
