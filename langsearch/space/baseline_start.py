"""How a shared LoRA starts: as the adapters of its space do, so that both differ in what they share alone."""

from typing import Any

from langsearch.space.architecture import Init
from langsearch.space.sections import ArchitectureSection
from langsearch.space.values import Searched

SHARED_LORA = "shared_lora"


def start_of(section: ArchitectureSection) -> Init:
    """Returns how a space's adapters start; where that is searched, as they do by default."""
    init: Any = ArchitectureSection.model_fields["init"].default if isinstance(section.init, Searched) else section.init
    found: Init = init
    return found


def with_start(baselines: Any, init: Init) -> Any:
    """Returns the items of `baselines`, as the YAML has them, with the shared LoRA's start where it has none.

    Items that are wrong are left as they are: checks say so.
    """
    return [_started(item, init) for item in baselines] if isinstance(baselines, list) else baselines


def _started(item: Any, init: Init) -> Any:
    if item == SHARED_LORA:
        return {SHARED_LORA: {"init": init}}
    if not isinstance(item, dict) or set(item) != {SHARED_LORA}:
        return item
    options = item[SHARED_LORA]
    return {SHARED_LORA: {"init": init} | (options or {})} if isinstance(options, dict | None) else item
