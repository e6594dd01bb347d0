"""What `langsearch check` says of a space's languages in a base: how new ones begin, and which pieces are unknown."""

from collections.abc import Iterator, Mapping
from typing import Any

from langsearch.experiment.environment import CheckedSpace
from langsearch.model.base import NewLanguage
from langsearch.model.new_languages import find_new_languages

MAX_UNKNOWN = 0.01
"""The share of a language's pieces that may be unknown to the base without a warning."""

_NUM_SENTENCES = 1_000


def new_languages(checked: CheckedSpace) -> tuple[NewLanguage, ...]:
    """Returns the languages of a space that its base has no token for."""
    return find_new_languages(checked.base_tokenizer, checked.space.new_languages, vocab_size=0)


def unknown_shares(checked: CheckedSpace) -> dict[str, float]:
    """Returns for each language which share of its pieces the base's tokenizer does not know, in [0, 1].

    Of at most 1,000 training sentences, evenly spaced.
    """
    shares = {}
    for language in checked.space.languages:
        sentences = [text for text in checked.corpus.train.sentences[language] if text]
        step = max(len(sentences) // _NUM_SENTENCES, 1)
        shares[language] = checked.base_tokenizer.unknown_share(sentences[::step][:_NUM_SENTENCES])
    return shares


def language_lines(checked: CheckedSpace) -> Iterator[tuple[str, str]]:
    """Yields a label and a text for each new language and for all unknown pieces; a warning of too many of them."""
    for new in new_languages(checked):
        text = f"{new.code} begins as {new.like}, with a token of its own, {new.token}"
        yield "new", f"{text}: {checked.shape.d_model:,} parameters"
    shares = unknown_shares(checked)
    listed = ", ".join(f"{language} {_percent(share)}" for language, share in shares.items() if share)
    yield "unknown", f"of a language's pieces the base's tokenizer does not know: {listed or 'none'}"
    too_many = {language: share for language, share in shares.items() if share > MAX_UNKNOWN}
    if not too_many:
        return
    least, most = _percent(min(too_many.values())), _percent(max(too_many.values()))
    are = f"{most} are" if len(too_many) == 1 else f"{least} to {most} of each are"
    yield (
        "warning",
        f"of the pieces of {', '.join(too_many)} at most {_percent(MAX_UNKNOWN)} should be unknown to the base, but "
        f"{are}: it can neither read nor write them. Write them in characters that it knows, or take a base that knows "
        "them.",
    )


def describe_languages(checked: CheckedSpace) -> Mapping[str, Any]:
    """Returns the same as JSON data."""
    return {
        "new_languages": {
            language.code: {"like": language.like, "token": language.token} for language in new_languages(checked)
        },
        "unknown_pieces": unknown_shares(checked),
    }


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
