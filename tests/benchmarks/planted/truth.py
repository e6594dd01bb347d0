"""The smallest sufficient architecture of a table of trainings."""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.search_efficiency.replay import best_score

MIN_MARGIN = 1.0
"""spBLEU; the margin is twice the seeds' spread where that is more."""

IN_DOUBT = 3.0
"""Whatever is smaller than the truth and misses it by less than this in spBLEU is trained with a second seed too."""

Rows = Mapping[str, Mapping[str, Any]]
"""A training of each architecture, as `train_and_score` gives it with its `params`, by fingerprint."""


@dataclass(frozen=True)
class Truth:
    """What there is to find."""

    names: tuple[str, ...]
    """The fingerprints of the smallest sufficient architectures; several if they are of one size."""
    num_parameters: int
    best: float
    """The best spBLEU of all."""
    spread: float
    """Standard deviation of a training by its seed, spBLEU, over those that were trained twice and are good enough to
    be in doubt."""

    @property
    def margin(self) -> float:
        """How far below the best one a sufficient one may be, spBLEU."""
        return max(MIN_MARGIN, 2 * self.spread)

    def suffices(self, spbleu: float) -> bool:
        """Returns whether a score is as good as the best one."""
        return spbleu >= self.best - self.margin


def truth_of(rows: Rows, again: Rows) -> Truth:
    """Returns the smallest architectures whose score, a mean of their trainings, reaches the best less the margin.

    Args:
        rows: All architectures.
        again: Trainings of some of them with a second seed, by the fingerprint of the first.
    """
    scores = {name: score_of(name, rows, again) for name in rows}
    best = max(scores.values())
    gaps = [best_score(rows[name]) - best_score(row) for name, row in again.items() if scores[name] >= best - IN_DOUBT]
    spread = math.sqrt(sum(gap**2 for gap in gaps) / (2 * len(gaps))) if gaps else 0.0
    found = Truth((), 0, best, spread)
    sufficient = [name for name, score in scores.items() if found.suffices(score)]
    smallest = min(size_of(rows[name]) for name in sufficient)
    names = tuple(name for name in sufficient if size_of(rows[name]) == smallest)
    return Truth(names, smallest, best, spread)


def score_of(name: str, rows: Rows, again: Rows) -> float:
    """Returns the mean score of an architecture's trainings."""
    found = [best_score(part[name]) for part in (rows, again) if name in part]
    return sum(found) / len(found)


def size_of(row: Mapping[str, Any]) -> int:
    """Returns the trainable parameters of an architecture."""
    return int(row["trainable_parameters"])


def in_doubt(rows: Rows, truth: Truth) -> list[str]:
    """Returns what a second seed must confirm: the truth, its neighbours, and what is smaller and nearly as good."""
    wanted = {*truth.names, *neighbours(rows, truth.names)}
    for name, row in rows.items():
        if size_of(row) <= truth.num_parameters and best_score(row) >= truth.best - truth.margin - IN_DOUBT:
            wanted.add(name)
    return [name for name in rows if name in wanted]


def neighbours(rows: Rows, names: Collection[str]) -> list[str]:
    """Returns the architectures that differ from one of some in one dimension: by a step, or by the adapted layers."""
    points = {name: _merged(json.loads(row["params"])) for name, row in rows.items()}
    values = {key: sorted({point[key] for point in points.values()}) for key in next(iter(points.values()))}

    def num_steps(one: Mapping[str, Any], other: Mapping[str, Any]) -> int:
        return sum(
            int(one[key] != other[key])
            if isinstance(one[key], tuple)
            else abs(values[key].index(one[key]) - values[key].index(other[key]))
            for key in values
        )

    return [name for name, point in points.items() if any(num_steps(point, points[one]) == 1 for one in names)]


def _merged(point: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a point whose windows of layers are one value each, (start, length): they have no order."""
    windows = {key.removesuffix(".start") for key in point if key.endswith(".start")}
    found = {key: value for key, value in point.items() if key.rpartition(".")[0] not in windows}
    return found | {window: (point[f"{window}.start"], point[f"{window}.length"]) for window in windows}
