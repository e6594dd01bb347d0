"""Several experiments side by side: a list of them, their fronts in one figure, and their baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langsearch.dashboard.live import LiveExperiment, RunState, Snapshot
from langsearch.report import wording
from langsearch.report.experiment_values import SPLITS, Experiment, Score, Split, Trial
from langsearch.report.figures import LINE_COLOURS, Figure, ParameterScale, plotly_text, score_layout
from langsearch.report.summary import Summary, summarise

RUN_STATE_WORDS: Mapping[RunState, str] = {
    "running": "running",
    "done": "ended",
    "stopped": "stopped",
    "absent": "not begun",
}
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "star")
"""Beside the colours, which are not all told apart by everybody."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One experiment in a list of them."""

    index: int
    """Its place in the dashboard's addresses."""

    name: str
    state: RunState
    num_ended: int
    num_planned: int | None
    num_running: int
    split: Split
    """What the score is of."""

    best: Trial | None
    score: Score | None
    num_front: int
    seconds: float | None
    started: str | None

    @property
    def state_words(self) -> str:
        """The state as a person says it."""
        return RUN_STATE_WORDS[self.state]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One of the experiments that are compared."""

    index: int
    label: str
    experiment: Experiment
    summary: Summary


def describe(index: int, experiment: LiveExperiment) -> Line:
    """Returns an experiment's line in the list."""
    snapshot: Snapshot = experiment.snapshot()
    found = snapshot.experiment
    summary = None if found is None else summarise(found)
    best = None if summary is None else summary.best
    split: Split = "validation" if summary is None else summary.split
    return Line(
        index=index,
        name=experiment.name if found is None else found.name,
        state=snapshot.state,
        num_ended=0 if summary is None else summary.num_ended,
        num_planned=None if found is None else found.num_trials,
        num_running=len(snapshot.running) if snapshot.state == "running" else 0,
        split=split,
        best=best,
        score=None if best is None else best.score(split),
        num_front=0 if summary is None else len(summary.front),
        seconds=None if found is None else found.seconds,
        started=None if found is None or found.started is None else found.started[:16].replace("T", " "),
    )


def warnings(compared: Sequence[Compared]) -> list[str]:
    """Returns in what some experiments differ, so that their scores cannot be compared; nothing if they can."""
    about = [one.experiment for one in compared]
    found = []
    for what, values in (
        ("signature, so that spBLEU is computed in different ways", [one.signature for one in about]),
        ("tokenizer", [one.tokenizer for one in about]),
        ("languages", [tuple(sorted(one.languages)) for one in about]),
        ("directions", [tuple(sorted(one.directions)) for one in about]),
        ("base", [one.base for one in about]),
        ("number of test sentences or directions", [_size(one, "test") for one in compared]),
        ("number of validation sentences or directions", [_size(one, "validation") for one in compared]),
    ):
        if len({value for value in values if value}) > 1:
            found.append(what)
    return found


def most_shown(views: Sequence[tuple[str, Figure]]) -> int:
    """Returns the place of the view with the most experiments; of several the last, which says most."""
    places = range(len(views))
    return max(places, key=lambda place: (len(views[place][1]["data"]), place), default=0)


def comparison_views(compared: Sequence[Compared]) -> list[tuple[str, Figure]]:
    """Returns the fronts in one figure for each split that any of them was scored on, with their titles."""
    views = [(_split_words(compared, split), _figure(compared, split)) for split in SPLITS]
    return [(title, figure) for title, figure in views if figure is not None]


