"""How many updates a trial makes, counted on a sample of the sentences before anything is started."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from langsearch.data.dirt import spaced
from langsearch.data.epochs import SourceWeights, plan_epoch
from langsearch.data.parallel import ParallelText
from langsearch.data.store import TokenStore
from langsearch.experiment.environment import CheckedSpace
from langsearch.model.splitter import Splitter
from langsearch.space.problems import InputError
from langsearch.space.settings import TrainerSettings
from langsearch.train.stages import Stages

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
        InputError: If no pair of the sample is short enough, or the first of two stages has no direction.
    """
    assert settings.tokens_per_batch is not None
    if not Stages.of(settings).directions(1, checked.directions):
        rule = "`trainer.two_stage.first` must have a direction with training sentences between its languages"
        raise InputError(f"{rule}, but {', '.join(settings.first_stage)} have none.")

    def plan(pairs_per_epoch: int | None) -> tuple[int, int]:
        planned = plan_epoch(
            sample.store,
            checked.directions,
            epoch=0,
            seed=settings.seed,
            temperature=settings.temperature,
            max_tokens=max(settings.tokens_per_batch // settings.accumulation, 1),  # type: ignore[operator]
            pairs_per_epoch=pairs_per_epoch,
            max_length=min(settings.max_length, checked.lengths.positions),
            weights=sample.weights,
            by_source=settings.encode_once,
        )
        return planned.num_pairs, len(planned.microbatches)

    if settings.pairs_per_epoch is None:
        drawn, num_microbatches = plan(None)
        num_pairs = round(drawn / sample.share)
    else:
        num_pairs = settings.pairs_per_epoch
        drawn, num_microbatches = plan(min(num_pairs, _MAX_PAIRS))
    num_microbatches = math.ceil(num_microbatches * num_pairs / drawn)
    return Epoch(
        num_pairs=num_pairs,
        num_microbatches=num_microbatches,
        num_updates=math.ceil(num_microbatches / settings.accumulation),
        is_exact=sample.share == 1 and drawn == num_pairs and not settings.first_stage,
    )


def fewest_and_most(checked: CheckedSpace, sample: Sample, settings: Sequence[TrainerSettings]) -> tuple[int, int]:
    """Returns the fewest and the most updates of a whole training among some settings."""
    counts = [count_updates(checked, sample, one).num_updates * one.epochs for one in settings]
    return min(counts), max(counts)
