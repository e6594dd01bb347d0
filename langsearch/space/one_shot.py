"""A space as wide trainings and what can be cut out of them: which of its dimensions a cut can change, and which not.

A cut has fewer columns, layers and modules than its donor. The kind of adapters, sides, learning rates and all else are
the donor's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from langsearch.space.architecture import Architecture, BaseShape, Side, Site, SiteAdapters
from langsearch.space.cut_names import is_cut_away, is_idle
from langsearch.space.nesting import SHARED, Nesting, norms_name
from langsearch.space.rules import STACKS
from langsearch.space.settings import DecodingSettings, TrainerSettings

if TYPE_CHECKING:  # it checks itself with what is here
    from langsearch.space.schema import Space

DONOR = "donor"
"""The dimension of cuts beside those that they change: which donor, counted from 1."""

_MAX_VALUES = 12
"""Values of a dimension that are looked at, evenly spaced, when donors are made wide."""

_NUM_RANDOM = 64
"""Points that are looked at beside those."""

_MAX_COMBINATIONS = 4096
"""Of what donors differ in; more are not looked through for equal ones."""


def cut_dimensions(space: "Space") -> dict[str, BaseDistribution]:
    """Returns the dimensions that a cut can change: those of ranks, layers and modules, unless they move a side."""
    section = space.architecture_section
    return {name: found for name, found in space.dimensions().items() if is_cut_away(section, name)}


def donor_dimensions(space: "Space") -> dict[str, BaseDistribution]:
    """Returns the others: each donor has its own values of them."""
    section = space.architecture_section
    return {name: found for name, found in space.dimensions().items() if not is_cut_away(section, name)}


def donor_points(space: "Space") -> list[dict[str, Any]]:
    """Returns each donor's values of the dimensions that cuts cannot change.

    All combinations where there are no more than `search.donors`; else so many that lie evenly in each dimension and at
    random to each other (Latin hypercube, McKay et al. 1979), by the search's seed. Those that differ in nothing that
    their kind of adapters reads are one.
    """
    dimensions, num = donor_dimensions(space), space.search.donors
    if not dimensions:
        return [{}]
    values = [_values(found) for found in dimensions.values()]
    known = [found for found in values if found is not None]
    if len(known) == len(values) and np.prod([len(found) for found in known]) <= _MAX_COMBINATIONS:
        all_points = _different(space, [dict(zip(dimensions, found, strict=True)) for found in product(*known)])
        if len(all_points) <= num:
            return all_points
    rng = np.random.default_rng(space.search.seed)
    places = [(rng.permutation(num) + 0.5) / num for _ in dimensions]
    points = [
        {name: _at(found, float(place[index])) for (name, found), place in zip(dimensions.items(), places, strict=True)}
        for index in range(num)
    ]
    return _different(space, points)


def num_donors(space: "Space") -> int:
    """Returns how many wide trainings a search has; none of an ordinary one."""
    return len(donor_points(space)) if space.search.strategy == "one_shot" else 0


def cut_decoding(search: DecodingSettings, sentences: int | None) -> DecodingSettings:
    """Returns how a cut is scored: as a trial while searching, on so many sentences at most."""
    if sentences is None:
        return search
    return replace(search, sentences=min(sentences, search.sentences or sentences))


def donor_architecture(space: "Space", shape: BaseShape, point: Mapping[str, Any]) -> tuple[Architecture, Nesting]:
    """Returns the widest adapters that a cut at a donor's point can have, and what is drawn while they are trained.

    Wide is what any of the looked-at points has, site by site and slot by slot: all dimensions at one end and at the
    other, each of them at its other values, and some points at random.

    Args:
        space: The space.
        shape: The base's sizes.
        point: The donor's.
    """
    found = [space.architecture({**point, **cut}, shape) for cut in _looked_at(cut_dimensions(space))]
    # A factor, and what else only a pair has, is said by one that has pairs.
    widest = max(found, key=lambda one: (one.has_pairs, one.num_parameters(shape)))
    slots = dict(widest.slots)
    ranks: dict[Site, dict[str, int]] = {}
    sides: dict[Site, Side] = {}
    seen: dict[str, set[int]] = {slot: set() for slot in slots.values()}
    for architecture in found:
        # By the languages: a slot without a pair is named after each of its languages.
        by_language: dict[str, set[int]] = {language: set() for language in slots}
        own_slots = dict(architecture.slots)
        for entry in architecture.adapters:
            sides[entry.site] = entry.side
            of_site, there = ranks.setdefault(entry.site, {}), dict(entry.ranks)
            for language, slot in own_slots.items():
                if rank := there.get(slot, 0):
                    of_site[slots[language]] = max(rank, of_site.get(slots[language], 0))
                    by_language[language].add(rank)
        for language, of_language in by_language.items():
            seen[slots[language]] |= of_language or {0}
    stacks = [one.layer_norm.stacks for one in found if one.layer_norm is not None]
    norms = tuple(stack for stack in STACKS if any(stack in some for some in stacks))
    may_lack_norms = [norms_name(stack) for stack in norms if not all(stack in some for some in stacks)]
    wide = replace(
        widest,
        adapters=tuple(SiteAdapters(site, sides[site], tuple(of.items())) for site, of in ranks.items()),
        shared_rank=max(one.shared_rank for one in found),
        layer_norm=replace(widest.layer_norm, stacks=norms) if widest.layer_norm else None,
    )
    if wide.shared_rank:
        seen[SHARED] = {one.shared_rank for one in found}
    settings = space.search.one_shot
    nesting = Nesting(
        ranks=tuple((slot, tuple(sorted(seen[slot]))) for slot in sorted(seen) if len(seen[slot]) > 1),
        layers=_may_lack(found, [f"{site.stack}.{site.layer}" for site in ranks], lambda s: f"{s.stack}.{s.layer}"),
        modules=(
            *_may_lack(found, [f"{site.stack}.{site.module}" for site in ranks], lambda s: f"{s.stack}.{s.module}"),
            *may_lack_norms,
        ),
        drop_layers=settings.drop_layers,
        drop_modules=settings.drop_modules,
    )
    return wide, nesting


def donor_trainer(space: "Space", point: Mapping[str, Any], nesting: Nesting) -> TrainerSettings:
    """Returns how a donor is trained."""
    cut = next(_looked_at(cut_dimensions(space)))
    trainer, epochs = space.trainer({**point, **cut}), space.search.one_shot.donor_epochs
    return replace(trainer, nesting=nesting, epochs=epochs or trainer.epochs)


def _different(space: "Space", points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the first of those that differ in nothing that matters."""
    section = space.architecture_section
    found: list[dict[str, Any]] = []
    seen: list[dict[str, Any]] = []
    for point in points:
        matters = {name: value for name, value in point.items() if not is_idle(section, name, point)}
        if matters not in seen:
            seen.append(matters)
            found.append(point)
    return found


