"""`langsearch extend`: languages added to adapters that are there, which stay as they are.

As completely modular fine-tuning adds languages (Cao et al., Findings of EACL 2026): the new language's adapters are
trained on pairs with languages that the adapters know, whose own stay to the bit. What comes out are the old adapters'
files, and the new language's beside them.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from langsearch.adapters.export_folder import FORMAT_FILE, export_folder
from langsearch.adapters.peft_export import ExportedAdapters, read_export
from langsearch.adapters.peft_limits import adapter_slots, is_plain
from langsearch.adapters.protocol import TOKENS_NAME, adapter_name
from langsearch.space.architecture import Architecture, Site, SiteAdapters
from langsearch.space.dimensions import trainer_settings
from langsearch.space.problems import InputError, near_names
from langsearch.space.schema import Space
from langsearch.space.settings import TrainerSettings


@dataclass(frozen=True)
class Extension:
    """What is trained to add languages."""

    start: ExportedAdapters
    new: tuple[str, ...]
    architecture: Architecture
    """Of the space's languages: those that are known as they are, the new ones as the language that they are like."""

    trainer: TrainerSettings


def plan_extension(start: Path, space: Space, like: str, languages: Sequence[str] = ()) -> Extension:
    """Returns what is to be trained.

    Args:
        start: Exported adapters.
        space: Pairs of the new languages with known ones, and how to train; what its `architecture` says is not read.
        like: The language of the adapters whose ranks and places a new one gets.
        languages: The new languages. Empty: those of the space that the adapters do not have.

    Raises:
        InputError: If the adapters cannot be extended, or the space does not fit them.
    """
    exported = read_export(start)
    old, problems = exported.architecture, []
    if not is_plain(old):
        problems.append(f"Adapters that are extended must be of LoRA alone, but {start} has {old.word}.")
    if exported.source.id != space.base_source.id:
        problems.append(
            f"The space's base must be that of the adapters, {exported.source.id}, but is {space.base_source.id}."
        )
    new = tuple(language for language in space.languages if language not in exported.languages)
    known = [language for language in space.languages if language in exported.languages]
    for language in languages:
        if language not in new:
            where = "the adapters have it already" if language in exported.languages else "the space has no such one"
            problems.append(f"A new language must be one of the space's, but of {language} {where}.")
    if languages and (others := sorted(set(new) - set(languages))):
        problems.append(f"The space's languages must be known or named, but {', '.join(others)} are neither.")
    if not new:
        problems.append(f"The space must have a language that {start} does not have, but has only {', '.join(known)}.")
    if not known:
        problems.append(f"The space must pair a new language with one of {', '.join(exported.languages)}.")
    if like not in exported.languages:
        hint = near_names(like, exported.languages)
        problems.append(f"--like must be a language of the adapters, but {like!r} is none.{hint}")
    if space.new_languages and old.new_languages:
        problems.append("Adapters that have tokens of new languages cannot get further ones: train all of them anew.")
    if searched := sorted(name for name in space.dimensions() if name.startswith("trainer.")):
        problems.append(f"Training needs fixed settings, but {', '.join(searched)} is searched. Fix it with --set.")
    problems += _modular_problems(exported, space, like)
    if problems:
        raise InputError(problems)
    extended = _with_languages(old, new, lambda site, _: old.rank(site, like), space.new_languages.items())
    kept = {slot for _, slot in old.slots} - {slot for _, slot in extended.slots}
    if used := sorted(kept & {slot for _, slot in adapter_slots(old)}):
        raise InputError(
            f"Adapters that all languages share cannot be extended, but {start} has {', '.join(used)}: it would be "
            "another's name. Train with all languages, or share by class or language."
        )
    trainer = trainer_settings(space.trainer_section, {}, space.classes)
    # A bridge has nothing to start from.
    has_known = not _with_adapters(old).isdisjoint(known)
    trainer = replace(trainer, init_from=str(start.resolve()) if has_known else None, train_only=new)
    return Extension(exported, new, _restricted(extended, space), trainer)


