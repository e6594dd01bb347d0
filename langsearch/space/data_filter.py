"""Which sentences are left out of training, as plain settings."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DataFilter:
    """Which sentences are not trained on. Those that select and test are never left out: `check` tells of them."""

    copies: bool = False
    """Pairs whose two sides are the same text."""

    script: float | None = None
    """Sentences of whose letters more than this share is of a script that is not the language's."""

    unknown: float | None = None
    """Sentences of whose pieces the base does not know more than this share."""

    lengths: float | None = None
    """Pairs of which one side is more than so many times as long as the other one lets expect."""

    overlap: bool = False
    """Rows that the validation or the test part has too."""


NO_FILTER = DataFilter()

LOOKED_FOR = DataFilter(copies=True, script=0.5, unknown=0.1, lengths=3.0)
"""What `check` looks for, and what `true` stands for in a filter."""
