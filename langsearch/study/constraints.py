"""What a trial must keep to be a member of the front, as numbers that are at most 0 where it does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from langsearch.space.settings import Constraint
from langsearch.study.front import FIELDS
from langsearch.study.results import TrialResult

LOSS = "worst_loss."
"""Metrics against the pretrained base: worst_loss.CLASS, worst_loss.all."""

UNKNOWN = 1.0
"""The violation of a constraint whose metric a trial does not have: what is not known to be kept is not kept."""


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """The constraints of a search, and what they are measured by."""

    all: tuple[Constraint, ...] = ()
    base_parameters: int = 1
    """What a percentage is of."""

    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The languages of each class."""

    @property
    def need_pretrained(self) -> bool:
        """Whether the pretrained base's scores by direction are needed."""
        return any(constraint.metric.startswith(LOSS) for constraint in self.all)

    def violations(self, result: TrialResult, pretrained: TrialResult | None) -> dict[str, float] | None:
        """Returns how far each constraint is violated, by its text; at most 0 where it is kept.

        In units of the bound, so that samplers that add violations up compare like with like: 0.5 is half as much
        again as is allowed.

        Args:
            result: The trial's.
            pretrained: The pretrained base's. None: not known yet; then None is returned if it is needed.
        """
        if pretrained is None and self.need_pretrained:
            return None
        return self.violations_so_far(result, pretrained)

    def violations_so_far(self, result: TrialResult, pretrained: TrialResult | None) -> dict[str, float]:
        """Returns what `violations` does; losses count as kept as long as the pretrained base's scores are not known.

        Args:
            result: A running trial's, with the costs that it will end with.
            pretrained: The pretrained base's. None: not known yet.
        """
        return {
            str(constraint): 0.0
            if pretrained is None and constraint.metric.startswith(LOSS)
            else self._violation(constraint, result, pretrained)
            for constraint in self.all
        }

    def violated_by_size(self, num_trainable: int, *, is_pruned: bool) -> dict[str, float]:
        """Returns the upper bounds on parameters that a size violates: known before any training.

        Args:
            num_trainable: Parameters that are trained and stored.
            is_pruned: Whether the training prunes. If not, all of them stay non-zero, and count as such.
        """
        sizes = ("trainable_parameters",) if is_pruned else ("trainable_parameters", "nonzero_parameters")
        found = {
            str(constraint): self._relative(constraint, num_trainable)
            for constraint in self.all
            if constraint.metric in sizes and constraint.is_upper
        }
        return {text: value for text, value in found.items() if value > 0}

    def _violation(self, constraint: Constraint, result: TrialResult, pretrained: TrialResult | None) -> float:
        if constraint.metric.startswith(LOSS):
            assert pretrained is not None
            value = self._worst_loss(constraint.metric.removeprefix(LOSS), result, pretrained)
        else:
            value = getattr(result, FIELDS.get(constraint.metric, constraint.metric))
        return UNKNOWN if value is None else self._relative(constraint, value)

    def _relative(self, constraint: Constraint, value: float) -> float:
        bound = constraint.bound * (self.base_parameters / 100 if constraint.is_percent else 1)
        over = value - bound if constraint.is_upper else bound - value
        return float(over / (abs(bound) or 1.0))

    def _worst_loss(self, name: str, result: TrialResult, pretrained: TrialResult) -> float | None:
        """Returns the most spBLEU that a direction between languages of a class loses; "all" is every direction.

        None where no such direction was scored.
        """
        if result.direction_spbleu is None or pretrained.direction_spbleu is None:
            return None
        before = dict(pretrained.direction_spbleu)
        languages = None if name == "all" else set(self.classes[name])
        losses = [
            before[direction] - spbleu
            for direction, spbleu in result.direction_spbleu
            if direction in before and (languages is None or languages.issuperset(direction.split("-")))
        ]
        return max(losses, default=None)
