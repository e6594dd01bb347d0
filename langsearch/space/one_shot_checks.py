"""What must hold between `search.strategy: one_shot` and the rest of a space."""

from collections.abc import Iterator, Mapping

from langsearch.space.cut_names import is_cut_away
from langsearch.space.dimensions import search_dimensions
from langsearch.space.document import KeyPath
from langsearch.space.kinds import NOT_CUT, site_kind
from langsearch.space.language_section import LanguagesSection, Problem
from langsearch.space.search_sections import SearchSection
from langsearch.space.sections import ArchitectureSection, SearchTrainerSection
from langsearch.space.values import options

_UNKNOWN_TO_CUTS = ("train_seconds", "peak_memory")
"""What only a training has."""


def check_one_shot(
    search: SearchSection,
    architecture: ArchitectureSection | None,
    trainer: SearchTrainerSection | None,
    languages: LanguagesSection | None,
) -> Iterator[Problem]:
    """Yields the problems of a search's strategy. A section that is wrong by itself is None."""
    path: KeyPath = ("search", "one_shot")
    if search.strategy != "one_shot":
        for name in ("donors", "one_shot"):
            if name in search.model_fields_set:
                yield ("search", name), "means something with strategy: one_shot alone. Add that, or leave this out."
        return
    if search.one_shot.sample > search.one_shot.cuts:
        text = f"must be at most the {search.one_shot.cuts} cuts that they are taken from"
        yield (*path, "sample"), f"{text}, but got {search.one_shot.sample}"
    metrics: Mapping[str, KeyPath] = {
        **{constraint.metric: ("search", "constraints", i) for i, constraint in enumerate(search.constraints)},
        **{name: ("search", "objectives", name) for name in search.objectives},
    }
    for name in _UNKNOWN_TO_CUTS:
        if name in metrics:
            yield metrics[name], f"must be known without training, as strategy: one_shot scores cuts; {name} is not."
    if languages is not None and languages.likes:
        new = ", ".join(languages.likes)
        yield ("search", "strategy"), f"one_shot cuts no rows of languages new to the base, but there are {new}."
    if trainer is not None and trainer.back_translation is not None:
        yield ("trainer", "back_translation"), "cannot be used with strategy: one_shot, whose updates train parts."
    if trainer is not None and trainer.modular is not None:
        yield ("trainer", "modular"), "cannot be used with strategy: one_shot: its adapters are trained one by one."
    if architecture is None:
        return
    yield from _check_kinds(architecture)
    if (num := len(options(architecture.adapter))) > search.donors:
        text = f"must be at least {num}, a wide training for each kind that `architecture.adapter` can be"
        yield ("search", "donors"), f"{text}, but got {search.donors}"
    if trainer is not None:
        found = search_dimensions(architecture, trainer)
        if not any(is_cut_away(architecture, name) for name in found):
            yield ("search", "strategy"), "one_shot must have ranks, layers or modules to cut, but none is searched."


def _check_kinds(architecture: ArchitectureSection) -> Iterator[Problem]:
    """Yields what a cut could not be made of."""
    for word in map(str, options(architecture.adapter)):
        if (why := NOT_CUT.get(str(site_kind(word)))) is not None:
            yield ("architecture", "adapter"), f"cannot be {word} with strategy: one_shot: {why}."
    if "pool" in options(architecture.sharing):
        yield ("architecture", "sharing"), f"cannot be pool with strategy: one_shot: {NOT_CUT['pool']}."
    if architecture.pruning is not None:
        yield (
            ("architecture", "pruning"),
            "must be left out with strategy: one_shot: pruning goes by the epochs that a cut does not have. Pruned at "
            "once it would be another model, and trained on for a few epochs it would never be pruned.",
        )
