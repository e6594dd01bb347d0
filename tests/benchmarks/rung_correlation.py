"""How well early scores order trials: rank correlation between each rung and the final score.

    python -m tests.benchmarks.rung_correlation FILE...        # tables that search_efficiency.make_table wrote

The final score is that of the last epoch on all directions, at the table's full fidelity. Kendall's tau-b and
Spearman's rho, and how many of the best quarter an early stop that keeps the better half would keep.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import kendalltau, spearmanr

NAMES = {
    "": "as the search",
    "_half_sentences": "half the sentences",
    "_half_directions": "half the directions",
    "_quarter": "half of both",
}


def main() -> None:
    """Prints a table for each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    for file in parser.parse_args().files:
        rows = pq.read_table(file).to_pylist()
        print(f"\n{file.stem}: {len(rows)} architectures\n")
        print("| epoch | evaluation | Kendall's tau | Spearman's rho | best quarter kept |\n|---|---|---|---|---|")
        for epoch, name, tau, rho, kept in correlations(rows):
            print(f"| {epoch} | {name} | {tau:.2f} | {rho:.2f} | {kept:.0%} |")


def correlations(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, str, float, float, float]]:
    """Yields (epoch, evaluation, tau, rho, share of the best quarter among the better half at that rung)."""
    final = np.array([row["full_spbleu"] for row in rows])
    for epoch in range(1, rows[0]["epochs"] + 1):
        for key, name in NAMES.items():
            early = np.array([row[f"spbleu_{epoch}{key}"] for row in rows])
            best = np.argsort(-final)[: max(len(rows) // 4, 1)]
            half = set(np.argsort(-early)[: -(-len(rows) // 2)].tolist())
            kept = float(np.mean([index in half for index in best.tolist()]))
            yield epoch, name, kendalltau(early, final).statistic, spearmanr(early, final).statistic, kept


if __name__ == "__main__":
    main()
