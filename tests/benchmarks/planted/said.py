"""What the priors of `langsearch learn` say of the planted ciphers."""

from collections.abc import Mapping
from typing import Any

from langsearch.experiment.environment import CheckedSpace
from langsearch.experiment.folder import ExperimentFolder
from langsearch.prior.narrowing import demand_of_dimensions
from langsearch.prior.sides import read_sides
from langsearch.prior.subspace import read_demand


def print_priors(checked: CheckedSpace, folder: ExperimentFolder, priors: Mapping[str, Any]) -> None:
    """Prints the learned sides and demands, and the points that a search begins with.

    Args:
        checked: The space.
        folder: Where its priors were learned.
        priors: The points and the cost, as `learn_priors` writes them.
    """
    sides = read_sides(folder.sides)
    shares = [f"{name} {side.src:.2f}{'' if side.is_sure else ' (not sure)'}" for name, side in sides.weights.items()]
    demand = read_demand(folder.subspace)
    wanted = demand_of_dimensions(checked.space, checked.shape, demand)
    print(f"\nThe priors took {priors['epochs']:.1f} epochs. The source's share: {', '.join(shares)}.")
    print(f"Demanded ranks: {', '.join(f'{name} {rank:.1f}' for name, rank in wanted.items())}.")
    print("A search begins with:\n")
    for point in priors["seeds"]:
        print(f"- {', '.join(f'{name} {value}' for name, value in point.items())}")
