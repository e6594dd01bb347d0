"""Where adapters go: the layers and modules of a stack and the sides of its layers, as a space says them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from langsearch.space.document import show
from langsearch.space.problems import near_names
from langsearch.space.sites import MODULES, Side, Stack
from langsearch.space.values import Rule, Value, extremes, options, pick

SIDES: tuple[Side, Side] = ("src", "tgt")
"""The two sides of a direction that can index a site."""

SIDE = Rule(kind="text", names=SIDES)

SourceLayers = Value | tuple[int, ...]
"""The lowest so many layers, or the numbers of the layers that are indexed by source."""

Sides = Value | tuple[Value, ...]
"""One side for all layers, or one for each layer of the base; None where it is not said."""


@dataclass(frozen=True)
class Layers:
    """Which layers of a stack carry adapters: all, those listed, the first or last `count`, or a window.

    A window is searched: its start and its length, cut off at its upper end.
    """

    kind: Literal["all", "list", "first", "last", "window"]
    listed: tuple[int, ...] = ()
    count: Value = None
    low: int = 0
    high: int = 0


def parse_layers(raw: object) -> Layers:
    """Returns the layers that the YAML's value means. Raises ValueError if it means none."""
    if raw == "all":
        return Layers("all")
    if isinstance(raw, list):
        return Layers("list", _listed_layers(raw))
    if isinstance(raw, dict) and len(raw) == 1:
        key, value = next(iter(raw.items()))
        if key == "first" or key == "last":
            return Layers(key, count=Rule(kind="int", low=0)(value))
        if key == "window":
            ends = value if isinstance(value, list) and len(value) == 2 else [None, None]
            low, high = ends
            if not isinstance(low, int) or not isinstance(high, int) or not 0 <= low < high:
                raise ValueError(f"must read {{window: [low, high]}} with 0 <= low < high, but got {show(raw)}")
            return Layers("window", low=low, high=high)
    raise ValueError(f"must be all, a list, {{first: n}}, {{last: n}} or {{window: [low, high]}}, but got {show(raw)}")


def _listed_layers(raw: list[Any]) -> tuple[int, ...]:
    if any(isinstance(layer, bool) or not isinstance(layer, int) or layer < 0 for layer in raw):
        raise ValueError(f"must list layers from 0, but got {show(raw)}")
    if len(set(raw)) < len(raw):
        raise ValueError(f"must list each layer once, but got {show(raw)}")
    return tuple(sorted(raw))


def pick_layers(layers: Layers, name: str, point: Mapping[str, Any], num_layers: int) -> list[int]:
    """Returns the layers at a point; those listed may lie outside the base.

    Args:
        layers: The layers.
        name: What the names of their dimensions begin with: encoder.layers.
        point: The value of each dimension.
        num_layers: The layers of the base's stack.

    Raises:
        ValueError: If the point lacks a dimension.
    """
    match layers.kind:
        case "all":
            return list(range(num_layers))
        case "list":
            return list(layers.listed)
        case "first":
            return list(range(pick(layers.count, f"{name}.first", point)))
        case "last":
            return list(range(num_layers - pick(layers.count, f"{name}.last", point), num_layers))
        case "window":
            if layers.high - layers.low == 1:
                return [layers.low]
            if missing := {f"{name}.start", f"{name}.length"} - set(point):
                raise ValueError(f"A point must have every dimension, but {', '.join(sorted(missing))} is missing")
            start = point[f"{name}.start"]
            return list(range(start, min(start + point[f"{name}.length"], layers.high)))


def layer_bounds(layers: Layers, num_layers: int) -> tuple[frozenset[int], frozenset[int]]:
    """Returns (the layers that are in at every point, those that are in at some point), within the base."""
    fewest, most = (min(int(count), num_layers) for count in extremes(layers.count))
    inside: tuple[range | tuple[int, ...], range | tuple[int, ...]]
    match layers.kind:
        case "all":
            inside = range(num_layers), range(num_layers)
        case "list":
            inside = layers.listed, layers.listed
        case "first":
            inside = range(fewest), range(most)
        case "last":
            inside = range(num_layers - fewest, num_layers), range(num_layers - most, num_layers)
        case "window":
            spread = range(layers.low, layers.high)
            inside = (spread if len(spread) == 1 else ()), spread
    sure, possible = (frozenset(layer for layer in part if layer < num_layers) for part in inside)
    return sure, possible


def parse_source_layers(raw: object) -> SourceLayers:
    """Returns how many, or which, layers are indexed by source; None for all. Raises ValueError if it says neither."""
    if isinstance(raw, list):
        return _listed_layers(raw)
    return Rule(kind="int", low=0, words={"all": None})(raw)


