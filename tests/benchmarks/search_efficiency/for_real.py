"""Real searches of the benchmark's space: what each finds at which cost, nothing looked up but what its front is worth.

    python -m tests.benchmarks.search_efficiency.for_real --to real.json              # half an hour of two idle cores
    python -m tests.benchmarks.search_efficiency.for_real --to real.json --table      # the table of what is there

Every search is `langsearch run` in a process of its own, with Ray, training and scoring. Its cost is the seconds that
its trials took, wide trainings, cuts and what early stopping ended included, over those of training all 324
architectures, by the seconds of the complete trials of the same run. What it has found by then is the front of its
complete trials by its own scores, and that front is worth what the second trainings of `table_seed1.parquet` say.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from langsearch.experiment.folder import write_json
from langsearch.experiment.task import searched_task
from langsearch.model.finding import find_base
from langsearch.model.shape import read_shape
from langsearch.space.schema import load_space
from langsearch.study.front import non_dominated
from tests.benchmarks.search_efficiency.replay import FOLDER, Curve, Trained, at, read_table

SHARES = (0.03, 0.04, 0.05, 0.07)
"""Costs that the table shows."""

METHODS: Mapping[str, Sequence[str]] = {
    "random": ("search.sampler=random", "search.scheduler=none", "search.trials=20"),
    "tpe": ("search.sampler=tpe", "search.scheduler=none", "search.trials=20"),
    "gp": ("search.sampler=gp", "search.scheduler=none", "search.trials=20"),
    "gp + halving": ("search.sampler=gp", "search.scheduler=asha", "search.trials=36"),
    "one shot": (
        "search.strategy=one_shot",
        "search.donors=6",
        "search.one_shot={cuts: 50, winners: 8, sentences: 26, sample: 3, min_correlation: -1}",
    ),
}
"""Settings of each; as many trials as cost about the same."""


def main() -> None:
    """Runs what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, required=True, help="a JSON file of what the searches found")
    parser.add_argument("--table", action="store_true", help="search nothing")
    parser.add_argument("--seeds", type=int, default=3, help="searches of each method")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    arguments = parser.parse_args()
    found: dict[str, Any] = json.loads(arguments.to.read_text(encoding="utf-8")) if arguments.to.exists() else {}
    if not arguments.table:
        for seed in range(arguments.seeds):
            for name in arguments.methods:
                if f"{name}/{seed}" not in found:
                    found[f"{name}/{seed}"] = search(name, seed)
                    write_json(arguments.to, found)
                    print(f"{name}, seed {seed}: {len(found[f'{name}/{seed}'])} trials", flush=True)
    print_table(found, read_table(FOLDER / "table.parquet", FOLDER / "table_seed1.parquet"))


def settings_of(name: str, seed: int) -> list[str]:
    """Returns what a search sets beside the benchmark's space: nothing but its method is to cost anything."""
    return [*METHODS[name], f"search.seed={seed}", "prior=null", "baselines=[]", "evaluation.rungs=[]"]


def search(name: str, seed: int) -> list[dict[str, Any]]:
    """Runs a search; returns its trials, donors and cuts, in the order in which they ended."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "langsearch", "run", str(FOLDER / "space.yaml"), "--experiments", folder]
        for setting in settings_of(name, seed):
            command += ["--set", setting]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows = pq.read_table(Path(folder) / "search_efficiency" / "results.parquet").to_pylist()
    kept = [
        row for row in rows if row["seconds"] is not None and row["same_as"] is None and row["finished"] is not None
    ]
    fields = ("kind", "state", "seconds", "params", "spbleu", "trainable_parameters", "epochs", "max_epochs")
    return [{key: row[key] for key in fields} for row in sorted(kept, key=lambda row: str(row["finished"]))]


def print_table(found: Mapping[str, Sequence[Mapping[str, Any]]], trained: Trained) -> None:
    """Prints for each method the mean share at each cost, with the least and the most of its searches."""
    complete = [row["seconds"] for rows in found.values() for row in rows if _is_whole(row)]
    whole = len(trained.rows) * statistics.median(complete)
    print("| | searches | " + " | ".join(f"{share:.0%}" for share in SHARES) + " | in the end, at a cost of |")
    print("|---|---|" + "---|" * (len(SHARES) + 1))
    for method in METHODS:
        curves = [curve(rows, trained, whole) for key, rows in found.items() if key.startswith(f"{method}/")]
        if curves:
            cells = [_cell([at(one, share) for one in curves]) for share in SHARES]
            end = f"{_cell([one[-1][1] for one in curves])}, {np.mean([one[-1][0] for one in curves]):.1%}"
            print(f"| {method} | {len(curves)} | {' | '.join(cells)} | {end} |")


def curve(rows: Sequence[Mapping[str, Any]], trained: Trained, whole: float) -> Curve:
    """Returns what a search had after each trial that completed.

    Args:
        rows: Its trials, donors and cuts, in the order in which they ended.
        trained: The tables.
        whole: Seconds of training everything.

    Returns:
        (share of the cost, share of the exhaustive front by second trainings) of each.
    """
    points, spent = [], 0.0
    members: list[tuple[float, int, str]] = []
    for row in rows:
        spent += row["seconds"]
        if row["kind"] == "searched" and row["state"] == "complete":
            members.append((row["spbleu"], row["trainable_parameters"], _fingerprint(row["params"])))
            stays = non_dominated(np.array([(-score, size) for score, size, _ in members]))
            front = [name for (_, _, name), stay in zip(members, stays, strict=True) if stay]
            points.append((spent / whole, trained.worth(front)))
    return points


@functools.cache
def _fingerprint(params: str) -> str:
    """Returns what the tables know a point as, a JSON text."""
    space = load_space(FOLDER / "space.yaml")
    return searched_task(space, read_shape(find_base(space.base)), 0, json.loads(params)).fingerprint


def _is_whole(row: Mapping[str, Any]) -> bool:
    is_ended = row["kind"] == "searched" and row["state"] == "complete"
    return bool(is_ended and row["epochs"] == row["max_epochs"] == 3)


def _cell(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.2f}–{max(values):.2f})"


if __name__ == "__main__":
    main()
