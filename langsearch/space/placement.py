"""Where adapters go: the layers and modules of a stack, as a space says them."""

from dataclasses import dataclass
from typing import Literal

from langsearch.space.architecture import MODULES, Stack
from langsearch.space.document import show
from langsearch.space.problems import near_names
from langsearch.space.values import Rule, Value


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
        if any(isinstance(layer, bool) or not isinstance(layer, int) or layer < 0 for layer in raw):
            raise ValueError(f"must list layers from 0, but got {show(raw)}")
        if len(set(raw)) < len(raw):
            raise ValueError(f"must list each layer once, but got {show(raw)}")
        return Layers("list", tuple(sorted(raw)))
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


@dataclass(frozen=True)
class Modules:
    """Which modules of a stack's layers carry adapters: the fixed ones, and of `subset` those that the point takes."""

    fixed: tuple[str, ...] = ()
    subset: tuple[str, ...] = ()


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
