"""What training has of the sentences that select and test, with its lines."""

from collections.abc import Mapping, Sequence

from langsearch.data.directions import Direction
from langsearch.data.lines import MAX_SHOWN
from langsearch.data.overlap import MAX_SHARE, LanguagePair, Overlap, find_overlap
from langsearch.data.parallel import ParallelText
from langsearch.experiment.corpus import PARTS, Corpus
from langsearch.space.schema import Space


def find_leaks(space: Space, parts: Mapping[str, ParallelText], directions: Sequence[Direction]) -> tuple[Overlap, ...]:
    """Returns what each two of the parts have in common, where they have something.

    Args:
        space: The space.
        parts: Train, validation and test, by name.
        directions: The space's.
    """
    return find_overlap(parts, language_pairs(space, directions))


def language_pairs(space: Space, directions: Sequence[Direction]) -> list[LanguagePair]:
    """Returns the pairs of languages that directions are between, in the space's order."""
    order = {language: index for index, language in enumerate(space.languages)}
    pairs = {(d.src, d.tgt) if order[d.src] < order[d.tgt] else (d.tgt, d.src) for d in directions}
    return sorted(pairs, key=lambda pair: (order[pair[0]], order[pair[1]]))


def leak_problems(space: Space, overlaps: Sequence[Overlap], corpus: Corpus) -> list[str]:
    """Returns a problem for each two parts that have more in common than they may, unless the space allows it.

    Args:
        space: The space.
        overlaps: As `find_leaks` returns them.
        corpus: The parts.
    """
    if space.data.allow_overlap:
        return []
    problems = []
    for overlap in overlaps:
        is_filtered = space.data.filter.overlap and "train" in (overlap.part, overlap.other)
        if overlap.is_leak and not is_filtered:
            first, second = sorted((overlap.part, overlap.other), key=PARTS.index)
            text = f"must have no rows in common with data.{first}, but {describe_overlap(space, overlap, corpus)}."
            problems.append(space.document.problem(("data", second), f"{text} {_WAY_OUT}"))
    return problems


_WAY_OUT = (
    "Leave them out of one of the two (out of train: data.filter: {overlap: true}), or go on by data.allow_overlap: "
    "true; scores will then be too good."
)


def describe_overlap(space: Space, overlap: Overlap, corpus: Corpus, max_places: int = MAX_SHOWN) -> str:
    """Returns how many rows two parts have in common, and where the first of them are written.

    Args:
        space: The space.
        overlap: What they have in common.
        corpus: The parts.
        max_places: So many are named at most.
    """
    found = list(zip(overlap.rows.tolist(), overlap.other_rows.tolist(), overlap.languages, strict=True))
    places = [
        f"{corpus.place(space.data, overlap.part, language, row)} = "
        f"{corpus.place(space.data, overlap.other, language, other_row)}"
        for row, other_row, language in found[:max_places]
    ]
    more = f" and {len(found) - max_places:,} more" if len(found) > max_places else ""
    share = f"{100 * overlap.share:.3g} %, at most {100 * MAX_SHARE:g} %"
    counted = f"{len(found):,} of {overlap.num_rows:,} rows of {overlap.part} are in {overlap.other} too ({share})"
    return f"{counted}: {', '.join(places)}{more}"
