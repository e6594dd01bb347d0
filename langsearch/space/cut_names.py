"""Which dimensions of a space a cut of a wide training can change, and which of the others a kind reads."""

import re
from collections.abc import Mapping
from typing import Any

from langsearch.space.kinds import BESIDE, site_kind
from langsearch.space.rules import stack_section
from langsearch.space.sections import ArchitectureSection
from langsearch.space.values import pick

_CUT_AWAY = re.compile(
    r"(?:rank|shared_rank|layer_norm\.stacks|(encoder|decoder)\.(?:overrides\.(\d+)\.)?(?:rank|layers|modules))(?:\.|$)"
)
_OF_SIDES = re.compile(r"(encoder|decoder)\.(?:sides(?:\.|$)|source_layers$|overrides\.(\d+)\.)")
_OF_SITES = ("init", "scaling", "alpha", "ffn_slice")


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


def is_idle(section: ArchitectureSection, name: str, point: Mapping[str, Any]) -> bool:
    """Returns whether a dimension means nothing to the kind and the sharing that a point has.

    Points that differ in such dimensions alone are one architecture, and need one wide training.

    Args:
        section: The space's `architecture`.
        name: The dimension, none that a cut can change.
        point: The values of all dimensions that a cut cannot change.
    """
    word, sharing = (str(pick(getattr(section, key), key, point)) for key in ("adapter", "sharing"))
    kind, head = site_kind(word), name.partition(".")[0]
    if head in BESIDE:
        return head not in word.split("+") or (name == "layer_norm.side" and sharing == "all")
    if head == "gate":
        return kind != "gated"
    if name in _OF_SITES and kind is None:
        return True
    if name == "alpha":
        return bool(pick(section.scaling, "scaling", point) == "none")
    found = _OF_SIDES.match(name)
    has_one_side = kind in (None, "two_sided") or (sharing == "all" and not _has_ranks_by_side(section))
    if found is None or not has_one_side:
        return False
    stack, override = found.groups()
    return override is None or kind is None or stack_section(section, stack).overrides[int(override)].rank is None  # type: ignore[arg-type]


def _has_ranks_by_side(section: ArchitectureSection) -> bool:
    stacks = section.encoder, section.decoder
    ranks = [section.rank, *(stack.rank for stack in stacks)]
    ranks += [override.rank for stack in stacks for override in stack.overrides]
    return any(rank.is_by_side for rank in ranks if rank is not None)
