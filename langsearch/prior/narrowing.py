"""From what was learned to the space: the dimensions' wanted values, narrower ranges, and the narrowed YAML."""

import math
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median_low
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from ruamel.yaml import YAML

from langsearch.prior.learning import STACKS
from langsearch.prior.sides import LearnedSides, sure_side
from langsearch.prior.subspace import Demand
from langsearch.space.architecture import BaseShape, Site
from langsearch.space.document import KeyPath, dump
from langsearch.space.prior_section import narrowest_width, side_dimensions
from langsearch.space.problems import InputError
from langsearch.space.rules import possible_sites, stack_rules
from langsearch.space.schema import Space, load_space
from langsearch.space.sections import ALL, Entry
from langsearch.space.values import IntRange, Searched, Value, options

PROPOSED_FACTOR = 2.0
"""A proposed space has the ranks from half the demand to twice it."""


def demand_of_dimensions(space: Space, shape: BaseShape, demand: Demand) -> dict[str, float]:
    """Returns the rank that is demanded where each rank of the space holds, by the name of its dimension.

    The value of a class is the mean over its languages, that of an override the mean over its layers and modules.
    """
    cells: dict[str, set[tuple[str, Site]]] = defaultdict(set)
    for stack in STACKS:
        for possible in possible_sites(space.architecture_section, stack, shape.num_layers(stack)):
            site = Site(stack, possible.layer, possible.module)
            for class_name, languages in space.classes.items():
                for language in languages:
                    for side in possible.sides:
                        for _, entry in possible.entries(language, class_name, side):
                            cells[entry.name].add((language, site))
    wanted = {name: demand.rank(own) for name, own in cells.items()}
    return {name: rank for name, rank in wanted.items() if rank is not None}


def nearest_rank(distribution: BaseDistribution, wanted: float) -> Any:
    """Returns the value of a dimension that is nearest to a rank; ranks differ by their ratio."""
    return min(_ranks(distribution), key=lambda rank: abs(_log(rank) - _log(wanted)))


def nearest_sides(space: Space, shape: BaseShape, learned: LearnedSides) -> dict[str, Any]:
    """Returns the value of each dimension that says a side: the one that agrees most with what was learned.

    A dimension is left out where what was learned is not sure: of its layers together, or of any layer of the stack
    where the dimension is a number of layers.
    """
    dimensions = space.dimensions()
    found: dict[str, Any] = {}
    for name in side_dimensions(dimensions):
        stack = next(stack for stack in STACKS if name.startswith(f"{stack}."))
        shares = [learned.source_share(stack, layer) for layer in range(shape.num_layers(stack))]
        key = name.split(".")[1:]
        if key == ["source_layers"]:
            if any(sure_side([share]) for share in shares):
                found[name] = max(_counts(dimensions[name]), key=lambda count: _agreement(shares, count))
            continue
        if key[0] == "sides" and len(key) == 2:
            own = [shares[int(key[1])]] if int(key[1]) < len(shares) else []
        elif key[0] == "sides":
            own = shares
        else:
            own = _shares_of_override(space, shape, learned, name)
        side = sure_side(own)
        if side is not None and side in dimensions[name].choices:
            found[name] = side
    return found


def narrowed(distribution: BaseDistribution, wanted: float, factor: float) -> BaseDistribution:
    """Returns a rank's dimension with only the values within a factor of the wanted one, two of them at least."""
    ranks = _ranks(distribution)
    kept = [rank for rank in ranks if wanted / factor <= rank <= wanted * factor or (rank == 0 and wanted < 1)]
    if len(kept) < 2:
        near = sorted(ranks, key=lambda rank: abs(_log(rank) - _log(wanted)))[:2]
        kept = [rank for rank in ranks if rank in near]
    if isinstance(distribution, IntDistribution):
        return IntDistribution(min(kept), max(kept), log=distribution.log, step=distribution.step)
    return CategoricalDistribution(kept)


def narrowed_space(space: Space, shape: BaseShape, demand: Demand) -> str:
    """Returns the YAML of the space with ranks around the demand, and everything else as it is.

    Searched ranks keep those of their values that are within a factor of 2 of the demand. If no rank is searched,
    each that is not 0 becomes a choice of powers of two. A language whose demand differs from its class's by
    a factor of 2 gets ranks of its own, where languages share no adapter. The section `prior` is left out: it is
    done.
    """
    data = YAML(typ="safe", pure=True).load(space.text)
    data["name"] = f"{space.name}-narrowed"
    data.pop("prior", None)
    changes = _narrowed_entries(space, shape, demand)
    for path, value in changes.items():
        _put(data, path, value)
    plain = dump(data)
    for path, value in _own_ranks(space, shape, demand).items():
        _put(data, path, value)
    text = dump(data)
    return text if _is_right(text, shape) else plain


