"""What a page shows of the data of a space, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PairMatrix = Sequence[Sequence[int | None]]
"""(num_languages, num_languages): source by target; None where the direction is not translated."""

ShareMatrix = Sequence[Sequence[float | None]]
"""As `PairMatrix`; None also where nothing is known of the direction."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One kind of fault of one language."""

    language: str
    kind: str
    num_sentences: int
    share: float
    """Of the sentences that were looked at, in [0, 1]."""

    worst: str
    """Where its worst sentence was written, and how it begins."""


@dataclass(frozen=True, kw_only=True)
class DataLook:
    """The data of a space."""

    name: str
    base: str
    languages: Sequence[str]
    num_directions: int
    num_rows: Mapping[str, int]
    """Of each part."""

    sentences: Mapping[str, Sequence[int]]
    """Of each part the sentences of each language."""

    pairs: Mapping[str, PairMatrix]
    """Of each part how many rows have both sides of a direction."""

    lengths: Mapping[str, Sequence[int]]
    """Of each language the tokens of at most 1,000 training sentences, evenly spaced, with their marks."""

    length_ratios: ShareMatrix
    """Characters of the target for one of the source, the median over training pairs; None of fewer than 30 pairs."""

    max_length: int
    """Longer ones are not trained on."""

    unknown_shares: Mapping[str, float]
    """Which share of each language's pieces the base does not know, in [0, 1]."""

    faults: Sequence[Fault]
    faulty_shares: Mapping[str, ShareMatrix]
    """By kind which share of each direction's pairs has a fault that is one of pairs, in [0, 1]."""

    shared_pairs: Mapping[str, PairMatrix]
    """By two parts ("test in train") how many pairs of each direction stand in rows that both have."""

    overlaps: Sequence[str]
    """A sentence for each two parts that have rows in common."""

    swapped: Sequence[str]
    """A sentence for each source with columns that look like another language."""

    filtered: str | None
    """What the filter has left out of training."""
