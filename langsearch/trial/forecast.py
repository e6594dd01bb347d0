"""What a search will take on this machine: its updates counted, the time of some of them and of translations measured.

Everything is made of the space's own base and sentences.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import torch

from langsearch.adapters.learners import AdaptedModel
from langsearch.data.directions import Direction
from langsearch.data.dirt import spaced
from langsearch.data.parallel import ParallelText
from langsearch.evaluate.evaluation import evaluation_set
from langsearch.evaluate.spbleu import SpBleu
from langsearch.experiment.environment import CheckedSpace, build_environment, computing_in
from langsearch.experiment.task import TrialTask
from langsearch.model.base import load_base
from langsearch.model.cpu_precision import measure_cpu_precision
from langsearch.model.device import settle
from langsearch.model.new_languages import with_new_languages
from langsearch.space.settings import DecodingSettings
from langsearch.train.fitting import MAX_TOKENS
from langsearch.train.loop import TrainingData
from langsearch.trial.measuring import TranslationTime, UpdateTime, time_translations, time_updates
from langsearch.trial.teaching import time_teacher, without_larger
from langsearch.trial.trial import build_learner, resident
from langsearch.trial.update_count import Sample

_SENTENCES = 16
"""So many of a direction are translated at most."""

_MAX_ROWS = 400
"""So many rows of validation are looked at."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured."""

    updates: UpdateTime | None
    """None where nothing is trained."""

    translations: TranslationTime
    """By `evaluation.search`."""

    final: TranslationTime
    """By `evaluation.final`."""

    taught_token_s: float | None = None
    """Of another base that teaches: how long it takes for a target token. None: there is none, or it is not here."""

    seconds: float
    """How long all of it took, the base's loading included."""

    at: str
    """When, as "2026-11-26 20:15" of UTC."""

    load: float | None = None
    """Of the machine as it began, the mean of a minute: how many processes wanted a CPU. None: it was not told."""


def measure(
    checked: CheckedSpace, sample: Sample, task: TrialTask, num_threads: int, seconds: float, most_seconds: float
) -> Measured:
    """Makes some updates and translations as a trial does.

    Args:
        checked: The space; its base must be here.
        sample: Of its training text.
        task: Whose architecture and settings are measured.
        num_threads: Of PyTorch in a trial's worker.
        seconds: How long updates may take; translations may take twice as long, final ones as long. Loading the base
            comes on top.
        most_seconds: How long translations may go on where that was too short to say where the base stands.

    Raises:
        Exception: If memory runs out; see `model.memory.is_out_of_memory`.
    """
    began, load = time.perf_counter(), _load()
    space, before, validation = checked.space, torch.get_num_threads(), validation_sample(checked)
    part = replace(checked.corpus, train=sample.text, validation=validation, test=validation, weights=sample.weights)
    torch.set_num_threads(num_threads)
    try:
        base = load_base(checked.base, tokenizer=checked.base_tokenizer)
        base = with_new_languages(base, space.new_languages)
        environment = build_environment(replace(checked, corpus=part), base, sample.folder)
        if space.resources.gpu == 0 and space.trainer_section.precision == "auto":
            environment = computing_in(environment, measure_cpu_precision(base, num_threads))
        base = settle(base, resident(environment, task))
        torch.set_num_threads(num_threads)
        vocabulary = base.vocabulary(space.languages)
        data = evaluation_set(
            environment.validation,
            _one_each(checked.directions),
            DecodingSettings(sentences=_SENTENCES),
            space.classes,
            vocabulary,
            environment.train,
        )
        learner = build_learner(base, environment, task)
        try:
            # Untrained adapters change nothing: these are translations of the pretrained base.
            scorer = SpBleu(checked.tokenizer)
            search, final = space.evaluation.search, space.evaluation.final
            found = time_translations(learner, data, search, base.tokenizer, scorer, 2 * seconds, most_seconds)
            is_same = replace(search, directions=final.directions, sentences=final.sentences) == final
            last = found if is_same else time_translations(learner, data, final, base.tokenizer, scorer, seconds)
            updates = taught_token_s = None
            if task.num_epochs and learner.parameters():
                training = TrainingData(
                    environment.train, checked.directions, space.languages, vocabulary, sample.weights
                )
                trainer = replace(task.trainer, tokens_per_batch=task.trainer.tokens_per_batch or MAX_TOKENS)
                if isinstance(learner, AdaptedModel):
                    taught_token_s = time_teacher(learner, training, trainer, seconds)
                # Its tokens are there when a training begins, and an update that has them makes products alone.
                updates = time_updates(learner, training, without_larger(trainer), seconds)
        finally:
            if isinstance(learner, AdaptedModel):
                learner.remove()
    finally:
        torch.set_num_threads(before)
    return Measured(
        updates=updates,
        translations=found,
        final=last,
        taught_token_s=taught_token_s,
        seconds=time.perf_counter() - began,
        at=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        load=load,
    )


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def validation_sample(checked: CheckedSpace) -> ParallelText:
    """Returns the rows of validation that translations are made of, evenly spaced."""
    text = checked.corpus.validation
    return text.select(spaced(len(text), _MAX_ROWS))


def _one_each(directions: Sequence[Direction]) -> list[Direction]:
    """Returns directions of which one goes into each language, and one comes from each."""
    into = {direction.tgt: direction for direction in reversed(directions)}
    out_of = {direction.src: direction for direction in directions if direction not in into.values()}
    return list(dict.fromkeys([*into.values(), *out_of.values()]))
