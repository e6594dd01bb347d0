"""Scores of many cuts of one donor: rows of all of them in one batch, and what two of them share decoded once."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace

from langsearch.adapters.cuts import CutMethod, Donor
from langsearch.adapters.kinds import build_adapters
from langsearch.adapters.learners import AdaptedModel
from langsearch.adapters.side_by_side import RowKey, fill_side_by_side, parts, side_by_side
from langsearch.data.directions import Direction
from langsearch.evaluate.decoding import Decoded, DecodingRow, decode_rows
from langsearch.evaluate.evaluation import Evaluation, EvaluationSet, judge, longest_source
from langsearch.evaluate.limits import length_limits
from langsearch.evaluate.spbleu import SpBleu
from langsearch.model.base import Base
from langsearch.model.positions import num_positions
from langsearch.space.architecture import Architecture
from langsearch.space.settings import DecodingSettings

KnownRows = MutableMapping[RowKey, Decoded]
"""What is decoded already of a donor, with one method, on one set by the same settings."""


def evaluate_cuts(
    base: Base,
    donor: Donor,
    cuts: Sequence[Architecture],
    data: EvaluationSet,
    settings: DecodingSettings,
    spbleu: SpBleu,
    *,
    known: KnownRows,
    method: CutMethod = "columns",
    with_chrf: bool = False,
    num_parts: int = 1,
    after_batch: Callable[[], None] = lambda: None,
) -> list[Evaluation]:
    """Returns the scores of each cut.

    Args:
        base: The base, without adapters; it is left so.
        donor: What is cut.
        cuts: Architectures that can be cut out of it.
        data: Sentences and directions.
        settings: Beams, length and batch size.
        spbleu: The scorer.
        known: What was decoded before; what is new is added.
        method: How pairs are cut.
        with_chrf: Score by chrF2 too.
        num_parts: Batches are split into so many parts, where memory is short.
        after_batch: Called after every decoded batch, and between the scores.

    Raises:
        NonFiniteScoreError: If a score is NaN or infinite.
    """
    keys = [_keys(cut, data) for cut in cuts]
    new = [key for key in dict.fromkeys(key for of_cut in keys for key in of_cut.values()) if key not in known]
    if new:
        known.update(_decoded(base, donor, new, data, settings, method, num_parts, after_batch))
    longest = longest_source(settings, num_positions(base.model.config))
    return [
        judge(
            {direction: known[key] for direction, key in of_cut.items()},
            data,
            longest,
            spbleu,
            with_chrf=with_chrf,
            after_batch=after_batch,
        )
        for of_cut in keys
    ]


def _keys(cut: Architecture, data: EvaluationSet) -> dict[Direction, RowKey]:
    found = parts(cut)
    return {direction: (direction, found["src", direction.src], found["tgt", direction.tgt]) for direction in data.rows}


def _decoded(
    base: Base,
    donor: Donor,
    keys: Sequence[RowKey],
    data: EvaluationSet,
    settings: DecodingSettings,
    method: CutMethod,
    num_parts: int,
    after_batch: Callable[[], None],
) -> Mapping[RowKey, Decoded]:
    joined = side_by_side(donor.architecture, keys)
    languages = list(joined.language_of)
    adapters = build_adapters(base, joined.architecture, languages)
    fill_side_by_side(adapters, joined, donor, method)
    positions = num_positions(base.model.config)
    longest = longest_source(settings, positions)
    limits = length_limits(settings, positions, list(data.rows), data.train)
    directions = {key: joined.direction(key) for key in keys}
    factors = {directions[key]: limits.factors[key[0]] for key in keys if key[0] in limits.factors}
    ids = data.vocabulary.language_ids
    model = AdaptedModel(base, adapters)
    try:
        decoded = decode_rows(
            model,
            [
                DecodingRow(data.store.tokens(key[0].src, int(row))[:longest], directions[key].src, directions[key].tgt)
                for key in keys
                for row in data.rows[key[0]]
            ],
            tokenizer=base.tokenizer,
            vocabulary=replace(
                data.vocabulary, language_ids={name: ids[own] for name, own in joined.language_of.items()}
            ),
            languages=languages,
            settings=settings,
            limits=replace(limits, factors=factors),
            num_parts=num_parts,
            after_batch=after_batch,
        )
    finally:
        model.remove()
    return decoded.split({key: len(data.rows[key[0]]) for key in keys})
