"""What a space needs of its base, checked as far as the space is right: weights, sizes, languages, tokenizers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from langsearch.adapters.peft_export import check_teacher
from langsearch.adapters.peft_import import read_adapters
from langsearch.data.directions import parse_directions
from langsearch.evaluate.spbleu import ScoreTokenizer, find_tokenizer
from langsearch.experiment.corpus import count_rows, read_corpus, row_problems
from langsearch.model.base import BaseTokenizer
from langsearch.model.finding import FoundBase, locate_base
from langsearch.model.larger import check_larger
from langsearch.model.new_languages import check_new_languages
from langsearch.model.shape import read_shape
from langsearch.space.architecture import BaseShape
from langsearch.space.document import Document
from langsearch.space.draft import Draft
from langsearch.space.problems import InputError
from langsearch.space.settings import BaseSource

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class CheckedBase:
    """A base as a space wants it; None for what could not be read, of which the problems tell."""

    found: FoundBase | None = None
    shape: BaseShape | None = None
    tokenizer: BaseTokenizer | None = None
    score_tokenizer: ScoreTokenizer | None = None
    teachers: tuple[FoundBase, ...] = ()
    """The other bases that teach."""

    problems: tuple[str, ...] = ()


def check_base(draft: Draft, source: BaseSource) -> CheckedBase:
    """Checks a base against all of a space that is right; of its weights nothing is fetched.

    What is wrong with one of its files hides nothing that is told by the others.

    Args:
        draft: What is right of the space.
        source: The base.
    """
    problems: list[str] = []
    found = _tried(partial(_located, draft.document, source), problems)
    if found is None:
        return CheckedBase(problems=tuple(problems))
    folder, family = found.folder, found.source.family
    problems += found.check()
    shape = _tried(partial(read_shape, folder, family), problems)
    if shape is not None:
        problems += draft.check(shape)
        if draft.init_from is not None:
            _tried(partial(read_adapters, Path(draft.init_from), shape), problems)
    for teacher in draft.loss.folders if draft.loss is not None and draft.classes is not None else ():
        _tried(partial(check_teacher, teacher, draft.languages, set(draft.new_languages)), problems)
    tokenizer = _tried(partial(BaseTokenizer, folder, family), problems)
    score_tokenizer = None
    teachers = []
    if tokenizer is not None:
        problems += _language_problems(draft, tokenizer)
        for larger in draft.loss.larger if draft.loss is not None and draft.classes is not None else ():
            checking = partial(check_larger, larger, tokenizer, draft.languages, draft.new_languages)
            teachers.append(_tried(checking, problems))
        if draft.score_tokenizer is not None:
            score_tokenizer = _tried(partial(find_tokenizer, draft.score_tokenizer, tokenizer.spm_path), problems)
    return CheckedBase(
        found=found,
        shape=shape,
        tokenizer=tokenizer,
        score_tokenizer=score_tokenizer,
        teachers=tuple(teacher for teacher in teachers if teacher is not None),
        # A base of no known family is told by its sizes and by its tokenizer.
        problems=tuple(dict.fromkeys(problems)),
    )


def draft_problems(draft: Draft) -> list[str]:
    """Returns what a base and the files of a space that is wrong say of what is right of it.

    Sentences are read and counted; how long they are, and whether parts have some in common, is told of a right space.
    """
    problems: list[str] = []
    if draft.base_source is not None:
        problems += check_base(draft, draft.base_source).problems
    if draft.data is not None:
        data = draft.data
        directions = _tried(partial(parse_directions, data.directions, draft.languages), problems) or ()
        corpus = _tried(partial(read_corpus, data, draft.languages, directions, draft.where_part), problems)
        if corpus is not None:
            problems += row_problems(count_rows(corpus, directions), data)
    return problems


def _tried(call: Callable[[], T], problems: list[str]) -> T | None:
    """Returns what a call returns; None where the input is wrong, which is added to the problems."""
    try:
        return call()
    except InputError as error:
        problems += error.problems
        return None


def _located(document: Document, source: BaseSource) -> FoundBase:
    """Returns where the base lies. Raises InputError with the place in the space where it is named."""
    try:
        return locate_base(source)
    except InputError as error:
        raise InputError([f"{document.where(('base',))}: {problem}" for problem in error.problems]) from error


def _language_problems(draft: Draft, tokenizer: BaseTokenizer) -> list[str]:
    """Returns the problems of the languages with a base: those that it does not know, and those that begin in it."""
    problems = []
    way_out = "One that the base has no token for can begin as another: languages: {new: {tyv: {like: kaz}}}."
    for name, members in (draft.classes or {}).items():
        for index, language in enumerate(members):
            if language in draft.new_languages:
                continue
            try:
                tokenizer.vocabulary([language], decoder_start_id=0)
            except InputError as error:
                place = draft.document.where(("languages", name, index))
                problems += [f"{place}: {problem} {way_out}" for problem in error.problems]
    problems += [
        draft.document.problem(("languages", "new", *keys), text)
        for keys, text in check_new_languages(tokenizer, draft.new_languages)
    ]
    return problems
