"""The tries of tuned baselines: which point the next one has, and which one is the best."""

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution

from langsearch.space.dimensions import num_points
from langsearch.study.beside_names import baseline_of, try_name, try_of
from langsearch.study.mirror import History, Mirror, contains
from langsearch.study.rows import OPTUNA_STATES, State, TrialRow
from langsearch.study.samplers import grid_values, mixed_seed


def tries_of(rows: Iterable[TrialRow], baseline: str) -> list[TrialRow]:
    """Returns a baseline's tries by number."""
    numbered = [(found[1], row) for row in rows if (found := try_of(row.name)) is not None and found[0] == baseline]
    return [row for _, row in sorted(numbered, key=lambda one: one[0])]


def best_try(tries: Iterable[TrialRow]) -> TrialRow | None:
    """Returns the complete try that is the best on validation, of equal ones the first; None if none is complete."""
    complete = [row for row in tries if row.state is State.COMPLETE and row.result is not None]
    return max(complete, key=lambda row: row.result.spbleu if row.result else 0.0, default=None)


def needed_tries(rows: Sequence[TrialRow]) -> set[str]:
    """Returns the names of the tries whose weights a baseline may yet be made of: its best one so far.

    Once it is made of it, it has them itself.
    """
    done = {row.name for row in rows if row.kind == "baseline" and row.state is State.COMPLETE}
    baselines = {baseline_of(row.name) for row in rows if row.kind == "try"} - done
    best = [best_try(tries_of(rows, name)) for name in baselines]
    return {row.name for row in best if row is not None}


def next_try(
    tries: Sequence[TrialRow],
    dimensions: Mapping[str, BaseDistribution],
    own: Mapping[str, Any],
    *,
    baseline: str,
    num_tries: int,
    sampler: str,
    seed: int,
) -> dict[str, Any]:
    """Returns the point of a baseline's next try; the same history gives the same, whether the driver was restarted.

    Args:
        tries: Those so far, by number.
        dimensions: What is searched.
        own: The values of the baseline as it is without being tuned: the first try has those that `dimensions` has.
        baseline: Its name, which makes its draws its own.
        num_tries: How many are planned.
        sampler: The search's. A grid goes through points of several dimensions, of which rates have no end: tries are
            then drawn at random.
        seed: The search's.
    """
    mirror = Mirror(
        ["maximize"],
        dimensions,
        [
            History(
                params=row.params,
                state=OPTUNA_STATES[row.state],
                values=[row.result.spbleu] if row.state is State.COMPLETE and row.result is not None else None,
            )
            for row in tries
        ],
        sampler="random" if sampler == "grid" else sampler,
        seed=mixed_seed(seed, baseline),
        num_trials=num_tries,
    )
    first = {name: own[name] for name, distribution in dimensions.items() if contains(distribution, own[name])}
    proposal = mirror.propose(first if first and not tries else None)
    assert proposal is not None, "only a grid is ever exhausted"
    point, known = dict(proposal.point), [dict(row.params) for row in tries]
    if point not in known or num_points(dimensions) is None:
        return point
    values = [grid_values(name, distribution) for name, distribution in dimensions.items()]
    points = [dict(zip(dimensions, one, strict=True)) for one in itertools.product(*values)]
    left = [one for one in points if one not in known]
    return random.Random(mixed_seed(seed, try_name(baseline, len(tries) + 1))).choice(left)
