"""How fast samplers find the front: searches replayed on a table of every architecture of a small space.

    python -m tests.benchmarks.search_efficiency.replay --seeds 20 --json found.json
    python -m tests.benchmarks.search_efficiency.replay --read found.json --html curves.html    # the same figures again

Every search is langsearch's own: its searcher, table, scheduler and samplers, in simulated time on one worker; only the
training is looked up. A trial's cost is that of its epochs and evaluations, from the table's medians; what the priors
cost to learn is counted as well. What is measured: the hypervolume that the complete trials dominate, as a share of
that of all architectures, over the cost, as a share of training them all. And the same of the front that the search
would return, scored by other trainings of the same architectures, with another seed: what is left of it without luck.

`ours` is the Gaussian process with asynchronous halving, cheaper evaluation at the first rung, and the points that the
priors give.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import plotly
import pyarrow.parquet as pq
from plotly.subplots import make_subplots
from ray.tune.schedulers import FIFOScheduler

from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.task import TrialTask, searched_task
from langsearch.model.finding import find_base
from langsearch.model.shape import read_shape
from langsearch.search.searcher import TableSearcher
from langsearch.space.schema import Space, load_space
from langsearch.space.settings import Constraint
from langsearch.study.early_stopping import AsyncHalving
from langsearch.study.front import Objective, hypervolume, non_dominated
from langsearch.study.results import TrialResult
from langsearch.study.rows import State
from langsearch.study.table import TrialTable
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
    again: Mapping[str, Mapping[str, Any]]
    """Another training of each, with another seed, by the fingerprint of the first."""
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

    def point(self, fingerprint: str, first: int = 1) -> tuple[float, float]:
        """Returns an architecture's (spBLEU, trainable parameters); epochs from the first that counts."""
        row = self.rows[fingerprint]
        return best_score(row, first), float(row["trainable_parameters"])

    def volume(self, points: Sequence[tuple[float, float]]) -> float:
        """Returns the hypervolume that points of (spBLEU, parameters) dominate.

        The reference is the pretrained base's score at the largest architecture's size: an architecture that is worse
        than the base adds nothing.
        """
        reference = (-self.pretrained, float(max(row["trainable_parameters"] for row in self.rows.values())))
        costs = [(-score, parameters) for score, parameters in points if score > self.pretrained]
        return hypervolume(np.array(costs), reference) if costs else 0.0

    def front(self, fingerprints: Collection[str], first: int = 1) -> list[str]:
        """Returns those that no other one of them dominates."""
        names = list(fingerprints)
        costs = np.array([(-score, size) for score, size in (self.point(name, first) for name in names)])
        return [name for name, stays in zip(names, non_dominated(costs), strict=True) if stays]

    def share(self, fingerprints: Collection[str], first: int = 1) -> float:
        """Returns what architectures dominate, as a share of what all do with all their epochs."""
        return self.volume([self.point(name, first) for name in fingerprints]) / self._everything[0]

    def share_again(self, fingerprints: Collection[str], first: int = 1) -> float:
        """Returns what their front dominates by the other trainings, as a share of the exhaustive front's.

        It can be over 1: the exhaustive front was chosen by the first training's luck as well.
        """
        return self.worth(self.front(fingerprints, first), first)

    def worth(self, members: Collection[str], first: int = 1) -> float:
        """Returns what the members of a front dominate by the other trainings, as a share of the exhaustive front's."""
        return self._volume_again(members, first) / self._everything[1]

    @cached_property
    def _everything(self) -> tuple[float, float]:
        return self.volume([self.point(name) for name in self.rows]), self._volume_again(self.front(self.rows))

    def _volume_again(self, members: Collection[str], first: int = 1) -> float:
        return self.volume([(best_score(self.again[name], first), self.point(name)[1]) for name in members])


def best_score(row: Mapping[str, Any], first: int = 1) -> float:
    """Returns a finished trial's score: a trial keeps its best epoch, from the first that counts."""
    return max(float(row[f"spbleu_{epoch}"]) for epoch in range(first, int(row["epochs"]) + 1))


