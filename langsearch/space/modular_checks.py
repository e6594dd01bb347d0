"""What must hold of `trainer.modular`, where each language's adapters learn alone, and what it means, in words."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from langsearch.space.data_checks import has_direction
from langsearch.space.document import KeyPath, show
from langsearch.space.kinds import site_kind
from langsearch.space.language_section import LanguagesSection
from langsearch.space.loss_settings import OWN_BEST
from langsearch.space.problems import near_names
from langsearch.space.rules import STACKS, stack_rules
from langsearch.space.run_sections import DataSection
from langsearch.space.sections import ArchitectureSection, SearchTrainerSection
from langsearch.space.settings import TrainerSettings
from langsearch.space.values import extremes, options


class Pair(Protocol):
    """A direction."""

    @property
    def src(self) -> str:
        """The source language."""

    @property
    def tgt(self) -> str:
        """The target language."""


_PATH: KeyPath = ("trainer", "modular")
_ALONE = "where trainer.modular trains each language's adapters alone"


def check_modular(
    trainer: SearchTrainerSection,
    languages: LanguagesSection | None,
    data: DataSection | None,
    architecture: ArchitectureSection | None,
) -> Iterator[tuple[KeyPath, str]]:
    """Yields the problems of training each language's adapters alone."""
    assert trainer.modular is not None
    bridges = [str(bridge) for bridge in options(trainer.modular.bridge) if bridge is not None]
    if not bridges:
        yield (*_PATH, "bridge"), "must name a language, but is none. Leave `modular` out."
    kinds = {site_kind(str(word)) for word in options(architecture.adapter)} if architecture is not None else set()
    if trainer.modular.merge_ratio is not None and architecture is not None and "two_sided" not in kinds:
        yield (
            (*_PATH, "merge_ratio"),
            "must be left out: a site is indexed by the source or by the target, so that no matrix gets the sum of "
            "both, and nothing is weighed. With `adapter: two_sided` a site has both.",
        )
    yield from _check_trainer(trainer)
    if languages is not None:
        yield from _check_bridges(bridges, languages, data)
    if architecture is not None:
        yield from _check_adapters(architecture, bridges)


def _check_trainer(trainer: SearchTrainerSection) -> Iterator[tuple[KeyPath, str]]:
    if trainer.two_stage is not None:
        yield ("trainer", "two_stage"), f"must be left out {_ALONE}: there is nobody to learn before."
    if trainer.back_translation is not None:
        text = f"must be left out {_ALONE}: its pairs have the bridge on one side, back-translation's have not."
        yield ("trainer", "back_translation"), text
    if trainer.encode_once:
        yield ("trainer", "encode_once"), f"touches nothing {_ALONE}: an update has one target. Leave it out."
    loss: KeyPath = ("trainer", "loss")
    if trainer.loss.language_adversary is not None:
        yield (*loss, "language_adversary"), f"must be left out {_ALONE}: an update has one language to tell."
    if trainer.loss.distill is not None and OWN_BEST in options(trainer.loss.distill.teacher):
        text = f"must not be {OWN_BEST} {_ALONE}: which epoch is best is a matter of all languages."
        yield (*loss, "distill", "teacher"), text


def _check_bridges(
    bridges: list[str], languages: LanguagesSection, data: DataSection | None
) -> Iterator[tuple[KeyPath, str]]:
    known = [language for members in languages.classes.values() for language in members]
    for bridge in bridges:
        if bridge not in known:
            hint = near_names(bridge, known)
            yield (*_PATH, "bridge"), f"must be one of the languages, but {show(bridge)} is none.{hint}"
        elif idle := [one for one in known if one != bridge and not has_direction(data, {one, bridge})]:
            text = f"must have a direction with every language, but {bridge} has none with {', '.join(idle)}."
            yield (*_PATH, "bridge"), f"{text} What these have would never be trained."
    if languages.likes:
        text = f"cannot train languages that the base has no token for, but got {', '.join(languages.likes)}: a token "
        yield _PATH, f"{text}is of both sides, and adapters learn by one."


def _check_adapters(section: ArchitectureSection, bridges: list[str]) -> Iterator[tuple[KeyPath, str]]:
    path: KeyPath = ("architecture",)
    if set(options(section.sharing)) != {"language"}:
        shown = ", ".join(map(str, options(section.sharing)))
        yield (*path, "sharing"), f"must be language {_ALONE}, but can be {shown}."
    if extremes(section.shared_rank)[1] > 0:
        yield (*path, "shared_rank"), f"must be left out {_ALONE}: a pair of all languages belongs to none."
    if any(site_kind(str(word)) == "gated" for word in options(section.adapter)):
        yield (*path, "adapter"), f"must not be gated {_ALONE}: gates have one budget for all languages."
    if section.pruning is not None and "layer" in options(section.pruning.scope):
        yield (*path, "pruning", "scope"), f"must be language {_ALONE}, since scope layer ranks languages together."
    if section.encoder_znorm is not None and section.encoder_znorm.pivot is None:
        text = f"must be a language {_ALONE}, such as the bridge, since the mean is over all of them."
        yield (*path, "encoder_znorm", "pivot"), text
    encoder, decoder = (stack_rules(section, stack) for stack in STACKS)
    for rule in [*encoder, *decoder[1:]]:
        for entry in rule.entries():
            if entry.keys[:1] == ("languages",) and entry.keys[1] in bridges and extremes(entry.value)[1] > 0:
                text = "must be left out, since the bridge of trainer.modular has no adapters."
                yield (*rule.path, "rank", *entry.keys), text


def modular_lines(trainer: SearchTrainerSection, directions: Sequence[Pair]) -> Iterator[str]:
    """Yields how trials are trained, in words, for each bridge that a space may have.

    Args:
        trainer: The space's `trainer`.
        directions: All that are scored.
    """
    if trainer.modular is None:
        return
    merge, tried = trainer.modular.merge_ratio, ""
    if merge is not None:
        tried = f"; {len(merge.src) * len(merge.tgt)} merge ratios are tried on validation after the last epoch"
    for bridge in options(trainer.modular.bridge):
        if bridge is not None:
            num_trained = sum(bridge in (direction.src, direction.tgt) for direction in directions)
            yield (
                f"each language's adapters alone, in {num_trained} of {len(directions)} directions, into and out of "
                f"{bridge}, which has none; tokens_per_batch and pairs_per_epoch are of one direction{tried}"
            )


def alone_words(trainer: TrainerSettings) -> str:
    """Returns a sentence for a card on what was trained alone, with a space before it; nothing where nothing was."""
    if trainer.modular_bridge is None:
        return ""
    return (
        f" Each language's adapters learned alone, on pairs with {trainer.modular_bridge}, which has none; in other "
        "directions those of the source and of the target are joined without training."
    )
