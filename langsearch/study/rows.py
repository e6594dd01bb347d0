"""One trial as the trial table has it, and how it lies in Optuna's study."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.trial import FrozenTrial, TrialState

from langsearch.evaluate.spbleu import Difference
from langsearch.study.beside_names import seed_of, try_of
from langsearch.study.results import FinalResult, TestResult, TrialResult

RESULT, CAUSE, FINGERPRINT, NAME = "result", "cause", "fingerprint", "name"
SAME_AS, RETRY_OF, SPACE_VERSION, RUNG = "same_as", "retry_of", "space_version", "rung/"
CUT, IS_FROM_CUT = "cut", "is_from_cut"
POINT, TUNED_FROM = "point", "tuned_from"
"""Attributes of a trial, as JSON; a baseline's name is plain text."""

STARTED, FINISHED = "started", "finished"
"""Attributes of a trial: when it began and ended, in UTC. Optuna's own times are the driver's, and have no zone."""

SAMPLER = "sampler"
"""Attribute of a trial: what the sampler noted on the study when it proposed it."""

STOP_REQUESTED = "stopped on request"
"""The cause of a trial that somebody asked to end."""

TEST, FINAL, DIFFERENCES = "test", "full", "differences"
"""Attributes of the study, "KEY/TRIAL": a finished trial takes none."""


DONOR = "donor-"
"""Begins the names of wide trainings that others are cut out of; they lie with the baselines. A number follows."""

PRETRAINED = "pretrained"
"""The baseline that constraints on losses are measured against."""


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


STATES = {
    TrialState.RUNNING: State.RUNNING,
    TrialState.COMPLETE: State.COMPLETE,
    TrialState.PRUNED: State.PRUNED,
    TrialState.FAIL: State.FAILED,
}
OPTUNA_STATES = {state: found for found, state in STATES.items()}


@dataclass(frozen=True, kw_only=True)
class Rung:
    """What early stopping decided on a trial after an epoch."""

    epoch: int
    values: tuple[float, ...]
    """The objectives, in the study's order; of parameters that are not zero, those that pruning will leave."""

    goes_on: bool
    order: int
    """How many trials were compared there before."""

    violations: Mapping[str, float] | None = None
    """How far each constraint was expected to be violated in the end, by its text. None: written by an older version,
    which did not ask."""


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One trial as the table has it."""

    name: str
    kind: str
    state: State
    params: Mapping[str, Any]
    fingerprint: str | None
    result: TrialResult | None = None
    test: TestResult | None = None
    final: FinalResult | None = None
    """On validation once more, by `evaluation.final`."""

    differences: Mapping[str, Difference] = field(default_factory=dict)
    """On the test set, against the baselines by name."""

    cause: str | None = None
    same_as: str | None = None
    """The trial with equal adapters and settings whose result this one shares."""

    retry_of: str | None = None
    """The failed trial of the same point that this one tries again."""

    retried_as: str | None = None
    """The trial that tries this failed one again."""

    space_version: int = 1
    """The version of the space that it was proposed from."""

    cut: str | None = None
    """The cut, "cut-00012", that has the same architecture. None: it was not chosen for one."""

    is_from_cut: bool = False
    """Whether the cut is trained on in it; else it is the same architecture trained by itself."""

    tuned_from: str | None = None
    """The try of a tuned baseline, "shared_lora-try-2", whose result and weights are its own."""

    rungs: tuple[Rung, ...] = ()
    """What early stopping decided, by epoch."""

    violations: Mapping[str, float] | None = None
    """How far each constraint is violated, by its text, in units of the bound; at most 0 where it is kept. None where
    that is not known: unless the trial is complete, or was ended by its size alone."""

    started: datetime | None = None
    """In UTC, as `finished`."""

    finished: datetime | None = None

    @property
    def is_feasible(self) -> bool | None:
        """Whether all constraints are kept; None where that is not known."""
        return None if self.violations is None else all(value <= 0 for value in self.violations.values())

    @property
    def is_rejected(self) -> bool:
        """Whether its size violates a constraint, so that it was never trained."""
        return self.state is State.PRUNED and self.result is None and self.cause != STOP_REQUESTED

    @property
    def is_pruned_at_rung(self) -> bool:
        """Whether early stopping decided at a rung that it ends."""
        return any(not rung.goes_on for rung in self.rungs)

    @property
    def counts(self) -> bool:
        """Whether it is one of the trials that a search was asked for: neither shared, nor rejected, nor retried."""
        return self.kind == "searched" and self.same_as is None and self.retried_as is None and not self.is_rejected


def kind_beside(name: str) -> str:
    """Returns the kind of what lies in the baselines' study: baseline, donor, try of a tuned baseline, or seed."""
    if name.startswith(DONOR):
        return "donor"
    if try_of(name) is not None:
        return "try"
    return "baseline" if seed_of(name) is None else "seed"


