"""The merge ratio of a trial: what the pairs of either side count at a site that has both, found without training.

Adapters that learn alone both learn what all texts have in common, and in one matrix that would count twice. How much
each should count is a matter of evaluation alone, on the validation part; the trained weights stay.
"""

from collections.abc import Callable
from itertools import product
from typing import TypeVar

import torch

from langsearch.adapters.choices import parts_of
from langsearch.adapters.learners import AdaptedModel, Learner
from langsearch.adapters.two_sided import TwoSided
from langsearch.space.settings import TrainerSettings

_Found = TypeVar("_Found")

Ratio = tuple[float, float]
"""Of the source's pair and of the target's."""


def has_ratio(learner: Learner, trainer: TrainerSettings) -> bool:
    """Returns whether there is a ratio to find: sites with both pairs, which learned apart."""
    return bool(trainer.merge_src or trainer.merge_tgt) and bool(_two_sided(learner))


def find_ratio(
    learner: Learner, trainer: TrainerSettings, evaluate: Callable[[], _Found], score: Callable[[_Found], float]
) -> tuple[Ratio, _Found]:
    """Sets the best ratio of those to try, and returns it with its evaluation.

    Args:
        learner: The model with its trained weights.
        trainer: The ratios of either side; all pairs of them are tried. Of equally good ones the first counts.
        evaluate: Evaluates the model as it is.
        score: Of an evaluation: the higher the better.
    """
    best: tuple[float, Ratio, _Found] | None = None
    for ratio in product(trainer.merge_src or (1.0,), trainer.merge_tgt or (1.0,)):
        set_ratio(learner, ratio)
        found = evaluate()
        if best is None or score(found) > best[0]:
            best = score(found), ratio, found
    assert best is not None
    set_ratio(learner, best[1])
    return best[1:]


def set_ratio(learner: Learner, ratio: Ratio) -> None:
    """Sets what a pair counts where both are."""
    for part in _two_sided(learner):
        part.ratio.copy_(torch.tensor(ratio))


def _two_sided(learner: Learner) -> list[TwoSided]:
    parts = parts_of(learner.adapters) if isinstance(learner, AdaptedModel) else ()
    return [part for part in parts if isinstance(part, TwoSided)]
