"""Several architectures of the same sides in one model, so that one batch decodes rows of all of them.

What a row's adapters are is decided by two slots, its source's and its target's. So a language that has other ranks in
another architecture is taken for another language there, once as a source and once as a target, and where two
architectures agree on both for a direction, they have its rows in common.

A pair of all languages, whose rank may be another in each architecture, is joined to the pairs of the side that indexes
its site: both are one pair of the sum of their ranks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch

from langsearch.adapters.cuts import CutMethod, Donor, fill, fill_beside
from langsearch.adapters.layer_norm import stack_of
from langsearch.adapters.protocol import Adapters
from langsearch.data.directions import Direction
from langsearch.space.architecture import Architecture, Side, Site, SiteAdapters, Stack


@dataclass(frozen=True)
class Part:
    """What a language has on one side."""

    sites: tuple[tuple[Site, int, int], ...]
    """Those where it has something, with its own rank, and that of the pair of all languages."""

    norms: tuple[Stack, ...] = ()
    """The stacks in which it has norms of its own."""


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

    ranks: Mapping[tuple[Site, str], tuple[int, int]]
    """Of each site and slot the rank of its own, and that of the pair of all languages."""

    norms: Mapping[str, Sequence[Stack]]
    """For each slot the stacks in which it has norms of its own."""

    names: Mapping[tuple[Side, str, Part], str]
    """What stands for a language with these sites on this side."""

    def direction(self, key: RowKey) -> Direction:
        """Returns the direction that the rows of a key are decoded in."""
        direction, src, tgt = key
        return Direction(self.names["src", direction.src, src], self.names["tgt", direction.tgt, tgt])


def parts(architecture: Architecture) -> dict[tuple[Side, str], Part]:
    """Returns of each side and language the sites where it has something, which of both sides are in both."""
    slots, both = dict(architecture.slots), get_args(Side)
    found: dict[tuple[Side, str], list[tuple[Site, int, int]]] = {
        (side, language): [] for side in both for language in architecture.languages
    }
    for entry in architecture.adapters:
        ranks = dict(entry.ranks)
        for language, slot in slots.items():
            if slot in ranks or architecture.shared_rank:
                for side in both if architecture.kind == "two_sided" else (entry.side,):
                    found[side, language].append((entry.site, ranks.get(slot, 0), architecture.shared_rank))
    norms = architecture.layer_norm
    return {
        (side, language): Part(
            tuple(sites), norms.stacks if norms and side == norms.side and slots[language] in norms.slots else ()
        )
        for (side, language), sites in found.items()
    }


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
    for (_, _, part), number in numbers.items():
        for site, own, shared in part.sites:
            ranks.setdefault(site, {})[number] = own + shared
    norms, bridge, znorm = donor.layer_norm, donor.bridge, donor.encoder_znorm

    def having(side: Side, owners: Sequence[str]) -> tuple[str, ...]:
        return tuple(number for (own, slot, _), number in numbers.items() if own == side and slot in owners)

    # What languages share is joined with their factors in it: no factor is that of the sum of two ranks.
    has_factor = not donor.shared_rank
    joined = Architecture(
        slots=tuple((name, numbers[slot]) for name, slot in own_slots.items()),
        adapters=tuple(SiteAdapters(site, sides[site], tuple(of.items())) for site, of in ranks.items()),
        kind=donor.kind,
        scaling=donor.scaling if has_factor else "none",
        alpha=donor.alpha if has_factor else 1.0,
        ffn_slice=donor.ffn_slice,
        layer_norm=replace(norms, slots=having(norms.side, norms.slots)) if norms else None,
        bridge=replace(bridge, slots=having("tgt", bridge.slots)) if bridge else None,
        # Moments are the donor's: there is no pivot to be found among the languages.
        encoder_znorm=replace(znorm, pivot=None) if znorm else None,
    )
    found = {slot: own_slots[name] for name, slot in joined.slots}
    return SideBySide(
        architecture=joined,
        language_of={name: language for (_, language, _), name in names.items()},
        slot_of={slot: own for slot, (_, own, _) in found.items()},
        ranks={(site, slot): (own, shared) for slot, (_, _, part) in found.items() for site, own, shared in part.sites},
        norms={slot: part.norms for slot, (_, _, part) in found.items()},
        names=names,
    )


@torch.no_grad()
def fill_side_by_side(adapters: Adapters, joined: SideBySide, donor: Donor, method: CutMethod = "columns") -> None:
    """Makes adapters of joined architectures what is cut out of their donor.

    Args:
        adapters: They are written.
        joined: What they are of.
        donor: What they are cut out of.
        method: How.
    """
    pieces = adapters.pieces()
    if donor.architecture.shared_rank:
        for (_, site), layer in pieces.pairs.items():
            for slot in layer.slots:
                pair = donor.sum_of_pairs(site, joined.slot_of[slot], *joined.ranks[site, slot], method)
                for own, cut in zip(layer.pair(slot), pair, strict=True):
                    own.copy_(cut)
        fill_beside(adapters, donor, joined.slot_of, joined.language_of)
    else:
        fill(adapters, donor, joined.slot_of, method, joined.language_of)
    for name, of_slots in pieces.of_slots.items():
        stack = stack_of(name)
        for slot, value in of_slots.items():
            if stack is not None and stack not in joined.norms[slot]:
                value.zero_()
