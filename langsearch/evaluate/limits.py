"""How long a hypothesis may get before it is cut.

A limit that is too low cuts good translations: with twice the source's pieces, plus 10, 42 % of the Yoruba references
of FLORES' devtest do not fit behind an English source (pieces of a 250k SentencePiece model). One that is too high
costs time and scores, since a weak model has rows that repeat themselves up to any limit: 200 tokens for every row
took 1.3 times as long on the quickstart's sentences where the model babbled (its weights disturbed by 0.3 of their
standard deviation), and nothing more where it did not. What a direction needs is seen in the references that it is
trained on: with these limits none of the Yoruba references is cut, and the quickstart's scores take as long as before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from langsearch.data.batches import NUM_MARKS
from langsearch.data.directions import Direction
from langsearch.space.settings import DecodingSettings

if TYPE_CHECKING:  # PyArrow, which a decoder of tokens need not have
    from langsearch.data.store import TokenStore

PLUS_TOKENS = 10
"""Tokens that a hypothesis has beyond those in proportion to its source."""

MIN_FACTOR = 2.0
"""The least factor, where the references would fit a lower one."""

MARGIN = 1.25
"""How much longer than the training references, in proportion to its source, a hypothesis may be."""

UNSEEN_TOKENS = 200
"""What a hypothesis may have at least where too few references say how long they are."""

_SHARE_COVERED = 0.999
"""Of the training references; the others are taken for misaligned."""

_MIN_PAIRS = 100
"""Fewer references of a direction say too little."""


@dataclass(frozen=True)
class LengthLimits:
    """The longest hypothesis of a source, in tokens of text, without language and end tokens.

    With a factor that the settings name: int(factor * source) + 10. Without: the same with the direction's own factor.
    Where a direction has none, with 2, but at least 200.
    """

    positions: int
    """The most tokens of a side, with its language and end."""

    factor: float | None = None
    """What the settings name."""

    factors: Mapping[Direction, float] = field(default_factory=dict)
    """What the training references say."""

    def tokens(self, direction: Direction, num_src_tokens: int) -> int:
        """Returns the most tokens of text that a hypothesis may have.

        Args:
            direction: Its direction.
            num_src_tokens: Tokens of its source's text.
        """
        factor, least = self.factor, 0
        if factor is None:
            factor = self.factors.get(direction)
        if factor is None:
            factor, least = MIN_FACTOR, UNSEEN_TOKENS
        return min(max(int(factor * num_src_tokens) + PLUS_TOKENS, least), self.positions - NUM_MARKS)


def length_limits(
    settings: DecodingSettings, positions: int, directions: Sequence[Direction] = (), train: "TokenStore | None" = None
) -> LengthLimits:
    """Returns the limits of the settings.

    Args:
        settings: With a factor, or without.
        positions: Of the base; `model.positions`.
        directions: Those that are decoded.
        train: What is trained on. None: nothing is known of the references' lengths.
    """
    factors = {}
    if settings.max_length_factor is None and train is not None:
        known = set(train.languages)
        for direction in directions:
            if {direction.src, direction.tgt} <= known and (factor := _factor(train, direction)) is not None:
                factors[direction] = factor
    return LengthLimits(positions, settings.max_length_factor, factors)


def _factor(train: "TokenStore", direction: Direction) -> float | None:
    """Returns the factor with which 99.9 % of a direction's references fit, with a margin; None of too few."""
    src, tgt = train.lengths(direction.src), train.lengths(direction.tgt)
    present = (src > 0) & (tgt >= 0)
    if present.sum() < _MIN_PAIRS:
        return None
    needed = np.quantile((tgt[present] - PLUS_TOKENS) / src[present], _SHARE_COVERED, method="higher")
    return max(MIN_FACTOR, MARGIN * float(needed))
