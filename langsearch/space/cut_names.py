"""Which dimensions of a space a cut of a wide training can change."""

import re

from langsearch.space.rules import stack_section
from langsearch.space.sections import ArchitectureSection

_CUT_AWAY = re.compile(r"(?:rank|(encoder|decoder)\.(?:overrides\.(\d+)\.)?(?:rank|layers|modules))(?:\.|$)")


def is_cut_away(section: ArchitectureSection, name: str) -> bool:
    """Returns whether a cut can change a dimension."""
    found = _CUT_AWAY.match(name)
    if found is None:
        return False
    stack, override = found.groups()
    if override is None:
        return True
    item = stack_section(section, stack).overrides[int(override)]  # type: ignore[arg-type]
    return item.side is None
