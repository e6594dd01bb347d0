"""What a training that is to be cut draws for each update: ranks of slots, layers and modules that are left out."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from langsearch.space.sites import Site, Stack

SHARED = "all"
"""Stands for a slot where pairs of all languages stand under their own."""


def norms_name(stack: Stack) -> str:
    """Returns what stands for a stack's own norms among modules."""
    return f"{stack}.layer_norm"


@dataclass(frozen=True)
class Drawn:
    """What one update trains."""

    ranks: Mapping[str, int]
    """The most columns of each slot's pairs; slots that are not named have all of theirs."""

    without: Collection[str]
    """Layers, "decoder.2", modules, "decoder.fc1", and a stack's own norms, "decoder.layer_norm", that are left out."""

    def has(self, site: Site) -> bool:
        """Returns whether a site's pairs take part."""
        return f"{site.stack}.{site.layer}" not in self.without and f"{site.stack}.{site.module}" not in self.without

    def has_norms(self, stack: Stack) -> bool:
        """Returns whether a stack's own norms take part."""
        return norms_name(stack) not in self.without

    def rank(self, site: Site, slot: str, rank: int) -> int:
        """Returns how much takes part of an adapter that has a rank: 0 for none of it."""
        return min(rank, self.ranks.get(slot, rank)) if self.has(site) else 0


@dataclass(frozen=True)
class Nesting:
    """What is drawn, evenly: from what cuts may have."""

    ranks: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """(slot, the ranks that it may have in a cut, 0 for none)."""

    layers: tuple[str, ...] = ()
    """Those that a cut may lack, "decoder.2"."""

    modules: tuple[str, ...] = ()
    """Those that a cut may lack in the whole stack, "decoder.fc1", or "decoder.layer_norm" for its own norms."""

    drop_layers: float = 0.0
    """How often each of these layers is left out of an update."""

    drop_modules: float = 0.0
    """How often each of these modules is."""

    def draw(self, rng: Random) -> Drawn:
        """Returns what an update trains."""
        ranks = {slot: rng.choice(found) for slot, found in self.ranks}
        chances = [*((name, self.drop_layers) for name in self.layers)]
        chances += [(name, self.drop_modules) for name in self.modules]
        return Drawn(ranks, frozenset(name for name, chance in chances if rng.random() < chance))

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> "Nesting":
        """Reads what `dataclasses.asdict` gave, from JSON as well."""
        ranks = tuple((slot, tuple(found)) for slot, found in value["ranks"])
        return cls(**{**value, "ranks": ranks, "layers": tuple(value["layers"]), "modules": tuple(value["modules"])})
