"""What Tune delivers, read back as a trial's result."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from langsearch.search.trial import TrialResult

_NAMES = tuple(field.name for field in fields(TrialResult))
_REQUIRED = tuple(field.name for field in fields(TrialResult) if field.default is MISSING)


def parse_result(result: Mapping[str, Any]) -> TrialResult | None:
    """Returns the trial's result in what Tune delivers, None if there is none."""
    if not all(name in result for name in _REQUIRED):
        return None
    return TrialResult(**{name: result[name] for name in _NAMES if name in result})
