"""What a space says of the ranks and sides of a stack's sites, from the most general rule to the one that wins.

The order is: `rank` of the architecture, `rank` of the stack, then the stack's `overrides` as they stand. A rule speaks
for the layers, modules, classes, languages and sides that it names; the last rule that speaks for a place wins.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from langsearch.space.document import KeyPath
from langsearch.space.languages import find_language
from langsearch.space.placement import (
    Layers,
    Modules,
    layer_bounds,
    pick_layers,
    pick_modules,
    pick_sides,
    possible_sides,
)
from langsearch.space.sections import ArchitectureSection, Entry, RankSection, StackSection
from langsearch.space.sites import MODULES, Side, Stack
from langsearch.space.values import Value, options, pick

Classes = Mapping[str, tuple[str, ...]]
"""The languages of each class."""


STACKS: tuple[Stack, Stack] = ("encoder", "decoder")
"""The two stacks, in the order of the forward pass."""


@dataclass(frozen=True, kw_only=True)
class SiteRule:
    """One rule on a stack's sites."""

    name: str
    """What the names of its dimensions begin with: "" for the architecture's, encoder, encoder.overrides.0."""

    path: KeyPath
    """Where it stands in the space."""

    rank: RankSection | None
    layers: Layers = field(default_factory=lambda: Layers("all"))
    modules: Modules | None = None
    """None: all."""

    side: Value = None
    """None: says nothing of the side."""

    @property
    def is_override(self) -> bool:
        """Whether it is an item of `overrides`."""
        return "overrides" in self.path

    @cached_property
    def rank_name(self) -> str:
        """What the names of its ranks' dimensions begin with."""
        return f"{self.name}.rank" if self.name else "rank"

    def entry(self, language: str, class_name: str, side: Side | None) -> Entry | None:
        """Returns its rank for a language at the sites of a side, None if it does not speak for them."""
        return None if self.rank is None else self.rank.entry(self.rank_name, language, class_name, side)

    def entries(self) -> Iterator[Entry]:
        """Yields all its ranks."""
        if self.rank is not None:
            yield from self.rank.entries(self.rank_name)


def stack_rules(section: ArchitectureSection, stack: Stack) -> tuple[SiteRule, ...]:
    """Returns the rules of a stack; a later one wins over an earlier one."""
    part = stack_section(section, stack)
    path: KeyPath = ("architecture", stack)
    return (
        SiteRule(name="", path=("architecture",), rank=section.rank),
        SiteRule(name=stack, path=path, rank=part.rank),
        *(
            SiteRule(
                name=f"{stack}.overrides.{index}",
                path=(*path, "overrides", index),
                rank=item.rank,
                layers=item.layers,
                modules=item.modules,
                side=item.side,
            )
            for index, item in enumerate(part.overrides)
        ),
    )


def stack_section(section: ArchitectureSection, stack: Stack) -> StackSection:
    """Returns the section of a stack."""
    return section.encoder if stack == "encoder" else section.decoder


def slots_of_languages(sharing: str, classes: Classes) -> dict[str, str]:
    """Returns the slot of each language.

    Args:
        sharing: Who shares a slot: language (nobody), class, family, all, or by a learned map all (pool).
        classes: The languages of each class.

    Raises:
        InputError: If the family of a language is asked for and not in the table.
    """

    def slot(language: str, class_name: str) -> str:
        match sharing:
            case "class":
                return class_name
            case "family":
                return find_language(language).family
            case "all" | "pool":
                return "all"
        return language

    return {language: slot(language, name) for name, members in classes.items() for language in members}


