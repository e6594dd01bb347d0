"""What a new trial's adapters begin with: nothing, the moments of the base, or other adapters."""

from pathlib import Path

from langsearch.adapters.learners import AdaptedModel
from langsearch.adapters.peft_import import read_adapters, start_from, start_rows
from langsearch.experiment.folder import TrialFolder
from langsearch.space.architecture import BaseShape
from langsearch.space.settings import TrainerSettings
from langsearch.train.checkpoint import read_newest_checkpoint
from langsearch.train.loop import TrainingData
from langsearch.train.moments import measure_moments


def start_new(
    learner: AdaptedModel, training: TrainingData, settings: TrainerSettings, shape: BaseShape, trial: TrialFolder
) -> None:
    """Makes a new model what its training begins with.

    Args:
        learner: The model; it is changed.
        training: The training part, which the base's moments are measured on.
        settings: Name what the adapters start from.
        shape: The base's sizes.
        trial: The trial's folder, beside which a cut lies.

    Raises:
        InputError: If those adapters are not there or do not fit.
        OSError: If the cut is not there.
    """
    measure_moments(learner, training, settings)
    if (folder := settings.init_from) is not None:
        start_from(learner, read_adapters(Path(folder), shape))
        start_rows(learner, Path(folder))
    if settings.start_cut:
        cut = read_newest_checkpoint(TrialFolder(trial.path.with_name(settings.start_cut)).weights)
        if cut is None:
            raise OSError(f"A cut must be written before it is trained on, but {settings.start_cut} has no weights")
        learner.load_state(cut.tensors)
