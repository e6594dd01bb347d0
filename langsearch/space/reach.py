"""Which rules of a space touch a module of a base, and between which sizes its adapters lie.

A rule that touches nothing is a mistake that nobody would see otherwise: PEFT ignores patterns that match no module.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from langsearch.space.document import KeyPath
from langsearch.space.kinds import BESIDE, Bridge, Gate, LayerNorms, site_kind
from langsearch.space.placement import layer_bounds
from langsearch.space.rules import (
    STACKS,
    Classes,
    PossibleSite,
    SiteRule,
    possible_sites,
    slots_of_languages,
    stack_rules,
    stack_section,
)
from langsearch.space.sections import ArchitectureSection, Entry
from langsearch.space.sites import BaseShape, Side, Stack
from langsearch.space.values import extremes, options

_SIDE_WORDS: Mapping[Side, str] = {"src": "source", "tgt": "target"}


@dataclass
class _Reached:
    """Where the rules win at some point of the space."""

    sides: set[KeyPath] = field(default_factory=set)
    """The overrides that give some site its side."""

    widths: dict[KeyPath, int] = field(default_factory=dict)
    """For each rank that some adapter has, the narrowest of those adapters' layers."""

    indexed: dict[Stack, set[Side]] = field(default_factory=lambda: {"encoder": set(), "decoder": set()})
    """The sides that index a site of each stack."""


def check_reach(section: ArchitectureSection, classes: Classes, shape: BaseShape) -> Iterator[tuple[KeyPath, str]]:
    """Yields the rules on ranks and sides that touch nothing in a base, and the ranks that are too large for it.

    A rank of the architecture or of a stack that touches nothing may be 0, since every class must have one.

    Args:
        section: The space's `architecture`, right by itself.
        classes: The languages of each class.
        shape: The base's sizes.
    """
    reached = _Reached()
    smallest_slice = min((int(value) for value in options(section.ffn_slice) if value), default=None)
    for stack in STACKS:
        sites = possible_sites(section, stack, shape.num_layers(stack))
        for site in sites:
            reached.indexed[stack] |= site.sides
            reached.sides |= site.side_rules
        _reach_ranks(reached, stack, sites, classes, shape, smallest_slice)
    general, *_ = stack_rules(section, "encoder")
    indexed = reached.indexed["encoder"] | reached.indexed["decoder"]
    yield from _check_ranks(general, general.entries(), reached, indexed)
    for stack in STACKS:
        for rule in stack_rules(section, stack)[1:]:
            if rule.is_override:
                yield from _check_override(rule, section, stack, reached, shape)
            else:
                yield from _check_ranks(rule, rule.entries(), reached, reached.indexed[stack])


def _reach_ranks(
    reached: _Reached,
    stack: Stack,
    sites: list[PossibleSite],
    classes: Classes,
    shape: BaseShape,
    ffn_slice: int | None,
) -> None:
    # Sites of which the same rules speak have the same ranks: look at each kind once.
    kinds: dict[tuple[object, ...], tuple[PossibleSite, int]] = {}
    for site in sites:
        kind = (site.sides, tuple((rule.path, is_sure) for rule, is_sure in site.rules))
        width = min(shape.features(stack, site.module, ffn_slice))
        kinds[kind] = site, min(width, kinds[kind][1] if kind in kinds else width)
    for site, width in kinds.values():
        for name, members in classes.items():
            for language in members:
                for side in site.sides:
                    for rule, entry in site.entries(language, name, side):
                        path = _rank_path(rule, entry)
                        reached.widths[path] = min(width, reached.widths.get(path, width))


def _rank_path(rule: SiteRule, entry: Entry) -> KeyPath:
    return (*rule.path, "rank", *entry.keys)


def _check_ranks(
    rule: SiteRule, entries: Iterator[Entry], reached: _Reached, indexed: set[Side]
) -> Iterator[tuple[KeyPath, str]]:
    for entry in entries:
        path = _rank_path(rule, entry)
        largest = extremes(entry.value)[1]
        if path in reached.widths:
            if largest > (width := reached.widths[path]):
                text = f"must be at most the narrowest adapted layer's width, {width}, but got {largest:g}"
                yield path, text
        elif largest > 0 or rule.is_override:
            why = "rules that win over it speak for all of its places."
            if entry.side is not None and entry.side not in indexed:
                why = f"no adapted layer is indexed by {_SIDE_WORDS[entry.side]}."
            yield path, f"touches nothing: {why} {'Leave it out.' if rule.is_override else 'Write 0.'}"


