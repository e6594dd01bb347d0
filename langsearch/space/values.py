"""What a key of a space may say: a plain value, which is fixed, or `choice`, `int` or `float`, which is searched."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from langsearch.space.document import show
from langsearch.space.problems import near_names

Scalar = bool | int | float | str | None

SEARCH_KEYS = ("choice", "int", "float", "log", "step")
"""The keys that make a mapping a searched value; no class or language can be named so."""


@dataclass(frozen=True)
class Choice:
    """One of some values, without an order between them."""

    options: tuple[Scalar, ...]


@dataclass(frozen=True)
class IntRange:
    """A whole number from low to high, both included."""

    low: int
    high: int
    log: bool = False
    step: int = 1


@dataclass(frozen=True)
class FloatRange:
    """A number from low to high, both included."""

    low: float
    high: float
    log: bool = False


Searched = Choice | IntRange | FloatRange
Value = Scalar | Searched


def extremes(value: Value) -> tuple[float, float]:
    """Returns the smallest and the largest number that a value can take. Options that are no numbers do not count."""
    if isinstance(value, IntRange | FloatRange):
        return value.low, value.high
    options = value.options if isinstance(value, Choice) else (value,)
    numbers = [option for option in options if isinstance(option, int | float)]
    return min(numbers, default=0), max(numbers, default=0)


def options(value: Value) -> tuple[Scalar, ...]:
    """Returns the options of a choice, or the fixed value alone; a range has none."""
    if isinstance(value, Choice):
        return value.options
    return () if isinstance(value, IntRange | FloatRange) else (value,)


def pick(value: Value, name: str, point: Mapping[str, Any]) -> Any:
    """Returns a value at a point.

    Args:
        value: Fixed or searched.
        name: The dimension's name.
        point: The value of each dimension.

    Raises:
        ValueError: If the value is searched and the point does not have it.
    """
    if not isinstance(value, Searched):
        return value
    if name not in point:
        raise ValueError(f"A point must have every dimension, but {name} is missing; it has {sorted(point)}")
    return point[name]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a key accepts; calling it turns the YAML's value into a `Value`.

    A range or a choice with a single possible value is that value, so that it is no dimension.
    """

    kind: Literal["int", "float", "text"]
    low: float = -math.inf
    high: float = math.inf
    is_low_open: bool = False
    """The lower end itself is not allowed."""

    names: tuple[str, ...] = ()
    """For text: the allowed words. Empty: any text."""

    words: Mapping[str, Scalar] = field(default_factory=dict, hash=False)
    """Words that stand for a value of another kind, such as all for None."""

    is_searchable: bool = True

    form: str = ""
    """What the key accepts in words, where a list of its names would be too long."""

    def __call__(self, raw: object) -> Value:
        """Returns the value, checked.

        Raises:
            ValueError: The rule, then the value, then the way out.
        """
        if not isinstance(raw, dict):
            return self._scalar(raw)
        if not self.is_searchable:
            raise ValueError(f"must be {self}, and cannot be searched, but got {show(raw)}")
        kinds = [key for key in ("choice", "int", "float") if key in raw]
        for key in raw:
            if key not in SEARCH_KEYS:
                raise ValueError(
                    f"must be {self}, or one of choice, int, float, but got {key!r}.{near_names(str(key), SEARCH_KEYS)}"
                )
        if len(kinds) != 1:
            raise ValueError(f"must name one of choice, int, float, but got {show(raw)}")
        return self._choice(raw) if kinds == ["choice"] else self._range(raw)

    def __str__(self) -> str:
        if self.form:
            return self.form
        either = self.names or {"int": ("a whole number",), "float": ("a number",), "text": ("text",)}[self.kind]
        text = ", ".join((*either, *self.words))
        if self.kind == "text":
            return text if len(either) == 1 and not self.words else f"one of {text}"
        bounds = ""
        if math.isfinite(self.low):
            bounds = f" above {self.low:g}" if self.is_low_open else f" of at least {self.low:g}"
        if math.isfinite(self.high):
            bounds += f"{' and' if bounds else ' of'} at most {self.high:g}"
        return f"{either[0]}{bounds}{''.join(f' or {word}' for word in self.words)}"

    def _scalar(self, raw: object) -> Scalar:
        if isinstance(raw, str) and raw in self.words:
            return self.words[raw]
        if raw is None and None in self.words.values():
            return None
        if self.kind == "text":
            if not isinstance(raw, str) or not raw or (self.names and raw not in self.names):
                hint = near_names(raw, [*self.names, *self.words]) if isinstance(raw, str) and self.names else ""
                raise ValueError(f"must be {self}, but got {show(raw)}.{hint}")
            return raw
        number = raw if isinstance(raw, int if self.kind == "int" else int | float) else None
        if number is None or isinstance(raw, bool) or not self._contains(number):
            raise ValueError(f"must be {self}, but got {show(raw)}")
        return float(number) if self.kind == "float" else number

    def _contains(self, number: float) -> bool:
        above = self.low < number if self.is_low_open else self.low <= number
        return above and number <= self.high and abs(number) <= sys.float_info.max

    def _choice(self, raw: Mapping[str, object]) -> Value:
        listed = raw["choice"]
        if set(raw) != {"choice"} or not isinstance(listed, list) or not listed:
            raise ValueError(f"must read {{choice: [value, ...]}} with at least one value, but got {show(raw)}")
        found = tuple(self._scalar(option) for option in listed)
        if len(set(found)) < len(found):
            raise ValueError(f"must list each choice once, but got {show(listed)}")
        return Choice(found) if len(found) > 1 else found[0]

    def _range(self, raw: Mapping[str, Any]) -> Value:
        key = "int" if "int" in raw else "float"
        if key != self.kind:
            raise ValueError(f"must be {self}, but got the range {show(raw)}")
        ends, log, step = raw[key], raw.get("log", False), raw.get("step", 1)
        if not isinstance(ends, list) or len(ends) != 2:
            raise ValueError(f"must read {{{key}: [low, high]}}, but got {show(raw)}")
        low, high = (
            Rule(kind=self.kind, low=self.low, high=self.high, is_low_open=self.is_low_open)(end) for end in ends
        )
        assert isinstance(low, int | float)
        assert isinstance(high, int | float)
        if low > high:
            raise ValueError(f"must have low <= high, but got low={low:g}, high={high:g}")
        if not isinstance(log, bool) or (log and low <= 0):
            raise ValueError(f"must have low > 0 and `log: true` to be searched by its logarithm, but got {show(raw)}")
        if (
            isinstance(step, bool)
            or not isinstance(step, int)
            or step < 1
            or ("step" in raw and (log or key == "float"))
        ):
            raise ValueError(f"takes a whole `step` of at least 1 with int and without log, but got {show(raw)}")
        if low == high:
            return low
        if key == "float":
            return FloatRange(float(low), float(high), log)
        if (int(high) - int(low)) % step:
            raise ValueError(f"must reach its high end in whole steps, but got {show(raw)}")
        return IntRange(int(low), int(high), log, step)
