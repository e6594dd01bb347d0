"""What an experiment cost: hours of trials and GPUs, and their price where one is stated."""

from collections.abc import Sequence
from dataclasses import dataclass

from langsearch.report import wording
from langsearch.report.experiment_values import Experiment, Trial
from langsearch.report.lenient import as_number
from langsearch.study.beside_names import baseline_of


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Sums over all that was trained or scored, also for baselines; what has another one's result costs nothing."""

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
    own = [*_spent(experiment.trials), *_spent(experiment.beside)]
    seconds = [trial.seconds for trial in own if trial.seconds is not None]
    gpus = as_number(experiment.resources.get("gpu"))
    shared = as_number(experiment.resources.get("trials_per_gpu")) or 1.0
    return Costs(
        trial_seconds=sum(seconds),
        num_trials=len(seconds),
        gpus_per_trial=None if gpus is None else gpus / max(shared, 1.0),
    )


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the search had, or a baseline."""

    label: str
    num_trials: int
    """Trained: of the search, searched trials and wide trainings; of a tuned baseline, its tries."""

    seconds: float
    """Training and validation of these, and of a one-shot search its cuts."""

    @property
    def words(self) -> str:
        """As "12 trials, 3.2 h"."""
        return f"{wording.counted(self.num_trials, 'trial')}, {wording.duration(self.seconds)}"


def budgets(experiment: Experiment) -> tuple[Budget, ...]:
    """Returns what the search took, then each baseline that is trained; none where no baseline is tuned.

    A comparison is fair where these are alike, or the reader knows that they are not.
    """
    tries = [trial for trial in experiment.beside if trial.kind == "try"]
    if not tries:
        return ()
    searched = [trial for trial in (*experiment.trials, *experiment.beside) if trial.kind in ("searched", "donor")]
    cuts = [trial for trial in experiment.beside if trial.kind == "cut"]
    found = [_budget("the search", searched, cuts)]
    names = [trial.name for trial in experiment.trials if trial.kind == "baseline" and trial.max_epochs != 0]
    for name in dict.fromkeys([*names, *(baseline_of(trial.name) for trial in tries)]):
        of_it = [trial for trial in tries if baseline_of(trial.name) == name]
        own = [trial for trial in experiment.trials if trial.name == name]
        found.append(_budget(wording.baseline_label(name), of_it or own))
    return tuple(found)


def _budget(label: str, trained: Sequence[Trial], others: Sequence[Trial] = ()) -> Budget:
    spent = [trial for trial in _spent(trained) if trial.seconds is not None]
    return Budget(
        label=label,
        num_trials=len(spent),
        seconds=sum(trial.seconds or 0.0 for trial in (*spent, *_spent(others))),
    )


def _spent(trials: Sequence[Trial]) -> list[Trial]:
    """Returns those that were trained or scored themselves."""
    return [trial for trial in trials if trial.same_as is None and trial.tuned_from is None]


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
        **{f"Budget of {budget.label}": budget.words for budget in budgets(experiment)},
    }
