"""Sentences that are too long for a base, found without splitting all the others into pieces."""

import unicodedata
from collections.abc import Callable, Sequence

from langsearch.data.batches import NUM_MARKS
from langsearch.data.parallel import ParallelText

_MAX_GROWTH = 18
"""Characters that NFKC makes of one at most (U+FDFA): SentencePiece models normalise so before they split."""


def long_sentences(
    text: ParallelText, tokenize: Callable[[Sequence[str]], list[list[int]]], limit: int
) -> list[tuple[str, int, int]]:
    """Returns (language, row, tokens with language and end) of every sentence of more tokens than a limit.

    A piece has a character at least, one more stands for the sentence's beginning: only sentences with so many
    characters are split.

    Args:
        text: The sentences.
        tokenize: Splits sentences into ids of pieces, without language and end.
        limit: Tokens, language and end included.
    """
    found = []
    for language in text.languages:
        rows = [row for row, sentence in enumerate(text.sentences[language]) if _may_exceed(sentence, limit)]
        sentences = [text.sentences[language][row] or "" for row in rows]
        for row, ids in zip(rows, tokenize(sentences) if sentences else [], strict=True):
            if len(ids) + NUM_MARKS > limit:
                found.append((language, row, len(ids) + NUM_MARKS))
    return found


def _may_exceed(sentence: str | None, limit: int) -> bool:
    most = limit - NUM_MARKS - 1
    if sentence is None or _MAX_GROWTH * len(sentence) <= most:
        return False
    return len(unicodedata.normalize("NFKC", sentence)) > most