def _narrowed_entries(space: Space, shape: BaseShape, demand: Demand) -> dict[KeyPath, Any]:
    wanted = demand_of_dimensions(space, shape, demand)
    entries: dict[KeyPath, Entry] = {}
    for stack in STACKS:
        for rule in stack_rules(space.architecture_section, stack):
            entries |= {(*rule.path, "rank", *entry.keys): entry for entry in rule.entries()}
    is_searched = any(isinstance(entry.value, Searched) for entry in entries.values())
    return {
        path: _yaml(narrowed(_distribution(entry.value, space, shape), wanted[entry.name], PROPOSED_FACTOR))
        for path, entry in entries.items()
        if entry.name in wanted and entry.value != 0 and (isinstance(entry.value, Searched) or not is_searched)
    }


def _own_ranks(space: Space, shape: BaseShape, demand: Demand) -> dict[KeyPath, Any]:
    """Returns the ranks by class, and of single languages apart from their class, that take the place of the given."""
    section = space.architecture_section
    if options(section.sharing) != ("language",) or section.rank.by_language or section.rank.is_by_side:
        return {}
    by_language = demand.language_ranks()
    changes: dict[KeyPath, Any] = {}
    ranks: KeyPath = ("architecture", "rank")
    if ALL in section.rank.by_class:
        changes[ranks] = {}
    is_searched = any(isinstance(value, Searched) for value in section.rank.by_class.values())
    for class_name, languages in space.classes.items():
        entry = section.rank.entry("rank", languages[0], class_name)
        assert entry is not None
        if entry.value == 0 or (is_searched and not isinstance(entry.value, Searched)):
            if ALL in section.rank.by_class:
                return {}
            continue
        distribution = _distribution(entry.value, space, shape)
        # A member's own demand, so that at least this one stays with its class.
        middle = median_low([by_language[language] for language in languages])
        common = [language for language in languages if abs(_log(by_language[language]) - _log(middle)) < 1]
        wanted = sum(by_language[language] for language in common) / len(common)
        value = _yaml(narrowed(distribution, wanted, PROPOSED_FACTOR))
        changes[*ranks, class_name] = value
        for language in languages:
            own = _yaml(narrowed(distribution, by_language[language], PROPOSED_FACTOR))
            if language not in common and own != value:
                changes[*ranks, "languages", language] = own
    return changes


def _distribution(value: Value, space: Space, shape: BaseShape) -> BaseDistribution:
    if isinstance(value, IntRange):
        return IntDistribution(value.low, value.high, log=value.log, step=value.step)
    if isinstance(value, Searched):
        return CategoricalDistribution(options(value))
    width = narrowest_width(space.architecture_section, shape)
    return CategoricalDistribution([2**power for power in range(width.bit_length())])


def _yaml(distribution: BaseDistribution) -> dict[str, Any]:
    if isinstance(distribution, CategoricalDistribution):
        return {"choice": list(distribution.choices)}
    value: dict[str, Any] = {"int": [distribution.low, distribution.high]}
    if distribution.log:
        value["log"] = True
    return value | ({"step": distribution.step} if distribution.step > 1 else {})


def _put(data: dict[str, Any], path: KeyPath, value: Any) -> None:
    inner: Any = data
    for key in path[:-1]:
        if isinstance(key, str) and not isinstance(inner.get(key), dict | list):
            inner[key] = {}
        inner = inner[key]
    inner[path[-1]] = value


def _is_right(text: str, shape: BaseShape) -> bool:
    """Returns whether a space can be loaded: a rank of a language may say nothing where an override has the word."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "space.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            return not load_space(path).check(shape)
        except InputError:
            return False


def _ranks(distribution: BaseDistribution) -> list[int]:
    if isinstance(distribution, CategoricalDistribution):
        return sorted(distribution.choices)
    return list(range(distribution.low, distribution.high + 1, distribution.step))


def _log(rank: float) -> float:
    """Returns the logarithm of a rank to base 2; a rank of 0 counts as half of one of 1."""
    return math.log2(max(rank, 0.5))


def _counts(distribution: BaseDistribution) -> list[int | None]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return list(range(distribution.low, distribution.high + 1, distribution.step))


def _agreement(shares: list[float | None], count: int | None) -> float:
    """Returns the sum of the learned shares of the sides that the layers have with so many indexed by source."""
    by_source = len(shares) if count is None else count
    known = [(layer, share) for layer, share in enumerate(shares) if share is not None]
    return sum(share if layer < by_source else 1 - share for layer, share in known)


def _shares_of_override(space: Space, shape: BaseShape, learned: LearnedSides, name: str) -> list[float | None]:
    stack = next(stack for stack in STACKS if name.startswith(f"{stack}."))
    return [
        learned.source_share(stack, possible.layer, possible.module)
        for possible in possible_sites(space.architecture_section, stack, shape.num_layers(stack))
        if any(f"{rule.name}.side" == name for rule, _ in possible.rules)
    ]
