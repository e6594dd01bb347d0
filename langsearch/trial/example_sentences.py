"""The sentence that a card's example translates: a short one in the source language."""

from collections.abc import Iterable
from itertools import islice

from langsearch.data.embedded import NAMES, read_embedded
from langsearch.data.store import TokenStore
from langsearch.space.languages import is_english
from langsearch.space.problems import InputError

_ENGLISH = "The house is small."
_NONE = "..."

MIN_CHARS, MAX_CHARS = 8, 60
_MAX_SEEN = 2_000


def example_sentence(language: str, store: TokenStore | None = None) -> tuple[str, str]:
    """Returns a sentence and where it is from, "" where it may go everywhere.

    A card may be published, and whose sentences a user trains with is not known here. So one from the embedded data,
    which are free, comes first; only of a language that these lack it is one of the user's own.

    Args:
        language: Of the sentence, in a code of any family.
        store: The user's own sentences that may be shown. None: there are none.
    """
    if is_english(language):
        return _ENGLISH, ""
    for name in NAMES:
        try:
            free = read_embedded(name, "train", [language]).sentences[language]
        except InputError:
            continue  # it lacks the language
        if found := _short(free):
            return found, ""
    if store is not None and language in store.languages:
        rows = (store.lengths(language) >= 0).nonzero()[0].tolist()
        if found := _short(store.text(language, row) for row in rows):
            return found, f"a sentence in {language} of the validation part"
    return _NONE, f"a sentence in {language}"


def _short(sentences: Iterable[str | None]) -> str | None:
    """Returns the first sentence of the usual length that stands in a line of code as it is; None if there is none."""
    for sentence in islice(sentences, _MAX_SEEN):
        if sentence and MIN_CHARS <= len(sentence) <= MAX_CHARS and sentence.isprintable() and "`" not in sentence:
            return sentence
    return None
