"""How often a search under constraints ends with nothing that keeps them: searches replayed on the table.

    python -m tests.benchmarks.search_efficiency.constrained --seeds 20

As `replay`, with early stopping and constraints that some architectures of the table keep. Proposals are not held
against constraints on size before they are trained, as where pruning decides the size: only the rungs are.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from langsearch.model.finding import find_base
from langsearch.model.shape import read_shape
from langsearch.space.schema import load_space
from langsearch.space.search_sections import parse_constraint
from langsearch.study.front import Objective
from tests.benchmarks.search_efficiency.replay import (
    FOLDER,
    MAX_COST,
    OBJECTIVES,
    Method,
    Trained,
    best_score,
    read_table,
    replay,
)

METHODS = {"random": Method("random", halving=True), "tpe": Method("tpe", halving=True)}


@dataclass(frozen=True)
class Case:
    """What is searched for, and what it must keep."""

    objectives: Sequence[Objective]
    constraints: Sequence[str]

    def __str__(self) -> str:
        return f"{', '.join(objective.name for objective in self.objectives)}; {', '.join(self.constraints)}"


CASES = (
    Case(OBJECTIVES[:1], ("nonzero_parameters <= 2 %",)),
    Case(OBJECTIVES[:1], ("nonzero_parameters <= 4 %",)),
    Case(OBJECTIVES, ("nonzero_parameters <= 4 %", "spbleu >= 1.7")),
)


def keeps(row: Mapping[str, Any], constraints: Sequence[str], base_parameters: int) -> bool:
    """Returns whether an architecture of the table keeps constraints on parameters and spBLEU."""
    values = {"nonzero_parameters": 100 * row["nonzero_parameters"] / base_parameters, "spbleu": best_score(row)}
    parsed = [parse_constraint(text) for text in constraints]
    assert all(constraint.is_percent == (constraint.metric != "spbleu") for constraint in parsed)
    return all(
        values[constraint.metric] <= constraint.bound
        if constraint.is_upper
        else values[constraint.metric] >= constraint.bound
        for constraint in parsed
    )


def main() -> None:
    """Runs all cases with all samplers on all seeds, and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="searches of each case and sampler")
    parser.add_argument("--samplers", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    trained = read_table(FOLDER / "table.parquet", FOLDER / "table_seed1.parquet")
    space = load_space(FOLDER / "space.yaml")
    num_base = read_shape(find_base(space.base)).num_parameters
    print(f"Searches end at {MAX_COST:.0%} of the cost of all {len(trained.rows)} architectures.")
    print("| objectives; constraints | keep them | sampler | empty fronts | completed | keep them | best spBLEU |")
    print("|---|---|---|---|---|---|---|", flush=True)
    figures = []
    for case in CASES:
        kept = {name for name, row in trained.rows.items() if keeps(row, case.constraints, num_base)}
        for sampler in arguments.samplers:
            found = [search(sampler, seed, case, trained) for seed in range(arguments.seeds)]
            good = [[name for name in names if name in kept] for names in found]
            best = [
                max((best_score(trained.rows[name]) for name in names), default=trained.pretrained) for names in good
            ]
            num_empty = sum(not names for names in good)
            figures.append({"case": str(case), "sampler": sampler, "empty": num_empty, "best": best})
            print(
                f"| {case} | {len(kept) / len(trained.rows):.0%} | {sampler} | {num_empty} of {len(found)} "
                f"| {mean(map(len, found)):.1f} | {mean(map(len, good)):.1f} | {mean(best):.3f} "
                f"of {max(best_score(trained.rows[name]) for name in kept):.3f} |",
                flush=True,
            )
            if arguments.json:
                arguments.json.write_text(json.dumps(figures), encoding="utf-8")


def search(sampler: str, seed: int, case: Case, trained: Trained) -> list[str]:
    """Returns the fingerprints of the trials that one search completed."""
    space = load_space(FOLDER / "space.yaml")
    parsed = [parse_constraint(text) for text in case.constraints]
    found = replay(METHODS[sampler], seed, space, trained, {}, case.objectives, parsed)
    return [fingerprint for _, fingerprint in found]


if __name__ == "__main__":
    main()
