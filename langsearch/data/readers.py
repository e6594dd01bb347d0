"""Parallel text from what a space names: FLORES, one file per language, TSV, Parquet, or an embedded data set."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from langsearch.data.embedded import embedded_file, read_embedded
from langsearch.data.lines import read_lines, sentence_problems
from langsearch.data.parallel import ParallelText, concatenate
from langsearch.data.tables import parquet_columns, read_parquet, read_tsv, tsv_columns
from langsearch.space.languages import find_language, match_code, scripts_of
from langsearch.space.problems import InputError, near_names
from langsearch.space.settings import Source

__all__ = ["ParallelText", "available_languages", "concatenate", "find_place", "read_source", "read_sources"]

_Located = dict[str, str]
"""Where each language stands: a file name below the source's folder, or a column."""


def read_source(source: Source, languages: Sequence[str]) -> ParallelText:
    """Returns the text of one source, which must have all the languages.

    Args:
        source: What to read. A relative path counts from the current folder.
        languages: Codes of any family; the text uses these codes.

    Raises:
        InputError: With all problems of the source: a language or file that is missing, files with unequal line
            counts, empty or huge lines, text that is not UTF-8.
    """
    located, problems = _locate(source, languages)
    text = None
    if located:
        try:
            text = _load(source, located)
        except InputError as e:
            problems += e.problems
    if problems or text is None:
        raise InputError(problems)
    return text


def read_sources(sources: Sequence[Source], languages: Sequence[str]) -> ParallelText:
    """Returns the text of several sources, one below the other.

    A single source must have all languages. Of several, each must have at least two, and each language must be in
    at least one; where a source lacks a language, its rows are None.

    Raises:
        InputError: With all problems of all sources.
    """
    if len(sources) == 1:
        return read_source(sources[0], languages)
    texts, problems = [], []
    found: set[str] = set()
    for source in sources:
        try:
            located, missing = _locate(source, languages)
            found |= set(located)
            if len(located) < 2:
                problems += [*missing, f"{source}: a source must have two of the languages or more"]
            else:
                texts.append(_load(source, located))
        except InputError as e:
            problems += e.problems
    if not problems and (absent := [language for language in languages if language not in found]):
        problems.append(f"Every language must be in a source, but none has {', '.join(absent)}")
    if problems:
        raise InputError(problems)
    text = concatenate(texts)
    return ParallelText(tuple(languages), text.sentences, text.origin)


def available_languages(source: Source, languages: Sequence[str]) -> tuple[str, ...]:
    """Returns those of the languages that a source has; reads names only, no text.

    Raises:
        InputError: If the source itself is not there.
    """
    return tuple(_locate(source, languages)[0])


def find_place(sources: Sequence[Source], languages: Sequence[str], language: str, row: int) -> str:
    """Returns where a sentence of `read_sources` was written: FILE:LINE as far as its source has lines.

    Reads the sources again: for the message of a problem, not for every row.

    Args:
        sources: The sources.
        languages: As they were read.
        language: The sentence's.
        row: Its row in all of them together, from 0.
    """
    for source in sources:
        located, _ = _locate(source, languages)
        num_rows = len(_load(source, located))
        if row >= num_rows:
            row -= num_rows
            continue
        name = located[language]
        if source.kind in ("flores101", "flores200"):
            return f"{_path(source) / _split(source) / name}:{row + 1}"
        if source.kind == "files":
            return f"{_path(source) / name}:{row + 1}"
        if source.kind == "tsv":
            return f"{source.path}:{row + 2}: column {name}"
        return f"{source}: column {name}, row {row} (from 0)"
    raise AssertionError(f"no source has row {row}")


def _path(source: Source) -> Path:
    if not source.path:
        raise InputError(f"A source of kind {source.kind} must say where it is, but has no path")
    return Path(source.path)


def _folder(path: Path) -> Path:
    if not path.is_dir():
        rule = f"{path}: the folder must exist, but does not."
        siblings = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
        near = near_names(path.name, siblings) if siblings else f" Relative paths count from {Path.cwd()}"
        raise InputError(rule + near)
    return path


