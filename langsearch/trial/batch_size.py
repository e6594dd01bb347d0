"""The batch that was found for a trial, or for what is learned before a search, written beside it."""

from dataclasses import replace
from pathlib import Path

from langsearch.adapters.learners import Learner
from langsearch.experiment.folder import read_json, write_json
from langsearch.space.settings import TrainerSettings
from langsearch.train.fitting import find_tokens_per_batch
from langsearch.train.loop import TrainingData

_FILE = "batch.json"


def settled_trainer(learner: Learner, data: TrainingData, settings: TrainerSettings, folder: Path) -> TrainerSettings:
    """Returns the settings with a number for `tokens_per_batch: auto`: the one found before, or found now and written.

    Args:
        learner: What will be trained.
        data: Sentences and directions.
        settings: How to train.
        folder: Of the trial. A resumed one goes through the same batches, also where there is more room now.

    Raises:
        OSError: If the folder cannot be written.
    """
    if settings.tokens_per_batch is not None:
        return settings
    file = folder / _FILE
    if file.exists():
        tokens = int(read_json(file)["tokens_per_batch"])
    else:
        tokens = find_tokens_per_batch(learner, data, settings)
        write_json(file, {"tokens_per_batch": tokens})
    return replace(settings, tokens_per_batch=tokens)


def found_tokens(folder: Path) -> int | None:
    """Returns the batch that was found for a trial; None if its settings name one."""
    file = folder / _FILE
    return int(read_json(file)["tokens_per_batch"]) if file.exists() else None
