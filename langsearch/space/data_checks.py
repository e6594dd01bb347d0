"""What must hold between the keys of `data`, and between them and the languages."""

from collections.abc import Iterator, Mapping
from pathlib import PurePath

from langsearch.space.cut_recipe import cut_recipe
from langsearch.space.document import KeyPath, show
from langsearch.space.languages import find_language
from langsearch.space.problems import InputError, near_names
from langsearch.space.run_sections import SOURCE_KINDS, DataSection, SourceSection
from langsearch.space.settings import SourceKind

Problem = tuple[KeyPath, str]
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
        problems += _check_directions(section, [language for members in classes.values() for language in members])
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
            recipe = (
                cut_recipe([_to_cut(one) for one in section.train if len(one.kinds) == 1]) if path[1] == "test" else ""
            )
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


def _to_cut(source: SourceSection) -> tuple[SourceKind, str, bool]:
    (kind,) = source.kinds
    value = getattr(source, kind)
    path = value[0] if isinstance(value, list) else ""
    return kind, path, kind == "tsv" and source.header is None


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


def _check_directions(section: DataSection, languages: list[str]) -> Iterator[Problem]:
    path: KeyPath = ("data", "directions")
    if section.directions == "all":
        return
    if section.directions == "english":
        if not any(is_english(language) for language in languages):
            yield path, "needs English among the languages, but it is not there. Add en, or write all."
        return
    used, is_wrong = set(), False
    for index, direction in enumerate(section.directions):
        src, _, tgt = direction.partition("-")
        unknown = [language for language in (src, tgt) if language not in languages]
        used |= {src, tgt}
        if unknown or src == tgt:
            is_wrong = True
            hint = near_names(unknown[0], languages) if unknown else ""
            yield (*path, index), f"must read SRC-TGT with two of the languages, but got {show(direction)}.{hint}"
    unused = [language for language in languages if language not in used]
    if unused and not is_wrong:
        yield path, f"must use every language, but none has {', '.join(unused)}. Add one, or drop the language."


def _check_flores_languages(classes: Mapping[str, list[str]]) -> Iterator[Problem]:
    for name, members in classes.items():
        for index, language in enumerate(members):
            try:
                find_language(language)
            except InputError as e:
                yield ("languages", name, index), e.problems[0].removeprefix("A language ")


def is_english(language: str) -> bool:
    """Returns whether a code of any family means English."""
    try:
        return find_language(language).flores101 == "eng"
    except InputError:
        return False
