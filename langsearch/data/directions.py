"""Translation directions: which there are, which a space asks for, and a fair sample of them."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from langsearch.space.languages import is_english
from langsearch.space.problems import InputError, near_names


@dataclass(frozen=True, order=True)
class Direction:
    """From a source to a target language; reads "en-fr"."""

    src: str
    tgt: str

    def __str__(self) -> str:
        return f"{self.src}-{self.tgt}"


def all_directions(languages: Sequence[str]) -> tuple[Direction, ...]:
    """Returns every ordered pair of two different languages, source by source."""
    return tuple(Direction(src, tgt) for src in languages for tgt in languages if src != tgt)


def parse_directions(spec: str | Sequence[str] | None, languages: Sequence[str]) -> tuple[Direction, ...]:
    """Returns the directions that a space names.

    Args:
        spec: "all" or None, "english" (those with English on one side), or names such as ["en-fr", "fr-en"].
        languages: The languages of the space. They may hold hyphens themselves.

    Raises:
        InputError: With all problems: a name that is no direction of these languages, is repeated, or goes from a
            language to itself; "english" without English; no direction at all.
    """
    if spec is None or spec == "all":
        return _not_empty(all_directions(languages))
    if spec == "english":
        english = [language for language in languages if is_english(language)]
        if not english:
            raise InputError(f"directions: english needs English, but the languages are {', '.join(languages)}")
        return _not_empty(tuple(d for d in all_directions(languages) if d.src in english or d.tgt in english))
    if isinstance(spec, str):
        raise InputError(f"directions must be all, english, or a list such as [en-fr, fr-en], but got {spec!r}")
    by_name = {str(direction): direction for direction in all_directions(languages)}
    problems = []
    for name, count in Counter(spec).items():
        if name in (f"{language}-{language}" for language in languages):
            problems.append(f"A direction must have two different languages, but got {name!r}")
        elif name not in by_name:
            near = near_names(name, by_name)
            problems.append(f"A direction must be SRC-TGT with languages of the space, but got {name!r}.{near}")
        if count > 1:
            problems.append(f"A direction must be named once, but got {name!r} {count} times")
    if problems:
        raise InputError(problems)
    return _not_empty(tuple(by_name[name] for name in spec))


def class_pair(direction: Direction, classes: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """Returns the classes of the source and of the target language.

    Args:
        direction: The direction.
        classes: The languages of each class.

    Raises:
        ValueError: If a language is in no class.
    """
    found = {language: name for name, members in classes.items() for language in members}
    if missing := [language for language in (direction.src, direction.tgt) if language not in found]:
        raise ValueError(f"A language must be in a class, but {', '.join(missing)} is in none of {', '.join(classes)}")
    return found[direction.src], found[direction.tgt]


def sample_directions(
    directions: Sequence[Direction], num: int | None, classes: Mapping[str, Sequence[str]], seed: int = 0
) -> tuple[Direction, ...]:
    """Returns a sample spread evenly over the class pairs, and inside a pair over the languages.

    Args:
        directions: What to choose from. Their order does not matter to the choice; the sample keeps it.
        num: How many, at least 1. None, or more than there are: all.
        classes: The languages of each class.
        seed: Same seed, same sample.

    Raises:
        ValueError: If `num` is below 1, or a language is in no class.
    """
    if num is None or num >= len(directions):
        return tuple(directions)
    if num < 1:
        raise ValueError(f"`num >= 1` must hold, but got {num}")
    rng = random.Random(seed)
    groups: dict[tuple[str, str], list[Direction]] = {}
    for direction in sorted(directions):
        groups.setdefault(class_pair(direction, classes), []).append(direction)
    for group in groups.values():
        rng.shuffle(group)
    order = sorted(groups)
    rng.shuffle(order)
    used: Counter[tuple[str, str]] = Counter()
    chosen: set[Direction] = set()
    while len(chosen) < num:
        for pair in order:
            if groups[pair] and len(chosen) < num:
                # min takes the first of equals, and the group is shuffled.
                best = min(groups[pair], key=lambda d: used["src", d.src] + used["tgt", d.tgt])
                groups[pair].remove(best)
                chosen.add(best)
                used.update([("src", best.src), ("tgt", best.tgt)])
    return tuple(direction for direction in directions if direction in chosen)


def _not_empty(directions: tuple[Direction, ...]) -> tuple[Direction, ...]:
    if not directions:
        raise InputError("There must be a direction or more, but two languages are needed for one")
    return directions
