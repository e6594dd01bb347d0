"""Several architectures of the same sides in one model, so that one batch decodes rows of all of them.

What a row's adapters are is decided by two slots, its source's and its target's. So a language that has other ranks in
another architecture is taken for another language there, once as a source and once as a target, and where two
architectures agree on both for a direction, they have its rows in common.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from langsearch.data.directions import Direction
from langsearch.space.architecture import Architecture, Side, Site, SiteAdapters

Part = tuple[tuple[Site, int], ...]
"""The sites of one side where a language has a pair, with its rank."""

RowKey = tuple[Direction, Part, Part]
"""All that the translations of a direction depend on in cuts of one donor."""


@dataclass(frozen=True)
class SideBySide:
    """Architectures in one."""

    architecture: Architecture
    """Of languages that stand for a language with the ranks that it has in some of them."""

    language_of: Mapping[str, str]
    """For each of these its own language."""

    slot_of: Mapping[str, str]
    """For each slot that of the donor whose pairs it has a part of."""

    names: Mapping[tuple[Side, str, Part], str]
    """What stands for a language with these sites on this side."""

    def direction(self, key: RowKey) -> Direction:
        """Returns the direction that the rows of a key are decoded in."""
        direction, src, tgt = key
        return Direction(self.names["src", direction.src, src], self.names["tgt", direction.tgt, tgt])


def parts(architecture: Architecture) -> dict[tuple[Side, str], Part]:
    """Returns of each side and language the sites where it has a pair."""
    slots = dict(architecture.slots)
    found: dict[tuple[Side, str], list[tuple[Site, int]]] = {
        (side, language): [] for side in get_args(Side) for language in architecture.languages
    }
    for entry in architecture.adapters:
        ranks = dict(entry.ranks)
        for language, slot in slots.items():
            if slot in ranks:
                found[entry.side, language].append((entry.site, ranks[slot]))
    return {key: tuple(sites) for key, sites in found.items()}


def side_by_side(donor: Architecture, keys: Sequence[RowKey]) -> SideBySide:
    """Returns what decodes the rows of some keys at once.

    Args:
        donor: What all of them are parts of; says which languages share a slot, and all but the ranks.
        keys: What is to be decoded.
    """
    slots, sides = dict(donor.slots), {entry.site: entry.side for entry in donor.adapters}
    wanted: list[tuple[Side, str, Part]] = []
    for direction, src, tgt in keys:
        wanted += [("src", direction.src, src), ("tgt", direction.tgt, tgt)]
    names = {entry: f"{entry[1]}/{entry[0]}/{number}" for number, entry in enumerate(dict.fromkeys(wanted))}
    own_slots = {name: (side, slots[language], part) for (side, language, part), name in names.items()}
    numbers = {slot: str(number) for number, slot in enumerate(dict.fromkeys(own_slots.values()))}
    ranks: dict[Site, dict[str, int]] = {}
    for (_, _, part), number in ((slot, numbers[slot]) for slot in numbers):
        for site, rank in part:
            ranks.setdefault(site, {})[number] = rank
    joined = Architecture(
        slots=tuple((name, numbers[slot]) for name, slot in own_slots.items()),
        adapters=tuple(SiteAdapters(site, sides[site], tuple(of.items())) for site, of in ranks.items()),
        scaling=donor.scaling,
        alpha=donor.alpha,
        ffn_slice=donor.ffn_slice,
    )
    return SideBySide(
        architecture=joined,
        language_of={name: language for (_, language, _), name in names.items()},
        slot_of={slot: own_slots[name][1] for name, slot in joined.slots},
        names=names,
    )
