"""A trainer's settings as a space writes them: what `dimensions.trainer_settings` reads, the other way round."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from langsearch.space.sections import TrainerSection
from langsearch.space.settings import TrainerSettings

_WORDS = {"pairs_per_epoch": "all", "tokens_per_batch": "auto", "init_from": "none"}
"""How a space writes settings that are None."""


def trainer_document(settings: TrainerSettings, classes: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Returns the section `trainer` that has these settings.

    Args:
        settings: Of a trial.
        classes: The languages of each class; stages are named by them.
    """
    values = asdict(settings)
    found: dict[str, Any] = {
        name: _WORDS.get(name) if values[name] is None else values[name] for name in TrainerSection.model_fields
    }
    if loss := settings.loss.written():
        found["loss"] = loss
    if settings.first_stage:
        first = [name for name, members in classes.items() if members and set(members) <= set(settings.first_stage)]
        found["two_stage"] = {
            "first": first,
            "share": settings.first_share,
            "freeze_first": settings.freeze_first,
        }
    if settings.modular_bridge is not None:
        found["modular"] = {"bridge": settings.modular_bridge}
        if settings.merge_src or settings.merge_tgt:
            ratios = {"src": list(settings.merge_src or (1.0,)), "tgt": list(settings.merge_tgt or (1.0,))}
            found["modular"]["merge_ratio"] = ratios
    if settings.back_translation_every:
        found["back_translation"] = {
            "every": settings.back_translation_every,
            "from_epoch": settings.back_translation_from_epoch,
        }
        if settings.back_translation_pivots:
            found["back_translation"]["languages"] = list(settings.back_translation_pivots)
    return found
