"""What a new trial's adapters begin with: nothing, the moments of the base, or other adapters."""

from pathlib import Path

from langsearch.adapters.learners import AdaptedModel
from langsearch.adapters.peft_import import read_adapters, start_from, start_rows
from langsearch.space.architecture import BaseShape
from langsearch.space.settings import TrainerSettings
from langsearch.train.loop import TrainingData
from langsearch.train.moments import measure_moments


def start_new(learner: AdaptedModel, training: TrainingData, settings: TrainerSettings, shape: BaseShape) -> None:
    """Makes a new model what its training begins with.

    Args:
        learner: The model; it is changed.
        training: The training part, which the base's moments are measured on.
        settings: Name what the adapters start from.
        shape: The base's sizes.

    Raises:
        InputError: If those adapters are not there or do not fit.
    """
    measure_moments(learner, training, settings)
    if (folder := settings.init_from) is not None:
        start_from(learner, read_adapters(Path(folder), shape))
        start_rows(learner, Path(folder))
