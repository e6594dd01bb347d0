"""What must hold between the keys of `data`, and between them and the languages."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePath

from langsearch.space.cut_recipe import cut_recipe, cut_recipe_of
from langsearch.space.document import KeyPath, show
from langsearch.space.languages import find_language, is_english, scripts_of
from langsearch.space.problems import InputError, did_you_mean, near_names
from langsearch.space.run_sections import SOURCE_KINDS, DataSection, SourceSection
from langsearch.space.settings import SourceKind

Problem = tuple[KeyPath, str]
_MAX_NAMED = 4
_FLORES = ("flores101", "flores200")
_OWNERS: Mapping[str, tuple[SourceKind, ...]] = {
    "split": ("datasets",),
    "columns": ("moses", "tsv", "jsonl", "parquet", "datasets", "tmx"),
    "header": ("tsv",),
    "quotes": ("tsv",),
}
"""The kinds that a key belongs to."""


def check_data(section: DataSection, classes: Mapping[str, list[str]] | None) -> list[Problem]:
    """Returns the problems of the data section.

    Args:
        section: The section, right by itself.
        classes: The languages of each class; None where they are wrong by themselves.
    """
    sources = list(_sources(section))
    problems = [problem for path, source in sources for problem in _check_source(source, path, section)]
    holdouts = [source for source in section.validation if source.holdout is not None]
    if holdouts and len(section.validation) > 1:
        problems.append((("data", "validation"), "must be {holdout: N} alone or sources, but names both."))
    is_flores = any(kind in _FLORES for _, source in sources for kind in source.kinds)
    has_heir = any(source.folder is None for _, source in sources if set(source.kinds) & set(_FLORES))
    if section.folder is not None and not has_heir:
        text = "reaches no source: it is for FLORES sources without a folder of their own."
        problems.append((("data", "folder"), text))
    if classes is not None:
        members = [language for found in classes.values() for language in found]
        problems += [problem for path, source in sources for problem in _check_columns(source, path, members)]
        problems += _check_directions(section, classes)
    if classes is not None and is_flores:
        problems += _check_flores_languages(classes)
    return problems


def _sources(section: DataSection) -> Iterator[tuple[KeyPath, SourceSection]]:
    for part in ("train", "validation", "test"):
        sources: list[SourceSection] = getattr(section, part)
        for index, source in enumerate(sources):
            # A source that stands alone, not in a list, has no index in the document: the nearest line serves.
            yield (("data", part, index) if len(sources) > 1 else ("data", part)), source


def _check_source(source: SourceSection, path: KeyPath, section: DataSection) -> Iterator[Problem]:
    kinds, folder = source.kinds, section.folder
    if source.holdout is not None:
        if path[1] != "validation":
            recipe = cut_recipe_of([one.model_dump() for one in section.train]) if path[1] == "test" else ""
            yield (
                (*path, "holdout"),
                (
                    "belongs to data.validation: it holds rows of train back for selection. A test part has files of "
                    f"its own: cut rows off for it first.{recipe}"
                ),
            )
        if not source.model_fields_set <= {"holdout", "rows"}:
            yield path, f"must be {{holdout: N}} alone or a source, but names {sorted(source.model_fields_set)}"
        return
    if source.rows is not None:
        yield (*path, "rows"), "belongs to {holdout: N}: it says which rows of train are held out."
    if len(kinds) != 1:
        yield path, f"must name one of {', '.join(SOURCE_KINDS)}, but got {kinds or 'none'}"
        return
    is_flores, is_embedded = kinds[0] in _FLORES, kinds[0] == "embedded"
    if is_flores and source.folder is None and folder is None:
        yield path, "needs a folder: write {flores101: dev, folder: data/flores101}, or data.folder for all."
    if not is_flores and source.folder is not None:
        yield (*path, "folder"), f"belongs to flores101 and flores200, but got {kinds[0]}"
    if is_embedded and source.part is None:
        yield path, "needs a part: train, validation or test."
    if not is_embedded and source.part is not None:
        yield (*path, "part"), f"belongs to embedded, but got {kinds[0]}"
    for key, owners in _OWNERS.items():
        if getattr(source, key) is not None and kinds[0] not in owners:
            yield (*path, key), f"belongs to {', '.join(owners)}, but got {kinds[0]}"
    if source.weight != 1 and path[1] != "train":
        yield (*path, "weight"), f"belongs to data.train, of which rows are drawn, but got data.{path[1]}"


def _check_columns(source: SourceSection, path: KeyPath, languages: list[str]) -> Iterator[Problem]:
    for language in source.columns or {}:
        if language not in languages:
            hint = near_names(language, languages)
            yield (*path, "columns", language), f"must be a language of the space, but got {show(language)}.{hint}"


def check_shared_sources(section: DataSection) -> Iterator[Problem]:
    """Finds a source that stands in two parts: selection and training must not see what tests.

    Its files can be read nonetheless, and may have problems of their own.

    What stands in two files is found by its sentences: `data.overlap`.

    Args:
        section: The section, which must have passed `check_data`.
    """
    if section.allow_overlap:
        return
    data = section.settings()
    seen: dict[tuple[SourceKind, PurePath, str | None], str] = {}
    for part, sources in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        for source, path in ((one, path) for one in sources for path in one.paths or ("",)):
            key = source.kind, PurePath(path), source.split
            if source.kind in _FLORES:  # both hold the same sentences, wherever they lie
                key = "flores101", PurePath(), source.split
            if seen.get(key, part) != part:
                text = f"must not share a source with data.{seen[key]}, but both read {source}."
                way_out = "Hold rows out, use another split, or go on by data.allow_overlap: true."
                if part == "test":  # for which no rows of train can be held out
                    way_out = (
                        "Cut rows off into a file of its own, use another split, or go on by data.allow_overlap: true."
                        f"{cut_recipe([(source.kind, str(path), source.kind == 'tsv' and not source.header)])}"
                    )
                yield ("data", part), f"{text} {way_out}"
            seen.setdefault(key, part)


def _check_directions(section: DataSection, classes: Mapping[str, list[str]]) -> Iterator[Problem]:
    path: KeyPath = ("data", "directions")
    languages = [language for members in classes.values() for language in members]
    if section.directions == "all":
        return
    if section.directions == "english":
        if not any(is_english(language) for language in languages):
            yield path, "needs English among the languages, but it is not there. Add en, or write all."
        return
    parsed = {direction: direction.partition("-")[::2] for direction in section.directions}
    whole = {direction: pair for direction, pair in parsed.items() if all(pair)}
    used = {language for pair in parsed.values() for language in pair}
    unknown = sorted({code for pair in whole.values() for code in pair if code not in languages})
    unused = [language for language in languages if language not in used]
    # A code of no table, which no direction has, is what is wrong: it is no name to propose for the others.
    typed = [language for language in unused if unknown and not _is_known(language)]
    for name, members in classes.items():
        for index, language in enumerate(members):
            if language in typed:
                yield (
                    ("languages", name, index),
                    f"must be a code that `data.directions` has, but no direction has {show(language)}, and no table "
                    f"of languages.{did_you_mean(language, unknown)}",
                )
    right = [language for language in languages if language not in typed]
    is_typo = any(did_you_mean(language, [code]) for code in unknown for language in typed)
    is_wrong = False
    for code in unknown:
        is_wrong = True
        if is_typo and _is_known(code):
            continue  # told of the languages
        listed = [direction for direction, pair in whole.items() if code in pair]
        more = f" and {len(listed) - _MAX_NAMED:,} more" if len(listed) > _MAX_NAMED else ""
        first = section.directions.index(listed[0])
        yield (
            (*path, first),
            f"must read SRC-TGT with two of the languages, but {show(code)} is none of them, in "
            f"{', '.join(listed[:_MAX_NAMED])}{more}.{near_names(code, right)}",
        )
    for index, (direction, (src, tgt)) in enumerate(parsed.items()):
        if not src or not tgt or src == tgt:
            is_wrong = True
            yield (*path, index), f"must read SRC-TGT with two of the languages, but got {show(direction)}."
    if unused and not is_wrong:
        yield path, f"must use every language, but none has {', '.join(unused)}. Add one, or drop the language."


def _is_known(code: str) -> bool:
    """Returns whether a code is in the tables of languages."""
    try:
        find_language(code)
    except InputError:
        return bool(scripts_of(code))  # they have it, but in several scripts
    return True


def _check_flores_languages(classes: Mapping[str, list[str]]) -> Iterator[Problem]:
    for name, members in classes.items():
        for index, language in enumerate(members):
            try:
                find_language(language)
            except InputError as e:
                yield ("languages", name, index), e.problems[0].removeprefix("A language ")


def has_direction(data: DataSection | None, languages: Collection[str]) -> bool:
    """Returns whether a direction lies between some languages; without `data` all do."""
    if data is None or data.directions == "all":
        return len(languages) > 1
    if data.directions == "english":
        return len(languages) > 1 and any(is_english(language) for language in languages)
    return any(f"{src}-{tgt}" in data.directions for src in languages for tgt in languages)
