"""Parallel text as a value: row i of all languages is the same sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from langsearch.data.sentences import Form, Sentences
from langsearch.space.settings import NormalForm


@dataclass(frozen=True)
class ParallelText:
    """Sentences in several languages, aligned by row.

    Raises:
        ValueError: If the languages do not have equally many rows.
    """

    languages: tuple[str, ...]
    """Codes as the space writes them."""

    sentences: Mapping[str, Sequence[str | None]]
    """The rows of each language. None: this sentence is not there in this language. A tuple, or `Sentences`."""

    origin: str
    """Where the text is from, for people."""

    def __post_init__(self) -> None:
        if set(self.languages) != set(self.sentences):
            raise ValueError(f"`sentences` must have the keys {self.languages}, but got {tuple(self.sentences)}")
        counts = {language: len(self.sentences[language]) for language in self.languages}
        if len(set(counts.values())) > 1:
            raise ValueError(f"All languages must have equally many rows, but got {counts}")

    def __len__(self) -> int:
        return len(self.sentences[self.languages[0]]) if self.languages else 0

    def select(self, rows: Sequence[int]) -> "ParallelText":
        """Returns the given rows, in the given order."""
        return self._with({name: _compact(column).select(rows) for name, column in self.sentences.items()})

    def without(self, rows: Mapping[str, NDArray[np.int64]]) -> "ParallelText":
        """Returns the text with further sentences not there; its rows keep their numbers.

        Args:
            rows: Of each language the rows whose sentence is left out.
        """
        return self._with({name: _compact(column).without(rows[name]) for name, column in self.sentences.items()})

    def normalized(self, form: NormalForm) -> "ParallelText":
        """Returns the text in a Unicode form; "none": as it is."""
        if form == "none":
            return self
        unicode_form: Form = "NFC" if form == "nfc" else "NFKC"
        return self._with({name: _compact(column).normalized(unicode_form) for name, column in self.sentences.items()})

    def _with(self, sentences: Mapping[str, Sentences]) -> "ParallelText":
        return ParallelText(self.languages, sentences, self.origin)


def concatenate(texts: Sequence[ParallelText]) -> ParallelText:
    """Returns the texts one below the other; the rows of a language that a text lacks are None."""
    languages = tuple(dict.fromkeys(language for text in texts for language in text.languages))
    sentences = {
        language: Sentences.joined(
            [
                _compact(text.sentences[language]) if language in text.sentences else Sentences.absent(len(text))
                for text in texts
            ]
        )
        for language in languages
    }
    return ParallelText(languages, sentences, " + ".join(text.origin for text in texts))


def _compact(column: Sequence[str | None]) -> Sentences:
    return column if isinstance(column, Sentences) else Sentences.of(column)
