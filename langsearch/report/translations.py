"""Translations side by side, with a score of each sentence: what the best member gains, and what it loses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sacrebleu.metrics import CHRF

from langsearch.report.experiment_reader import trial_folder
from langsearch.report.experiment_values import Experiment
from langsearch.report.lenient import as_integer, as_text, read_table
from langsearch.report.summary import Summary

MAX_SCORED = 1_200
"""Sentences of which each system's translation is scored: one takes about 0.3 ms. Of more, evenly spaced ones."""

NUM_EXTREMES = 40
NUM_SPREAD = 60

_COLUMNS = ("split", "src", "tgt", "row", "source", "hypothesis", "reference")


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """One sentence of one direction as several systems translate it."""

    src: str
    tgt: str
    row: int
    """Its index in the split, the same in all languages."""

    source: str
    reference: str
    hypotheses: tuple[str | None, ...]
    """By system, in the order of `Translations.systems`."""

    chrf: tuple[float | None, ...]
    """Sentence chrF2 of each, 0 to 100."""

    is_spread: bool
    """Whether it is one of the evenly spaced ones, not chosen for its scores."""


@dataclass(frozen=True, kw_only=True)
class Translations:
    """What the page shows of a split's translations."""

    split: str
    systems: tuple[str, ...]
    """Trial names: the pretrained base, full fine-tuning, the best member, as far as there are translations."""

    sentences: tuple[Sentence, ...]
    num_scored: int
    num_all: int
    signature: str


def read_translations(experiment: Experiment, summary: Summary) -> Translations | None:
    """Reads the best member's translations and those of the baselines; None where there are none.

    Of at most `MAX_SCORED` sentences, evenly spaced over all directions, those with the largest gains and losses
    against each baseline are kept, and some that are evenly spaced.
    """
    if summary.best is None:
        return None
    split = summary.split
    own = _table(experiment, summary.best.name, split)
    if own is None or not own.num_rows:
        return None
    places = _evenly(own.num_rows, MAX_SCORED)
    lines = own.take(pa.array(places)).to_pylist()
    baselines = [trial for trial in (summary.pretrained, summary.full_finetuning) if trial is not None]
    others = {trial.name: _matching(_table(experiment, trial.name, split), places, lines) for trial in baselines}
    others = {name: texts for name, texts in others.items() if any(text is not None for text in texts)}
    systems = (*others, summary.best.name)
    hypotheses = [*others.values(), [as_text(line["hypothesis"]) or "" for line in lines]]
    metric = CHRF()
    scores = np.array(
        [
            [
                np.nan if text is None else metric.sentence_score(text, [as_text(line["reference"]) or ""]).score
                for text, line in zip(texts, lines, strict=True)
            ]
            for texts in hypotheses
        ]
    )
    spread = set(_evenly(len(lines), NUM_SPREAD))
    kept = spread | {place for row in scores[:-1] for place in _extremes(scores[-1] - row)}
    return Translations(
        split=split,
        systems=systems,
        sentences=tuple(
            Sentence(
                src=str(lines[place]["src"]),
                tgt=str(lines[place]["tgt"]),
                row=as_integer(lines[place]["row"]) or 0,
                source=as_text(lines[place]["source"]) or "",
                reference=as_text(lines[place]["reference"]) or "",
                hypotheses=tuple(texts[place] for texts in hypotheses),
                chrf=tuple(None if np.isnan(row[place]) else float(row[place]) for row in scores),
                is_spread=place in spread,
            )
            for place in sorted(kept)
        ),
        num_scored=len(lines),
        num_all=own.num_rows,
        signature=str(metric.get_signature().format()),
    )


def _table(experiment: Experiment, name: str, split: str) -> pa.Table | None:
    folder = trial_folder(experiment, name)
    table = None if folder is None else read_table(folder / "translations.parquet", [])
    if table is None or not set(_COLUMNS) <= set(table.column_names):
        return None
    return table.filter(pc.equal(table["split"], split))


def _matching(table: pa.Table | None, places: Sequence[int], lines: Sequence[dict[str, Any]]) -> Sequence[str | None]:
    """Returns another system's translation of each line, None where it has none."""
    if table is None:
        return [None] * len(lines)
    keys = [_key(line) for line in lines]
    if places[-1] < table.num_rows:
        # Systems that were scored on the same sentences have them in the same order.
        found = table.take(pa.array(places)).to_pylist()
        if [_key(line) for line in found] == keys:
            return [as_text(line["hypothesis"]) for line in found]
    wanted = set(keys)
    columns = (table[name].to_pylist() for name in ("src", "tgt", "row", "hypothesis"))
    known = {(src, tgt, row): text for src, tgt, row, text in zip(*columns, strict=True) if (src, tgt, row) in wanted}
    return [as_text(known.get(key)) for key in keys]


def _key(line: dict[str, Any]) -> tuple[Any, Any, Any]:
    return line["src"], line["tgt"], line["row"]


def _evenly(num: int, most: int) -> list[int]:
    """Returns at most so many of `num` places, evenly spaced."""
    count = min(num, most)
    return [num * (2 * index + 1) // (2 * count) for index in range(count)]


def _extremes(gains: np.ndarray) -> list[int]:
    """Returns the places of the largest gains and losses, (sentences,) -> at most twice `NUM_EXTREMES`."""
    order = [int(place) for place in np.argsort(gains, kind="stable") if not np.isnan(gains[place])]
    losses = [place for place in order[:NUM_EXTREMES] if gains[place] < 0]
    return losses + [place for place in order[-NUM_EXTREMES:] if gains[place] > 0]