def read_table(file: Path, again: Path) -> Trained:
    """Reads the tables that `make_table` wrote of one space, with two seeds of the trainer."""
    table = pq.read_table(file)
    rows = {row["fingerprint"]: row for row in table.to_pylist()}
    others = {row["params"]: row for row in pq.read_table(again).to_pylist()}
    meta = json.loads(table.schema.metadata[b"langsearch"])
    again_rows = {fingerprint: others[row["params"]] for fingerprint, row in rows.items()}
    return trained_of(rows, again_rows, meta["pretrained_spbleu"], meta["fidelities"])


def trained_of(
    rows: Mapping[str, Mapping[str, Any]],
    again: Mapping[str, Mapping[str, Any]],
    pretrained: float,
    fidelities: Mapping[str, float],
) -> Trained:
    """Returns a table of rows by fingerprint, as `train_and_score` gives them, with what an epoch costs."""
    train = [row[f"train_seconds_{row['epochs']}"] / row["epochs"] for row in rows.values()]
    both = [row[f"seconds_{row['epochs']}"] / row["epochs"] for row in rows.values()]
    train_seconds = statistics.median(train)
    return Trained(
        rows=rows,
        again=again,
        pretrained=pretrained,
        train_seconds=train_seconds,
        evaluation_seconds=statistics.median(both) - train_seconds,
        fidelities=fidelities,
    )


@dataclass(frozen=True)
class Method:
    """One way to search."""

    sampler: str
    halving: bool = False
    fidelity: str | None = None
    """The evaluation up to the first rung; None: as the search's."""
    with_priors: bool = False

    @property
    def first(self) -> int:
        """The first epoch that counts: those that are evaluated more cheaply are not compared with the others."""
        return 1 if self.fidelity is None else 2


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


Found = Sequence[tuple[float, str]]
"""What a search found: for each complete trial the share of the cost that was spent by then, and its fingerprint."""


OBJECTIVES = (Objective("spbleu", True), Objective("trainable_parameters", False))


def replay(
    method: Method,
    seed: int,
    space: Space,
    trained: Trained,
    priors: Mapping[str, Any],
    objectives: Sequence[Objective] = OBJECTIVES,
    constraints: Sequence[Constraint] = (),
    max_cost: float = MAX_COST,
) -> Found:
    """Runs one search on the table, up to a share of the cost of training everything."""
    shape = read_shape(find_base(space.base))
    budget = max_cost * trained.cost
    found: dict[str, float] = {}
    started = trained.train_seconds * priors["epochs"] if method.with_priors else 0.0

    def script(task: TrialTask) -> Iterator[tuple[float, TrialResult]]:
        row = trained.rows[task.fingerprint]
        for epoch in range(1, row["epochs"] + 1):
            is_cheap = method.fidelity is not None and epoch == 1
            if is_cheap:
                score, share = row[f"spbleu_1_{method.fidelity}"], trained.fidelities[str(method.fidelity)]
            else:
                score, share = max(row[f"spbleu_{e}"] for e in range(method.first, epoch + 1)), 1.0
            yield (
                trained.train_seconds + share * trained.evaluation_seconds,
                scripted_result(epoch, row["epochs"], score, row["trainable_parameters"]),
            )

    with tempfile.TemporaryDirectory() as name:
        table = TrialTable(
            "sqlite://",
            "replay",
            objectives,
            sampler=method.sampler,
            seed=seed,
            num_trials=_NUM_TRIALS,
            constraints=constraints,
            base_parameters=shape.num_parameters,
        )
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
            for row in table.rows():
                if row.state is State.COMPLETE and row.fingerprint is not None:
                    found.setdefault(row.fingerprint, (started + clock) / trained.cost)
            if started + clock > budget:
                searcher.stop("time")

        run_simulated(searcher, scheduler, script, on_event=note)
    return [(cost, fingerprint) for fingerprint, cost in found.items()]


_NUM_TRIALS = 40
"""What the samplers take for the planned number: it sets how many are drawn at random first."""


Curve = Sequence[tuple[float, float]]
"""(share of the cost, share of the hypervolume), by cost."""


def curve(found: Found, share: Callable[[Collection[str], int], float], first: int) -> Curve:
    """Returns how much of the hypervolume a search had, after each trial that completed."""
    names = [fingerprint for _, fingerprint in found]
    return [(cost, share(names[: number + 1], first)) for number, (cost, _) in enumerate(found)]


def at(curve: Curve, cost: float) -> float:
    """Returns the share of the hypervolume that a search had at a cost."""
    return next((share for spent, share in reversed(curve) if spent <= cost), 0.0)


