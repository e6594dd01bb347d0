"""One text file a language, of which line n is the same sentence: CODE.txt, Moses' PREFIX.CODE, FLORES."""

from array import array
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from langsearch.data.columns import ColumnFile, Columns, Located
from langsearch.data.compressed import ENDINGS, plain_name
from langsearch.data.lines import forms, read_column, sentence_problems
from langsearch.data.sentences import Sentences
from langsearch.space.languages import find_language, scripts_of
from langsearch.space.problems import InputError, near_names
from langsearch.space.settings import Source

_LABELLED = ("src", "trg", "id")
"""The endings of the Tatoeba Challenge: sources, targets, and for each line the languages of both."""


def open_folder(folder: Path, languages: Sequence[str], files: Sequence[str] = ()) -> ColumnFile:
    """Returns a folder with CODE.txt (or a plain CODE) for each language, or some of its files by name.

    Args:
        folder: The folder.
        languages: The space's codes, which need not be in the tables.
        files: The files to take instead of all CODE.txt; a dot-separated part of each name is its code.
    """
    endings = ", ".join(["CODE.txt", *(f"CODE.txt{ending}" for ending in ENDINGS)])
    present = list(files) or sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    aliases: dict[str, str] = {}
    if not files:
        for name in sorted(present, key=len):  # a plain file before a compressed one
            if plain_name(name).endswith(".txt"):
                aliases.setdefault(plain_name(name).removesuffix(".txt"), name)
        # NLLB-Seed and OLDI name their files by the code alone.
        for name in sorted(present, key=len):
            if "." not in plain_name(name) and _code_in(plain_name(name), languages):
                aliases.setdefault(plain_name(name), name)
    else:
        for name in present:
            if code := _code_in(plain_name(name), languages):
                if code in aliases:
                    raise InputError(
                        f"{folder}: each language must have one file, but {code} has {aliases[code]} and {name}. "
                        "List the files that are meant"
                    )
                aliases[code] = name
    if not aliases:
        raise InputError(f"{folder}: a file must be there for each language, as {endings}, but got {_listed(present)}")
    return _text_file(folder, dict(sorted(aliases.items())))


def open_bitext(prefix: Path, endings: Mapping[str, str], *, has_columns: bool = False) -> ColumnFile:
    """Returns a bitext as Moses and OPUS have it, PREFIX.en beside PREFIX.sw, or as the Tatoeba Challenge has it.

    Args:
        prefix: What the names of its files have in common.
        endings: The name of each file by what follows the prefix: {"en": "train.en-sw.en.gz"}.
        has_columns: Whether the space says which ending is which language, so that labels of lines do not count.

    Raises:
        InputError: If the files of the Tatoeba Challenge cannot be read, or have other lines than their labels.
    """
    if set(_LABELLED) <= set(endings) and not has_columns:
        return _labelled(prefix, endings)
    return _text_file(prefix.parent, dict(endings), str(prefix), by_ending=True)


def bitexts_in(folder: Path, names: Collection[str]) -> dict[str, dict[str, str]]:
    """Returns the files of a folder by prefix and ending, those prefixes only that have two endings or more."""
    found: dict[str, dict[str, str]] = {}
    for name in sorted(names, key=len):
        prefix, dot, ending = plain_name(name).rpartition(".")
        if dot and prefix and (folder / name).is_file():
            found.setdefault(prefix, {}).setdefault(ending, name)
    return {prefix: endings for prefix, endings in sorted(found.items()) if len(endings) > 1}


def locate_flores(source: Source, folder: Path, languages: Sequence[str]) -> tuple[Located, list[str]]:
    """Returns the file of each language in a folder of FLORES, and a problem for each language that has none."""
    present = sorted(entry.name for entry in folder.iterdir())
    by_plain_name = {plain_name(name): name for name in sorted(present, key=len, reverse=True)}
    located, problems = {}, []
    for language in languages:
        candidates = _flores_names(source, language)
        if name := next((name for name in candidates if name in by_plain_name), None):
            located[language] = by_plain_name[name]
        else:
            tried = ", ".join(candidates)
            scripts = scripts_of(language)
            near = near_names(Path(candidates[0]).stem, sorted({Path(name).stem for name in by_plain_name}))
            near = f" Its script must be said: {' or '.join(scripts)}" if scripts else near
            problems.append(f"{folder}: a file for {language} must exist, but none is named {tried}.{near}")
    return located, problems


def open_flores(folder: Path, located: Located) -> ColumnFile:
    """Returns the files of a folder of FLORES that `locate_flores` has found."""
    return _text_file(folder, {name: name for name in located.values()})


