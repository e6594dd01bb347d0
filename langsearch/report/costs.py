"""What an experiment cost: hours of trials and GPUs, and their price where one is stated."""

from dataclasses import dataclass

from langsearch.report import wording
from langsearch.report.experiment_values import Experiment
from langsearch.report.lenient import as_number


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Sums over all trials, baselines included; trials that share another's result cost nothing."""

    trial_seconds: float
    """Training and validation, up to each trial's last result."""

    num_trials: int
    gpus_per_trial: float | None
    """None: not recorded."""

    @property
    def gpu_hours(self) -> float | None:
        """Hours of GPUs that the trials held."""
        return None if self.gpus_per_trial is None else self.gpus_per_trial * self.trial_seconds / 3600


def costs(experiment: Experiment) -> Costs:
    """Returns what the trials took."""
    seconds = [trial.seconds for trial in experiment.trials if trial.seconds is not None and trial.same_as is None]
    gpus = as_number(experiment.resources.get("gpu"))
    shared = as_number(experiment.resources.get("trials_per_gpu")) or 1.0
    return Costs(
        trial_seconds=sum(seconds),
        num_trials=len(seconds),
        gpus_per_trial=None if gpus is None else gpus / max(shared, 1.0),
    )


def cost_facts(experiment: Experiment, price_per_gpu_hour: float | None) -> dict[str, str | None]:
    """Returns (name, value) for the page.

    Args:
        experiment: The experiment.
        price_per_gpu_hour: In any currency. None: no price is known, and none is made up.
    """
    found = costs(experiment)
    hours = found.gpu_hours
    if hours is None:
        gpu_text = None
    elif found.gpus_per_trial == 0:
        gpu_text = "0 (trials ran without a GPU)"
    else:
        gpu_text = f"{hours:,.2f} ({found.gpus_per_trial:g} per trial, training and validation of the trials)"
    if price_per_gpu_hour is None:
        cost = "no price was stated: langsearch report --price-per-gpu-hour PRICE"
    elif hours is None:
        cost = None
    else:
        cost = f"{hours * price_per_gpu_hour:,.2f} at {price_per_gpu_hour:g} per GPU hour"
    return {
        "Time of all trials": wording.duration(found.trial_seconds) if found.num_trials else None,
        "GPU hours": gpu_text,
        "Cost": cost,
    }