class StackAtPoint:
    """The sides and ranks of a stack's sites at one point.

    Args:
        section: The space's `architecture`.
        stack: encoder or decoder.
        classes: The languages of each class.
        point: The value of each dimension.
        num_layers: The layers of the base's stack.

    Raises:
        ValueError: If the point lacks a dimension of a layer, a module or a side.
    """

    def __init__(
        self, section: ArchitectureSection, stack: Stack, classes: Classes, point: Mapping[str, Any], num_layers: int
    ) -> None:
        part = stack_section(section, stack)
        self._classes, self._point = classes, point
        self.layers = pick_layers(part.layers, f"{stack}.layers", point, num_layers)
        self.modules = pick_modules(part.modules, f"{stack}.modules", point)
        self._sides = pick_sides(part.sides, part.source_layers, stack, point, num_layers)
        self._rules = [
            (
                rule,
                set(pick_layers(rule.layers, f"{rule.name}.layers", point, num_layers)),
                None if rule.modules is None else set(pick_modules(rule.modules, f"{rule.name}.modules", point)),
            )
            for rule in reversed(stack_rules(section, stack))
        ]
        self._ranks: dict[tuple[Side, tuple[str, ...]], dict[str, int]] = {}

    def adapters(self, layer: int, module: str) -> tuple[Side, dict[str, int]]:
        """Returns the side of a site and the rank of each language there.

        Raises:
            ValueError: If the point lacks a dimension of a rank.
        """
        rules = [
            rule for rule, layers, modules in self._rules if layer in layers and (modules is None or module in modules)
        ]
        spoken = (pick(rule.side, f"{rule.name}.side", self._point) for rule in rules if rule.side is not None)
        side: Side = next(spoken, self._sides[layer])
        key = side, tuple(rule.name for rule in rules)
        if key not in self._ranks:
            self._ranks[key] = {
                language: self._rank(rules, language, name, side)
                for name, members in self._classes.items()
                for language in members
            }
        return side, self._ranks[key]

    def _rank(self, rules: list[SiteRule], language: str, class_name: str, side: Side) -> int:
        entries = (rule.entry(language, class_name, side) for rule in rules)
        entry = next(entry for entry in entries if entry is not None)
        rank: int = pick(entry.value, entry.name, self._point)
        return rank


@dataclass(frozen=True)
class PossibleSite:
    """A site that is adapted at some point of a space, with what may hold there."""

    layer: int
    module: str
    is_sure: bool
    """Whether it is adapted at every point."""

    rules: tuple[tuple[SiteRule, bool], ...]
    """Those that speak for it at some point, and whether they do at every one; the one that wins comes first."""

    sides: frozenset[Side]
    """The sides that it has at some point."""

    side_rules: frozenset[KeyPath]
    """The overrides that give it a side at some point."""

    def entries(self, language: str, class_name: str, side: Side) -> Iterator[tuple[SiteRule, Entry]]:
        """Yields the ranks that a language has here at some point, with their rules."""
        for rule, is_sure in self.rules:
            entry = rule.entry(language, class_name, side)
            if entry is not None:
                yield rule, entry
                if is_sure:
                    return


def possible_sites(section: ArchitectureSection, stack: Stack, num_layers: int) -> list[PossibleSite]:
    """Returns the sites of a stack that are adapted at some point of a space.

    What is searched is taken apart: each place is looked at as if the searched values of all others were free.
    """
    part = stack_section(section, stack)
    rules = [(rule, *_reach(rule, stack, num_layers)) for rule in reversed(stack_rules(section, stack))]
    sure_layers, layers = layer_bounds(part.layers, num_layers)
    sites = []
    for layer in sorted(layers):
        for module in part.modules.named:
            spoken = tuple(
                (rule, (layer, module) in sure) for rule, sure, possible in rules if (layer, module) in possible
            )
            sides: set[Side] = set()
            side_rules = set()
            for rule, is_sure in spoken:
                if rule.side is not None:
                    sides |= set(options(rule.side))  # type: ignore[arg-type]
                    side_rules.add(rule.path)
                    if is_sure:
                        break
            else:
                sides |= possible_sides(part.sides, part.source_layers, layer)
            is_sure = layer in sure_layers and module in part.modules.fixed
            sites.append(PossibleSite(layer, module, is_sure, spoken, frozenset(sides), frozenset(side_rules)))
    return sites


def _reach(rule: SiteRule, stack: Stack, num_layers: int) -> tuple[set[tuple[int, str]], set[tuple[int, str]]]:
    """Returns the (layer, module) for which a rule speaks at every point, and those for which at some point."""
    sure_layers, layers = layer_bounds(rule.layers, num_layers)
    sure = rule.modules.fixed if rule.modules is not None else MODULES[stack]
    named = rule.modules.named if rule.modules is not None else MODULES[stack]
    return (
        {(layer, module) for layer in sure_layers for module in sure},
        {(layer, module) for layer in layers for module in named},
    )
