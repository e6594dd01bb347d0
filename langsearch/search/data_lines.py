"""What `langsearch check` shows of the data: what was read, and how many rows each direction has in each part."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from langsearch.data.directions import Direction
from langsearch.experiment.corpus import DirectionRows
from langsearch.experiment.environment import CheckedSpace

MAX_GROUPS = 12
"""So many different counts are shown at most; --json has those of every direction."""

_MAX_NAMES = 6


def data_lines(checked: CheckedSpace) -> Iterator[tuple[str, str]]:
    """Yields (label, text) of the parts, each source, and the directions that have equally many rows."""
    data, corpus = checked.space.data, checked.corpus
    yield "sentences", " · ".join(f"{part} {len(text):,}" for part, text in corpus.parts.items())
    for part, lines in checked.corpus.sources.items():
        for line in lines:
            yield part, line
    if data.holdout is not None:
        of = "every source in proportion" if data.holdout_rows == "spread" else "the last rows of train"
        yield "validation", f"{data.holdout:,} rows held out of train: {of}"
    groups: dict[DirectionRows, list[Direction]] = {}
    for direction, rows in checked.direction_rows.items():
        groups.setdefault(rows, []).append(direction)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), -item[0].train))
    for rows, directions in ordered[:MAX_GROUPS]:
        trained = "zero-shot" if rows.is_zero_shot else f"train {rows.train:,}"
        yield "rows", f"{trained} · validation {rows.validation:,} · test {rows.test:,}: {name_directions(directions)}"
    if len(ordered) > MAX_GROUPS:
        rest = sum(len(directions) for _, directions in ordered[MAX_GROUPS:])
        yield "rows", f"{rest:,} more directions have other counts; --json lists them all"


def describe_data(checked: CheckedSpace) -> dict[str, Any]:
    """Returns the same as JSON data, with every direction."""
    return {
        "sentences": {part: len(text) for part, text in checked.corpus.parts.items()},
        "sources": {part: list(lines) for part, lines in checked.corpus.sources.items()},
        "rows": {str(direction): asdict(rows) for direction, rows in checked.direction_rows.items()},
        "zero_shot": [str(direction) for direction in checked.zero_shot],
    }


def name_directions(directions: list[Direction]) -> str:
    """Returns the first directions by name, and how many more there are.

    Both ways of a pair are one name: that of the way that comes first.
    """
    given = set(directions)
    names: list[str] = []
    shown: set[Direction] = set()
    for direction in directions:
        back = Direction(direction.tgt, direction.src)
        if back not in given:
            names.append(str(direction))
        elif back not in shown:
            names.append(f"{direction} and back")
        shown.add(direction)
    if len(names) <= _MAX_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[:_MAX_NAMES])}, … ({len(directions):,} directions)"