def _modular_problems(start: ExportedAdapters, space: Space, like: str) -> Iterator[str]:
    """Yields why a new language cannot be trained alone, with a bridge that the adapters leave as the base has it."""
    modular = space.trainer_section.modular
    if modular is None or not isinstance(modular.bridge, str):
        return
    if modular.bridge in _with_adapters(start.architecture):
        yield (
            f"`trainer.modular.bridge` must be a language without adapters, but {modular.bridge} has some in "
            f"{start.folder}. Leave `trainer.modular` out."
        )
    elif modular.bridge not in start.architecture.languages:
        yield f"`trainer.modular.bridge` must be a language of the adapters, but {modular.bridge} is none."
    if like == modular.bridge:
        yield f"--like must be a language with adapters, but {like} is the bridge, which has none."


def _with_adapters(architecture: Architecture) -> set[str]:
    """Returns the languages that have adapters of their own or share some."""
    found = {slot for _, slot in adapter_slots(architecture)}
    return {language for language, slot in architecture.slots if slot in found}


def write_extended(extension: Extension, trained: Path, target: Path) -> list[str]:
    """Writes the old adapters, file by file, and the new languages' beside them; returns the names of the new ones.

    Args:
        extension: What was trained.
        trained: Its exported adapters.
        target: The folder to write; replaced if it is an earlier export.

    Raises:
        InputError: If the folder is there and is no export.
    """
    start, found = extension.start, read_export(trained)
    slots = dict(found.architecture.slots)
    mine = {slots[language] for language in extension.new}
    names = sorted(adapter_name(side, slot) for side, slot in adapter_slots(found.architecture) if slot in mine)
    names += [TOKENS_NAME] if (trained / TOKENS_NAME).is_dir() and not (start.folder / TOKENS_NAME).is_dir() else []
    about: dict[str, Any] = json.loads((start.folder / FORMAT_FILE).read_text(encoding="utf-8"))
    about["languages"] = [*start.languages, *extension.new]
    rows = [item for item in found.architecture.new_languages if item[0] in extension.new]
    about["architecture"] = _with_languages(start.architecture, extension.new, found.architecture.rank, rows).to_dict()
    if start.directions:
        about["directions"] = [*start.directions, *found.directions]
    with export_folder(target) as aside:
        for path in start.folder.iterdir():
            if path.is_dir():
                shutil.copytree(path, aside / path.name)
        for name in names:
            shutil.copytree(trained / name, aside / name)
        (aside / FORMAT_FILE).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (aside / "README.md").write_text(_card(start, extension.new, names), encoding="utf-8")
    return names


def _with_languages(
    old: Architecture,
    new: Sequence[str],
    rank: Callable[[Site, str], int],
    new_languages: Iterable[tuple[str, str]],
) -> Architecture:
    """Returns an architecture with further languages, each with a slot of its own.

    Args:
        old: The architecture.
        new: The languages.
        rank: The rank of each at a site.
        new_languages: Those of them that are new to the base, and the languages that they are like.
    """
    adapters = tuple(
        replace(entry, ranks=(*entry.ranks, *((language, rank(entry.site, language)) for language in new)))
        for entry in old.adapters
    )
    return replace(
        old,
        slots=(*old.slots, *((language, language) for language in new)),
        adapters=adapters,
        new_languages=(*old.new_languages, *new_languages),
        pruning=None,
    )


def _restricted(architecture: Architecture, space: Space) -> Architecture:
    """Returns an architecture of a space's languages alone, each with a slot of its own."""
    slots = dict(architecture.slots)
    adapters = tuple(
        SiteAdapters(
            entry.site,
            entry.side,
            tuple((language, dict(entry.ranks).get(slots[language], 0)) for language in space.languages),
        )
        for entry in architecture.adapters
    )
    return replace(
        architecture,
        slots=tuple((language, language) for language in space.languages),
        adapters=adapters,
        new_languages=tuple(space.new_languages.items()),
    )


def _card(start: ExportedAdapters, new: Sequence[str], names: Sequence[str]) -> str:
    path = start.folder / "README.md"
    card = path.read_text(encoding="utf-8") if path.exists() else f"# Adapters for {start.base}\n"
    added = f"{', '.join(new)} ({', '.join(names)})"
    return (
        f"{card.rstrip()}\n\n## Added languages\n\n{added}; all other adapters are, file by file, those from before.\n"
    )
