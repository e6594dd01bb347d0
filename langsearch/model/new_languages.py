"""Languages that a base has no token for: each gets one of its own, beside the base's vocabulary.

The ids of new languages begin where the base's embedding ends, in the order of their codes. The base itself stays as
it is: its weights may be memory that others read. What embeds the new ids is in `adapters.language_rows`; a base has no
output for them, so that they can be forced and read, but never be said.
"""

from collections.abc import Mapping
from dataclasses import replace

from langsearch.model.base import Base, BaseTokenizer, NewLanguage
from langsearch.space.languages import match_code
from langsearch.space.problems import InputError


def check_new_languages(tokenizer: BaseTokenizer, likes: Mapping[str, str]) -> list[tuple[tuple[str, ...], str]]:
    """Returns the problems of new languages with a base, each with the keys below `languages.new`.

    Args:
        tokenizer: The base's.
        likes: For each new language the one whose token its own starts from.
    """
    problems: list[tuple[tuple[str, ...], str]] = []
    known = tokenizer.language_ids
    for language, like in likes.items():
        try:
            own = match_code(language, known)
        except InputError:
            pass
        else:
            text = f"must be a language that the base has no token for, but it has one, {tokenizer.language_token(own)}"
            problems.append(((language,), f"{text}. Leave it out of `new`."))
            continue
        try:
            token = _token(tokenizer, language, match_code(like, known))
        except InputError as error:
            rule = error.problems[0].removeprefix("A language ")
            problems.append(((language, "like"), rule))
            continue
        if tokenizer.family.language_token.fullmatch(token) is None:
            form = f"a token of the base's form, as {tokenizer.language_token(like)} is"
            text = f"must be a code that makes {form}, but makes {token}. Write it as the base writes its own."
            problems.append(((language,), text))
    return problems


def find_new_languages(tokenizer: BaseTokenizer, likes: Mapping[str, str], vocab_size: int) -> tuple[NewLanguage, ...]:
    """Returns the new languages with their tokens, sorted by their codes.

    Args:
        tokenizer: The base's.
        likes: For each new language the one whose token its own starts from.
        vocab_size: Rows of the base's embedding.

    Raises:
        InputError: If the base has a token for one of them, or none for what it is like.
    """
    if problems := check_new_languages(tokenizer, likes):
        raise InputError([f"The new language `{'.'.join(keys)}` {text}" for keys, text in problems])
    found = []
    for index, language in enumerate(sorted(likes)):
        like = match_code(likes[language], tokenizer.language_ids)
        token = _token(tokenizer, language, like)
        found.append(NewLanguage(language, likes[language], token, vocab_size + index, tokenizer.language_ids[like]))
    return tuple(found)


def with_new_languages(base: Base, likes: Mapping[str, str]) -> Base:
    """Returns the base with tokens for languages that it has none for; without any, the base as it is.

    Args:
        base: The base; it is left as it is.
        likes: For each new language the one whose token its own starts from.

    Raises:
        InputError: As `find_new_languages` does, or if the base's encoder and decoder do not share one embedding.
    """
    if not likes:
        return base
    if not base.model.config.tie_word_embeddings:
        raise InputError(
            f"A new language needs a base whose encoder and decoder share one embedding, but {base.name} has "
            "tie_word_embeddings: false. Leave `languages.new` out."
        )
    found = find_new_languages(base.tokenizer, likes, base.model.config.vocab_size)
    return replace(base, tokenizer=base.tokenizer.with_languages(found), new_languages=found)


def _token(tokenizer: BaseTokenizer, language: str, like: str) -> str:
    """Returns the text of a new language's token.

    A code without the region or script that the base's own have gets that of the language which it is like: `tyv` like
    `kaz_Cyrl` is `tyv_Cyrl`.

    Args:
        tokenizer: The base's.
        language: The new language's code.
        like: The base's own code of what it is like.
    """
    form = tokenizer.family.token_format
    token = form.format(language)
    if tokenizer.family.language_token.fullmatch(token) is None and "_" in like:
        token = form.format(f"{language}_{like.rpartition('_')[2]}")
    return token