def _check_override(
    rule: SiteRule, section: ArchitectureSection, stack: Stack, reached: _Reached, shape: BaseShape
) -> Iterator[tuple[KeyPath, str]]:
    num_layers = shape.num_layers(stack)
    part = stack_section(section, stack)
    _, adapted = layer_bounds(part.layers, num_layers)
    _, layers = layer_bounds(rule.layers, num_layers)
    modules = rule.modules.named if rule.modules is not None else part.modules.named
    # What lies outside the base is told elsewhere.
    if not layers and (rule.layers.listed or rule.layers.high):
        return
    idle_layers = [layer for layer in rule.layers.listed if layer < num_layers and layer not in adapted]
    idle_modules = [module for module in modules if module not in part.modules.named]
    if not layers & adapted or len(idle_modules) == len(modules):
        what = "modules" if layers & adapted else "layers"
        yield rule.path, f"touches nothing: the {stack} adapts none of its {what}. Add them to `{stack}.{what}`."
        return
    for key, idle in (("layers", idle_layers), ("modules", idle_modules)):
        if idle:
            names = ", ".join(str(name) for name in idle)
            yield (*rule.path, key), f"must name {key} that the {stack} adapts, but got {names}. Leave them out."
    entries = list(rule.entries())
    has_rank = any(_rank_path(rule, entry) in reached.widths for entry in entries)
    has_side = rule.path in reached.sides
    if not has_rank and not has_side and not any(entry.side for entry in entries):
        yield rule.path, "touches nothing: later overrides win wherever it speaks. Leave it out or move it down."
        return
    if rule.side is not None and not has_side:
        yield (*rule.path, "side"), "touches nothing: later overrides win wherever it speaks. Leave it out."
    yield from _check_ranks(rule, iter(entries), reached, reached.indexed[stack])


def parameter_bounds(
    section: ArchitectureSection, classes: Classes, sharing: str, ffn_slice: int | None, shape: BaseShape
) -> tuple[int, int]:
    """Returns (at least, at most) so many adapter parameters, whatever the point.

    Every site is taken at its smallest and at its largest by itself, so that no point need reach the ends.

    Args:
        section: The space's `architecture`.
        classes: The languages of each class.
        sharing: Who shares a slot.
        ffn_slice: As in `Architecture`.
        shape: The base's sizes.
    """
    slots = slots_of_languages(sharing, classes)
    # One language stands for its slot: those who share have one rank.
    owners = {slots[language]: (language, name) for name, members in classes.items() for language in members}
    words = [str(word).split("+") for word in options(section.adapter)]
    beside = [sum(_most_beside(section, name, shape) for name in BESIDE if name in word) for word in words]
    low, high = _site_bounds(section, owners, ffn_slice, shape)
    if sharing == "pool":
        smallest, largest = (int(size) for size in extremes(section.pool.size))
        num_languages = sum(map(len, classes.values()))
        # A map for one side at least, and for both at most.
        low, high = smallest * (low + num_languages), largest * (high + 2 * num_languages)
    at_sites = [site_kind("+".join(word)) is not None for word in words]
    least = min(low if has_sites else 0 for has_sites in at_sites)
    most = max(high * has_sites + len(owners) * own for has_sites, own in zip(at_sites, beside, strict=True))
    return least, most


def _most_beside(section: ArchitectureSection, name: str, shape: BaseShape) -> int:
    """Returns the most parameters that a slot has of what stands beside the adapters at sites."""
    if name == "layer_norm":
        return LayerNorms(slots=()).num_parameters(shape)
    rank = None if None in options(section.bridge.rank) else int(extremes(section.bridge.rank)[1])
    return Bridge(slots=(), rank=rank).num_parameters(shape)


def _site_bounds(
    section: ArchitectureSection, owners: Mapping[str, tuple[str, str]], ffn_slice: int | None, shape: BaseShape
) -> tuple[int, int]:
    """Returns the bounds of what stands at sites; the owners are a language and its class for each slot."""
    least = most = 0
    kinds = {kind for kind in map(site_kind, map(str, options(section.adapter))) if kind}
    fewest, most_pairs = (pick(2 if kind == "two_sided" else 1 for kind in kinds or {"lora"}) for pick in (min, max))
    has_gates = "gated" in kinds
    gate = Gate(hidden=int(extremes(section.gate.hidden)[1])).num_parameters if has_gates else lambda _: 0
    for stack in STACKS:
        for site in possible_sites(section, stack, shape.num_layers(stack)):
            num_in, num_out = shape.features(stack, site.module, ffn_slice)
            unit = num_in + num_out
            for language, name in owners.values():
                found = [entry for side in site.sides for _, entry in site.entries(language, name, side)]
                ranks = [rank for entry in found for rank in extremes(entry.value)]
                least += fewest * int(min(ranks)) * unit if site.is_sure else 0
                most += most_pairs * int(max(ranks)) * unit + (gate(num_in) if max(ranks) else 0)
            most += int(extremes(section.shared_rank)[1]) * unit
    return least, most
