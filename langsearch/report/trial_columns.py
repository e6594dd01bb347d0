"""The trials as columns, for the page's script: its table, its parallel coordinates and the details of a trial."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from langsearch.report import wording
from langsearch.report.experiment_values import SPLITS, CurvePoint, Experiment, Score, Trial
from langsearch.report.figures import STATE_WORDS, Figure
from langsearch.report.matrices import class_pair_averages
from langsearch.report.summary import DirectionScores, Summary

MAX_NOTE_CHARS = 300
MAX_SUMMARY_CHARS = 200


def trial_columns(
    experiment: Experiment,
    summary: Summary,
    curves: Mapping[str, Sequence[CurvePoint]],
    scores: Mapping[str, DirectionScores],
    pairs: Sequence[tuple[str, str]],
) -> Figure:
    """Returns a list for each column with an entry a trial, in the order of the results; None: not known.

    Args:
        experiment: The experiment.
        summary: Its findings.
        curves: By trial name.
        scores: Direction scores on `summary.split`, or on validation for trials that have no others, by trial name.
        pairs: The class pairs that averages are given of.
    """
    trials = experiment.trials
    front = {trial.name for trial in summary.front}
    dimensions = sorted({name for trial in trials if trial.kind == "searched" for name in trial.params})
    workers = sorted({trial.worker for trial in trials if trial.worker is not None})
    worker_places = {name: place for place, name in enumerate(workers)}
    columns: dict[str, list[Any]] = {
        "name": [trial.name for trial in trials],
        "label": [wording.trial_label(trial) for trial in trials],
        "kind": [trial.kind for trial in trials],
        "state": ["rejected" if trial.is_rejected else trial.state for trial in trials],
        "front": [int(trial.name in front) for trial in trials],
        "validation": [_score(trial.validation) for trial in trials],
        "full": [_score(trial.final) for trial in trials],
        "test": [_score(trial.test) for trial in trials],
        "parameters": [trial.trainable_parameters for trial in trials],
        "percent": [wording.for_script(trial.trainable_percent) for trial in trials],
        "nonzero": [trial.nonzero_parameters for trial in trials],
        "epochs": [trial.epochs for trial in trials],
        "max_epochs": [trial.max_epochs for trial in trials],
        "seconds": [_seconds(trial.seconds) for trial in trials],
        "memory": [trial.peak_memory_bytes for trial in trials],
        "chrf": [wording.for_script(trial.metrics.get("chrf")) for trial in trials],
        "worst": [wording.for_script(trial.metrics.get("worst_class_spbleu")) for trial in trials],
        "feasible": [trial.is_feasible for trial in trials],
        "violations": [_violations(trial) for trial in trials],
        "cause": [_cut(trial.cause, MAX_NOTE_CHARS) for trial in trials],
        "note": [_cut(trial.note, MAX_NOTE_CHARS) for trial in trials],
        "links": [_links(trial) for trial in trials],
        "worker": [None if trial.worker is None else worker_places[trial.worker] for trial in trials],
        "started": [_minute(trial.started) for trial in trials],
        "summary": [_cut(trial.summary, MAX_SUMMARY_CHARS) for trial in trials],
        "curve": [
            [[point.epoch, wording.for_script(point.spbleu)] for point in curves.get(trial.name, ())]
            for trial in trials
        ],
        "pairs": [_pair_averages(experiment, scores.get(trial.name), pairs) for trial in trials],
    }
    return {
        **columns,
        "params": {
            name: [_plain(trial.params.get(name) if trial.kind == "searched" else None) for trial in trials]
            for name in dimensions
        },
        "workers": workers,
        "pair_names": [list(pair) for pair in pairs],
        "state_words": STATE_WORDS,
        "split_words": {split: wording.split_words(split, experiment) for split in SPLITS},
        "objectives": {
            name: [wording.for_script(trial.metrics.get(name)) for trial in trials]
            for name in ("spbleu", "trainable_parameters")
        },
    }


def _score(score: Score | None) -> list[float | int | None] | None:
    if score is None:
        return None
    ends = [wording.for_script(value) for value in (score.spbleu, score.low, score.high)]
    return [*ends, score.num_sentences, score.num_directions]


def _pair_averages(
    experiment: Experiment, scores: DirectionScores | None, pairs: Sequence[tuple[str, str]]
) -> list[float | None] | None:
    if not scores:
        return None
    averages = class_pair_averages(experiment, scores)
    return [wording.for_script(averages.get(pair)) for pair in pairs]


def _links(trial: Trial) -> str | None:
    """Returns what a trial has to do with others, in words."""
    parts = []
    if trial.same_as is not None:
        parts.append(f"shares the result of {trial.same_as}, which trains the same")
    if trial.retry_of is not None:
        parts.append(f"tries {trial.retry_of} again")
    if trial.retried_as is not None:
        parts.append(f"was tried again as {trial.retried_as}")
    if trial.space_version is not None and trial.space_version > 1:
        parts.append(f"from version {trial.space_version} of the space")
    return "; ".join(parts) or None


def _violations(trial: Trial) -> str | None:
    broken = [f"{text} by {100 * value:.3g} %" for text, value in trial.violations.items() if value > 0]
    return ", ".join(broken) or None


def _minute(text: str | None) -> str | None:
    try:
        return None if text is None else datetime.fromisoformat(text).isoformat(" ", "minutes")[:16]
    except ValueError:
        return text[:16] if text else None


def _plain(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _seconds(value: float | None) -> float | None:
    """Returns seconds as `wording.duration` rounds them, once."""
    return None if value is None else round(value, 1 if value < 59.95 else 0)


def _cut(text: str | None, most: int) -> str | None:
    return text if not text or len(text) <= most else f"{text[: most - 1]}…"
