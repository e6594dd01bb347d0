"""A base's tokenizer for plain transformers, with the tokens of languages that are new to the base.

The classes of M2M-100 and mBART-50 have closed lists of languages. A new language's token is in what is written here,
special and with its id, but `src_lang` may name it only once the class has been told of it: see `setting_lines`.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AddedToken

from langsearch.model.base import TOKENIZER_FILES, BaseTokenizer, NewLanguage
from langsearch.space.languages import match_code

_MODEL_FILES = ("config.json", "generation_config.json")
_CONFIG_FILE = "tokenizer_config.json"


def write_tokenizer(tokenizer: BaseTokenizer, folder: Path, marked: str, tgt: str) -> None:
    """Writes the base's tokenizer with a direction as its default; the files of the base stay beside it.

    Args:
        tokenizer: The base's.
        folder: Where to.
        marked: The language that a source begins with, by a code of any family.
        tgt: The target language.
    """
    for name in TOKENIZER_FILES:
        if name not in _MODEL_FILES and (tokenizer.folder / name).exists():
            shutil.copy(tokenizer.folder / name, folder / name)
    new, family = tokenizer.new_languages, tokenizer.family
    if not _is_fast(family.tokenizer_class):
        # All of them: tokens that are named as special below, and have no id yet, get the next ones in their order.
        _list_tokens(folder / _CONFIG_FILE, tokenizer)
    loaded: Any = family.tokenizer_class.from_pretrained(folder, local_files_only=True)
    if _is_fast(family.tokenizer_class):
        _add_tokens(loaded, new)
        loaded.save_pretrained(folder)
    src_lang, tgt_lang = (_own_code(tokenizer, language) for language in (marked, tgt))
    if setting_lines(tokenizer, marked):
        # What the new language begins as, until it is set.
        like = next(language.like for language in new if language.code == marked)
        src_lang = match_code(like, tokenizer.language_ids)
    own = next(code for code in (src_lang, tgt_lang, *tokenizer.language_ids) if code in tokenizer.language_ids)
    if loaded.convert_tokens_to_ids(tokenizer.language_token(own)) != tokenizer.language_ids[own]:
        return  # M2M-124: its tokenizer needs the same care as the base's
    settings: dict[str, Any] = {"src_lang": src_lang, "tgt_lang": tgt_lang}
    # Without this, M2M-100's decoding does not know that the languages' tokens are special, and keeps them.
    settings["extra_special_tokens"] = [tokenizer.language_token(code) for code in tokenizer.language_ids]
    family.tokenizer_class.from_pretrained(folder, local_files_only=True, **settings).save_pretrained(folder)


def setting_lines(tokenizer: BaseTokenizer, language: str) -> list[str]:
    """Returns the lines of Python after which a loaded tokenizer's sources begin with a new language.

    None where the tokenizer's class takes any token as `src_lang`, or the language is not new.
    """
    new = next((found for found in tokenizer.new_languages if found.code == language), None)
    if new is None or tokenizer.family.name == "nllb":
        return []
    name = _own_code(tokenizer, language)
    lines = _telling_lines(name, new.token, new.index)
    return lines[-1:] if _is_fast(tokenizer.family.tokenizer_class) else lines


@dataclass(frozen=True, kw_only=True)
class PlainTokenizer:
    """What a base's tokenizer needs where plain transformers loads it, for one direction."""

    src_lang: str
    """The base's own code of the language that a source begins with."""

    lines: tuple[str, ...]
    """Lines of Python after which the sources of `tokenizer` begin with it; none where `src_lang` alone does that."""

    tgt_id: int
    """The id of the target's token."""

    knows_tgt: bool
    """Whether its text is turned to that id."""

    is_special: bool
    """Whether it takes the languages' tokens for special, and drops them from decoded text."""


def plain_tokenizer(tokenizer: BaseTokenizer, marked: str, tgt: str) -> PlainTokenizer:
    """Returns what a base's tokenizer needs, once plain transformers has loaded it, for a direction.

    M2M-124's has its languages inside the vocabulary, where the class looks for them behind it; and that of a base
    that was saved by M2M-100's constructor does not list its languages as special.

    Args:
        tokenizer: The base's.
        marked: The language that a source begins with, by a code of any family.
        tgt: The target language.
    """
    loaded: Any = tokenizer.family.tokenizer_class.from_pretrained(tokenizer.folder, local_files_only=True)
    src_lang, ids = _own_code(tokenizer, marked), tokenizer.language_ids
    src_token, tgt_token = (tokenizer.language_token(language) for language in (marked, tgt))
    src_id, tgt_id = (ids[match_code(language, ids)] for language in (marked, tgt))
    lines = setting_lines(tokenizer, marked)
    if not lines and not any(language.code == marked for language in tokenizer.new_languages):
        try:
            loaded.src_lang = src_lang
            is_set = loaded("a")["input_ids"][0] == src_id
        except (KeyError, TypeError):  # no language of the class
            is_set = False
        lines = [] if is_set else _telling_lines(src_lang, src_token, src_id)
    known = {index for code, index in ids.items() if code not in {new.code for new in tokenizer.new_languages}}
    return PlainTokenizer(
        src_lang=src_lang,
        lines=tuple(lines),
        tgt_id=tgt_id,
        knows_tgt=bool(loaded.convert_tokens_to_ids(tgt_token) == tgt_id),
        is_special=known <= set(loaded.all_special_ids),
    )


def _telling_lines(code: str, token: str, index: int) -> list[str]:
    """Returns the lines that tell a tokenizer with a closed list of a language, and have sources begin with it."""
    return [
        f'tokenizer.lang_code_to_token["{code}"] = "{token}"',
        f'tokenizer.lang_token_to_id["{token}"] = {index}',
        f'tokenizer.src_lang = "{code}"',
    ]


def _own_code(tokenizer: BaseTokenizer, language: str) -> str:
    """Returns the code by which the base's tokenizer knows a language, or would know one that is new."""
    match = tokenizer.family.language_token.fullmatch(tokenizer.language_token(language))
    assert match is not None, language
    return match.group(1)


def _is_fast(tokenizer_class: type[Any]) -> bool:
    return bool(getattr(tokenizer_class, "model", None))


def _list_tokens(config: Path, tokenizer: BaseTokenizer) -> None:
    """Lists the languages' tokens with their ids where a tokenizer written in Python reads them."""
    value = json.loads(config.read_text(encoding="utf-8")) if config.exists() else {}
    ids = tokenizer.language_ids
    tokens = {str(index): _token(tokenizer.language_token(code)).__getstate__() for code, index in ids.items()}
    value["added_tokens_decoder"] = {**value.get("added_tokens_decoder", {}), **tokens}
    config.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _add_tokens(loaded: Any, languages: Sequence[NewLanguage]) -> None:
    """Adds new tokens to a fast tokenizer, whose ids have no gaps: rows of the base without a token get one."""
    for language in languages:
        while len(loaded) < language.index:
            loaded.add_tokens([_token(f"<unused{len(loaded)}>")], special_tokens=True)
        loaded.add_tokens([_token(language.token)], special_tokens=True)
        assert loaded.convert_tokens_to_ids(language.token) == language.index, language


def _token(text: str) -> AddedToken:
    return AddedToken(text, special=True, normalized=False)
