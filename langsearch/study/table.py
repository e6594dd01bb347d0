"""The trial table: the Optuna study in the experiment's storage. Only the driver opens it, only this file writes it."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from langsearch.evaluate.spbleu import Difference
from langsearch.space.settings import Constraint
from langsearch.study.candidates import (
    by_size,
    final_front,
    find_candidates,
    find_unscored,
    may_be_candidate,
    result_costs,
    result_values,
    violated_in_full,
)
from langsearch.study.constraints import Constraints
from langsearch.study.front import Objective, non_dominated
from langsearch.study.mirror import BLOCK, CONSTRAINT, LIMITS, History, Mirror, shown
from langsearch.study.results import FullResult, TestResult, TrialResult
from langsearch.study.rows import (
    CAUSE,
    DIFFERENCES,
    FINGERPRINT,
    FULL,
    NAME,
    RESULT,
    RETRY_OF,
    RUNG,
    SAME_AS,
    SPACE_VERSION,
    STATES,
    STOPPED,
    TEST,
    VIOLATES,
    Columns,
    Rung,
    State,
    TrialRow,
    plain_name,
    read_row,
)

_SAMPLER = "sampler"
"""Attribute of a trial: what the sampler noted on the study when it proposed it."""

PRETRAINED = "pretrained"


@dataclass
class _Stored:
    """Where a trial lies in the database, and what only samplers need of it."""

    trial_id: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    study_attributes: Mapping[str, Any] = field(default_factory=dict)
    intermediate: dict[int, float] = field(default_factory=dict)


class TrialTable:
    """The searched trials and the baselines of one experiment.

    All rows are held in memory and written through: only the driver writes, so nothing is ever read again. Every
    change is one transaction, or a few of which each alone leaves a table that a new driver goes on with.

    Baselines are a study of their own beside the search's, so that samplers never see trials without parameters.

    Args:
        url: The storage, as SQLAlchemy writes it.
        name: The experiment's name: the study's name, so that two experiments never share one by accident.
        objectives: In the study's order, one to four.
        sampler: A name of `samplers.SAMPLERS`.
        seed: Every proposal is drawn with a seed made of this and the trial's number: the same history gives the
            same proposal, whether the driver was restarted or not.
        num_trials: How many are planned; sets how many are drawn at random first.
        constraints: What a trial must keep to be on the front.
        base_parameters: What a constraint's percentage is of.
        classes: The languages of each class, for constraints on losses.
        space_version: The version of the space that new trials come from.
    """

    def __init__(
        self,
        url: str,
        name: str,
        objectives: Sequence[Objective],
        *,
        sampler: str,
        seed: int,
        num_trials: int,
        constraints: Sequence[Constraint] = (),
        base_parameters: int = 1,
        classes: Mapping[str, Sequence[str]] | None = None,
        space_version: int = 1,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.objectives = tuple(objectives)
        self.constraints = Constraints(
            all=tuple(constraints), base_parameters=base_parameters, classes=dict(classes or {})
        )
        self.space_version = space_version
        self._sampler, self._seed, self._num_trials = sampler, seed, num_trials
        self._directions = ["maximize" if objective.maximize else "minimize" for objective in objectives]
        self._storage = optuna.storages.RDBStorage(url)
        self._study_id = self._open_study(name)
        self._baselines_id = self._open_study(f"{name}/baselines")
        self._stored: dict[str, _Stored] = {}
        self._baselines: dict[str, TrialRow] = {}
        self._searched: dict[str, TrialRow] = {}
        self._num_searched = 0
        self._columns = Columns()
        self._mirror: Mirror | None = None
        self._proposal: tuple[FrozenTrial, dict[str, Any]] | None = None
        self._candidates: dict[str, list[float]] = {}
        self._load()

    def next_point(
        self,
        distributions: Mapping[str, BaseDistribution],
        seeds: Sequence[Mapping[str, Any]] = (),
        *,
        at_random: bool = False,
    ) -> tuple[int, dict[str, Any]] | None:
        """Returns the number and the point of the trial that the sampler proposes next; writes nothing.

        Asked again before anything has changed, it gives the same answer. None: the grid has no point left.

        Args:
            distributions: The search dimensions.
            seeds: Points, or parts of points, that the first trials have; the sampler draws what one leaves open.
            at_random: Draw at random this time, unless the sampler is a grid.
        """
        number = self._num_searched
        mirror = self._mirror
        if (
            mirror is None
            or mirror.is_proposing
            or mirror.distributions != dict(distributions)
            or (number % BLOCK == 0 and number > LIMITS.get(self._sampler, number))
        ):
            self._mirror = mirror = self._build_mirror(distributions)
        self._proposal = mirror.propose(seeds[number] if number < len(seeds) else None, at_random=at_random)
        return None if self._proposal is None else (number, dict(self._proposal[0].params))

    def add(
        self,
        number: int,
        point: Mapping[str, Any],
        *,
        fingerprint: str | None = None,
        same_as: str | None = None,
        retry_of: str | None = None,
    ) -> TrialRow:
        """Writes a new running trial in one transaction.

        Args:
            number: The next one, which `next_point` gave.
            point: What it gave, or another.
            fingerprint: Of what the trial trains.
            same_as: The trial whose result it will share.
            retry_of: The failed trial whose point it has.
        """
        assert number == self._num_searched, "only one driver may write a study"
        proposed, noted = self._proposal or (None, {})
        if proposed is not None and dict(proposed.params) == dict(point):
            distributions, attributes = dict(proposed.distributions), dict(proposed.system_attrs)
        else:
            proposed, noted, attributes = None, {}, {}
            distributions = self._distributions(point, retry_of)
        version = self.space_version if self.space_version > 1 else None
        given: dict[str, Any] = {FINGERPRINT: fingerprint, SAME_AS: same_as, RETRY_OF: retry_of}
        given |= {_SAMPLER: noted or None, SPACE_VERSION: version}
        columns = {name: self._columns.find(name, distributions[name]) for name in point}
        template = create_trial(
            state=TrialState.RUNNING,
            params={columns[name]: value for name, value in point.items()},
            distributions={columns[name]: distributions[name] for name in point},
            user_attrs={key: json.dumps(value) for key, value in given.items() if value is not None},
            system_attrs=attributes,
        )
        trial_id = self._storage.create_new_trial(self._study_id, template)
        name = f"{number:05d}"
        self._stored[name] = _Stored(trial_id, attributes, noted)
        self._columns.note(template.distributions)
        row = TrialRow(
            name=name,
            kind="searched",
            state=State.RUNNING,
            params=dict(point),
            fingerprint=fingerprint,
            same_as=same_as,
            retry_of=retry_of,
            space_version=self.space_version,
            started=template.datetime_start,
        )
        self._num_searched += 1
        if self._mirror is not None:
            if proposed is not None:
                self._mirror.accept()
            elif self._mirror.is_proposing:
                self._mirror = None  # built anew for the next proposal, without this one
            else:
                self._mirror.add(self._history(row))
        self._proposal = None
        if retry_of is not None:
            self._put(replace(self._searched[retry_of], retried_as=name))
        return self._put(row)

    def propose(
        self,
        distributions: Mapping[str, BaseDistribution],
        seeds: Sequence[Mapping[str, Any]] = (),
        *,
        fingerprint: str | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Adds the trial that `next_point` gives; returns its number and its point."""
        found = self.next_point(distributions, seeds)
        assert found is not None, "the grid is exhausted"
        self.add(*found, fingerprint=fingerprint)
        return found

    def add_baseline(self, name: str) -> None:
        """Adds a running baseline, unless it is there and not failed."""
        old = self._baselines.get(name)
        if old is not None and old.state is not State.FAILED:
            return
        template = create_trial(state=TrialState.RUNNING, user_attrs={NAME: name})
        self._stored[name] = _Stored(self._storage.create_new_trial(self._baselines_id, template))
        self._put(
            TrialRow(
                name=name,
                kind="baseline",
                state=State.RUNNING,
                params={},
                fingerprint=None,
                started=template.datetime_start,
            )
        )

    def report(self, name: str, result: TrialResult) -> None:
        """Records how a running trial does; with one objective also as Optuna's intermediate value.

        A result that is there already changes nothing.
        """
        row, stored = self.row(name), self._stored[name]
        if row.result != result:
            self._set(name, RESULT, asdict(result))
            row = self._put(replace(row, result=result))
        if len(self.objectives) == 1 and result.epoch not in stored.intermediate:
            (value,) = self.values(result)
            self._storage.set_trial_intermediate_value(stored.trial_id, result.epoch, value)
            stored.intermediate[result.epoch] = value
            if self._mirror is not None and row.kind == "searched":
                self._mirror.report(int(name), result.epoch, value)

    def record_rung(self, name: str, epoch: int, values: Sequence[float], goes_on: bool, order: int = 0) -> None:
        """Records what early stopping decided on a running trial, with what it decided by, in one transaction."""
        rung = Rung(epoch=epoch, values=tuple(values), goes_on=goes_on, order=order)
        self._set(name, f"{RUNG}{epoch}", {"values": list(values), "goes_on": goes_on, "order": order})
        row = self.row(name)
        kept = [other for other in row.rungs if other.epoch != epoch]
        self._put(replace(row, rungs=tuple(sorted([*kept, rung], key=lambda rung: rung.epoch))))

    def complete(self, name: str, result: TrialResult) -> None:
        """Ends a trial with its result. What it violates must be known."""
        self.report(name, result)
        row = self.row(name)
        # Baselines are held against no constraint; `pretrained` is what others are held against.
        found = self.violations(result) if row.kind == "searched" else {}
        assert found is not None, "the pretrained base's scores are not known yet"
        self._end(name, TrialState.COMPLETE, self.values(result), found)
        if row.name == PRETRAINED:
            self._measure_again()

    def prune(self, name: str, result: TrialResult) -> None:
        """Ends a trial that the scheduler stopped: pruned at its epoch, not complete, so that samplers know."""
        self.report(name, result)
        self._end_early(name)

    def stop(self, name: str) -> None:
        """Ends a trial that somebody asked to end: pruned at the epoch it had reached, if it had reached one."""
        self._set(name, CAUSE, STOPPED)
        self._put(replace(self.row(name), cause=STOPPED))
        self._end_early(name)

    def reject(self, name: str, violations: Mapping[str, float]) -> None:
        """Ends a trial that is not trained, since its size violates constraints, with how far by their texts."""
        self._set(name, CAUSE, cause := f"{VIOLATES}{', '.join(violations)}")
        self._put(replace(self.row(name), cause=cause))
        self._end(name, TrialState.PRUNED, None, violations)

    def fail(self, name: str, cause: str) -> None:
        """Ends a trial that has no result."""
        self._set(name, CAUSE, cause)
        self._put(replace(self.row(name), cause=cause))
        self._end(name, TrialState.FAIL, None, None)

    def share(self, name: str, other: TrialRow) -> None:
        """Ends a trial with the result of one that trains the same."""
        row = self.row(name)
        if row.same_as != other.name:
            self._set(name, SAME_AS, other.name)
            self._put(replace(row, same_as=other.name))
        if other.state is State.FAILED:
            self.fail(name, other.cause or "unknown")
        elif other.result is not None:
            (self.complete if other.state is State.COMPLETE else self.prune)(name, other.result)
        else:
            self.stop(name)

    def record_test(self, name: str, test: TestResult) -> None:
        """Records a trial's scores on the test set; on the study, since a finished trial takes no attribute."""
        self._set_on_study(name, TEST, asdict(test))
        self._put(replace(self.row(name), test=test))

    def record_full(self, name: str, full: FullResult) -> None:
        """Records a trial's scores on the whole validation part."""
        self._set_on_study(name, FULL, asdict(full))
        self._put(replace(self.row(name), full=full))

    def record_differences(self, name: str, differences: Mapping[str, Difference]) -> None:
        """Records how a tested trial compares with baselines, by their names."""
        self._set_on_study(name, DIFFERENCES, {other: asdict(found) for other, found in differences.items()})
        self._put(replace(self.row(name), differences=dict(differences)))

    def rows(self) -> list[TrialRow]:
        """Returns all trials: the baselines, then the searched ones by number.

        Of a baseline that was tried again after a failure, only the last try is returned.
        """
        return [*self._baselines.values(), *self._searched.values()]

    def row(self, name: str) -> TrialRow:
        """Returns a trial. Raises KeyError if there is none of the name."""
        return self._searched[name] if name in self._searched else self._baselines[name]

    @property
    def num_searched(self) -> int:
        """How many searched trials there are: the next one's number."""
        return self._num_searched

    def values(self, result: TrialResult) -> list[float]:
        """Returns a result's objective values, in the study's order."""
        return result_values(self.objectives, result)

    def costs(self, result: TrialResult) -> list[float]:
        """Returns a result's objective values such that less is better."""
        return result_costs(self.objectives, result)

    def violations(self, result: TrialResult) -> dict[str, float] | None:
        """Returns how far each constraint is violated, by its text, in units of the bound; at most 0 where it is kept.

        None: a constraint on losses needs the pretrained base's scores, which are not known yet.
        """
        row = self._complete_pretrained()
        return self.constraints.violations(result, None if row is None else row.result)

    def candidates(self) -> list[TrialRow]:
        """Returns the complete searched trials that keep all constraints and that no other one dominates.

        Fewest parameters first. Trials that share a result are represented by the one that was trained.
        """
        return by_size(self._searched[name] for name in self._candidates)

    def returning(self) -> list[str]:
        """Returns the names of the complete trials that would be candidates with some other bounds of the constraints.

        That is: those that no other one dominates where the constraints' metrics count as objectives. Without
        constraints there are none but the candidates, and none is returned.
        """
        if not self.constraints.all:
            return []
        costs = {
            row.name: [*self.costs(row.result), *row.violations.values()]
            for row in self._searched.values()
            if row.state is State.COMPLETE and row.same_as is None and row.result and row.violations is not None
        }
        stays = non_dominated(np.array(list(costs.values())))
        return [name for name, may_return in zip(costs, stays, strict=True) if may_return]

    def front(self) -> list[TrialRow]:
        """Returns the candidates; once all of them have full scores, those that are members by these."""
        return final_front(self.objectives, self.constraints, self.candidates(), self._complete_pretrained())

    def unscored(self) -> list[TrialRow]:
        """Returns what must be scored by `evaluation.final` before the front is known."""
        return find_unscored(self.candidates(), self.constraints, self._complete_pretrained())

    def untested(self) -> list[TrialRow]:
        """Returns what is to be scored on the test set: the complete baselines and the front, those that were not."""
        baselines = [row for row in self._baselines.values() if row.state is State.COMPLETE]
        return [row for row in [*baselines, *self.front()] if row.test is None]

    def violated_in_full(self) -> dict[str, list[str]]:
        """Returns the candidates that violate constraints by their full scores, with the texts of these."""
        if self.unscored():
            return {}
        pretrained = self._complete_pretrained()
        found = {row.name: violated_in_full(row, self.constraints, pretrained) for row in self.candidates()}
        return {name: texts for name, texts in found.items() if texts}

    def _complete_pretrained(self) -> TrialRow | None:
        row = self._baselines.get(PRETRAINED)
        return row if row is not None and row.state is State.COMPLETE else None

    def _open_study(self, name: str) -> int:
        study = optuna.create_study(
            storage=self._storage, study_name=name, directions=self._directions, load_if_exists=True
        )
        names = [objective.name for objective in self.objectives]
        if study.metric_names != names:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(names)
        return int(self._storage.get_study_id_from_name(name))

    def _load(self) -> None:
        """Reads everything once."""
        loads = ((self._baselines_id, "baseline"), (self._study_id, "searched"))
        for study_id, kind in loads:
            attributes = self._storage.get_study_user_attrs(study_id)
            trials = self._storage.get_all_trials(study_id, deepcopy=False)
            for trial in trials:
                # Older versions wrote a trial step by step, so that a crash could leave a beginning of one.
                if trial.state is TrialState.WAITING or (kind == "baseline" and NAME not in trial.user_attrs):
                    continue
                row = read_row(trial, kind, attributes)
                self._stored[row.name] = _stored(trial)
                self._put(row)
                self._columns.note(trial.distributions)
            if kind == "searched":
                self._num_searched = len(trials)
        for row in list(self._searched.values()):
            if row.retry_of is not None:
                self._put(replace(self._searched[row.retry_of], retried_as=row.name))
        self._measure_again()

    def _measure_again(self) -> None:
        """Computes what complete trials violate, and with it the candidates, where it was not known."""
        for row in [row for row in self._searched.values() if row.state is State.COMPLETE and row.violations is None]:
            if row.result is not None and (found := self.violations(row.result)) is not None:
                self._put(replace(row, violations=found))
                self._mirror = None  # samplers know of violations too
        stay = find_candidates(self.objectives, self._searched.values())
        self._candidates = {row.name: self.costs(row.result) for row in stay if row.result is not None}

    def _end_early(self, name: str) -> None:
        result = self.row(name).result
        value = None if result is None else self._stored[name].intermediate.get(result.epoch)
        self._end(name, TrialState.PRUNED, None if value is None else [value], None)

    def _end(
        self, name: str, state: TrialState, values: Sequence[float] | None, violations: Mapping[str, float] | None
    ) -> None:
        trial_id = self._stored[name].trial_id
        for text, value in (violations or {}).items():
            # Optuna's `Trial.set_constraint`, without the `Trial`, whose making asks the sampler for a proposal.
            self._storage.set_trial_system_attr(trial_id, f"{CONSTRAINT}{text}", value)
        self._storage.set_trial_state_values(trial_id, state, values)
        finished = self._storage.get_trial(trial_id).datetime_complete
        row = self._put(replace(self.row(name), state=STATES[state], violations=violations, finished=finished))
        if row.kind != "searched":
            return
        if self._mirror is not None:
            seen = self._history(row)
            self._mirror.end(int(name), seen.state, seen.values, seen.constraints)
        if may_be_candidate(row):
            assert row.result is not None
            self._candidates[name] = self.costs(row.result)
            keep = non_dominated(np.array(list(self._candidates.values())))
            self._candidates = {
                name: cost for (name, cost), stays in zip(self._candidates.items(), keep, strict=True) if stays
            }

    def _put(self, row: TrialRow) -> TrialRow:
        (self._searched if row.kind == "searched" else self._baselines)[row.name] = row
        return row

    def _set(self, name: str, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(self._stored[name].trial_id, key, json.dumps(value))

    def _set_on_study(self, name: str, key: str, value: Any) -> None:
        study_id = self._study_id if name in self._searched else self._baselines_id
        self._storage.set_study_user_attr(study_id, f"{key}/{name}", json.dumps(value))

    def _build_mirror(self, distributions: Mapping[str, BaseDistribution]) -> Mirror:
        gap = History(params={}, state=TrialState.WAITING)
        rows = [self._searched.get(f"{number:05d}") for number in range(self._num_searched)]
        known = [row.result if row is not None and row.state is State.COMPLETE else None for row in rows]
        kept = shown(self._sampler, [None if result is None else self.costs(result) for result in known])
        return Mirror(
            self._directions,
            distributions,
            [
                gap if row is None or (kept is not None and number not in kept) else self._history(row)
                for number, row in enumerate(rows)
            ],
            sampler=self._sampler,
            seed=self._seed,
            num_trials=self._num_trials,
        )

    def _history(self, row: TrialRow) -> History:
        stored, state = self._stored[row.name], row.state
        values: list[float] | None = None
        if state is State.PRUNED and row.result is not None and self._sampler == "gp" and not self.constraints.all:
            # Optuna's leaves pruned trials out, and would propose them for ever; what they had reached is less than
            # they would have, which is what the process is to learn of them. (Under constraints it wants violations.)
            state = State.COMPLETE
        if state is State.COMPLETE and row.result is not None:
            values = self.values(row.result)
        elif row.state is State.PRUNED and row.result is not None and row.result.epoch in stored.intermediate:
            values = [stored.intermediate[row.result.epoch]]
        return History(
            params=row.params,
            state=next(known for known, found in STATES.items() if found is state),
            values=values,
            constraints=row.violations or {},
            attributes=stored.attributes,
            study_attributes=stored.study_attributes,
            intermediate=stored.intermediate,
        )

    def _distributions(self, point: Mapping[str, Any], retry_of: str | None) -> dict[str, BaseDistribution]:
        """Returns the dimensions of a point that no sampler proposed: those of the trial that it repeats."""
        if retry_of is not None:
            found = self._storage.get_trial(self._stored[retry_of].trial_id).distributions
            return {plain_name(name): distribution for name, distribution in found.items()}
        assert self._mirror is not None, "a point needs the dimensions that `next_point` was asked with"
        return {name: self._mirror.distributions[name] for name in point}


def _stored(trial: FrozenTrial) -> _Stored:
    noted = json.loads(trial.user_attrs[_SAMPLER]) if _SAMPLER in trial.user_attrs else {}
    attributes = {key: value for key, value in trial.system_attrs.items() if not key.startswith(CONSTRAINT)}
    return _Stored(trial._trial_id, attributes, noted, dict(trial.intermediate_values))
