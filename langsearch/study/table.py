"""The trial table: every trial of a search as it is now. Only the driver opens it, and it writes to the study."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from langsearch.evaluate.spbleu import Difference
from langsearch.space.settings import Constraint
from langsearch.study.candidates import (
    Candidates,
    by_size,
    final_front,
    final_violations,
    find_returning,
    find_unscored,
    nearest_row,
    result_costs,
    result_values,
)
from langsearch.study.constraints import Constraints
from langsearch.study.front import Objective
from langsearch.study.mirror import Proposal
from langsearch.study.nearest import Nearest
from langsearch.study.proposing import Proposer
from langsearch.study.results import VIOLATES, FinalResult, TestResult, TrialResult
from langsearch.study.rows import (
    CAUSE,
    DIFFERENCES,
    FINAL,
    PRETRAINED,
    RESULT,
    RUNG,
    SAME_AS,
    STATES,
    STOP_REQUESTED,
    TEST,
    Rung,
    State,
    TrialRow,
    kind_beside,
)
from langsearch.study.seeds import complete_seeds
from langsearch.study.stored import CUTS, StoredTrials


class TrialTable:
    """The searched trials and the baselines of one experiment.

    All rows are held in memory and written through: only the driver writes, so nothing is ever read again. Every
    change is one transaction, or a few of which each alone leaves a table that a new driver goes on with.

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
        cuts_of: Makes it the table of a search's cuts, in a study beside the search's; the baselines are the search's.
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
        cuts_of: "TrialTable | None" = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.objectives = tuple(objectives)
        self.constraints = Constraints(all=tuple(constraints), base_parameters=base_parameters, classes=classes or {})
        self.space_version = space_version
        self.stored = StoredTrials(url, name, self.objectives, CUTS if cuts_of else "")
        """Where the rows lie."""
        self._baselines: dict[str, TrialRow] = cuts_of._baselines if cuts_of else {}
        self._searched: dict[str, TrialRow] = {}
        self._num_searched = 0
        self._candidates = Candidates(self.objectives)
        self._proposer = Proposer(
            self._searched,
            self.stored,
            self.objectives,
            sampler=sampler,
            seed=seed,
            num_trials=num_trials,
            has_constraints=bool(constraints),
        )
        self._load()

    def take_over(self, check: Callable[[], None] = lambda: None) -> None:
        """Makes this the only table that writes to the study, as long as `check` raises no LeaseLostError."""
        self.stored.take_over(check)

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
        given = seeds[number] if number < len(seeds) else None
        point = self._proposer.next_point(number, distributions, given, at_random=at_random)
        return None if point is None else (number, point)

    def add(
        self,
        number: int,
        point: Mapping[str, Any],
        *,
        fingerprint: str | None = None,
        same_as: str | None = None,
        retry_of: str | None = None,
        recorded: Proposal | None = None,
        space_version: int | None = None,
        **of_cut: Any,
    ) -> TrialRow:
        """Writes a new running trial in one transaction.

        Args:
            number: The next one, which `next_point` gave.
            point: What it gave, or another.
            fingerprint: Of what the trial trains.
            same_as: The trial whose result it will share.
            retry_of: The failed trial whose point it has.
            recorded: How it was proposed by a driver before. None: as `next_point` did.
            space_version: The version of the space that it came from. None: the table's.
            of_cut: `cut` and `is_from_cut`, as in `TrialRow`.
        """
        assert number == self._num_searched, "only one driver may write a study"
        row = TrialRow(
            name=f"{number:05d}",
            kind="searched",
            state=State.RUNNING,
            params=dict(point),
            fingerprint=fingerprint,
            same_as=same_as,
            retry_of=retry_of,
            space_version=space_version or self.space_version,
            **of_cut,
        )
        began = self.stored.add_searched(row, recorded or self._proposer.proposal(point, retry_of))
        self._num_searched += 1
        self._proposer.added(row)
        if retry_of is not None:
            self._put(replace(self._searched[retry_of], retried_as=row.name))
        return self._put(replace(row, started=began))

    def propose(
        self, distributions: Mapping[str, BaseDistribution], *, fingerprint: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Adds the trial that `next_point` gives; returns its number and its point."""
        found = self.next_point(distributions)
        assert found is not None, "the grid is exhausted"
        self.add(*found, fingerprint=fingerprint)
        return found

    def add_baseline(self, name: str, point: Mapping[str, Any] | None = None, tuned_from: str | None = None) -> None:
        """Adds a running baseline, donor, seed, or try with its point, unless it is there and not failed."""
        old = self._baselines.get(name)
        if old is not None and old.state is not State.FAILED:
            return
        bare = TrialRow(name=name, kind=kind_beside(name), state=State.RUNNING, params={}, fingerprint=None)
        row = replace(bare, params=dict(point or {}), tuned_from=tuned_from)
        self._put(replace(row, started=self.stored.add_baseline(row)))

    def report(self, name: str, result: TrialResult) -> None:
        """Records how a running trial does; with one objective also as Optuna's intermediate value.

        A result that is there already changes nothing.
        """
        row = self.row(name)
        if row.result != result:
            self.stored.note(name, RESULT, asdict(result))
            row = self._put(replace(row, result=result))
        if len(self.objectives) == 1 and result.epoch not in self.stored[name].intermediate:
            (value,) = self.values(result)
            self.stored.report(name, result.epoch, value)
            if row.kind == "searched":
                self._proposer.reported(row, result.epoch, value)

    def record_rung(
        self,
        name: str,
        epoch: int,
        values: Sequence[float],
        goes_on: bool,
        order: int = 0,
        violations: Mapping[str, float] | None = None,
    ) -> None:
        """Records what early stopping decided on a running trial, with what it decided by, in one transaction."""
        found = None if violations is None else dict(violations)
        rung = Rung(epoch=epoch, values=tuple(values), goes_on=goes_on, order=order, violations=found)
        note = {"values": list(values), "goes_on": goes_on, "order": order, "violations": found}
        self.stored.note(name, f"{RUNG}{epoch}", note)
        row = self.row(name)
        rungs = [*(other for other in row.rungs if other.epoch != epoch), rung]
        self._put(replace(row, rungs=tuple(sorted(rungs, key=lambda rung: rung.epoch))))

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
        """Ends a trial that loses at a rung: pruned at its epoch, not complete, so that samplers know."""
        self.report(name, result)
        self._end_early(name)

    def end_on_request(self, name: str) -> None:
        """Ends a trial that somebody asked to end: pruned at the epoch it had reached, if it had reached one."""
        self.stored.note(name, CAUSE, STOP_REQUESTED)
        self._put(replace(self.row(name), cause=STOP_REQUESTED))
        self._end_early(name)

    def reject(self, name: str, violations: Mapping[str, float]) -> None:
        """Ends a trial that is not trained, since its size violates constraints, with how far by their texts."""
        self.stored.note(name, CAUSE, cause := f"{VIOLATES}{', '.join(violations)}")
        self._put(replace(self.row(name), cause=cause))
        self._end(name, TrialState.PRUNED, None, violations)

    def fail(self, name: str, cause: str) -> None:
        """Ends a trial that has no result."""
        self.stored.note(name, CAUSE, cause)
        self._put(replace(self.row(name), cause=cause))
        self._end(name, TrialState.FAIL, None, None)

    def share(self, name: str, other: TrialRow) -> None:
        """Ends a trial with the result of one that trains the same."""
        row = self.row(name)
        if row.same_as != other.name:
            self.stored.note(name, SAME_AS, other.name)
            self._put(replace(row, same_as=other.name))
        if other.state is State.FAILED:
            self.fail(name, other.cause or "unknown")
        elif other.result is not None:
            (self.complete if other.state is State.COMPLETE else self.prune)(name, other.result)
        else:
            self.end_on_request(name)

    def record_test(self, name: str, test: TestResult) -> None:
        """Records a trial's scores on the test set; on the study, since a finished trial takes no attribute."""
        self.stored.note_on_study(self.row(name), TEST, asdict(test))
        self._put(replace(self.row(name), test=test))

    def record_final(self, name: str, final: FinalResult) -> None:
        """Records a trial's scores by `evaluation.final`, on validation."""
        self.stored.note_on_study(self.row(name), FINAL, asdict(final))
        self._put(replace(self.row(name), final=final))

    def record_differences(self, name: str, differences: Mapping[str, Difference]) -> None:
        """Records how a tested trial compares with baselines, by their names."""
        values = {other: asdict(found) for other, found in differences.items()}
        self.stored.note_on_study(self.row(name), DIFFERENCES, values)
        self._put(replace(self.row(name), differences=dict(differences)))

    def rows(self) -> list[TrialRow]:
        """Returns all trials: baselines, donors and tries, the last attempt at each, then the searched ones."""
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

    def violations_so_far(self, result: TrialResult) -> dict[str, float]:
        """Returns what `violations` does; losses that cannot be measured yet count as kept."""
        row = self._complete_pretrained()
        return self.constraints.violations_so_far(result, None if row is None else row.result)

    def candidates(self) -> list[TrialRow]:
        """Returns the complete searched trials that keep all constraints and that no other one dominates.

        Fewest parameters first. Trials that share a result are represented by the one that was trained.
        """
        return by_size(self._searched[name] for name in self._candidates.names)

    def returning(self) -> list[str]:
        """Returns the names of the complete trials that would be candidates with some other bounds of the constraints.

        That is: those that no other one dominates where the constraints' metrics count as objectives. Without
        constraints there are none but the candidates, and none is returned.
        """
        return find_returning(self.objectives, self._searched.values()) if self.constraints.all else []

    def front(self) -> list[TrialRow]:
        """Returns the candidates; once all of them have final scores, those that are members by these."""
        return final_front(self.objectives, self.constraints, self.candidates(), self._complete_pretrained())

    def unscored(self) -> list[TrialRow]:
        """Returns what must be scored by `evaluation.final` before the front is known."""
        return find_unscored(self.candidates(), self.constraints, self._complete_pretrained())

    def untested(self) -> list[TrialRow]:
        """Returns what is to be scored on the test set: the complete baselines, the front, and their further seeds."""
        tested = [row for row in self._baselines.values() if row.state is State.COMPLETE and row.kind == "baseline"]
        tested += self.front()
        return [row for row in [*tested, *complete_seeds(self._baselines.values(), tested)] if row.test is None]

    def final_violations(self) -> dict[str, dict[str, float]]:
        """Returns how far candidates violate constraints by their final scores, by name; none before all have these."""
        return final_violations(self.candidates(), self.constraints, self._complete_pretrained())

    def nearest(self) -> Nearest | None:
        """Returns the trial that comes nearest to keeping all constraints, None where none is known to violate any."""
        return nearest_row(self.rows(), self.final_violations())

    def _complete_pretrained(self) -> TrialRow | None:
        row = self._baselines.get(PRETRAINED)
        return row if row is not None and row.state is State.COMPLETE else None

    def _load(self) -> None:
        """Reads everything once."""
        baselines = [] if self._baselines else self.stored.load("baseline")[0]
        searched, self._num_searched = self.stored.load("searched")
        for row in [*baselines, *searched]:
            self._put(row)
        for row in searched:
            if row.retry_of is not None:
                self._put(replace(self._searched[row.retry_of], retried_as=row.name))
        self._measure_again()

    def _measure_again(self) -> None:
        """Computes what complete trials violate, and with it the candidates, where it was not known."""
        for row in [row for row in self._searched.values() if row.state is State.COMPLETE and row.violations is None]:
            if row.result is not None and (found := self.violations(row.result)) is not None:
                self._put(replace(row, violations=found))
                self._proposer.forget()  # samplers know of violations too
        self._candidates.find(self._searched.values())

    def _end_early(self, name: str) -> None:
        result = self.row(name).result
        value = None if result is None else self.stored[name].intermediate.get(result.epoch)
        self._end(name, TrialState.PRUNED, None if value is None else [value], None)

    def _end(
        self, name: str, state: TrialState, values: Sequence[float] | None, violations: Mapping[str, float] | None
    ) -> None:
        finished = self.stored.end(name, state, values, violations)
        row = self._put(replace(self.row(name), state=STATES[state], violations=violations, finished=finished))
        if row.kind == "searched":
            self._proposer.ended(row)
            self._candidates.add(row)

    def _put(self, row: TrialRow) -> TrialRow:
        (self._searched if row.kind == "searched" else self._baselines)[row.name] = row
        return row
