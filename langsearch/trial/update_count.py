"""How many updates a trial makes, counted on a sample of the sentences before anything is started."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from langsearch.data.dirt import spaced
from langsearch.data.epochs import SourceWeights
from langsearch.data.parallel import ParallelText
from langsearch.data.store import TokenStore
from langsearch.experiment.environment import CheckedSpace
from langsearch.model.splitter import Splitter
from langsearch.space.problems import InputError
from langsearch.space.settings import TrainerSettings
from langsearch.train.stages import Stages, cut_apart, plan_of

_MAX_SENTENCES = 30_000
"""So many are split into pieces at most, all languages together: about two seconds."""

_MAX_PAIRS = 50_000
"""So many are planned at most; what they say of an epoch is true of more."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """How an epoch is cut into updates."""

    num_pairs: int
    num_microbatches: int
    num_updates: int
    is_exact: bool
    """Whether all sentences were counted, so that it is what the first epoch will have; else it is an estimate."""

    num_apart: int = 1
    """Into how many parts that learn alone the updates are divided evenly; 1: all learn from every one."""


@dataclass(frozen=True)
class Sample:
    """A part of the text that is trained on, evenly spaced over it."""

    text: ParallelText
    store: TokenStore
    folder: Path
    """Where its tokens are, as long as it is given."""

    share: float
    """How much of the whole it is, in (0, 1]."""

    weights: SourceWeights | None


@contextmanager
def sampled(checked: CheckedSpace) -> Iterator[Sample]:
    """Gives a sample of the training text, split into pieces in a folder that is removed with the context."""
    corpus = checked.corpus
    rows = spaced(len(corpus.train), max(_MAX_SENTENCES // len(checked.space.languages), 1))
    text = corpus.train if len(rows) == len(corpus.train) else corpus.train.select(rows)
    text = text.normalized(checked.space.data.normalize)
    weights = corpus.weights
    if weights is not None:
        weights = replace(weights, ends=tuple(np.searchsorted(np.array(rows), weights.ends).tolist()))
    with TemporaryDirectory(prefix="langsearch-sample-") as folder:
        tokenizer = checked.base_tokenizer
        store = TokenStore.build(text, Splitter(tokenizer), tokenizer.fingerprint, Path(folder))
        yield Sample(text, store, Path(folder), len(rows) / len(corpus.train), weights)


def count_updates(checked: CheckedSpace, sample: Sample, settings: TrainerSettings) -> Epoch:
    """Returns how an epoch is cut into updates.

    Args:
        checked: The space.
        sample: Of its training text.
        settings: How a trial is trained; `tokens_per_batch` must be a number.

    Of a training in two stages it is the second, which has at least as many pairs.

    Raises:
        InputError: If no pair of the sample is short enough, or what is trained first or alone has no direction.
    """
    assert settings.tokens_per_batch is not None
    stages = Stages.of(settings)
    if not stages.directions(1, checked.directions):
        if settings.modular_bridge is not None:
            rule = "`trainer.modular.bridge` must have a direction with another language"
            raise InputError(f"{rule}, but {settings.modular_bridge} has none.")
        rule = "`trainer.two_stage.first` must have a direction with training sentences between its languages"
        raise InputError(f"{rule}, but {', '.join(settings.first_stage)} have none.")
    directions = stages.directions(settings.epochs, checked.directions)
    # Each of them draws so many pairs where adapters learn alone.
    num_plans = 1 if settings.modular_bridge is None else len(directions)
    planned_by, num_parts = cut_apart(settings)

    def plan(pairs_per_epoch: int | None) -> tuple[int, int]:
        planned = plan_of(
            replace(planned_by, pairs_per_epoch=pairs_per_epoch),
            sample.store,
            directions,
            epoch=0,
            max_length=checked.lengths.positions,
            weights=sample.weights,
        )
        return planned.num_pairs, len(planned.microbatches)

    if settings.pairs_per_epoch is None:
        drawn, num_microbatches = plan(None)
        num_pairs = round(drawn / sample.share)
    else:
        num_pairs = settings.pairs_per_epoch * num_plans
        drawn, num_microbatches = plan(min(settings.pairs_per_epoch, max(_MAX_PAIRS // num_plans, 1)))
    num_microbatches = math.ceil(num_microbatches * num_pairs / drawn)
    return Epoch(
        num_pairs=num_pairs,
        num_microbatches=num_microbatches * num_parts,
        num_updates=math.ceil(num_microbatches / planned_by.accumulation),
        # What has no adapter of its own to learn, as sources where all layers are by the target, has no updates.
        is_exact=sample.share == 1 and drawn == num_pairs and not settings.first_stage and num_plans == 1,
        num_apart=num_plans,
    )


def fewest_and_most(checked: CheckedSpace, sample: Sample, settings: Sequence[TrainerSettings]) -> tuple[int, int]:
    """Returns the fewest and the most updates that a whole training among some settings has for what it trains."""
    counted = [(count_updates(checked, sample, one), one.epochs) for one in settings]
    counts = [epoch.num_updates * epochs // epoch.num_apart for epoch, epochs in counted]
    return min(counts), max(counts)
