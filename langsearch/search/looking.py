"""The data of a checked space, looked at for a page."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from langsearch.data.batches import NUM_MARKS
from langsearch.data.dirt import KINDS, MAX_SPLIT, spaced
from langsearch.data.parallel import ParallelText
from langsearch.experiment.data_look import DataLook, Fault, PairMatrix
from langsearch.experiment.dirt import FoundDirt
from langsearch.experiment.environment import CheckedSpace
from langsearch.experiment.leaks import describe_overlap
from langsearch.search.known_pieces import unknown_shares
from langsearch.search.sentence_lines import describe_filtered, describe_worst
from langsearch.search.swapped_lines import swapped_words

_Value = TypeVar("_Value")


def look_at_data(checked: CheckedSpace, dirt: FoundDirt) -> DataLook:
    """Returns what a page shows of a space's data.

    Args:
        checked: The space.
        dirt: What is wrong with its sentences.
    """
    space, corpus = checked.space, checked.corpus
    present = {
        part: {language: _present(text, language) for language in space.languages}
        for part, text in corpus.parts.items()
    }
    return DataLook(
        name=space.name,
        base=space.base,
        languages=space.languages,
        num_directions=len(checked.directions),
        num_rows={part: len(text) for part, text in corpus.parts.items()},
        sentences={part: [int(found[name].sum()) for name in space.languages] for part, found in present.items()},
        pairs={part: _pairs(checked, [found[name] for name in space.languages]) for part, found in present.items()},
        lengths={language: _lengths(checked, language) for language in space.languages},
        length_ratios=_by_direction(checked, partial(_length_ratio, dirt)),
        max_length=checked.lengths.max_length,
        unknown_shares=unknown_shares(checked),
        faults=[
            Fault(
                language=language,
                kind=kind,
                num_sentences=dirt.num(language, kind),
                share=dirt.share(language, kind),
                worst=describe_worst(checked, dirt, language, kind),
            )
            for language in space.languages
            for kind in KINDS
            if dirt.num(language, kind)
        ],
        faulty_shares={kind: _by_direction(checked, partial(dirt.pair_share, kind)) for kind in ("copies", "lengths")},
        shared_pairs={
            f"{overlap.part} in {overlap.other}": _pairs(
                checked, [present[overlap.part][name][overlap.rows] for name in space.languages]
            )
            for overlap in checked.overlaps
        },
        overlaps=[describe_overlap(space, overlap, corpus) for overlap in checked.overlaps],
        swapped=list(swapped_words(checked, dirt.swapped)),
        filtered=describe_filtered(checked.filtered) if checked.filtered is not None else None,
    )


def _present(text: ParallelText, language: str) -> NDArray[np.bool_]:
    return np.fromiter((sentence is not None for sentence in text.sentences[language]), np.bool_, len(text))


def _pairs(checked: CheckedSpace, present: Sequence[NDArray[np.bool_]]) -> PairMatrix:
    by_language = dict(zip(checked.space.languages, present, strict=True))
    return _by_direction(checked, lambda src, tgt: int((by_language[src] & by_language[tgt]).sum()))


def _by_direction(checked: CheckedSpace, value: Callable[[str, str], _Value]) -> list[list[_Value | None]]:
    given = {(direction.src, direction.tgt) for direction in checked.directions}
    languages = checked.space.languages
    return [[value(src, tgt) if (src, tgt) in given else None for tgt in languages] for src in languages]


def _length_ratio(dirt: FoundDirt, src: str, tgt: str) -> float | None:
    if (src, tgt) in dirt.proportions:
        return dirt.proportions[src, tgt]
    return 1 / dirt.proportions[tgt, src] if (tgt, src) in dirt.proportions else None


def _lengths(checked: CheckedSpace, language: str) -> list[int]:
    sentences = [sentence for sentence in checked.corpus.train.sentences[language] if sentence is not None]
    some = [sentences[row] for row in spaced(len(sentences), MAX_SPLIT)]
    return [len(ids) + NUM_MARKS for ids in (checked.base_tokenizer.encode(some) if some else [])]
