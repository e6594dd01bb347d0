"""How fast samplers find the front: searches replayed on a table of every architecture of a small space.

    python -m tests.benchmarks.search_efficiency.replay --seeds 20 --json figures.json --html curves.html

Every search is langsearch's own: its searcher, table, scheduler and samplers, in simulated time on one worker; only the
training is looked up. A trial's cost is that of its epochs and evaluations, from the table's medians; what the priors
cost to learn is counted as well. What is measured: the hypervolume that the complete trials dominate, as a share of
that of all architectures, over the cost, as a share of training them all.

`ours` is the Gaussian process with asynchronous halving, cheaper evaluation at the first rung, and the points that the
priors give.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly
import plotly.graph_objects as go
import pyarrow.parquet as pq
from ray.tune.schedulers import FIFOScheduler

from langsearch.model.base import find_base, read_shape
from langsearch.search.folder import ExperimentFolder
from langsearch.search.front import Objective, hypervolume
from langsearch.search.halving import AsyncHalving
from langsearch.search.searcher import TableSearcher
from langsearch.search.table import State, TrialTable
from langsearch.search.task import TrialTask, searched_task
from langsearch.search.trial import TrialResult
from langsearch.space.schema import Space, load_space
from tests.benchmarks.simulated_tune import run_simulated, scripted_result

FOLDER = Path(__file__).parent

MAX_COST = 0.15
"""Searches end at this share of the cost of the exhaustive one."""

GOAL = 0.99
"""The share of the hypervolume that counts as found."""

SHARES = (0.02, 0.05, 0.1, 0.15)
"""Costs that the printed table shows."""


@dataclass(frozen=True)
class Trained:
    """The table: each architecture's scores after each epoch, and what they cost."""

    rows: Mapping[str, Mapping[str, Any]]
    """By fingerprint."""
    pretrained: float
    """spBLEU of the base alone."""
    train_seconds: float
    """Of an epoch; the median, which a busy machine does not shift."""
    evaluation_seconds: float
    """Of an evaluation at the search's fidelity."""
    fidelities: Mapping[str, float]
    """The share of the sentences that each cheaper evaluation decodes."""

    @property
    def cost(self) -> float:
        """Seconds of training and evaluating everything."""
        return sum(int(row["epochs"]) for row in self.rows.values()) * (self.train_seconds + self.evaluation_seconds)

    def score(self, row: Mapping[str, Any]) -> float:
        """Returns a finished trial's score: a trial keeps its best epoch."""
        return max(float(row[f"spbleu_{epoch}"]) for epoch in range(1, int(row["epochs"]) + 1))

    def share(self, found: Sequence[tuple[float, int]]) -> float:
        """Returns the dominated hypervolume of (spBLEU, parameters), as a share of the exhaustive front's.

        The reference is the pretrained base's score at the largest architecture's size: an architecture that is worse
        than the base adds nothing.
        """
        reference = (-self.pretrained, float(max(row["trainable_parameters"] for row in self.rows.values())))

        def volume(points: Sequence[tuple[float, int]]) -> float:
            costs = [(-score, float(parameters)) for score, parameters in points if score > self.pretrained]
            return hypervolume(np.array(costs), reference) if costs else 0.0

        everything = [(self.score(row), row["trainable_parameters"]) for row in self.rows.values()]
        return volume(found) / volume(everything)


def read_table(file: Path) -> Trained:
    """Reads the table that `make_table` writes."""
    table = pq.read_table(file)
    rows = {row["fingerprint"]: row for row in table.to_pylist()}
    meta = json.loads(table.schema.metadata[b"langsearch"])
    train = [row[f"train_seconds_{row['epochs']}"] / row["epochs"] for row in rows.values()]
    both = [row[f"seconds_{row['epochs']}"] / row["epochs"] for row in rows.values()]
    train_seconds = statistics.median(train)
    return Trained(
        rows, meta["pretrained_spbleu"], train_seconds, statistics.median(both) - train_seconds, meta["fidelities"]
    )


@dataclass(frozen=True)
class Method:
    """One way to search."""

    sampler: str
    halving: bool = False
    fidelity: str | None = None
    """The evaluation up to the first rung; None: as the search's."""
    with_priors: bool = False


METHODS: Mapping[str, Method] = {
    "random": Method("random"),
    "nsga2": Method("nsga2"),
    "gp": Method("gp"),
    "tpe": Method("tpe"),
    "tpe + halving": Method("tpe", halving=True),
    "tpe + halving, cheap rungs": Method("tpe", halving=True, fidelity="quarter"),
    "tpe + halving, cheap rungs, priors": Method("tpe", halving=True, fidelity="quarter", with_priors=True),
    "gp + halving": Method("gp", halving=True),
    "gp + halving, cheap rungs": Method("gp", halving=True, fidelity="quarter"),
    "ours": Method("gp", halving=True, fidelity="quarter", with_priors=True),
}