def is_trial(trial: FrozenTrial, kind: str) -> bool:
    """Returns whether a trial of Optuna's is one of ours, and not the beginning of one.

    Older versions wrote a trial step by step, so that a crash could leave a beginning.
    """
    return trial.state is not TrialState.WAITING and (kind == "searched" or NAME in trial.user_attrs)


def read_row(trial: FrozenTrial, kind: str, study_attributes: Mapping[str, Any]) -> TrialRow:
    """Returns the row of a trial of Optuna's.

    Args:
        trial: From the searched trials' study, or the baselines'.
        kind: searched or baseline.
        study_attributes: The study's.
    """
    attributes = trial.user_attrs

    def value(key: str) -> Any:
        return json.loads(attributes[key]) if key in attributes else None

    def of_study(key: str) -> Any:
        found = study_attributes.get(f"{key}/{name}")
        return None if found is None else json.loads(found)

    name = f"{trial.number:05d}" if kind == "searched" else attributes[NAME]
    state = STATES[trial.state]
    result, test, final = value(RESULT), of_study(TEST), of_study(FINAL)
    rungs = [
        Rung(epoch=int(key.removeprefix(RUNG)), **{**found, "values": tuple(found["values"])})
        for key in attributes
        if key.startswith(RUNG) and (found := value(key)) is not None
    ]
    row = TrialRow(
        name=name,
        kind=kind_beside(name) if kind == "baseline" else kind,
        state=state,
        params=value(POINT) or {plain_name(column): found for column, found in trial.params.items()},
        fingerprint=value(FINGERPRINT),
        result=TrialResult(**result) if result else None,
        test=TestResult(**test) if test else None,
        final=FinalResult(**final) if final else None,
        differences={other: Difference(**difference) for other, difference in (of_study(DIFFERENCES) or {}).items()},
        cause=value(CAUSE),
        same_as=value(SAME_AS),
        retry_of=value(RETRY_OF),
        space_version=value(SPACE_VERSION) or 1,
        cut=value(CUT),
        is_from_cut=bool(value(IS_FROM_CUT)),
        tuned_from=value(TUNED_FROM),
        rungs=tuple(sorted(rungs, key=lambda rung: rung.epoch)),
        started=_utc(value(STARTED), trial.datetime_start),
        finished=_utc(value(FINISHED), trial.datetime_complete) if state.is_finished else None,
    )
    if row.is_rejected:
        return replace(row, violations=dict(trial.constraints))
    return replace(row, violations={}) if kind == "baseline" and state is State.COMPLETE else row


def _utc(written: str | None, local: datetime | None) -> datetime | None:
    """Returns a time in UTC: what was written, or, of older experiments, Optuna's by this machine's zone."""
    if written is not None:
        return datetime.fromisoformat(written)
    return None if local is None else local.astimezone(UTC)


class Columns:
    """The dimensions of a study under the names that its database has them by.

    Optuna refuses other choices under a name that it knows, so a changed dimension gets "@2" behind its name.
    """

    def __init__(self) -> None:
        self._known: dict[str, list[tuple[str, BaseDistribution]]] = {}

    def find(self, name: str, distribution: BaseDistribution) -> str:
        """Returns the column of a dimension: the first that can hold it, or a new one."""
        known = self._known.get(name, [])
        for column, old in known:
            try:
                check_distribution_compatibility(old, distribution)
            except ValueError:
                continue
            return column
        return f"{name}@{len(known) + 1}" if known else name

    def note(self, distributions: Mapping[str, BaseDistribution]) -> None:
        """Remembers the columns of a trial."""
        for column, distribution in distributions.items():
            known = self._known.setdefault(plain_name(column), [])
            if all(column != other for other, _ in known):
                known.append((column, distribution))


def plain_name(column: str) -> str:
    """Returns the dimension that a column holds."""
    return column.rpartition("@")[0] or column
