"""What there is to find: how far the table's scores can be predicted, and what a search that predicted them reaches.

    python -m tests.benchmarks.search_efficiency.bound

A linear model of all pairs of values (ridge regression) predicts each architecture from all the others that were
trained (leave one out): no search knows as much, since it has trained few. A search that begins with these predictions
and trains, one after another, what promises the largest expected gain of hypervolume shows what a model alone can do.
The table's second training of each architecture, with another seed, says how much of a score is luck.
"""

import argparse
import itertools
import json
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm

from tests.benchmarks.search_efficiency.replay import FOLDER, SHARES, Trained, best_score, read_table

RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


def main() -> None:
    """Prints how well scores are predicted and repeated, and what a search with these predictions reaches."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    trained = read_table(FOLDER / "table.parquet", FOLDER / "table_seed1.parquet")
    names = list(trained.rows)
    points = np.array([trained.point(name) for name in names])
    scores, again = points[:, 0], np.array([best_score(trained.again[name]) for name in names])
    predicted = leave_one_out(features([json.loads(trained.rows[name]["params"]) for name in names]), scores)
    error = float(np.sqrt(np.mean((predicted - scores) ** 2)))
    print(f"Standard deviation of all scores: {scores.std():.3f} spBLEU")
    print(f"Predicted from all others: error {error:.3f}, correlation {np.corrcoef(predicted, scores)[0, 1]:.2f}")
    luck = float(np.sqrt(np.mean((scores - again - (scores - again).mean()) ** 2) / 2))
    print(f"Two trainings of one: standard deviation {luck:.3f}, correlation {np.corrcoef(scores, again)[0, 1]:.2f}")
    print("\n| front: parameters | spBLEU | predicted | with another seed |\n|---|---|---|---|")
    for name in sorted(trained.front(names), key=lambda name: trained.point(name)[1]):
        index = names.index(name)
        print(f"| {points[index, 1]:,.0f} | {scores[index]:.3f} | {predicted[index]:.3f} | {again[index]:.3f} |")
    order = greedy(points, predicted, error, trained, round(SHARES[-1] * len(names)))
    print("\nA search that knows these predictions reaches, of the exhaustive hypervolume:")
    for share in SHARES:
        print(f"{share:.0%} {trained.share([names[index] for index in order[: round(share * len(names))]]):.3f}")


def features(params: Sequence[dict[str, object]]) -> np.ndarray:
    """Returns 1, each value of each dimension, and each pair of values, as 0 or 1: (points, features)."""
    values = {name: sorted({str(point[name]) for point in params}) for name in params[0]}
    rows = []
    for point in params:
        single = [[float(str(point[name]) == value) for value in values[name]] for name in values]
        pairs = [np.outer(a, b).ravel() for a, b in itertools.combinations(single, 2)]
        rows.append(np.concatenate([[1.0], *single, *pairs]))
    return np.array(rows)


def leave_one_out(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns what a ridge regression on all others predicts of each point, (points, features), (points,) -> (points,).

    The strength that predicts best is taken, which flatters it a little. The closed form is that of Hastie et al.,
    The Elements of Statistical Learning, equation 7.64.
    """
    mean, kernel = y.mean(), x @ x.T
    found = []
    for ridge in RIDGES:
        hat = kernel @ np.linalg.inv(kernel + ridge * np.eye(len(y)))
        own = np.diag(hat)
        found.append((hat @ (y - mean) - own * (y - mean)) / (1 - own) + mean)
    return min(found, key=lambda predicted: float(np.mean((predicted - y) ** 2)))


def greedy(points: np.ndarray, predicted: np.ndarray, error: float, trained: Trained, num: int) -> list[int]:
    """Returns the architectures that a search trains, each with the largest expected gain of hypervolume."""
    chosen: list[int] = []
    while len(chosen) < num:
        gains = [expected_gain(points, chosen, i, predicted[i], error, trained) for i in range(len(points))]
        chosen.append(int(np.argmax([-1.0 if i in chosen else gain for i, gain in enumerate(gains)])))
    return chosen


def expected_gain(
    points: np.ndarray, chosen: Sequence[int], index: int, mean: float, deviation: float, trained: Trained
) -> float:
    """Returns the hypervolume that a point of known size and normally distributed score is expected to add."""
    level, begin, gain = trained.pretrained, float(points[index, 1]), 0.0
    for score, size in sorted((points[i] for i in chosen), key=lambda point: float(point[1])):
        if size > begin and score > level:
            gain += (size - begin) * expected_excess(mean, deviation, level)
            begin = size
        level = max(level, score)
    return gain + (float(points[:, 1].max()) - begin) * expected_excess(mean, deviation, level)


def expected_excess(mean: float, deviation: float, level: float) -> float:
    """Returns by how much a normal variable exceeds a level on average (expected improvement; Jones et al. 1998)."""
    z = (mean - level) / deviation
    return float((mean - level) * norm.cdf(z) + deviation * norm.pdf(z))


if __name__ == "__main__":
    main()
