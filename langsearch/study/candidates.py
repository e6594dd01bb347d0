"""Which trials are on the front, by the rows of the trial table alone."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from langsearch.study.constraints import Constraints
from langsearch.study.front import Objective, non_dominated
from langsearch.study.nearest import Nearest, Standing, find_nearest
from langsearch.study.results import TrialResult
from langsearch.study.rows import State, TrialRow


def result_values(objectives: Sequence[Objective], result: TrialResult) -> list[float]:
    """Returns a result's objective values, in the order of the objectives; NaN where there is none."""
    return [_number(getattr(result, objective.field)) for objective in objectives]


def result_costs(objectives: Sequence[Objective], result: TrialResult) -> list[float]:
    """Returns a result's objective values such that less is better."""
    values = result_values(objectives, result)
    return [objective.cost(value) for objective, value in zip(objectives, values, strict=True)]


def may_be_candidate(row: TrialRow) -> bool:
    """Returns whether a trial is complete, keeps all constraints, and was trained itself."""
    return row.state is State.COMPLETE and row.same_as is None and row.is_feasible is True


def find_candidates(objectives: Sequence[Objective], rows: Iterable[TrialRow]) -> list[TrialRow]:
    """Returns the trials that may be candidates and that no other one dominates, fewest parameters first."""
    known = [(row, row.result) for row in rows if row.kind == "searched" and may_be_candidate(row)]
    costs = [result_costs(objectives, result) for _, result in known if result is not None]
    if not costs:
        return []
    return by_size(row for (row, _), stays in zip(known, non_dominated(np.array(costs)), strict=True) if stays)


class Candidates:
    """The candidates of a search that goes on: one more trial that ends is compared with these alone.

    Args:
        objectives: In the study's order.
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self._objectives = objectives
        self._costs: dict[str, list[float]] = {}

    @property
    def names(self) -> Collection[str]:
        """The candidates' names."""
        return self._costs.keys()

    def find(self, rows: Iterable[TrialRow]) -> None:
        """Finds the candidates among all trials."""
        found = find_candidates(self._objectives, rows)
        self._costs = {row.name: result_costs(self._objectives, row.result) for row in found if row.result is not None}

    def add(self, row: TrialRow) -> None:
        """Takes in a trial that has ended."""
        if may_be_candidate(row):
            assert row.result is not None
            self._costs[row.name] = result_costs(self._objectives, row.result)
            stays = non_dominated(np.array(list(self._costs.values())))
            self._costs = {name: cost for (name, cost), stay in zip(self._costs.items(), stays, strict=True) if stay}


def find_returning(objectives: Sequence[Objective], rows: Iterable[TrialRow]) -> list[str]:
    """Returns the names of the complete trials that would be candidates with some other bounds of the constraints.

    That is: those that no other one dominates where the constraints' metrics count as objectives.
    """
    costs = {
        row.name: [*result_costs(objectives, row.result), *row.violations.values()]
        for row in rows
        if row.state is State.COMPLETE and row.same_as is None and row.result and row.violations is not None
    }
    stays = non_dominated(np.array(list(costs.values())))
    return [name for name, may_return in zip(costs, stays, strict=True) if may_return]


def find_unscored(
    candidates: Sequence[TrialRow], constraints: Constraints, pretrained: TrialRow | None
) -> list[TrialRow]:
    """Returns what must be scored by `evaluation.final` before the front is known.

    That is: the candidates, and the pretrained base where they are held against it; with scores by direction there.
    """
    with_directions = constraints.need_pretrained
    needed = [*candidates, *([pretrained] if candidates and with_directions and pretrained is not None else [])]
    return [row for row in needed if row.final is None or (with_directions and row.final.full_direction_spbleu is None)]


def final_front(
    objectives: Sequence[Objective],
    constraints: Constraints,
    candidates: Sequence[TrialRow],
    pretrained: TrialRow | None,
) -> list[TrialRow]:
    """Returns the candidates; once all of them have final scores, those that are members by these.

    Members keep the constraints by their final scores too, and no other one that keeps them dominates them by these.
    Full scores take the place of the same scores while searching; the other objectives stay.

    Args:
        objectives: In the study's order.
        constraints: The search's.
        candidates: As `find_candidates` gives them.
        pretrained: The pretrained base, if it is complete; where constraints need it, its final scores count.
    """
    if find_unscored(candidates, constraints, pretrained):
        return list(candidates)
    kept = [row for row in candidates if not violated_by_final(row, constraints, pretrained)]
    stays = non_dominated(np.array([result_costs(objectives, _finally_scored(row)) for row in kept]))
    return [row for row, is_member in zip(kept, stays, strict=True) if is_member]


def violated_by_final(row: TrialRow, constraints: Constraints, pretrained: TrialRow | None) -> list[str]:
    """Returns the texts of the constraints that a trial violates by its final scores, and the pretrained base's."""
    return [text for text, value in _violations(row, constraints, pretrained).items() if value > 0]


def final_violations(
    candidates: Sequence[TrialRow], constraints: Constraints, pretrained: TrialRow | None
) -> dict[str, dict[str, float]]:
    """Returns how far candidates violate constraints by their final scores, by name; none before all have these."""
    if not constraints.all or find_unscored(candidates, constraints, pretrained):
        return {}
    return {row.name: _violations(row, constraints, pretrained) for row in candidates}


def nearest_row(rows: Iterable[TrialRow], final: Mapping[str, Mapping[str, float]]) -> Nearest | None:
    """Returns the nearest of the searched trials that are complete, or were too large to be trained.

    Args:
        rows: Of the trial table.
        final: What trials violate by their final scores, by name; these take the place of the ones while searching.
    """
    return find_nearest(
        Standing(
            name=row.name,
            violations=final.get(row.name, row.violations),
            spbleu=None if row.result is None else row.result.spbleu,
            trainable_parameters=None if row.result is None else row.result.trainable_parameters,
        )
        for row in rows
        if row.kind == "searched"
        and row.same_as is None
        and row.violations is not None
        and (row.state is State.COMPLETE or row.is_rejected)
    )


def _violations(row: TrialRow, constraints: Constraints, pretrained: TrialRow | None) -> dict[str, float]:
    found = constraints.violations(_finally_scored(row), None if pretrained is None else _finally_scored(pretrained))
    assert found is not None, "the pretrained base must be complete where constraints need it"
    return found


def best_member(front: Sequence[TrialRow]) -> TrialRow | None:
    """Returns the member with the best spBLEU on validation: by the final scores, once all members have them."""
    if all(row.final is not None for row in front):
        return max(front, key=lambda row: row.final.full_spbleu if row.final else 0.0, default=None)
    return max(front, key=lambda row: row.result.spbleu if row.result else 0.0, default=None)


def by_size(rows: Iterable[TrialRow]) -> list[TrialRow]:
    """Returns trials by their trainable parameters."""
    return sorted(rows, key=lambda row: (row.result.trainable_parameters if row.result else 0, row.name))


def _finally_scored(row: TrialRow) -> TrialResult:
    assert row.result is not None
    return row.result if row.final is None else row.final.instead_of(row.result)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
