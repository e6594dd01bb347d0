"""The section `data.filter`: each rule is on by `true`, which stands for the limit that `check` has, or by a limit."""

from typing import Annotated

from pydantic import PlainValidator

from langsearch.space.data_filter import LOOKED_FOR, DataFilter
from langsearch.space.document import show
from langsearch.space.sections import Section


def _limit(default: float | None, low: float, high: float | None = None) -> PlainValidator:
    """Returns the validator of a limit: true, false, or a number from low to high."""
    upper = "" if high is None else f" to {high:g}"
    rule = f"must be true, false or a number from {low:g}{upper}"

    def parse(raw: object) -> float | None:
        if isinstance(raw, bool):
            return default if raw else None
        if not isinstance(raw, int | float) or not low <= raw or (high is not None and raw > high):
            raise ValueError(f"{rule}, but got {show(raw)}")
        return float(raw)

    return PlainValidator(parse)


class FilterSection(Section):
    """`data.filter`: what is not trained on; see `DataFilter`."""

    copies: bool = False
    script: Annotated[float | None, _limit(LOOKED_FOR.script, 0, 1)] = None
    unknown: Annotated[float | None, _limit(LOOKED_FOR.unknown, 0, 1)] = None
    lengths: Annotated[float | None, _limit(LOOKED_FOR.lengths, 1)] = None
    overlap: bool = False

    def settings(self) -> DataFilter:
        """Returns the plain settings."""
        return DataFilter(
            copies=self.copies,
            script=self.script,
            unknown=self.unknown,
            lengths=self.lengths,
            overlap=self.overlap,
        )