def _may_lack(found: Sequence[Architecture], names: Sequence[str], name_of: Any) -> tuple[str, ...]:
    """Returns those of some layers or modules that one of the architectures has no pair in."""
    lacking = [
        set(names) - {name_of(entry.site) for entry in architecture.adapters}
        for architecture in found
        if architecture.adapters
    ]
    return tuple(sorted(set().union(*lacking)))


def _looked_at(dimensions: Mapping[str, BaseDistribution]) -> Iterator[dict[str, Any]]:
    """Yields the points that say how wide a donor must be."""
    values = {name: _values(found, _MAX_VALUES) or [] for name, found in dimensions.items()}
    low, high = ({name: found[end] for name, found in values.items()} for end in (0, -1))
    yield high
    yield low
    for name, found in values.items():
        for value in found:
            yield {**high, name: value}
            yield {**low, name: value}
    rng = np.random.default_rng(0)
    for _ in range(_NUM_RANDOM if dimensions else 0):
        yield {name: found[rng.integers(len(found))] for name, found in values.items()}


def _values(distribution: BaseDistribution, most: int | None = None) -> list[Any] | None:
    """Returns a dimension's values in order, at most so many of them, the ends among them; None: they are a range."""
    if isinstance(distribution, CategoricalDistribution):
        numbers = all(isinstance(choice, int | float) for choice in distribution.choices)
        return sorted(distribution.choices) if numbers else list(distribution.choices)
    if isinstance(distribution, IntDistribution):
        found = list(range(distribution.low, distribution.high + 1, distribution.step))
        if most is None or len(found) <= most:
            return found
        return [found[index] for index in np.unique(np.linspace(0, len(found) - 1, most).round().astype(int))]
    return None


def _at(distribution: BaseDistribution, place: float) -> Any:
    """Returns the value at a place from 0 to below 1 of a dimension."""
    if isinstance(distribution, FloatDistribution):
        low, high = distribution.low, distribution.high
        return low * (high / low) ** place if distribution.log else low + (high - low) * place
    values = _values(distribution)
    assert values is not None
    return values[int(place * len(values))]
