"""Plain settings of what is learned before a search, with their defaults."""

from dataclasses import dataclass
from typing import Literal

SideGrain = Literal["layer", "module"]

SURE_MARGIN = 0.5
"""From this difference of their shares on a learned side is sure: 0.75 to 0.25. Where either side can do a planted task
as well as the other (directions that share no language; one direction alone), 2 of 48 layers differed by as much after
200 updates."""


@dataclass(frozen=True, kw_only=True)
class SidesPrior:
    """How the sides are learned before a search (METHOD section 3, weight learning)."""

    steps: int = 200
    """Updates."""

    rank: int = 4
    """Rank of every language's adapters, of either side, while learning."""

    by: SideGrain = "layer"
    """layer: the modules of a layer share one side. module: each has its own."""


@dataclass(frozen=True, kw_only=True)
class SubspacePrior:
    """How the demand for rank is estimated before a search (METHOD section 3, intrinsic subspace estimation)."""

    epochs: int = 4
    """Epochs of training with gradual pruning, at least 2."""

    rank: int = 8
    """Rank of every language's adapters everywhere, before pruning."""

    target: float = 0.9
    """The share of B's entries that each layer loses, over all its languages and modules."""

    narrow: bool = False
    """Also leave out of the search the ranks that are far from the demand."""


@dataclass(frozen=True, kw_only=True)
class PriorSettings:
    """What a run learns before its search, to begin it there. None: not learned."""

    sides: SidesPrior | None = None
    subspace: SubspacePrior | None = None
