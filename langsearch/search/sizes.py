"""How many adapter parameters a space's trials have, and a point of it to show as a sample."""

from collections.abc import Mapping
from itertools import islice, product
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from langsearch.experiment.environment import CheckedSpace
from langsearch.space.reach import parameter_bounds
from langsearch.space.rules import STACKS, stack_rules
from langsearch.space.schema import Space
from langsearch.space.values import Value, extremes, options

MAX_ENDS = 256
"""So many points are tried at most to find the ends of the parameter range; each costs milliseconds."""


def parameter_range(checked: CheckedSpace) -> tuple[int, int]:
    """Returns the fewest and the most adapter parameters of the space.

    The count grows with every rank, module and layer, so the two ends of those dimensions give the two ends of it;
    a window starts at its first layer to have room for its longest length. What has no such order is tried in full.
    Where that is too much, the range is that of `parameter_bounds`, whose ends need not be reached.
    """
    space, shape = checked.space, checked.shape
    dimensions = space.dimensions()
    unordered = {name: _all_values(dimensions[name]) for name in dimensions if _is_unordered(name, space)}
    combinations = list(islice(product(*unordered.values()), MAX_ENDS + 1))
    if len(combinations) > MAX_ENDS:
        section = space.architecture_section
        bounds = [
            parameter_bounds(section, space.classes, sharing, ffn_slice, shape)
            for sharing in map(str, options(section.sharing))
            for ffn_slice in _slices(section.ffn_slice)
        ]
        rows = len(space.new_languages) * shape.d_model
        return rows + min(low for low, _ in bounds), rows + max(high for _, high in bounds)
    counts = []
    for values in combinations:
        for end in (min, max):
            point = dict(zip(unordered, values, strict=True))
            for name, distribution in dimensions.items():
                pick = min if name.endswith("layers.start") else end
                point.setdefault(name, pick(_choices(distribution), key=_size))
            counts.append(space.architecture(point, shape).num_parameters(shape))
    return min(counts), max(counts)


def _slices(ffn_slice: Value) -> tuple[Any, ...]:
    """Returns the slices between which all others lie."""
    return options(ffn_slice) or extremes(ffn_slice)


def _is_unordered(name: str, space: Space) -> bool:
    """Returns whether the count may go up and down with a dimension.

    What an override takes away grows with its layers and modules; where ranks depend on the side, or an override
    on the layer, it matters which layers there are and not only how many.
    """
    rules = [rule for stack in STACKS for rule in stack_rules(space.architecture_section, stack)]
    if name in ("sharing", "ffn_slice", "adapter", "layer_norm.stacks", "bridge.rank"):
        return True
    if ".overrides." in name and (".layers." in name or ".modules." in name):
        return True
    is_side = name.endswith((".side", ".sides", ".source_layers")) or ".sides." in name
    if is_side:
        return any(rule.rank is not None and rule.rank.is_by_side for rule in rules)
    return name.endswith("layers.start") and any(
        rule.is_override or (rule.rank is not None and rule.rank.is_by_side) for rule in rules
    )


def _choices(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return [distribution.low, distribution.high]


def _all_values(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, IntDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    return _choices(distribution)


def _size(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def sample_point(dimensions: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Returns a point of a space, always the same."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    point: dict[str, Any] = study.ask(fixed_distributions=dict(dimensions)).params
    return point
