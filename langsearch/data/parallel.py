"""Parallel text as a value: row i of all languages is the same sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ParallelText:
    """Sentences in several languages, aligned by row.

    Raises:
        ValueError: If the languages do not have equally many rows.
    """

    languages: tuple[str, ...]
    """Codes as the space writes them."""

    sentences: Mapping[str, tuple[str | None, ...]]
    """The rows of each language. None: this sentence is not there in this language."""

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
        sentences = {name: tuple(column[row] for row in rows) for name, column in self.sentences.items()}
        return ParallelText(self.languages, sentences, self.origin)


def concatenate(texts: Sequence[ParallelText]) -> ParallelText:
    """Returns the texts one below the other; the rows of a language that a text lacks are None."""
    languages = tuple(dict.fromkeys(language for text in texts for language in text.languages))
    sentences = {
        language: tuple(row for text in texts for row in text.sentences.get(language, (None,) * len(text)))
        for language in languages
    }
    return ParallelText(languages, sentences, " + ".join(text.origin for text in texts))
