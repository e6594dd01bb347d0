"""What of an experiment's text is longer than its base, or its space, allows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from langsearch.data.directions import Direction
from langsearch.data.lengths import long_sentences
from langsearch.data.lines import shorten
from langsearch.data.parallel import ParallelText
from langsearch.experiment.corpus import Corpus
from langsearch.space.problems import InputError
from langsearch.space.schema import Space

Tokenize = Callable[[Sequence[str]], list[list[int]]]


@dataclass(frozen=True)
class Lengths:
    """How long sentences may be, and how many are longer."""

    positions: int
    """The most tokens of a side that the base was trained for, language and end included."""

    max_length: int
    """Training leaves out pairs with a longer side: `trainer.max_length`, or the base's positions if fewer."""

    num_left_out: int
    """Training sentences that are longer."""

    num_cut: int
    """Sentences of the validation and test part that are cut before they are translated."""


def check_lengths(
    space: Space,
    corpus: Corpus,
    directions: Sequence[Direction],
    tokenize: Tokenize,
    positions: int,
) -> Lengths:
    """Returns how much of the text is too long; what is neither left out nor cut is a problem.

    Args:
        space: The space.
        corpus: Train, validation and test.
        directions: The space's.
        tokenize: Splits sentences into ids of pieces, without language and end.
        positions: Of the base.

    Raises:
        InputError: If `evaluation` cuts behind the last position, or cuts not at all where a sentence is longer.
    """
    evaluation = space.evaluation
    problems = [
        space.document.problem(
            ("evaluation", name, "max_length"),
            f"must be at most the base's {positions:,} positions, but got {settings.max_length}.",
        )
        for name, settings in (("search", evaluation.search), ("final", evaluation.final))
        if settings.max_length is not None and settings.max_length > positions
    ]
    num_cut = 0
    for part, text in (("validation", corpus.validation), ("test", corpus.test)):
        used = [evaluation.final] if part == "test" else [evaluation.search, evaluation.final, *evaluation.rungs]
        given = [settings.max_length for settings in used if settings.max_length is not None]
        limit = min([positions, *given])
        found = long_sentences(_only(text, {direction.src for direction in directions}), tokenize, limit)
        num_cut += len(found)
        if len(given) < len(used):
            problems += shorten(
                [
                    f"{corpus.place(space.data, part, language, row)}: a sentence must have at most {positions:,} "
                    f"tokens, for which the base has positions, but has {length:,}. Shorten it, or have it cut: "
                    f"`evaluation.search.max_length` and `evaluation.final.max_length`."
                    for language, row, length in found
                    if length > positions
                ]
            )
    if problems:
        raise InputError(problems)
    max_length = min(space.trainer_section.max_length, positions)
    num_left_out = len(long_sentences(corpus.train, tokenize, max_length))
    return Lengths(positions, max_length, num_left_out, num_cut)


def _only(text: ParallelText, languages: set[str]) -> ParallelText:
    kept = tuple(language for language in text.languages if language in languages)
    return ParallelText(kept, {language: text.sentences[language] for language in kept}, text.origin)
