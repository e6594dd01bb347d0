"""The trial table: the Optuna study in the experiment's storage. Only the driver opens it, only this file writes it."""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import Enum
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from langsearch.evaluate.spbleu import Difference
from langsearch.search.trial import TestResult, TrialResult

_RESULT, _TEST, _CAUSE, _SAME_AS, _FINGERPRINT, _NAME = "result", "test", "cause", "same_as", "fingerprint", "name"
_DIFFERENCES = "differences"


class State(Enum):
    """Where a trial stands."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will come."""
        return self is not State.RUNNING


_STATES = {
    TrialState.RUNNING: State.RUNNING,
    TrialState.COMPLETE: State.COMPLETE,
    TrialState.PRUNED: State.PRUNED,
    TrialState.FAIL: State.FAILED,
}


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One trial as the table has it."""

    name: str
    kind: str
    state: State
    params: Mapping[str, Any]
    fingerprint: str | None
    result: TrialResult | None
    test: TestResult | None
    differences: Mapping[str, Difference]
    """On the test set, against the baselines by name."""
    cause: str | None
    same_as: str | None
    """The trial with equal adapters and settings whose result this one shares."""
    started: datetime | None
    finished: datetime | None


@dataclass(frozen=True)
class Objective:
    """What a search optimises: a metric's name, and whether more of it is better."""

    name: str
    maximize: bool


