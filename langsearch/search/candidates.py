"""Which trials are on the front, by the rows of the trial table alone."""

from collections.abc import Iterable, Sequence

import numpy as np

from langsearch.search.front import Objective, non_dominated
from langsearch.search.results import TrialResult
from langsearch.search.rows import State, TrialRow

_FULL_SCORES = ("spbleu", "worst_class_spbleu", "chrf")


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


def final_front(objectives: Sequence[Objective], candidates: Sequence[TrialRow]) -> list[TrialRow]:
    """Returns the candidates; once all of them have full scores, those that none dominates by these.

    Full scores take the place of the same scores while searching; the other objectives stay.
    """
    if not candidates or any(row.full is None for row in candidates):
        return list(candidates)
    keep = non_dominated(np.array([_full_costs(objectives, row) for row in candidates]))
    return [row for row, stays in zip(candidates, keep, strict=True) if stays]


def best_member(front: Sequence[TrialRow]) -> TrialRow | None:
    """Returns the member with the best spBLEU on validation: by the full scores, once all members have them."""
    if all(row.full is not None for row in front):
        return max(front, key=lambda row: row.full.full_spbleu if row.full else 0.0, default=None)
    return max(front, key=lambda row: row.result.spbleu if row.result else 0.0, default=None)


def by_size(rows: Iterable[TrialRow]) -> list[TrialRow]:
    """Returns trials by their trainable parameters."""
    return sorted(rows, key=lambda row: (row.result.trainable_parameters if row.result else 0, row.name))


def _full_costs(objectives: Sequence[Objective], row: TrialRow) -> list[float]:
    assert row.result is not None
    assert row.full is not None
    found = {name: score for name in _FULL_SCORES if (score := getattr(row.full, f"full_{name}")) is not None}
    values = [found.get(objective.name, getattr(row.result, objective.field)) for objective in objectives]
    return [objective.cost(_number(value)) for objective, value in zip(objectives, values, strict=True)]


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
