"""The systems that a front is compared with, as plain settings."""

from dataclasses import dataclass
from typing import Literal

from langsearch.space.architecture import Init
from langsearch.space.values import Searched

BaselineName = Literal["pretrained", "full_finetuning", "shared_lora", "published"]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a baseline's own trainer settings are searched, by the sampler of the search."""

    trials: int
    """How many tries are trained; the best by validation is the baseline."""

    lr: Searched | None = None
    """The learning rates that are tried. None: by their logarithm, up to `TUNED_FACTOR` times less or more than the
    baseline's own."""

    epochs: Searched | None = None
    """None: as many as the baseline has."""


TUNED_FACTOR = 10.0


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """One of the systems that the front is compared with."""

    name: BaselineName

    trainer: tuple[tuple[str, float | int | str | None], ...] = ()
    """Trainer settings of this baseline alone."""

    rank: int = 8
    """shared_lora: its rank (PEFT's default)."""

    init: Init = "published"
    """shared_lora: how it starts; unless its item in `baselines` says so, as the adapters of the space do. Else what
    an adapter starts from is taken for what adapters of a language's own are worth."""

    is_pruned: bool = False
    """published: with the release's pruning, 0.9 of B from epoch 2 over 10 epochs."""

    tune: Tuning | None = None
    """How its own settings are searched. None: they are not."""


FULL_FINETUNING_LR = 3e-4
"""Learning rate of full fine-tuning unless its item in `baselines` sets one: a rate that suits adapters is too high
for a pretrained model's own weights, so the space's `trainer.lr` is not used."""