class TrialTable:
    """The searched trials and the baselines of one experiment.

    Baselines are a study of their own beside the search's, so that samplers never see trials without parameters.

    Args:
        url: The storage, as SQLAlchemy writes it.
        name: The experiment's name: the study's name, so that two experiments never share one by accident.
        objectives: In the study's order.
        sampler: An Optuna sampler's name: tpe, random, gp or nsga2.
        seed: Every proposal is drawn with a seed made of this and the trial's number: the same history gives the
            same proposal, whether the driver was restarted or not.
        num_trials: How many are planned; sets how many are drawn at random first.
    """

    def __init__(
        self, url: str, name: str, objectives: Sequence[Objective], *, sampler: str, seed: int, num_trials: int
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.objectives = tuple(objectives)
        self._sampler_name, self._seed, self._num_trials = sampler, seed, num_trials
        storage = optuna.storages.RDBStorage(url)
        directions = ["maximize" if objective.maximize else "minimize" for objective in objectives]
        self._study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
        self._baselines = optuna.create_study(
            storage=storage, study_name=f"{name}/baselines", directions=directions, load_if_exists=True
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            for study in (self._study, self._baselines):
                study.set_metric_names([objective.name for objective in objectives])

    def propose(
        self, distributions: Mapping[str, BaseDistribution], seeds: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[int, dict[str, Any]]:
        """Returns a new running trial: its number and its point.

        Args:
            distributions: The search dimensions.
            seeds: Points, or parts of points, that the first trials have; the sampler draws what one leaves open.
        """
        trials = self._study.get_trials(deepcopy=False)
        # One is waiting if an earlier driver was killed between the two calls.
        waiting = [trial.number for trial in trials if trial.state is TrialState.WAITING]
        number = waiting[0] if waiting else len(trials)
        self._study.sampler = make_sampler(self._sampler_name, self._seed, number, self._num_trials)
        if number < len(seeds) and not waiting:
            self._study.enqueue_trial(dict(seeds[number]))
        trial = self._study.ask(fixed_distributions=dict(distributions))
        assert trial.number == number, "only one driver may write a study"
        return trial.number, trial.params

    def add_baseline(self, name: str) -> None:
        """Adds a running baseline, unless it is there and not failed."""
        if any(row.name == name and row.state is not State.FAILED for row in self.rows()):
            return
        self._baselines.ask().set_user_attr(_NAME, name)

    def describe(self, name: str, fingerprint: str) -> None:
        """Records what a running trial trains."""
        study, frozen = self._find(name)
        self._set(study, frozen, _FINGERPRINT, fingerprint)

    def report(self, name: str, result: TrialResult) -> None:
        """Records how a running trial does; with one objective also as Optuna's intermediate value."""
        study, frozen = self._find(name)
        self._set(study, frozen, _RESULT, asdict(result))
        if len(self.objectives) == 1 and result.epoch not in frozen.intermediate_values:
            trial = optuna.trial.Trial(study, frozen._trial_id)
            trial.report(self.values(result)[0], result.epoch)

    def complete(self, name: str, result: TrialResult) -> None:
        """Ends a trial with its result."""
        self.report(name, result)
        study, frozen = self._find(name)
        study.tell(frozen.number, self.values(result))

    def prune(self, name: str, result: TrialResult) -> None:
        """Ends a trial that the scheduler stopped: pruned at its epoch, not complete, so that samplers know."""
        self.report(name, result)
        study, frozen = self._find(name)
        study.tell(frozen.number, state=TrialState.PRUNED)

    def fail(self, name: str, cause: str) -> None:
        """Ends a trial that has no result."""
        study, frozen = self._find(name)
        self._set(study, frozen, _CAUSE, cause)
        study.tell(frozen.number, state=TrialState.FAIL)

    def share(self, name: str, other: TrialRow) -> None:
        """Ends a trial with the result of one that trains the same."""
        study, frozen = self._find(name)
        self._set(study, frozen, _SAME_AS, other.name)
        if other.state is State.FAILED:
            self.fail(name, other.cause or "unknown")
        elif other.result is not None:
            (self.complete if other.state is State.COMPLETE else self.prune)(name, other.result)

    def wait_for(self, name: str, other: str) -> None:
        """Marks a running trial as one that will share another's result."""
        study, frozen = self._find(name)
        self._set(study, frozen, _SAME_AS, other)

    def record_test(self, name: str, test: TestResult) -> None:
        """Records a trial's scores on the test set; on the study, since a finished trial takes no attribute."""
        study, _ = self._find(name)
        study.set_user_attr(f"{_TEST}/{name}", json.dumps(asdict(test)))

    def record_differences(self, name: str, differences: Mapping[str, Difference]) -> None:
        """Records how a tested trial compares with baselines, by their names."""
        study, _ = self._find(name)
        value = {other: asdict(difference) for other, difference in differences.items()}
        study.set_user_attr(f"{_DIFFERENCES}/{name}", json.dumps(value))

    def rows(self) -> list[TrialRow]:
        """Returns all trials: the baselines, then the searched ones by number.

        Of a baseline that was tried again after a failure, only the last try is returned.
        """
        rows: dict[str, TrialRow] = {}
        for study, kind in ((self._baselines, "baseline"), (self._study, "searched")):
            tests = study.user_attrs
            for trial in study.get_trials(deepcopy=False):
                if trial.state is TrialState.WAITING:  # a seed that nothing was proposed from yet
                    continue
                row = _row(trial, kind, tests)
                rows[row.name] = row
        return list(rows.values())

    def values(self, result: TrialResult) -> list[float]:
        """Returns a result's objective values, in the study's order."""
        return [float(getattr(result, objective.name)) for objective in self.objectives]

    def front(self) -> list[TrialRow]:
        """Returns the complete searched trials that no other one dominates, fewest parameters first.

        Trials that share a result are represented by the one that was trained.
        """
        rows = [row for row in self.rows() if row.kind == "searched" and row.state is State.COMPLETE]
        rows = [row for row in rows if row.same_as is None and row.result is not None]
        signs = [-1 if objective.maximize else 1 for objective in self.objectives]
        costs = {
            row.name: [sign * value for sign, value in zip(signs, self.values(row.result), strict=True)]
            for row in rows
            if row.result is not None
        }
        front = [row for row in rows if not any(dominates(costs[other], costs[row.name]) for other in costs)]
        return sorted(front, key=lambda row: (row.result.trainable_parameters if row.result else 0, row.name))

    def _find(self, name: str) -> tuple[optuna.Study, FrozenTrial]:
        if name.isdigit():
            return self._study, self._study.get_trials(deepcopy=False)[int(name)]
        for trial in reversed(self._baselines.get_trials(deepcopy=False)):
            if trial.user_attrs.get(_NAME) == name:
                return self._baselines, trial
        raise KeyError(name)

    @staticmethod
    def _set(study: optuna.Study, frozen: FrozenTrial, key: str, value: Any) -> None:
        study._storage.set_trial_user_attr(frozen._trial_id, key, json.dumps(value))


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Returns whether costs `a` are nowhere worse than `b` and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def make_sampler(name: str, seed: int, number: int, num_trials: int) -> BaseSampler:
    """Returns an Optuna sampler for one proposal.

    Args:
        name: tpe, random, gp or nsga2.
        seed: The search's seed.
        number: The trial's number.
        num_trials: How many are planned: a quarter of them, 4 to 10, is drawn at random before a model is fitted.
    """
    mixed = int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")
    num_startup = min(max(num_trials // 4, 4), 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            return optuna.samplers.TPESampler(seed=mixed, multivariate=True, n_startup_trials=num_startup)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=mixed, n_startup_trials=num_startup)
        if name == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=mixed, population_size=max(num_trials // 5, 4))
        return optuna.samplers.RandomSampler(seed=mixed)


def _row(trial: FrozenTrial, kind: str, study_attributes: Mapping[str, Any]) -> TrialRow:
    attributes = trial.user_attrs

    def value(key: str) -> Any:
        return json.loads(attributes[key]) if key in attributes else None

    name = f"{trial.number:05d}" if kind == "searched" else attributes[_NAME]
    result = value(_RESULT)
    test = study_attributes.get(f"{_TEST}/{name}")
    differences = json.loads(study_attributes.get(f"{_DIFFERENCES}/{name}", "{}"))
    return TrialRow(
        name=name,
        kind=kind,
        state=_STATES[trial.state],
        params=trial.params,
        fingerprint=value(_FINGERPRINT),
        result=TrialResult(**result) if result else None,
        test=TestResult(**json.loads(test)) if test else None,
        differences={other: Difference(**difference) for other, difference in differences.items()},
        cause=value(_CAUSE),
        same_as=value(_SAME_AS),
        started=trial.datetime_start,
        finished=trial.datetime_complete,
    )
