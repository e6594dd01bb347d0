"""Which trial comes nearest to keeping the constraints, where none keeps them all, and which bounds would admit it.

Needs neither Optuna nor a space, so that tables on the terminal appear at once.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from langsearch.space.settings import Constraint
from langsearch.study.constraints import LOSS, UNKNOWN

_DIGITS = 3
"""Of a bound that would admit a trial."""


@dataclass(frozen=True)
class Miss:
    """A constraint that a trial violates."""

    constraint: Constraint

    amount: float
    """How far, in units of the bound, as `Constraints.violations` gives it."""

    @property
    def is_known(self) -> bool:
        """Whether its metric was measured at all; losses may not be, where few directions are scored."""
        return not (self.constraint.metric.startswith(LOSS) and self.amount == UNKNOWN)

    @property
    def over(self) -> float:
        """How far the metric lies beyond the bound, in the bound's own unit."""
        return self.amount * (abs(self.constraint.bound) or 1.0)

    @property
    def value(self) -> float:
        """The metric, in the bound's own unit."""
        return self.constraint.bound + (self.over if self.constraint.is_upper else -self.over)

    @property
    def words(self) -> str:
        """Returns "nonzero_parameters 2.41 %, 0.41 % above its bound of 2 %"."""
        metric, bound, unit = self.constraint.metric, self.constraint.bound, self._unit
        if not self.is_known:
            return f"{metric} unknown, since no direction of it is among those that the search scores"
        where = "above" if self.constraint.is_upper else "below"
        return f"{metric} {_show(self.value)}{unit}, {_show(self.over)}{unit} {where} its bound of {bound:.15g}{unit}"

    @property
    def admitting(self) -> str | None:
        """The constraint with the nearest round bound that the metric keeps; None where that is not known."""
        if not self.is_known:
            return None
        sign, unit = "<=" if self.constraint.is_upper else ">=", self._unit
        return f"{self.constraint.metric} {sign} {_outward(self.value, up=self.constraint.is_upper):.15g}{unit}"

    @property
    def _unit(self) -> str:
        # In units of a bound of 0 % a size is not told in percent.
        return " %" if self.constraint.is_percent and self.constraint.bound else ""


@dataclass(frozen=True)
class Nearest:
    """The trial that comes nearest to keeping all constraints."""

    name: str
    misses: tuple[Miss, ...]
    """What it violates, the furthest first."""

    @property
    def words(self) -> str:
        """Returns what it misses, in a sentence."""
        return f"Trial {self.name} comes nearest: {'; '.join(miss.words for miss in self.misses)}."


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What decides how near a trial comes."""

    name: str
    violations: Mapping[str, float]
    spbleu: float | None
    """None: it was never trained."""

    trainable_parameters: int | None


def find_nearest(standings: Iterable[Standing]) -> Nearest | None:
    """Returns the trial whose violations are least in sum, in units of their bounds; None where none is known.

    Those that were trained come first; of equal ones that with the best spBLEU, then the smallest. Such a trial is
    always among those that other bounds would bring to the front, whose weights are kept.
    """
    found = [standing for standing in standings if any(amount > 0 for amount in standing.violations.values())]
    best = min(found, key=_distance, default=None)
    if best is None:
        return None
    misses = [Miss(read_constraint(text), amount) for text, amount in best.violations.items() if amount > 0]
    return Nearest(best.name, tuple(sorted(misses, key=lambda miss: -miss.amount)))


def read_constraint(text: str) -> Constraint:
    """Returns the constraint that wrote a text, as the trial table and its results have it."""
    metric, sign, bound, *percent = text.split()
    return Constraint(metric=metric, is_upper=sign == "<=", bound=float(bound), is_percent=bool(percent))


def _distance(standing: Standing) -> tuple[bool, float, float, float, str]:
    total = sum(max(amount, 0.0) for amount in standing.violations.values())
    size = math.inf if standing.trainable_parameters is None else standing.trainable_parameters
    return standing.spbleu is None, total, -(standing.spbleu or 0.0), size, standing.name


def _show(value: float) -> str:
    """Returns a number with three digits, a whole one of more with all of them."""
    return f"{value:,.0f}" if abs(value) >= 10**_DIGITS else f"{value:.{_DIGITS}g}"


def _outward(value: float, *, up: bool) -> float:
    """Returns the nearest number of three digits that is not below the value, or not above it."""
    if value == 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(abs(value))) - _DIGITS + 1)
    # Beyond what is lost in computing it from how far it lies over its old bound.
    margin = abs(value) * 1e-9
    steps = math.ceil((value + margin) / step) if up else math.floor((value - margin) / step)
    return float(f"{steps * step:.{_DIGITS + 1}g}")
