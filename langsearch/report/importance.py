"""How much each dimension matters for each objective: Optuna's importance over the results' points.

The study is built anew in memory from results.parquet, so nothing opens the experiment's database.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial

from langsearch.report.experiment_values import Experiment, Trial
from langsearch.study.front import FIELDS

MIN_TRIALS = 20
"""PED-ANOVA compares the best tenth of the trials with the rest: of fewer trials that would be one."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """The importances for one objective, which sum to 1, the largest first; none where `reason` says why."""

    objective: str
    values: tuple[tuple[str, float], ...]
    num_trials: int
    reason: str | None = None


def importances(experiment: Experiment, distributions: Mapping[str, BaseDistribution]) -> tuple[Importance, ...]:
    """Returns the importance of each dimension for each objective, by Optuna's default evaluator, PED-ANOVA.

    Watanabe et al. 2023, arXiv 2304.10255. Complete trials alone count: others were scored after fewer epochs.

    Args:
        experiment: The experiment.
        distributions: The space's dimensions; what they do not hold is taken from the values.
    """
    objectives = experiment.objectives or {"spbleu": "max", "trainable_parameters": "min"}
    complete = [
        trial
        for trial in experiment.trials
        if trial.kind == "searched" and trial.state == "complete" and trial.same_as is None and trial.params
    ]
    study = _study(complete, distributions) if len(complete) >= MIN_TRIALS else None
    return tuple(_importance(study, complete, name, way) for name, way in objectives.items())


def _study(complete: Sequence[Trial], known: Mapping[str, BaseDistribution]) -> optuna.Study | None:
    """Returns a study of the trials in their order, without values; None if no dimension has more than one value."""
    names = sorted({name for trial in complete for name in trial.params})
    columns = {name: [trial.params[name] for trial in complete if name in trial.params] for name in names}
    distributions = {name: _distribution(values, known.get(name)) for name, values in columns.items()}
    searched = [name for name, found in distributions.items() if not found.single()]
    if not searched:
        return None
    with _quiet():
        study = optuna.create_study()
        for trial in complete:
            own = [name for name in searched if name in trial.params]
            study.add_trial(
                create_trial(
                    params={name: _internal(trial.params[name]) for name in own},
                    distributions={name: distributions[name] for name in own},
                    value=0.0,
                )
            )
    return study


def _importance(study: optuna.Study | None, complete: Sequence[Trial], objective: str, way: str) -> Importance:
    field = FIELDS.get(objective, objective)
    sign = -1.0 if way == "max" else 1.0
    # By the trial's number; PED-ANOVA takes lower targets for better, and leaves out what is not finite.
    costs = [sign * trial.metrics[field] if field in trial.metrics else math.nan for trial in complete]
    known = [cost for cost in costs if math.isfinite(cost)]

    def skipped(reason: str) -> Importance:
        return Importance(objective=objective, values=(), num_trials=len(known), reason=reason)

    if len(known) < MIN_TRIALS:
        return skipped(f"Too few complete trials: {len(known)}, and at least {MIN_TRIALS} are needed.")
    if len(set(known)) == 1:
        return skipped("All complete trials have the same value.")
    if study is None:
        return skipped("No dimension has more than one value.")
    try:
        with _quiet():
            found = optuna.importance.get_param_importances(study, target=lambda trial: costs[trial.number])
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        return skipped(f"Optuna could not tell: {error}")
    values = sorted(((name, float(value)) for name, value in found.items()), key=lambda entry: -entry[1])
    return Importance(objective=objective, values=tuple(values), num_trials=len(known))


@contextmanager
def _quiet() -> Iterator[None]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _distribution(values: Sequence[Any], known: BaseDistribution | None) -> BaseDistribution:
    """Returns the space's distribution where it holds all values (an edited space may not), else one of the values."""
    values = [_internal(value) for value in values]
    if known is not None and all(_contains(known, value) for value in values):
        return known
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return IntDistribution(min(values), max(values))
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = float(min(values)), float(max(values))
        return FloatDistribution(low, high, log=low > 0 and high >= 10 * low)
    return CategoricalDistribution(sorted(set(values), key=str))


def _internal(value: Any) -> Any:
    """Returns a value as a distribution may hold it: a list in JSON was something else in the space."""
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (ValueError, TypeError):
        return False
