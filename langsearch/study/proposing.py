"""How the next trial's point is found: by a sampler that is shown what the trial table has, in the mirror."""

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from langsearch.study.candidates import result_costs, result_values
from langsearch.study.front import Objective
from langsearch.study.mirror import BLOCK, LIMITS, History, Mirror, Proposal, shown
from langsearch.study.rows import OPTUNA_STATES, State, TrialRow
from langsearch.study.stored import StoredTrials


class Proposer:
    """Proposes points; told of every change, it keeps a mirror of the study up to date as long as it can.

    Args:
        rows: The searched trials by name, as they are whenever a proposal is made.
        stored: What samplers noted on them.
        objectives: In the study's order.
        sampler: A name of `samplers.SAMPLERS`.
        seed: Every proposal is drawn with a seed made of this and the trial's number.
        num_trials: How many are planned.
        has_constraints: Whether the search has any.
    """

    def __init__(
        self,
        rows: Mapping[str, TrialRow],
        stored: StoredTrials,
        objectives: Sequence[Objective],
        *,
        sampler: str,
        seed: int,
        num_trials: int,
        has_constraints: bool,
    ) -> None:
        self._rows, self._stored, self._objectives = rows, stored, objectives
        self._sampler, self._seed, self._num_trials = sampler, seed, num_trials
        self._has_constraints = has_constraints
        self._mirror: Mirror | None = None
        self._proposal: Proposal | None = None

    def next_point(
        self,
        number: int,
        distributions: Mapping[str, BaseDistribution],
        given: Mapping[str, Any] | None,
        *,
        at_random: bool,
    ) -> dict[str, Any] | None:
        """Returns the point of the next trial; None: the grid has no point left.

        Args:
            number: The next trial's: how many there are.
            distributions: The search dimensions.
            given: The point, or a part of it; the sampler draws what it leaves open.
            at_random: Draw at random this time, unless the sampler is a grid.
        """
        mirror = self._mirror
        if (
            mirror is None
            or mirror.is_proposing
            or mirror.distributions != dict(distributions)
            or (number % BLOCK == 0 and number > LIMITS.get(self._sampler, number))
        ):
            self._mirror = mirror = self._build(number, distributions)
        self._proposal = mirror.propose(given, at_random=at_random)
        return None if self._proposal is None else dict(self._proposal.point)

    def proposal(self, point: Mapping[str, Any], retry_of: str | None = None) -> Proposal:
        """Returns a point as the sampler proposed it last, or as one that somebody else gave.

        Args:
            point: The point.
            retry_of: The trial that it repeats, and with it its dimensions.
        """
        if self._proposal is not None and self._proposal.point == dict(point):
            return self._proposal
        if retry_of is not None:
            return Proposal(point=point, distributions=self._stored.distributions(retry_of))
        assert self._mirror is not None, "a point needs the dimensions that `next_point` was asked with"
        return Proposal(point=point, distributions={name: self._mirror.distributions[name] for name in point})

    def added(self, row: TrialRow) -> None:
        """Takes in a new trial, the last proposal or another."""
        if self._mirror is not None:
            if self._proposal is not None and self._proposal.point == row.params:
                self._mirror.accept()
            elif self._mirror.is_proposing:
                self._mirror = None  # built anew for the next proposal, without this one
            else:
                self._mirror.add(self._history(row))
        self._proposal = None

    def reported(self, row: TrialRow, epoch: int, value: float) -> None:
        """Takes in the single objective's value after an epoch."""
        if self._mirror is not None:
            self._mirror.report(int(row.name), epoch, value)

    def ended(self, row: TrialRow) -> None:
        """Takes in the end of a trial."""
        if self._mirror is not None:
            seen = self._history(row)
            self._mirror.end(int(row.name), seen.state, seen.values, seen.constraints)

    def forget(self) -> None:
        """Lets the next proposal look at all trials anew, since some that had ended have changed."""
        self._mirror = None

    def _build(self, num: int, distributions: Mapping[str, BaseDistribution]) -> Mirror:
        gap = History(params={}, state=TrialState.WAITING)
        rows = [self._rows.get(f"{number:05d}") for number in range(num)]
        known = [row.result if row is not None and row.state is State.COMPLETE else None for row in rows]
        costs = [None if result is None else result_costs(self._objectives, result) for result in known]
        kept = shown(self._sampler, costs)
        return Mirror(
            [objective.direction for objective in self._objectives],
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
        if state is State.PRUNED and row.result is not None and self._sampler == "gp" and not self._has_constraints:
            # Optuna's leaves pruned trials out, and would propose them for ever; what they had reached is less than
            # they would have, which is what the process is to learn of them. (Under constraints it wants violations.)
            state = State.COMPLETE
        if state is State.COMPLETE and row.result is not None:
            values = result_values(self._objectives, row.result)
        elif row.state is State.PRUNED and row.result is not None and row.result.epoch in stored.intermediate:
            values = [stored.intermediate[row.result.epoch]]
        return History(
            params=row.params,
            state=OPTUNA_STATES[state],
            values=values,
            constraints=row.violations or {},
            attributes=stored.attributes,
            study_attributes=stored.study_attributes,
            intermediate=stored.intermediate,
        )
