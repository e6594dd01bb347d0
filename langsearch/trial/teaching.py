"""What it takes to have another base teach: how many bytes are kept, and how long it reads."""

import time
from dataclasses import dataclass, replace

import numpy as np

from langsearch.adapters.learners import AdaptedModel
from langsearch.data.batches import NUM_MARKS
from langsearch.data.top_tokens import BYTES_A_TOKEN
from langsearch.experiment.environment import CheckedSpace
from langsearch.model.larger import find_larger
from langsearch.space.settings import TrainerSettings
from langsearch.train.larger_teacher import LargerReader
from langsearch.train.loop import TrainingData
from langsearch.train.terms import precision_of
from langsearch.trial.update_count import Epoch, Sample

_MAX_PAIRS = 1024
"""So many are read at most to see how long it takes."""


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What a teacher reads for a whole training, at most; all trials of a machine that draw the same share it."""

    teacher: str
    """Its name."""

    num_pairs: int
    num_tokens: int
    """Target tokens of these, about."""

    num_bytes: int
    """Kept beside the token files."""

    num_weight_bytes: int
    """Of its own files, loaded while it reads."""


def count_taught(checked: CheckedSpace, sample: Sample, settings: TrainerSettings, epoch: Epoch) -> Taught | None:
    """Returns what a teacher has to read; None where no other base teaches.

    Args:
        checked: The space.
        sample: Of its training text.
        settings: How a trial is trained.
        epoch: What it draws each time.
    """
    teacher = settings.loss.larger
    if teacher is None:
        return None
    new = set(checked.space.new_languages)
    known = [d for d in checked.directions if not new & {d.src, d.tgt} and d in checked.direction_rows]
    there = {direction: checked.direction_rows[direction].train for direction in known}
    total = sum(rows.train for rows in checked.direction_rows.values())
    # No pair is drawn again before all of its direction have been.
    share = min(1.0, settings.epochs * epoch.num_pairs / max(total, 1))
    lengths = {language: _mean_length(sample, language) for language in {direction.tgt for direction in known}}
    num_tokens = round(share * sum(rows * lengths[direction.tgt] for direction, rows in there.items()))
    weights = find_larger(teacher).weights
    return Taught(
        teacher=teacher.base,
        num_pairs=round(share * sum(there.values())),
        num_tokens=num_tokens,
        num_bytes=num_tokens * teacher.top_k * BYTES_A_TOKEN,
        num_weight_bytes=0 if weights is None else weights.num_bytes,
    )


def time_teacher(learner: AdaptedModel, data: TrainingData, settings: TrainerSettings, seconds: float) -> float | None:
    """Returns how long a teacher takes for a target token here; None where no other base teaches, or it is not here.

    Args:
        learner: What is to learn.
        data: Sentences and directions; what is read is kept beside their tokens.
        settings: How it is trained.
        seconds: How long it may read, about; two batches are read in any case. Loading it comes on top.
    """
    distill = settings.loss.distill
    if distill is None or (teacher := distill.larger) is None:
        return None
    precision = precision_of(learner, settings, learner.model.lm_head.weight.device)
    reader = LargerReader(teacher, learner, data.store, data.vocabulary, precision, distill.temperature)
    if reader.found.to_fetch:
        return None
    rng, found = np.random.default_rng(settings.seed), []
    for index, direction in enumerate(data.directions):
        lengths = [data.store.lengths(name) for name in (direction.src, direction.tgt)]
        rows = np.flatnonzero(np.all([(each >= 0) & (each + NUM_MARKS <= settings.max_length) for each in lengths], 0))
        found += [(index, row) for row in rng.permutation(rows)[: -(-_MAX_PAIRS // len(data.directions))].tolist()]
    began = at = None
    for _ in reader.read(data.directions, [np.array(found, np.int32)]):
        now = time.perf_counter()
        if began is None:  # the first batch warms up
            began, at = now, reader.num_read
        elif now - began > seconds:
            break
    if began is None or at is None or reader.num_read == at:
        return None
    return (time.perf_counter() - began) / (reader.num_read - at)


def without_larger(settings: TrainerSettings) -> TrainerSettings:
    """Returns settings without a teacher that is another base."""
    return settings if settings.loss.larger is None else replace(settings, loss=replace(settings.loss, distill=None))


def _mean_length(sample: Sample, language: str) -> float:
    lengths = sample.store.lengths(language)
    there = lengths[lengths >= 0]
    return float(there.mean()) + NUM_MARKS if len(there) else 0.0
