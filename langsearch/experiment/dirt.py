"""What is wrong with the sentences of an experiment, with lines; and which of them are not trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from langsearch.data.dirt import KINDS, MAX_SPLIT, Dirt, UnknownShares, find_dirt, length_proportions, spaced
from langsearch.data.overlap import LanguagePair, Overlap
from langsearch.data.parallel import ParallelText
from langsearch.data.swapped import Swapped
from langsearch.space.data_filter import LOOKED_FOR, DataFilter

MAX_LOOKED_AT = 1_000_000
"""So many rows of a part are looked at at most, evenly spaced."""


_ROWS_PER_BLOCK = 100_000


@dataclass(frozen=True)
class Filtered:
    """What `data.filter` has left out of training."""

    num_left_out: Mapping[str, Mapping[str, int]]
    """Sentences by kind of fault and language; one with two faults counts for both."""

    num_sentences: int
    """Sentences, all languages and faults together."""

    num_rows: int
    """Rows that have fewer than two sentences since."""


def filter_training(
    text: ParallelText,
    rules: DataFilter,
    pairs: Sequence[LanguagePair],
    unknown_shares: UnknownShares,
    overlaps: Sequence[Overlap],
) -> tuple[ParallelText, Filtered]:
    """Returns the training text without the sentences that break the rules; its rows keep their numbers.

    Args:
        text: What was read to train on.
        rules: Those of the space.
        pairs: The language pairs that are translated, either way round.
        unknown_shares: Of the base's tokenizer.
        overlaps: What the parts have in common.
    """
    proportions = length_proportions(text.select(spaced(len(text), MAX_LOOKED_AT)), pairs)
    in_others = [overlap.rows_of("train") for overlap in overlaps if "train" in (overlap.part, overlap.other)]
    shared = np.unique(np.concatenate([np.zeros(0, np.int64), *in_others])) if rules.overlap else np.zeros(0, np.int64)
    left_out: dict[str, list[NDArray[np.int64]]] = {language: [np.zeros(0, np.int64)] for language in text.languages}
    counts: dict[str, dict[str, int]] = {}
    num_sentences = num_rows = 0
    for start in range(0, len(text), _ROWS_PER_BLOCK):
        block = text.select(range(start, min(start + _ROWS_PER_BLOCK, len(text))))
        dirt = find_dirt(block, pairs, rules, unknown_shares, proportions)
        marked = {key: mark.rows for key, mark in dirt.marked.items()}
        rows = shared[np.searchsorted(shared, start) : np.searchsorted(shared, start + len(block))] - start
        before, after = np.zeros(len(block), np.int32), np.zeros(len(block), np.int32)
        for language in text.languages:
            is_there = np.array([sentence is not None for sentence in block.sentences[language]], np.bool_)
            found = {kind: marked[language, kind] for kind in KINDS if (language, kind) in marked}
            if len(rows):
                found["overlap"] = rows[is_there[rows]]
            for kind, faulty in found.items():
                of_kind = counts.setdefault(kind, {})
                of_kind[language] = of_kind.get(language, 0) + len(faulty)
            out = np.unique(np.concatenate([np.zeros(0, np.int64), *found.values()]))
            left_out[language].append(out + start)
            num_sentences += len(out)
            before += is_there
            is_there[out] = False
            after += is_there
        num_rows += int(((before >= 2) & (after < 2)).sum())
    kept = text.without({language: np.concatenate(rows) for language, rows in left_out.items()})
    ordered = {kind: counts[kind] for kind in (*KINDS, "overlap") if kind in counts}
    return kept, Filtered(ordered, num_sentences, num_rows)


@dataclass(frozen=True)
class FoundDirt:
    """What is wrong with the three parts."""

    parts: Mapping[str, Dirt]
    rows: Mapping[str, Sequence[int]]
    """Of each part the rows that were looked at."""

    num_rows: Mapping[str, int]
    proportions: Mapping[LanguagePair, float]
    """Characters of the second language of a pair for one of the first, the median over the training pairs."""

    swapped: tuple[Swapped, ...] = ()
    """Columns that look like another language than they are said to be in."""

    def share(self, language: str, kind: str) -> float:
        """Returns which share of a language's sentences of all parts has a kind of fault, in [0, 1]."""
        return self.num(language, kind) / max(
            sum(dirt.num_looked_at(language, kind) for dirt in self.parts.values()), 1
        )

    def pair_share(self, kind: str, src: str, tgt: str) -> float:
        """Returns which share of two languages' rows has a kind of fault that is one of pairs, in [0, 1]."""
        either = ((src, tgt), (tgt, src))
        found = [dirt.num_marked_pairs.get((pair, kind), 0) for dirt in self.parts.values() for pair in either]
        looked_at = [dirt.num_pairs.get(pair, 0) for dirt in self.parts.values() for pair in either]
        return sum(found) / max(sum(looked_at), 1)

    def num(self, language: str, kind: str) -> int:
        """Returns how many of a language's sentences have a kind of fault, of those that were looked at."""
        found = [dirt.marked.get((language, kind)) for dirt in self.parts.values()]
        return sum(len(marked.rows) for marked in found if marked is not None)

    def worst(self, language: str, kind: str) -> tuple[str, int, float] | None:
        """Returns part, row and degree of the worst sentence of a language; None if none has this kind of fault."""
        found = [
            (float(marked.degrees.max()), part, self.rows[part][marked.worst])
            for part, dirt in self.parts.items()
            if (marked := dirt.marked.get((language, kind))) is not None
        ]
        if not found:
            return None
        degree, part, row = max(found, key=lambda item: item[0])
        return part, row, degree


def look_at(
    parts: Mapping[str, ParallelText], pairs: Sequence[LanguagePair], unknown_shares: UnknownShares
) -> FoundDirt:
    """Returns what is wrong with the sentences of the parts. Lengths fit as those of the training pairs do.

    Args:
        parts: Train, validation and test.
        pairs: The language pairs that are translated, either way round.
        unknown_shares: Of the base's tokenizer.
    """
    rows = {part: spaced(len(text), MAX_LOOKED_AT) for part, text in parts.items()}
    texts = {part: text.select(rows[part]) for part, text in parts.items()}
    proportions = length_proportions(texts["train"], pairs)
    found = {
        part: find_dirt(text, pairs, LOOKED_FOR, unknown_shares, proportions, MAX_SPLIT) for part, text in texts.items()
    }
    return FoundDirt(found, rows, {part: len(text) for part, text in parts.items()}, proportions)


def worst_kind(found: FoundDirt, language: str) -> str | None:
    """Returns the kind of fault that most of a language's sentences have; None if they have none."""
    kinds = [kind for kind in KINDS if found.num(language, kind)]
    return max(kinds, key=lambda kind: found.num(language, kind), default=None)
