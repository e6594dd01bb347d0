"""The parts of an architecture in the one form that all ways of writing them have."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from langsearch.space.sites import Side, Site

Scope = Literal["language", "layer"]
Over = Literal["b", "product"]


@dataclass(frozen=True)
class SiteAdapters:
    """The adapters at one site: indexed by one side of the direction, with a rank for each slot that has one."""

    site: Site
    side: Side
    ranks: tuple[tuple[str, int], ...]


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """Gradual magnitude pruning of B by the cubic law (Zhu & Gupta 2017, arXiv 1710.01878, section 3)."""

    targets: tuple[tuple[str, float], ...]
    """The share of B's entries that each slot loses in the end; slots that lose none are not named."""

    start: int
    """First epoch of pruning, counted from 1."""

    duration: int
    """Epochs from the start to the full target."""

    scope: Scope = "language"
    """language: one ranking for each slot over all sites. layer: one ranking for each layer over all slots."""

    over: Over = "b"
    """What ranks the entries of B. b: their magnitude. product: |s B[o, r]| * ||A[r]||, how much the entry adds to
    the product s B A: the Frobenius norm of what the product loses with it."""


def checked_adapters(adapters: Iterable[SiteAdapters], slots: set[str]) -> list[SiteAdapters]:
    """Returns the sites that have an adapter, with the slots that have one. Raises ValueError on a wrong one."""
    seen: set[Site] = set()
    kept = []
    for entry in adapters:
        if entry.site in seen:
            raise ValueError(f"A site must be named once, but {entry.site} is named twice")
        seen.add(entry.site)
        if entry.side not in get_args(Side):
            raise ValueError(f"A side must be src or tgt, but {entry.site} has {entry.side!r}")
        if unknown := sorted({slot for slot, _ in entry.ranks} - slots):
            raise ValueError(f"A slot must be used by a language, but {entry.site} names {', '.join(unknown)}")
        if wrong := {slot: rank for slot, rank in entry.ranks if not isinstance(rank, int) or rank < 0}:
            raise ValueError(f"A rank must be a whole number, 0 or more, but {entry.site} has {wrong}")
        if ranks := tuple((slot, rank) for slot, rank in dict(entry.ranks).items() if rank > 0):
            kept.append(SiteAdapters(entry.site, entry.side, ranks))
    return kept


def canonical_slots(slots: Mapping[str, str], used: set[str]) -> dict[str, str]:
    """Returns the slot of each language, named after the languages that share it."""
    members: dict[str, list[str]] = {}
    for language in sorted(slots):
        members.setdefault(slots[language], []).append(language)
    names: dict[str, str] = {}
    for slot, languages in members.items():
        shared = "all" if len(languages) == len(slots) > 1 else "+".join(languages)
        names |= {language: shared if slot in used else language for language in languages}
    return names


def canonical_pruning(pruning: Pruning | None, renamed: Mapping[str, str], used: set[str]) -> Pruning | None:
    """Returns the pruning of the slots that have adapters, by their canonical names; None if they lose nothing."""
    if pruning is None:
        return None
    targets = dict(pruning.targets)
    if unknown := sorted(set(targets) - set(renamed)):
        raise ValueError(f"A pruning target must be for a slot that a language uses, but got {', '.join(unknown)}")
    if outside := {slot: target for slot, target in targets.items() if not 0 <= target <= 1}:
        raise ValueError(f"A pruning target must lie in [0, 1], but got {outside}")
    epochs = pruning.start, pruning.duration
    if not all(isinstance(number, int) and number >= 1 for number in epochs):
        raise ValueError(f"Pruning needs whole numbers start >= 1 and duration >= 1, but got {epochs}")
    if pruning.scope not in get_args(Scope):
        raise ValueError(f"A pruning scope must be language or layer, but got {pruning.scope!r}")
    if pruning.over not in get_args(Over):
        raise ValueError(f"Pruning must be over b or product, but got {pruning.over!r}")
    kept = tuple(sorted((renamed[slot], float(targets[slot])) for slot in used if targets.get(slot, 0.0) > 0))
    if not kept:
        return None
    if pruning.scope == "layer" and len({targets.get(slot, 0.0) for slot in used}) > 1:
        raise ValueError(f"Pruning with scope layer needs one target for all, but got {targets}")
    return replace(pruning, targets=kept)
