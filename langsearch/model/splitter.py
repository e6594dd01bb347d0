"""A base's tokenizer as a function that another process can have."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langsearch.model.base import BaseTokenizer


class Splitter:
    """Splits sentences as a base's tokenizer does, also in another process, which reads the tokenizer's files anew."""

    def __init__(self, tokenizer: BaseTokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(self, sentences: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each sentence's pieces, without language and end tokens."""
        return self._tokenizer.encode(sentences)

    def __reduce__(self) -> tuple[Any, ...]:
        return _splitter, (self._tokenizer.folder, self._tokenizer.family.name)


def _splitter(folder: Path, family: str) -> Splitter:
    return Splitter(BaseTokenizer(folder, family))
