"""Learning curves as figures: the front and the baselines by name, the others together, with the rungs."""

import math
from collections.abc import Mapping, Sequence

from langsearch.report import wording
from langsearch.report.experiment_values import CurvePoint, Experiment, Trial
from langsearch.report.figures import LINE_COLOURS, Figure, plotly_text
from langsearch.report.summary import Summary

_BASELINE_DASHES = ("dash", "dot", "dashdot", "longdash")
_FRONT_SYMBOLS = ("circle", "square", "triangle-up", "cross")
MAX_OTHER_CURVES = 200
OTHERS, STOPPED = "other trials", "stopped early"
"""Names of the curves that stand for many trials."""


def curve_figure(
    experiment: Experiment,
    summary: Summary,
    curves: Mapping[str, Sequence[CurvePoint]],
    quantity: str,
    title: str,
    rungs: Sequence[int] = (),
) -> Figure | None:
    """Returns a quantity over the epochs: the front and the baselines by name, the other trials as one grey group.

    Args:
        experiment: The experiment.
        summary: Its findings.
        curves: The points of each trial, by trial name.
        quantity: A field of `CurvePoint`.
        title: The title of the y axis.
        rungs: The epochs after which early stopping compares trials.
    """
    front = {trial.name for trial in summary.front}
    others = [trial for trial in experiment.trials if trial.kind == "searched" and trial.name not in front]
    traces = []
    for index, trial in enumerate(reversed(summary.front)):
        style = {
            "line": {"color": LINE_COLOURS[index % len(LINE_COLOURS)], "width": 2},
            "marker": {"symbol": _FRONT_SYMBOLS[index // len(LINE_COLOURS) % len(_FRONT_SYMBOLS)], "size": 5},
        }
        traces.append(_curve(trial, curves.get(trial.name, ()), quantity) | style)
    drawn = [trial for trial in summary.baselines if curves.get(trial.name)]
    for index, trial in enumerate(drawn):
        style = {
            "line": {"color": "var(--baseline)", "width": 2, "dash": _BASELINE_DASHES[index % len(_BASELINE_DASHES)]},
            "marker": {"symbol": "diamond", "size": 5},
        }
        traces.append(_curve(trial, curves[trial.name], quantity) | style)
    # Drawn first, so that it lies below; named last.
    step = max(1, math.ceil(len(others) / MAX_OTHER_CURVES))
    thinned = [(trial, curves.get(trial.name, ())) for trial in others[::step]]
    grey, ends = _other_curves(thinned, quantity), _pruned_ends(thinned, quantity)
    traces = [trace for trace in (grey, ends, *traces) if trace["x"]]
    if not traces:
        return None
    last = max(epoch or 0 for trace in traces for epoch in trace["x"])
    layout: Figure = {
        "xaxis": {"title": {"text": "epoch"}, "rangemode": "tozero", "tickformat": "d"}
        | ({"dtick": 1} if last <= 20 else {}),
        "yaxis": {"title": {"text": plotly_text(title)}},
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 56, "r": 16, "t": 40, "b": 48},
        "shapes": [
            {"type": "line", "layer": "below", "x0": rung, "x1": rung, "yref": "paper", "y0": 0, "y1": 1}
            | {"line": {"color": "var(--muted)", "width": 1, "dash": "dot"}}
            for rung in rungs
        ],
        "annotations": [
            {"text": "rung", "x": rung, "y": 0, "yref": "paper", "yanchor": "bottom", "xanchor": "left"}
            | {"showarrow": False, "font": {"color": "var(--muted)", "size": 11}}
            for rung in rungs
        ],
    }
    return {"data": traces, "layout": layout, "words": _words(traces, [trial.name for trial in summary.front], rungs)}


def _words(traces: Sequence[Figure], front: Sequence[str], rungs: Sequence[int]) -> str:
    """Returns what a figure of curves shows: of its lines and marks those that are drawn."""
    names = {name for trace in traces for name in trace["meta"] if len(trace["meta"]) == 1}
    drawn = {trace["name"] for trace in traces}
    parts = [
        *(["the front in colours"] if names & set(front) else []),
        *(["baselines dashed"] if any("dash" in trace.get("line", {}) for trace in traces) else []),
        *(["all other trials in grey"] if OTHERS in drawn else []),
    ]
    text = f"{', '.join(parts)}".capitalize() + "."
    if STOPPED in drawn:
        text += " An open circle is where early stopping ended a trial."
    if rungs:
        listed = ", ".join(map(str, rungs))
        text += f" Dotted lines are the rungs, the epochs after which trials are compared: {listed}."
    return text


def _curve(trial: Trial, points: Sequence[CurvePoint], quantity: str) -> Figure:
    drawn = [(point.epoch, value) for point in points if (value := getattr(point, quantity)) is not None]
    label = plotly_text(wording.trial_label(trial))
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label,
        "meta": [trial.name],
        "x": [epoch for epoch, _ in drawn],
        "y": [round(value, 5) for _, value in drawn],
        "customdata": [label] * len(drawn),
        "hovertemplate": "<b>%{customdata}</b><br>epoch %{x}: %{y:.4~g}<extra></extra>",
    }


def _other_curves(others: Sequence[tuple[Trial, Sequence[CurvePoint]]], quantity: str) -> Figure:
    """One trace with gaps: hundreds of traces would make the page slow."""
    trace: Figure = {"x": [], "y": [], "customdata": [], "meta": []}
    for trial, points in others:
        curve = _curve(trial, points, quantity)
        for key in ("x", "y", "customdata"):
            trace[key] += [*curve[key], None] if curve["x"] else []
        trace["meta"].append(trial.name)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": OTHERS,
        "legendrank": 2000,
        "line": {"color": "var(--dominated)", "width": 1},
        "marker": {"size": 3},
        "hovertemplate": "<b>%{customdata}</b><br>epoch %{x}: %{y:.4~g}<extra></extra>",
    } | trace


def _pruned_ends(others: Sequence[tuple[Trial, Sequence[CurvePoint]]], quantity: str) -> Figure:
    """Where early stopping ended a trial: the last point of its curve."""
    trace: Figure = {"x": [], "y": [], "customdata": [], "meta": []}
    for trial, points in others:
        curve = _curve(trial, points, quantity)
        if trial.state == "pruned" and curve["x"]:
            for key in ("x", "y", "customdata"):
                trace[key].append(curve[key][-1])
            trace["meta"].append(trial.name)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": STOPPED,
        "legendrank": 2001,
        "marker": {"symbol": "circle-open", "size": 8, "color": "var(--pruned)", "line": {"width": 1.8}},
        "hovertemplate": "<b>%{customdata}</b> stopped early<br>after epoch %{x}: %{y:.4~g}<extra></extra>",
    } | trace
