"""Another base that teaches: found by what tells it from others, and checked to have the same vocabulary."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from langsearch.model.base import BaseTokenizer, quiet_transformers
from langsearch.model.families import read_config
from langsearch.model.finding import FoundBase, is_embedded, locate_base
from langsearch.model.positions import num_positions
from langsearch.space.loss_settings import LargerTeacher
from langsearch.space.problems import InputError
from langsearch.space.settings import BaseSource, TrainerSettings

_NUM_LISTED = 3


def find_larger(teacher: LargerTeacher) -> FoundBase:
    """Returns where a teacher lies; of its weights nothing is fetched.

    Raises:
        InputError: If there is no such base, or it is another than the teacher's identity says.
    """
    found = locate_base(BaseSource(teacher.base, None if _is_folder(teacher.base) else teacher.identity))
    if teacher.identity is not None and (now := found.fingerprint()) != teacher.identity:
        raise InputError(
            f"A teacher must stay the one that a training began with, but {teacher.base} was {teacher.identity}, and "
            f"is {now} now. Put its weights back, or start anew with --name NAME."
        )
    return found


def identified(settings: TrainerSettings) -> TrainerSettings:
    """Returns how to train with the identity of the teacher, where that is another base: it is part of the result.

    Raises:
        InputError: If there is no such base, or its weights are not there.
    """
    distill = settings.loss.distill
    if distill is None or (teacher := distill.larger) is None or teacher.identity is not None:
        return settings
    identity = find_larger(teacher).fingerprint() if _is_folder(teacher.base) else _commit(teacher.base)
    distill = replace(distill, teacher=str(replace(teacher, identity=identity)))
    return replace(settings, loss=replace(settings.loss, distill=distill))


def check_larger(
    teacher: LargerTeacher, tokenizer: BaseTokenizer, languages: Collection[str], new_languages: Collection[str]
) -> FoundBase:
    """Returns where a teacher lies that has the same vocabulary as a base.

    Args:
        teacher: The teacher.
        tokenizer: Of the base that learns.
        languages: What it learns.
        new_languages: Those of them that the base has no token for; nobody teaches them.

    Raises:
        InputError: If it is not there, or its weights are not, or it is a teacher of another vocabulary.
    """
    found = find_larger(teacher)
    other = BaseTokenizer(found.folder, found.source.family)
    config = read_config(found.folder)
    rule = f"A teacher must have the vocabulary and the languages of the base that learns, but {teacher.base}"
    problems = found.check()
    if other.family.form != tokenizer.family.form:
        problems += [f"{rule} is of the family {other.family.name}, whose sentences begin otherwise."]
    elif differences := _differences(tokenizer, other):
        problems += [f"{rule} has other tokens: {'; '.join(differences)}."]
    elif missing := [name for name in languages if name not in new_languages and not _is_same(name, tokenizer, other)]:
        problems += [f"{rule} has no token, or another one, for {', '.join(missing)}."]
    if teacher.top_k > config.vocab_size:
        problems += [
            f"`top_k` must be at most the vocabulary of {teacher.base}, {config.vocab_size:,}, but got "
            f"{teacher.top_k:,}."
        ]
    positions = num_positions(config)
    if positions < (own := num_positions(read_config(tokenizer.folder))):
        problems += [f"A teacher must read sentences as long as the base, {own:,} tokens, but reads {positions:,}."]
    if problems:
        raise InputError(problems)
    return found


def _is_folder(base: str) -> bool:
    return is_embedded(base) or Path(base).is_dir()


@lru_cache(maxsize=8)
def _commit(base: str) -> str:
    """Returns the commit of a base on the hub: what it was when this process first asked."""
    return locate_base(BaseSource(base)).fingerprint()


def _is_same(language: str, tokenizer: BaseTokenizer, other: BaseTokenizer) -> bool:
    try:
        ids = [each.vocabulary([language], 0).language_ids[language] for each in (tokenizer, other)]
    except InputError:
        return False
    return ids[0] == ids[1]


def _differences(tokenizer: BaseTokenizer, other: BaseTokenizer) -> list[str]:
    """Returns some tokens that have different ids, in words."""
    if tokenizer.fingerprint == other.fingerprint:
        return []
    own, theirs = _tokens(tokenizer), _tokens(other)
    differing = [token for token in (*own, *theirs) if own.get(token) != theirs.get(token)]
    listed = list(dict.fromkeys(differing))
    words = [f"{token!r} is {theirs.get(token, 'none')} there, {own.get(token, 'none')} here" for token in listed]
    more = [f"{len(words) - _NUM_LISTED:,} more"] if len(words) > _NUM_LISTED else []
    return words[:_NUM_LISTED] + more


def _tokens(tokenizer: BaseTokenizer) -> Mapping[str, int]:
    with quiet_transformers():
        loaded = tokenizer.family.tokenizer_class.from_pretrained(tokenizer.folder, local_files_only=True)
    found: dict[str, int] = loaded.get_vocab()
    return found