def _flores_names(source: Source, language: str) -> list[str]:
    """Returns the file names to try for a language: the official FLORES-101 and FLORES-200 layouts, then plain .txt."""
    try:
        info = find_language(language)
    except InputError:
        codes = [language]
    else:
        codes = list(dict.fromkeys([info.bare or info.flores200, info.flores200, language]))
        if source.kind == "flores200":
            codes[:2] = reversed(codes[:2])
    return [f"{code}.{ending}" for ending in (source.split, "txt") for code in codes]


def _code_in(name: str, languages: Sequence[str]) -> str | None:
    """Returns the last part of a name that is a language's code: eng of newstest2019-src.eng.txt."""
    for part in reversed(name.split(".")):
        if part in languages:
            return part
        try:
            find_language(part.replace("-", "_"))
        except InputError:
            continue
        return part
    return None


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:5], *(["…"] if len(names) > 5 else [])]) or "nothing"


def _text_file(folder: Path, aliases: Mapping[str, str], place: str = "", *, by_ending: bool = False) -> ColumnFile:
    """Returns files as columns: a bitext's by their endings, others by their names."""
    files = dict(aliases) if by_ending else {name: name for name in aliases.values()}

    def read(columns: Mapping[str, str]) -> Columns:
        return _read_files(folder, {language: files[name] for language, name in columns.items()})

    def place_of(name: str, row: int) -> str:
        return f"{folder / files[name]}:{row + 1}"

    names = tuple(aliases) if by_ending else tuple(aliases.values())
    notes = forms([folder / name for name in files.values()])
    shown = place or str(folder)
    return ColumnFile(shown, "a file", names, read, place_of, notes, None if by_ending else aliases)


def _labelled(prefix: Path, endings: Mapping[str, str]) -> ColumnFile:
    """Returns a bitext of the Tatoeba Challenge: its sides have no codes, but each line has those of both."""
    folder = prefix.parent
    numbers: dict[str, int] = {}
    sides = {"src": array("i"), "trg": array("i")}
    for number, line in enumerate(read_column(folder / endings["id"]), start=1):
        pair = (line or "").split("\t")[-2:]
        if len(pair) != 2 or not all(pair):
            rule = "a line must end with the languages of both sides"
            raise InputError(f"{folder / endings['id']}:{number}: {rule}, but got {pair!r}")
        for labels, name in zip(sides.values(), pair, strict=True):
            labels.append(numbers.setdefault(name, len(numbers)))
    num_rows = len(sides["src"])

    def read(columns: Mapping[str, str]) -> Columns:
        texts = _read_files(folder, {side: endings[side] for side in sides})
        if len(texts["src"]) != num_rows:
            raise InputError(
                f"{folder}: line n must be the same sentence in every file, but {endings['src']} has "
                f"{len(texts['src']):,} lines and {endings['id']} has {num_rows:,}"
            )
        found: Columns = {}
        for language, name in columns.items():
            is_there = {side: np.asarray(labels) == numbers[name] for side, labels in sides.items()}
            src, tgt = (Sentences.of(texts[side]).without(np.flatnonzero(~rows)) for side, rows in is_there.items())
            if not is_there["trg"].any():
                found[language] = src
            elif not is_there["src"].any():
                found[language] = tgt
            else:
                found[language] = Sentences.of(b if b is not None else a for a, b in zip(src, tgt, strict=True))
        return found

    def place_of(name: str, row: int) -> str:
        side = "src" if sides["src"][row] == numbers[name] else "trg"
        return f"{folder / endings[side]}:{row + 1}"

    names = tuple(numbers)
    bare = {name.partition("_")[0]: name for name in reversed(names) if name.partition("_")[0] not in names}
    return ColumnFile(str(prefix), "a language", names, read, place_of, aliases=bare)


def _read_files(folder: Path, files: Mapping[str, str]) -> Columns:
    problems: list[str] = []
    sentences: Columns = {}
    for language, name in files.items():
        path = folder / name
        try:
            lines = read_column(path)
        except InputError as e:
            problems += e.problems
            continue
        sentences[language] = lines
        problems += sentence_problems(lines, f"{path}:", first=1)
    counts = {files[language]: len(lines) for language, lines in sentences.items()}
    usual = Counter(counts.values()).most_common(1)[0][0] if counts else 0
    if odd := {name: count for name, count in counts.items() if count != usual}:
        example = next(name for name, count in counts.items() if count == usual)
        listed = ", ".join(f"{name} has {count:,}" for name, count in odd.items())
        rule = "line n must be the same sentence in every file"
        problems.append(f"{folder}: {rule}, but {example} has {usual:,} lines and {listed}")
    if problems:
        raise InputError(problems)
    return sentences
