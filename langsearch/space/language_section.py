"""The section `languages`: the languages of each class, and how those begin that the base has no token for."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from langsearch.space.document import KeyPath, show
from langsearch.space.languages import find_language
from langsearch.space.placement import SIDES
from langsearch.space.problems import InputError, near_names
from langsearch.space.sections import Section, fixed
from langsearch.space.values import SEARCH_KEYS

Problem = tuple[KeyPath, str]
Languages = Mapping[str, list[str]]

NEW = "new"
"""The key of `languages` that is no class."""


class NewLanguageSection(Section):
    """`languages.new.LANGUAGE`."""

    like: Annotated[str, fixed("text")]
    """The language of the base from whose token this one's starts."""


def _no_class(raw: object) -> object:
    if isinstance(raw, dict):
        return raw
    raise ValueError(
        "is no name for a class: it says how languages begin that the base has no token for, such as "
        f"{{tyv: {{like: kaz}}}}, but got {show(raw)}. Name the class otherwise."
    )


class LanguagesSection(Section):
    """`languages`: the keys beside `new` are classes."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, list[str]]

    new: Annotated[dict[str, NewLanguageSection], BeforeValidator(_no_class)] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _no_list(cls, raw: object) -> object:
        if not isinstance(raw, list):
            return raw
        raise ValueError(
            f"must be classes of languages, each with ranks of its own, but got {show(raw)}. "
            f"Of a single class: {{all: {show(raw)}}}"
        )

    @property
    def classes(self) -> dict[str, list[str]]:
        """The languages of each class, in the file's order."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def likes(self) -> dict[str, str]:
        """For each language that the base has no token for, the language whose token its own starts from."""
        return {language: section.like for language, section in self.new.items()}


def check_languages(section: LanguagesSection) -> Iterator[Problem]:
    """Yields what is wrong with the classes and with `new`, as far as it can be told without the base."""
    yield from _check_classes(section.classes)
    yield from _check_new(section.classes, section.likes)


def _check_classes(classes: Languages) -> Iterator[Problem]:
    if not classes or sum(len(members) for members in classes.values()) < 2:
        yield ("languages",), "must have at least two languages, such as {high: [en, fr], low: [wo]}."
    seen: dict[str, str] = {}
    for name, members in classes.items():
        if name in (*SEARCH_KEYS, *SIDES, "languages") or not re.fullmatch(r"[\w-]+", name):
            yield (
                ("languages", name),
                "is no name for a class: use letters, digits, _ and -, and no word of the schema.",
            )
        if any(name in others for others in classes.values()):
            yield ("languages", name), f"must not be named as a language is, but got {show(name)}"
        if not members:
            yield ("languages", name), "must have at least one language; leave the class out otherwise."
        for index, language in enumerate(members):
            path: KeyPath = ("languages", name, index)
            if not _is_code(language):
                yield path, f"must be a language code of letters, digits and _, but got {show(language)}"
                continue
            meaning = _meaning(language)
            if meaning in seen:
                yield path, f"must name each language once, but {show(seen[meaning])} is the same as {show(language)}"
            seen.setdefault(meaning, language)


def _check_new(classes: Languages, likes: Mapping[str, str]) -> Iterator[Problem]:
    members = [language for others in classes.values() for language in others]
    for language, like in likes.items():
        if language not in members:
            yield (
                ("languages", NEW, language),
                "must be a language of a class, since `new` says only how it begins, but is in none. "
                f"Add it to one, by the same code.{near_names(language, members)}",
            )
        path: KeyPath = ("languages", NEW, language, "like")
        if not _is_code(like):
            yield path, f"must be a language code of letters, digits and _, but got {show(like)}"
        elif like in likes:
            what = "itself" if like == language else f"{show(like)}, which is new too"
            yield path, f"must be a language that the base has a token for, but got {what}."


def _is_code(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_]+", text) is not None


def _meaning(language: str) -> str:
    try:
        return find_language(language).flores200
    except InputError:
        return language
