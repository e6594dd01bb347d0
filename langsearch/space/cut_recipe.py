"""The lines of shell that cut rows off a source for a test part, right for its kind: copied as they stand."""

import shlex
from collections.abc import Sequence
from pathlib import PurePath

from langsearch.space.settings import SourceKind

NUM_ROWS = 200
"""So many rows the lines cut off: the last ones."""

_KINDS: tuple[SourceKind, ...] = ("moses", "tsv", "jsonl", "files")

_ENDINGS = (".tsv", ".txt", ".tab", ".jsonl", ".ndjson")
"""Files of lines, which `head` and `tail` can cut."""


def cut_recipe(sources: Sequence[tuple[SourceKind, str, bool]]) -> str:
    """Returns how to cut rows off the first source that can be cut by lines, " such as …" with the lines below it.

    Neither `head -n -200` nor other options that macOS lacks. Of what is no file of lines there is nothing to say: "".

    Args:
        sources: Kind, path, and whether the first row names the columns.
    """
    for kind, path, has_header in sources:
        if lines := _lines(kind, path, has_header=has_header):
            told = "".join(f"\n    {line}" for line in lines)
            return f" Such as, for {path}, and then name the new files in the space:{told}"
    return ""


def cut_recipe_of(train: object) -> str:
    """Returns the same for what a space has as `data.train`, right or wrong, as written or as checked."""
    found: list[tuple[SourceKind, str, bool]] = []
    for source in train if isinstance(train, list) else [train]:
        if not isinstance(source, dict):
            continue
        for kind in _KINDS:
            paths = source.get(kind)
            path = paths[0] if isinstance(paths, list | tuple) and paths else paths
            if isinstance(path, str):
                found.append((kind, path, kind == "tsv" and not source.get("header")))
    return cut_recipe(found)


def _lines(kind: SourceKind, path: str, *, has_header: bool) -> list[str]:
    if any(mark in path for mark in "*?["):
        return []
    name = shlex.quote(path)
    if kind == "moses":
        # Every language's file alike, or their lines fit no longer.
        return _loop(f"{name}.*", '"${file%.*}.test.${file##*.}"', '"${file%.*}.train.${file##*.}"')
    if kind == "files":
        test, train = (shlex.quote(f"{path.rstrip('/')}-{part}") for part in ("test", "train"))
        return [f"mkdir -p {test} {train}", *_loop(f"{name}/*", f'{test}/"${{file##*/}}"', f'{train}/"${{file##*/}}"')]
    place = PurePath(path)
    if kind not in ("tsv", "jsonl") or place.suffix.lower() not in _ENDINGS:
        return []
    test, train = (shlex.quote(str(place.with_suffix(f".{part}{place.suffix}"))) for part in ("test", "train"))
    # A table's header stands in both parts.
    cut = f"(head -n 1 {name}; tail -n {NUM_ROWS} {name})" if has_header else f"tail -n {NUM_ROWS} {name}"
    return [f"{cut} > {test}", f"{_head(name)} > {train}"]


def _loop(files: str, test: str, train: str) -> list[str]:
    file = '"$file"'
    return [
        f"for file in {files}; do",
        f"  tail -n {NUM_ROWS} {file} > {test}",
        f"  {_head(file)} > {train}",
        "done",
    ]


def _head(name: str) -> str:
    return f"head -n $(($(wc -l < {name}) - {NUM_ROWS})) {name}"
