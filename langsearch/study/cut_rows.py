"""The rows of cuts: in their own table by numbers, as those of trials; everywhere else as "cut-00012"."""

from collections.abc import Iterable
from dataclasses import replace

from langsearch.study.rows import State, TrialRow
from langsearch.study.table import TrialTable

CUT = "cut-"
"""Begins the names of cuts; their number in five digits follows."""


def cut_name(number: int) -> str:
    """Returns the name of a cut by its number in the table of cuts."""
    return f"{CUT}{number:05d}"


def cut_row(cuts: TrialTable, name: str) -> TrialRow:
    """Returns a cut's row by its name, as the table of cuts has it. Raises KeyError if there is none."""
    return cuts.row(name.removeprefix(CUT))


def scored_cuts(cuts: TrialTable) -> list[TrialRow]:
    """Returns the rows of the cuts that have scores of their own."""
    return [row for row in cuts.rows() if row.kind == "searched" and row.state is State.COMPLETE and not row.same_as]


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