def replay(method: Method, seed: int, space: Space, trained: Trained, priors: Mapping[str, Any]) -> list[list[float]]:
    """Runs one search on the table and returns (share of the cost, share of the hypervolume) after each change."""
    shape = read_shape(find_base(space.base))
    objectives = (Objective("spbleu", True), Objective("trainable_parameters", False))
    budget = MAX_COST * trained.cost
    found: list[tuple[float, int]] = []
    started = trained.train_seconds * priors["epochs"] if method.with_priors else 0.0
    curve: list[list[float]] = [[started / trained.cost, 0.0]]

    def script(task: TrialTask) -> Iterator[tuple[float, TrialResult]]:
        row = trained.rows[task.fingerprint]
        for epoch in range(1, row["epochs"] + 1):
            is_cheap = method.fidelity is not None and epoch == 1
            if is_cheap:
                score, share = row[f"spbleu_1_{method.fidelity}"], trained.fidelities[str(method.fidelity)]
            else:
                # The best epoch counts, but only among those of one fidelity.
                first = 2 if method.fidelity else 1
                score, share = max(row[f"spbleu_{e}"] for e in range(first, epoch + 1)), 1.0
            yield (
                trained.train_seconds + share * trained.evaluation_seconds,
                scripted_result(epoch, row["epochs"], score, row["trainable_parameters"]),
            )

    with tempfile.TemporaryDirectory() as name:
        table = TrialTable("sqlite://", "replay", objectives, sampler=method.sampler, seed=seed, num_trials=_NUM_TRIALS)
        searcher = TableSearcher(
            table,
            ExperimentFolder(Path(name)),
            lambda number, point: searched_task(space, shape, number, point),
            space.dimensions(),
            [],
            len(trained.rows),
            seeds=priors["seeds"] if method.with_priors else (),
        )
        scheduler = FIFOScheduler()
        if method.halving:
            scheduler = AsyncHalving(table, max_epochs=3, grace_epochs=1, reduction_factor=2)

        def note(clock: float) -> None:
            rows = [row.result for row in table.rows() if row.state is State.COMPLETE and row.result is not None]
            if len(rows) != len(found):
                found[:] = [(result.spbleu, result.trainable_parameters) for result in rows]
                curve.append([(started + clock) / trained.cost, trained.share(found)])
            if started + clock > budget:
                searcher.stop("time")

        run_simulated(searcher, scheduler, script, on_event=note)
    return curve


_NUM_TRIALS = 40
"""What the samplers take for the planned number: it sets how many are drawn at random first."""


def at(curve: Sequence[Sequence[float]], cost: float) -> float:
    """Returns the share of the hypervolume that a search had at a cost."""
    return max((share for spent, share in curve if spent <= cost), default=0.0)


def main() -> None:
    """Runs all methods on all seeds, prints a table and writes figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="searches of each method")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--json", type=Path, help="where to write the curves")
    parser.add_argument("--html", type=Path, help="where to write a page with the curves")
    arguments = parser.parse_args()
    space, trained = load_space(FOLDER / "space.yaml"), read_table(FOLDER / "table.parquet")
    priors = json.loads((FOLDER / "priors.json").read_text(encoding="utf-8"))
    print(f"{len(trained.rows)} architectures, {trained.cost / 3600:.1f} hours. Share of the hypervolume at a cost of")
    print(f"{'':<28}" + "".join(f"{share:>16.0%}" for share in SHARES) + f"{'99 % at':>16}")
    curves: dict[str, list[list[list[float]]]] = {}
    for name in arguments.methods:
        started = time.perf_counter()
        curves[name] = [replay(METHODS[name], seed, space, trained, priors) for seed in range(arguments.seeds)]
        cells = []
        for share in SHARES:
            values = [at(curve, share) for curve in curves[name]]
            low, high = np.percentile(values, [10, 90])
            cells.append(f"{np.mean(values):.3f} {low:.2f}-{high:.2f}")
        reached = [next((cost for cost, share in curve if share >= GOAL), math.inf) for curve in curves[name]]
        median = statistics.median(reached)
        cells.append(f"{median:.1%}" if math.isfinite(median) else "later")
        print(f"{name:<28}" + "".join(f"{cell:>16}" for cell in cells), flush=True)
        print(f"{'':<28}({time.perf_counter() - started:.0f} s)", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(curves), encoding="utf-8")
    if arguments.html:
        arguments.html.write_text(draw(curves), encoding="utf-8")


def draw(curves: Mapping[str, Sequence[Sequence[Sequence[float]]]]) -> str:
    """Returns a page with each method's mean curve, and the range of the middle 80 % of the seeds."""
    figure = go.Figure()
    grid = np.linspace(0, MAX_COST, 201)
    for (name, found), color in zip(curves.items(), plotly.colors.qualitative.Safe, strict=False):
        values = np.array([[at(curve, cost) for cost in grid] for curve in found])
        low, high = np.percentile(values, [10, 90], axis=0)
        band = {"legendgroup": name, "line_width": 0, "showlegend": False, "hoverinfo": "skip"}
        figure.add_scatter(x=grid, y=low, **band)
        pale = color.replace("rgb(", "rgba(").replace(")", ", 0.08)")
        figure.add_scatter(x=grid, y=high, fill="tonexty", fillcolor=pale, **band)
        figure.add_scatter(x=grid, y=values.mean(axis=0), name=name, line_color=color, legendgroup=name)
    figure.add_hline(y=GOAL, line_dash="dot")
    figure.update_layout(xaxis_title="share of the exhaustive cost", yaxis_title="share of the hypervolume")
    figure.update_layout(template="plotly_white", height=520, xaxis_tickformat=".0%", yaxis_range=[0.4, 1.0])
    return str(figure.to_html(include_plotlyjs=True))


if __name__ == "__main__":
    main()