def main() -> None:
    """Runs all methods on all seeds, prints a table and writes figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="searches of each method")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--json", type=Path, help="where to write what the searches found")
    parser.add_argument(
        "--read", type=Path, nargs="*", help="take what they found from such files, instead of searching"
    )
    parser.add_argument("--html", type=Path, help="where to write a page with the curves")
    arguments = parser.parse_args()
    trained = read_table(FOLDER / "table.parquet", FOLDER / "table_seed1.parquet")
    print(f"{len(trained.rows)} architectures, {trained.cost / 3600:.1f} hours.")
    found: dict[str, Sequence[Found]] = {}
    for file in arguments.read or []:
        found |= json.loads(file.read_text(encoding="utf-8"))
    if not arguments.read:
        space = load_space(FOLDER / "space.yaml")
        priors = json.loads((FOLDER / "priors.json").read_text(encoding="utf-8"))
        for name in arguments.methods:
            started = time.perf_counter()
            found[name] = [replay(METHODS[name], seed, space, trained, priors) for seed in range(arguments.seeds)]
            print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(found), encoding="utf-8")
    curves, again = (
        {name: [curve(one, share, METHODS[name].first) for one in searches] for name, searches in found.items()}
        for share in (trained.share, trained.share_again)
    )
    print("\nShare of the exhaustive hypervolume: mean, 10th and 90th percentile")
    show(curves)
    print("\nThe front that was found, by other trainings: share of the exhaustive front's, by the same")
    show(again)
    if arguments.html:
        panels = {"As the search scored it": curves, "The front that it found, by other trainings": again}
        arguments.html.write_text(draw(panels), encoding="utf-8")


def show(curves: Mapping[str, Sequence[Curve]]) -> None:
    """Prints a table in Markdown."""
    print(
        "| | " + " | ".join(f"{share:.0%}" for share in SHARES) + " | 99 % at |\n|---" + "|---" * len(SHARES) + "|---|"
    )
    for name, searches in curves.items():
        cells = []
        for share in SHARES:
            values = [at(curve, share) for curve in searches]
            low, high = np.percentile(values, [10, 90])
            cells.append(f"{np.mean(values):.3f} ({low:.2f}–{high:.2f})")
        reached = [next((cost for cost, share in curve if share >= GOAL), math.inf) for curve in searches]
        median = statistics.median(reached)
        cells.append(f"{median:.1%}" if math.isfinite(median) else "later")
        print(f"| {name} | " + " | ".join(cells) + " |")


def draw(panels: Mapping[str, Mapping[str, Sequence[Curve]]]) -> str:
    """Returns a page with each method's mean curve, and the range of the middle 80 % of the seeds, by panel title."""
    figure = make_subplots(1, len(panels), shared_yaxes=True, subplot_titles=list(panels), horizontal_spacing=0.03)
    grid = np.linspace(0, MAX_COST, 201)
    for column, curves in enumerate(panels.values(), 1):
        place = {"row": 1, "col": column}
        for (name, searches), color in zip(curves.items(), plotly.colors.qualitative.Safe, strict=False):
            values = np.array([[at(curve, cost) for cost in grid] for curve in searches])
            low, high = np.percentile(values, [10, 90], axis=0)
            band = {"legendgroup": name, "line_width": 0, "showlegend": False, "hoverinfo": "skip"}
            figure.add_scatter(x=grid, y=low, **band, **place)
            pale = color.replace("rgb(", "rgba(").replace(")", ", 0.08)")
            figure.add_scatter(x=grid, y=high, fill="tonexty", fillcolor=pale, **band, **place)
            line = {"name": name, "line_color": color, "legendgroup": name, "showlegend": column == 1}
            figure.add_scatter(x=grid, y=values.mean(axis=0), **line, **place)
    figure.add_hline(y=GOAL, line_dash="dot")
    figure.update_xaxes(title_text="share of the exhaustive cost", tickformat=".0%")
    figure.update_yaxes(range=[0.4, 1.05])
    figure.update_yaxes(title_text="share of the hypervolume", col=1)
    figure.update_layout(
        template="plotly_white", height=520, margin={"l": 60, "r": 20, "t": 40}, legend_orientation="h"
    )
    figure.update_layout(legend_y=-0.2)
    return str(figure.to_html(include_plotlyjs=True, config={"displayModeBar": False}))


if __name__ == "__main__":
    main()