def baseline_rows(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    """Returns a row for each baseline and the best member, with a cell for each experiment."""
    names = [trial.name for one in compared for trial in one.summary.baselines]
    rows: list[dict[str, Any]] = [
        {"label": name.replace("_", " "), "cells": [_cell(one, _of(one, name)) for one in compared]}
        for name in dict.fromkeys(names)
    ]
    return [*rows, {"label": "best of the front", "cells": [_cell(one, one.summary.best) for one in compared]}]


def _split_words(compared: Sequence[Compared], split: Split) -> str:
    """Returns what the scores of a split are of; where that differs, by what they were decoded."""
    shown = [one for one in compared if any(trial.score(split) is not None for trial in one.experiment.trials)]
    words = {wording.split_words(split, one.experiment) for one in shown or compared}
    return words.pop() if len(words) == 1 else "validation by evaluation.final"


def _is_drawn(trial: Trial, split: Split) -> bool:
    return trial.score(split) is not None and trial.trainable_parameters is not None


def _of(one: Compared, name: str) -> Trial | None:
    return next((trial for trial in one.summary.baselines if trial.name == name), None)


def _cell(one: Compared, trial: Trial | None) -> dict[str, Any]:
    score = None if trial is None else trial.score(one.summary.split) or trial.validation
    is_other = trial is not None and score is not None and trial.score(one.summary.split) is None
    return {"score": score, "trial": trial, "split": "validation" if is_other else one.summary.split}


def _size(one: Compared, split: Split) -> tuple[int | None, int | None] | None:
    for trial in (*one.summary.baselines, *one.summary.front):
        score = trial.score(split)
        if score is not None and trial.state == "complete":
            return score.num_sentences, score.num_directions
    return None


def _figure(compared: Sequence[Compared], split: Split) -> Figure | None:
    drawn = [trial for one in compared for trial in (*one.summary.front, *one.summary.baselines)]
    drawn = [trial for trial in drawn if _is_drawn(trial, split)]
    if not drawn:
        return None
    scale, traces = ParameterScale([trial.trainable_parameters or 0 for trial in drawn]), []
    for place, one in enumerate(compared):
        colour = LINE_COLOURS[place % len(LINE_COLOURS)]
        symbol = _SYMBOLS[place % len(_SYMBOLS)]
        for trials, is_front in ((one.summary.front, True), (one.summary.baselines, False)):
            shown = [trial for trial in trials if _is_drawn(trial, split)]
            if shown:
                trace = _trace(one, shown, split, colour, symbol, is_front)
                traces.append(trace | {"x": [scale.position(trial) for trial in shown]})
    layout = score_layout(scale, f"spBLEU, {_split_words(compared, split)}")
    return {"data": traces, "layout": layout, "words": _words(traces)}


def _words(traces: Sequence[Figure]) -> str:
    """Returns what the figure shows: of lines, marks and bars those that are drawn."""
    text = "Up and to the left is better."
    if any("lines" in trace["mode"] for trace in traces):
        text += " A line joins an experiment's front."
    if any("-open" in trace["marker"]["symbol"] for trace in traces):
        text += " Open marks are baselines."
    if any(any(trace["error_y"]["array"]) or any(trace["error_y"]["arrayminus"]) for trace in traces):
        text += " Bars are 95 % intervals: over sentences, and over seeds where there are several."
    return text


def _trace(one: Compared, trials: Sequence[Trial], split: Split, colour: str, symbol: str, is_front: bool) -> Figure:
    scores = [score for trial in trials if (score := trial.score(split)) is not None]
    label = plotly_text(one.label)
    return {
        "type": "scatter",
        "name": label if is_front else f"{label}, baselines",
        "uid": f"{one.index} {'front' if is_front else 'baselines'}",
        "mode": "lines+markers" if is_front and len(trials) > 1 else "markers",
        "y": [round(score.spbleu, 4) for score in scores],
        "error_y": {
            "type": "data",
            "array": [round((score.high or score.spbleu) - score.spbleu, 4) for score in scores],
            "arrayminus": [round(score.spbleu - (score.low or score.spbleu), 4) for score in scores],
            "color": colour,
            "thickness": 1,
            "width": 3,
        },
        "marker": {"symbol": symbol if is_front else f"{symbol}-open", "color": colour, "size": 9},
        "line": {"color": colour, "width": 2, "shape": "hv"},
        "customdata": [
            [
                plotly_text(wording.trial_label(trial)),
                f"{wording.spbleu(score.spbleu)} ({wording.interval(score)})",
                wording.parameters(trial.trainable_parameters),
                plotly_text(trial.summary),
            ]
            for trial, score in zip(trials, scores, strict=True)
        ],
        "hovertemplate": f"<b>{label}</b> · %{{customdata[0]}}<br>%{{customdata[1]}} spBLEU<br>"
        "%{customdata[2]} trainable<br>%{customdata[3]}<extra></extra>",
    }
