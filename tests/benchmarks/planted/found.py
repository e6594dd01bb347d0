"""How often searches find the truth: replayed on the table, by the number of trainings that they cost."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from langsearch.experiment.folder import write_json
from langsearch.space.schema import Space
from tests.benchmarks.planted.truth import Truth, size_of
from tests.benchmarks.search_efficiency.replay import METHODS, Found, Method, Trained, best_score, replay

SEARCHED: Mapping[str, Method] = {
    **{name: METHODS[name] for name in ("random", "nsga2", "tpe", "tpe + halving")},
    "tpe + priors": Method("tpe", with_priors=True),
    **{name: METHODS[name] for name in ("gp", "gp + halving")},
    "ours: gp + halving, cheap rungs, priors": METHODS["ours"],
}

NUM_TRAININGS = (10, 20, 30, 60)
"""What a search may cost, in trainings of all epochs; priors and trainings that were stopped count by their part."""

GP_TRAININGS = 30
"""The same of searches by gp, at most: its proposals take longer than the trainings, the more the more it has seen."""

NEAR = 1.25
"""What is sufficient with at most so many times the truth's parameters is near it."""

Searches = Mapping[str, Sequence[Found]]


def num_trainings(method: Method) -> int:
    """Returns at what cost searches of a method end, in trainings."""
    return GP_TRAININGS if method.sampler == "gp" else NUM_TRAININGS[-1]


def searches(
    space: Space, trained: Trained, priors: Mapping[str, Any], num_seeds: int, file: Path
) -> dict[str, list[Found]]:
    """Runs the searches that a file does not have yet, keeps them there, and returns all.

    Args:
        space: The space.
        trained: Its table.
        priors: The points that searches with priors begin with, and what they cost, as `learn_priors` writes them.
        num_seeds: Searches of each method; of those by gp half as many.
        file: JSON that keeps what was found.
    """
    kept: dict[str, list[Found]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for name, method in SEARCHED.items():
        mine = kept.setdefault(name, [])
        for seed in range(len(mine), num_seeds // 2 if method.sampler == "gp" else num_seeds):
            max_cost = num_trainings(method) / len(trained.rows)
            mine.append(replay(method, seed, space, trained, priors, max_cost=max_cost))
            write_json(file, kept)
            print(f"{name}: {seed + 1} searches", flush=True)
    return kept


def print_searches(found: Searches, trained: Trained, truth: Truth) -> None:
    """Prints in Markdown how often each method had found the truth, and something near it, at each cost.

    The last column is the size of the smallest sufficient one that searches have by then, a median.
    """
    costs = " | ".join(f"{num} trainings" for num in NUM_TRAININGS)
    print(
        f"\nSearches that have found the truth, and in brackets something sufficient of at most {NEAR} x its size:\n\n"
        f"| | searches | {costs} | half have it at | smallest after {GP_TRAININGS}, of the truth's |\n"
        f"|---{'|---' * (len(NUM_TRAININGS) + 3)}|"
    )
    near = near_truth(trained, truth)
    for name, runs in found.items():
        ends = num_trainings(SEARCHED[name])
        cells = [
            f"{share(runs, truth.names, trained, num):.0%} ({share(runs, near, trained, num):.0%})"
            if num <= ends
            else "–"
            for num in NUM_TRAININGS
        ]
        middle = statistics.median(trainings_until(run, truth.names, trained) for run in runs) if runs else math.inf
        cells.append(f"{middle:.0f}" if middle <= ends else f"over {ends}")
        print(f"| {name} | {len(runs)} | {' | '.join(cells)} | {smallest(runs, trained, truth, GP_TRAININGS)} |")


def near_truth(trained: Trained, truth: Truth) -> tuple[str, ...]:
    """Returns the sufficient architectures near the truth, and the truth."""
    near = [
        name
        for name, row in trained.rows.items()
        if size_of(row) <= NEAR * truth.num_parameters and truth.suffices(best_score(row))
    ]
    return (*truth.names, *near)


def trainings_until(run: Found, names: Sequence[str], trained: Trained) -> float:
    """Returns what a search had cost when it had trained one of some, in trainings; infinite if it never had."""
    return min((cost * len(trained.rows) for cost, name in run if name in names), default=math.inf)


def share(runs: Sequence[Found], names: Sequence[str], trained: Trained, num: int) -> float:
    """Returns the share of searches that had trained one of some at the cost of so many trainings."""
    return sum(trainings_until(run, names, trained) <= num for run in runs) / max(len(runs), 1)


def smallest(runs: Sequence[Found], trained: Trained, truth: Truth, num: int) -> str:
    """Returns how large the smallest sufficient one is that searches have after so many trainings, a median."""
    ratios = []
    for run in runs:
        rows = [trained.rows[name] for cost, name in run if cost * len(trained.rows) <= num]
        sizes = [size_of(row) for row in rows if truth.suffices(best_score(row))]
        ratios.append(min(sizes, default=math.inf) / truth.num_parameters)
    middle = statistics.median(ratios) if ratios else math.inf
    return f"{middle:.2f}" if math.isfinite(middle) else "none"