def _file(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path}: the file must exist, but does not. Relative paths count from {Path.cwd()}")
    return path


def _locate(source: Source, languages: Sequence[str]) -> tuple[_Located, list[str]]:
    """Returns where each language stands, and a problem for each one that is missing."""
    if source.kind in ("flores101", "flores200"):
        folder = _folder(_folder(_path(source)) / _split(source))
        return _locate_flores(folder, languages, _flores_names(source))
    if source.kind == "files":
        folder = _folder(_path(source))
        located, problems = _match(languages, [file.stem for file in sorted(folder.glob("*.txt"))], f"{folder}: a file")
        return {language: f"{stem}.txt" for language, stem in located.items()}, problems
    if source.kind == "tsv":
        path = _file(_path(source))
        return _match(languages, tsv_columns(path), f"{path}: a column")
    if source.kind == "parquet":
        path = _file(_path(source))
        return _match(languages, parquet_columns(path), f"{path}: a column")
    if source.kind == "embedded":
        return _match(languages, tsv_columns(embedded_file(source.path or "")), f"embedded {source.path}: a column")
    raise AssertionError(f"a kind of source without a reader: {source.kind}")


def _load(source: Source, located: Mapping[str, str]) -> ParallelText:
    languages = tuple(located)
    if source.kind in ("flores101", "flores200"):
        folder = _path(source) / _split(source)
        return ParallelText(languages, _read_files(folder, located), str(source))
    if source.kind == "files":
        return ParallelText(languages, _read_files(_path(source), located), str(source))
    if source.kind == "embedded":
        return read_embedded(source.path or "", _split(source), languages)
    read = read_tsv if source.kind == "tsv" else read_parquet
    return ParallelText(languages, read(_path(source), located), str(source))


def _split(source: Source) -> str:
    if not source.split:
        raise InputError(f"A source of kind {source.kind} must name its split, but has none")
    return source.split


def _match(languages: Sequence[str], known: Collection[str], what: str) -> tuple[_Located, list[str]]:
    located, problems = {}, []
    for language in languages:
        try:
            located[language] = match_code(language, known)
        except InputError:
            scripts = scripts_of(language)
            hint = f" Its script must be said: {' or '.join(scripts)}" if scripts else near_names(language, known)
            problems.append(f"{what} for {language} must exist.{hint}")
    return located, problems


def _flores_names(source: Source) -> Callable[[str], list[str]]:
    """Returns the file names to try for a language: the official FLORES-101 and FLORES-200 layouts, then plain .txt."""

    def names(language: str) -> list[str]:
        try:
            info = find_language(language)
        except InputError:
            codes = [language]
        else:
            codes = list(dict.fromkeys([info.bare or info.flores200, info.flores200, language]))
            if source.kind == "flores200":
                codes[:2] = reversed(codes[:2])
        return [f"{code}.{ending}" for ending in (source.split, "txt") for code in codes]

    return names


def _locate_flores(
    folder: Path, languages: Sequence[str], names: Callable[[str], list[str]]
) -> tuple[_Located, list[str]]:
    present = sorted(entry.name for entry in folder.iterdir())
    located, problems = {}, []
    for language in languages:
        candidates = names(language)
        if name := next((name for name in candidates if name in present), None):
            located[language] = name
        else:
            tried = ", ".join(candidates)
            scripts = scripts_of(language)
            near = near_names(Path(candidates[0]).stem, sorted({Path(name).stem for name in present}))
            near = f" Its script must be said: {' or '.join(scripts)}" if scripts else near
            problems.append(f"{folder}: a file for {language} must exist, but none is named {tried}.{near}")
    return located, problems


def _read_files(folder: Path, files: Mapping[str, str]) -> dict[str, tuple[str | None, ...]]:
    problems: list[str] = []
    sentences: dict[str, tuple[str | None, ...]] = {}
    for language, name in files.items():
        path = folder / name
        try:
            lines = read_lines(path)
        except InputError as e:
            problems += e.problems
            continue
        sentences[language] = tuple(lines)
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
