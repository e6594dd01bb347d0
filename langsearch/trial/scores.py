"""Scores and translations in a trial's folder: one row a direction, one row a sentence."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pyarrow as pa

from langsearch.evaluate.evaluation import Evaluation, EvaluationSet
from langsearch.experiment.folder import TrialFolder, read_rows, write_rows
from langsearch.space.settings import DecodingSettings

ScoredSplit = Literal["validation", "full", "test"]
"""validation: what selected, as the search decodes it. full: the same part as `evaluation.final` decodes it, by default
all of it. test: the test part."""

FinalSplit = Literal["full", "test"]
"""Those that `evaluation.final` decodes, under the names that files have for them."""

SCORES = pa.schema(
    [
        ("split", pa.string()),
        ("src", pa.string()),
        ("tgt", pa.string()),
        ("spbleu", pa.float64()),
        ("num_sentences", pa.int64()),
        ("signature", pa.string()),
        ("chrf", pa.float64()),
        ("chrf_signature", pa.string()),
        ("num_cut", pa.int64()),
        ("num_cut_sources", pa.int64()),
        ("is_zero_shot", pa.bool_()),
    ]
)
TRANSLATIONS = pa.schema(
    [
        ("split", pa.string()),
        ("src", pa.string()),
        ("tgt", pa.string()),
        ("row", pa.int64()),
        ("source", pa.string()),
        ("hypothesis", pa.string()),
        ("reference", pa.string()),
    ]
)


def score_columns(evaluation: Evaluation, prefix: str = "") -> dict[str, Any]:
    """Returns what every evaluation has, by the names of its columns in the trial table.

    Args:
        evaluation: The evaluation.
        prefix: Of the names: "test_" of a `TestResult`, "full_" of a `FinalResult`, none of a `TrialResult`.
    """
    scores = evaluation.scores
    return {
        f"{prefix}spbleu": scores.spbleu,
        f"{prefix}spbleu_low": scores.spbleu_low,
        f"{prefix}spbleu_high": scores.spbleu_high,
        f"{prefix}num_sentences": scores.num_sentences,
        f"{prefix}num_directions": len(scores.by_direction),
        f"{prefix}cut_share": evaluation.cut_share,
        f"{prefix}num_cut_sources": evaluation.num_cut_sources,
    }


def write_scores(folder: TrialFolder, split: ScoredSplit, evaluation: Evaluation, data: EvaluationSet) -> None:
    """Writes the scores of a split beside those of the others, and the test part's translations.

    Raises:
        OSError: If the disk is full; what was there before stays.
    """
    chrf = dict(evaluation.chrf.by_direction) if evaluation.chrf else {}
    rows = [
        {
            "src": score.direction.src,
            "tgt": score.direction.tgt,
            "spbleu": score.spbleu,
            "num_sentences": score.num_sentences,
            "signature": evaluation.scores.signature,
            "chrf": chrf.get(score.direction),
            "chrf_signature": evaluation.chrf.signature if evaluation.chrf else None,
            "num_cut": evaluation.cut[score.direction].hypotheses,
            "num_cut_sources": evaluation.cut[score.direction].sources,
            "is_zero_shot": score.direction in evaluation.zero_shot,
        }
        for score in evaluation.scores.by_direction
    ]
    _replace(folder, split, rows)
    if split == "test":
        write_rows(folder.translations, list(_translation_rows(split, evaluation.hypotheses, data)), TRANSLATIONS)


def search_columns(evaluation: Evaluation, settings: DecodingSettings, *, with_directions: bool) -> dict[str, Any]:
    """Returns what an evaluation while searching says of a trial, by the names that a `TrialResult` has for it.

    Args:
        evaluation: The evaluation.
        settings: How it was decoded.
        with_directions: Whether constraints need the scores by direction.
    """
    return score_columns(evaluation) | {
        "signature": evaluation.scores.signature,
        "worst_class_spbleu": evaluation.worst_class_spbleu,
        "chrf": evaluation.chrf.chrf if evaluation.chrf else None,
        "direction_spbleu": evaluation.direction_spbleu if with_directions else None,
        "beams": settings.beams,
    }


def copy_scores(folder: TrialFolder, split: ScoredSplit, to: ScoredSplit) -> None:
    """Writes the scores of one split also as those of another."""
    _replace(folder, to, [row for row in read_rows(folder.scores) if row["split"] == split])


def _replace(folder: TrialFolder, split: ScoredSplit, rows: list[dict[str, Any]]) -> None:
    others = [row for row in read_rows(folder.scores) if row["split"] != split]
    write_rows(folder.scores, others + [{**row, "split": split} for row in rows], SCORES)


def _translation_rows(
    split: ScoredSplit, hypotheses: Mapping[Any, Any], data: EvaluationSet
) -> Iterator[dict[str, Any]]:
    for direction, rows in data.rows.items():
        for row, hypothesis in zip(rows.tolist(), hypotheses[direction], strict=True):
            yield {
                "split": split,
                "src": direction.src,
                "tgt": direction.tgt,
                "row": row,
                "source": data.store.text(direction.src, row),
                "hypothesis": hypothesis,
                "reference": data.store.text(direction.tgt, row),
            }