def parse_sides(raw: object) -> Sides:
    """Returns the side of every layer, or one for all of them. Raises ValueError if it means none."""
    if not isinstance(raw, list):
        return SIDE(raw)
    if not raw:
        raise ValueError("must be src, tgt, or a list with the side of each layer of the base, but got []")
    return tuple(SIDE(side) for side in raw)


def pick_sides(
    sides: Sides, source_layers: SourceLayers, stack: Stack, point: Mapping[str, Any], num_layers: int
) -> list[Side]:
    """Returns the side of each layer of the base at a point.

    Args:
        sides: What `sides` says, None for nothing; it wins over `source_layers`.
        source_layers: What `source_layers` says.
        stack: encoder or decoder.
        point: The value of each dimension.
        num_layers: The layers of the base's stack.

    Raises:
        ValueError: If the point lacks a dimension.
    """
    if isinstance(sides, tuple):
        return [pick(side, f"{stack}.sides.{layer}", point) for layer, side in enumerate(sides)]
    if sides is not None:
        return [pick(sides, f"{stack}.sides", point)] * num_layers
    if isinstance(source_layers, tuple):
        return ["src" if layer in source_layers else "tgt" for layer in range(num_layers)]
    by_source = pick(source_layers, f"{stack}.source_layers", point)
    return ["src" if by_source is None or layer < by_source else "tgt" for layer in range(num_layers)]


def possible_sides(sides: Sides, source_layers: SourceLayers, layer: int) -> set[Any]:
    """Returns the sides that a layer has at some point; arguments as `pick_sides`."""
    if isinstance(sides, tuple):
        return set(options(sides[layer])) if layer < len(sides) else set(SIDES)
    if sides is not None:
        return set(options(sides))
    if isinstance(source_layers, tuple):
        return {"src" if layer in source_layers else "tgt"}
    if source_layers is None:
        return {"src"}
    fewest, most = extremes(source_layers)
    is_src = layer < most or None in options(source_layers)
    return ({"src"} if is_src else set()) | ({"tgt"} if layer >= fewest else set())


@dataclass(frozen=True)
class Modules:
    """Which modules of a stack's layers carry adapters: the fixed ones, and of `subset` those that the point takes."""

    fixed: tuple[str, ...] = ()
    subset: tuple[str, ...] = ()

    @property
    def named(self) -> tuple[str, ...]:
        """Every module that is in at some point."""
        return *self.fixed, *self.subset


def pick_modules(modules: Modules, name: str, point: Mapping[str, Any]) -> list[str]:
    """Returns the modules at a point; `name` is what the names of their dimensions begin with: encoder.modules.

    Raises:
        ValueError: If the point lacks a dimension.
    """
    names = {module: f"{name}.{module}" for module in modules.subset}
    if missing := sorted(set(names.values()) - set(point)):
        raise ValueError(f"A point must have every dimension, but {', '.join(missing)} is missing")
    return [*modules.fixed, *(module for module, dimension in names.items() if point[dimension])]


def published_modules(stack: Stack) -> tuple[str, ...]:
    """Returns the modules that the published code adapts: all but the attentions' output projections."""
    return tuple(module for module in MODULES[stack] if not module.endswith("out_proj"))


def _parse_modules(stack: Stack, raw: object) -> Modules:
    listed = raw["subset"] if isinstance(raw, dict) and set(raw) == {"subset"} else raw
    if not isinstance(listed, list):
        # ValueError, because pydantic collects those and lets a TypeError through.
        raise ValueError(  # noqa: TRY004
            f"must be a list of modules or {{subset: [...]}}, but got {show(raw)}"
        )
    for module in listed:
        if module not in MODULES[stack]:
            hint = near_names(str(module), MODULES[stack])
            raise ValueError(f"must name modules of the {stack}, but got {show(module)}.{hint}")
    if len(set(listed)) < len(listed):
        raise ValueError(f"must list each module once, but got {show(listed)}")
    if isinstance(raw, dict):
        if not listed:
            raise ValueError("must name at least one module in the subset, but got []")
        return Modules(subset=tuple(listed))
    return Modules(fixed=tuple(listed))


def encoder_modules(raw: object) -> Modules:
    """Returns the encoder's modules that the YAML's value means. Raises ValueError if it means none."""
    return _parse_modules("encoder", raw)


def decoder_modules(raw: object) -> Modules:
    """Returns the decoder's modules that the YAML's value means. Raises ValueError if it means none."""
    return _parse_modules("decoder", raw)
