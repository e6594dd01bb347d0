"""The rows of cuts, as a table of all trials shows them."""

from collections.abc import Iterable
from dataclasses import replace

from langsearch.study.rows import TrialRow

CUT = "cut-"
"""Begins the names of cuts; their number in five digits follows."""


def cut_name(number: int) -> str:
    """Returns the name of a cut by its number in the table of cuts."""
    return f"{CUT}{number:05d}"


def as_cuts(rows: Iterable[TrialRow]) -> list[TrialRow]:
    """Returns the searched rows of the table of cuts under the names and the kind that they have elsewhere."""
    return [
        replace(
            row,
            name=cut_name(int(row.name)),
            kind="cut",
            same_as=None if row.same_as is None else cut_name(int(row.same_as)),
        )
        for row in rows
        if row.kind == "searched"
    ]
