"""The report's Plotly figures as plain values, drawn by the page's script.

Colours are named by the page's custom properties, such as "var(--front)": the script fills them in for light,
dark and print. Plotly reads some HTML tags in text, so every text that comes from data passes `plotly_text`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from langsearch.report import wording
from langsearch.report.experiment_values import Experiment, Split, Trial
from langsearch.report.importance import Importance
from langsearch.report.summary import Summary
from langsearch.study.front import FIELDS

Figure = dict[str, Any]

STATE_WORDS = {
    "complete": "complete",
    "pruned": "stopped early",
    "rejected": "never trained",
    "failed": "failed",
    "running": "running",
}

_STATE_MARKS = {
    "complete": ("circle", "var(--dominated)"),
    "pruned": ("circle-open", "var(--pruned)"),
    "failed": ("x-thin-open", "var(--failed)"),
    "running": ("diamond-open", "var(--running)"),
}
_CUT_MARK = {"symbol": "line-ew-open", "color": "var(--pruned)", "size": 7}
LINE_COLOURS = tuple(f"var(--line-{number})" for number in range(1, 8))
MAX_OTHER_POINTS = 5_000
"""Of each state. Of more trials, evenly spaced ones are drawn; the front and the baselines always."""

MANY_POINTS = 800

_LEVEL_WORDS = {"full_finetuning": "full fine-tuning", "pretrained": "the pretrained base"}

_SPACE = "\u2002"
_LABEL_SHARE = 0.12
"""About the width of a label, as a share of the figure's."""


def plotly_text(text: str, max_chars: int = 300) -> str:
    """Returns a text that Plotly shows as it is: it would take <b> or <a href> in data for formatting."""
    if len(text) > max_chars:
        text = f"{text[: max_chars - 1]}…"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def front_figure(experiment: Experiment, summary: Summary, split: Split) -> Figure | None:
    """Returns spBLEU over trainable parameters, None where no trial has both.

    Trial names are in `meta` of each trace, in the order of its points.
    """
    shown = [trial for trial in experiment.trials if _is_drawn(trial, split)]
    if not shown:
        return None
    cuts = [one for one in experiment.beside if one.kind == "cut" and not one.same_as and _is_drawn(one, split)]
    shown += cuts
    scale = ParameterScale([trial.trainable_parameters or 0 for trial in shown])
    members = [trial for trial in summary.front if _is_drawn(trial, split)]
    names = {trial.name for trial in members}
    traces = []
    if cuts:
        trace = _points(cuts, split, scale.position, name="cuts, untrained")
        del trace["meta"]  # a cut has no folder to be pinned from
        traces.append(trace | {"mode": "markers", "marker": _CUT_MARK})
    for state, (symbol, colour) in _STATE_MARKS.items():
        group = [
            trial for trial in shown if trial.state == state and trial.kind == "searched" and trial.name not in names
        ]
        if group:
            group = group[:: math.ceil(len(group) / MAX_OTHER_POINTS)]
            trace = _points(group, split, scale.position, name=STATE_WORDS[state])
            mark = {"symbol": symbol, "color": colour} | _size_of_many(len(shown), colour)
            traces.append(trace | {"mode": "markers", "marker": mark})
    if members:
        traces.append(_front_trace(members, summary, split, scale, shown))
    if baselines := [trial for trial in shown if trial.kind == "baseline"]:
        traces.append(_baseline_trace(baselines, split, scale, shown))
    layout = score_layout(scale, f"{wording.metric_label(experiment)}, {split}")
    level = _level(summary, split)
    found = {"data": traces, "layout": layout | {"shapes": [*_level_shapes(level, split), *_gap_shapes(scale)]}}
    joined = "The line joins the trials that no other trial beats in both."
    words = _words("to the left", traces, level, joined if split == "validation" else "A dotted line joins the front.")
    gap = " Left of the upright dotted line nothing is trained." if scale.has_zero else ""
    return found | {"words": f"{words}{gap}"}


def _size_of_many(num: int, colour: str) -> Figure:
    """Thousands of points would hide each other."""
    if num > MANY_POINTS:
        return {"size": 5, "opacity": 0.55, "line": {"width": 1, "color": colour}}
    return {"size": 8, "line": {"width": 1.6, "color": colour}}


def objective_figure(experiment: Experiment, summary: Summary, objective: str) -> Figure | None:
    """Returns validation spBLEU over another objective; None where no trial has both."""
    field = FIELDS.get(objective, objective)
    shown = [trial for trial in experiment.trials if trial.validation is not None and field in trial.metrics]
    if not shown:
        return None
    names = {trial.name for trial in summary.front}
    groups: list[tuple[str, list[Trial], Figure]] = []
    for state, (symbol, colour) in _STATE_MARKS.items():
        others = [
            trial for trial in shown if trial.state == state and trial.kind == "searched" and trial.name not in names
        ]
        others = others[:: max(1, math.ceil(len(others) / MAX_OTHER_POINTS))]
        groups.append((STATE_WORDS[state], others, {"symbol": symbol, "color": colour, "size": 8}))
    members = [trial for trial in shown if trial.name in names]
    groups.append(("front", members, {"symbol": "circle", "color": "var(--front)", "size": 10}))
    baselines = [trial for trial in shown if trial.kind == "baseline"]
    groups.append(("baselines", baselines, {"symbol": "diamond", "color": "var(--baseline)", "size": 11}))
    traces = [
        _points(trials, "validation", lambda trial: trial.metrics[field], name=name)
        | {"mode": "markers", "marker": mark | {"line": {"width": 1.6, "color": mark["color"]}}}
        for name, trials, mark in groups
        if trials
    ]
    layout: Figure = {
        "xaxis": {"title": {"text": plotly_text(objective.replace("_", " "))}},
        "yaxis": {"title": {"text": plotly_text(f"{wording.metric_label(experiment)}, validation")}},
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 56, "r": 16, "t": 40, "b": 56},
    }
    level = _level(summary, "validation")
    side = "to the right" if experiment.objectives.get(objective) == "max" else "to the left"
    layout["shapes"] = _level_shapes(level, "validation")
    return {"data": traces, "layout": layout, "words": _words(side, traces, level, "")}


def _words(side: str, traces: Sequence[Figure], level: Trial | None, joined: str) -> str:
    """Returns what a figure of scores shows: of lines and bars those that are drawn.

    Args:
        side: Where the better values of the x axis are.
        traces: The figure's.
        level: Whose score is a dashed line.
        joined: What a line over the members of the front says.
    """
    parts = [f"Up and {side} is better."]
    if joined and any(trace["name"] == "front" and len(trace["x"]) > 1 for trace in traces):
        parts.append(joined)
    if level is not None:
        parts.append(f"The dashed line is {_LEVEL_WORDS[level.name]}.")
    bars = (trace.get("error_y", {"array": [], "arrayminus": []}) for trace in traces)
    if any(any(error["array"]) or any(error["arrayminus"]) for error in bars):
        parts.append("Bars are 95 % intervals: over sentences, and over seeds where there are several.")
    return " ".join(parts)


def importance_figure(found: Sequence[Importance], max_dimensions: int = 24) -> Figure | None:
    """Returns the share of each dimension in the importance for each objective; None where none could be told."""
    known = [entry for entry in found if entry.values]
    if not known:
        return None
    totals: dict[str, float] = {}
    for entry in known:
        for name, share in entry.values:
            totals[name] = totals.get(name, 0.0) + share
    names = sorted(totals, key=lambda name: -totals[name])[:max_dimensions]
    traces = []
    for index, entry in enumerate(known):
        shares = dict(entry.values)
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": plotly_text(entry.objective.replace("_", " ")),
                "y": [plotly_text(name) for name in names],
                "x": [round(shares.get(name, 0.0), 4) for name in names],
                "marker": {"color": LINE_COLOURS[index % len(LINE_COLOURS)]},
                "hovertemplate": "<b>%{y}</b><br>%{x:.1%} of the importance<extra>%{fullData.name}</extra>",
            }
        )
    layout: Figure = {
        "height": max(220, (14 + 12 * len(known)) * len(names) + 110),
        "barmode": "group",
        "xaxis": {"title": {"text": "share of the importance"}, "tickformat": ".0%", "rangemode": "tozero"},
        "yaxis": {"type": "category", "autorange": "reversed", "showgrid": False},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 56, "r": 16, "t": 40, "b": 48},
    }
    return {"data": traces, "layout": layout}


def _is_drawn(trial: Trial, split: Split) -> bool:
    return trial.score(split) is not None and trial.trainable_parameters is not None


def _front_trace(
    members: Sequence[Trial], summary: Summary, split: Split, scale: "ParameterScale", shown: Sequence[Trial]
) -> Figure:
    named = {trial.name for trial in (summary.best, summary.smallest) if trial is not None}
    is_selection = split == "validation"
    return (
        _points(members, split, scale.position, name="front")
        | _intervals(members, split, "var(--front)")
        | {
            "mode": "lines+markers+text" if len(members) > 1 else "markers+text",
            "marker": {"symbol": "circle", "color": "var(--front)", "size": 10},
            # On the split that chose the front, what lies below a step is dominated; on test nothing is promised.
            "line": {"color": "var(--front)", "width": 2, "shape": "hv" if is_selection else "linear"}
            | ({} if is_selection else {"dash": "dot"}),
            "text": [f"{_SPACE}{plotly_text(trial.name)}{_SPACE}" if trial.name in named else "" for trial in members],
            "textposition": [
                _label_place(trial, shown, split, scale, _front_places(trial, members)) for trial in members
            ],
            "textfont": {"color": "var(--front)"},
        }
    )


def _baseline_trace(
    baselines: Sequence[Trial], split: Split, scale: "ParameterScale", shown: Sequence[Trial]
) -> Figure:
    return (
        _points(baselines, split, scale.position, name="baselines")
        | _intervals(baselines, split, "var(--baseline)")
        | {
            "mode": "markers+text",
            "marker": {"symbol": "diamond", "color": "var(--baseline)", "size": 11},
            "text": [f"{_SPACE}{plotly_text(wording.trial_label(trial))}{_SPACE}" for trial in baselines],
            "textposition": [_label_place(trial, shown, split, scale, _baseline_places(trial)) for trial in baselines],
            "textfont": {"color": "var(--baseline)"},
        }
    )


def _front_places(trial: Trial, members: Sequence[Trial]) -> tuple[str, ...]:
    # The line leaves a member to the right, but ends at the largest one.
    if trial is members[-1]:
        return "middle right", "top right", "bottom right", "top left"
    return "top left", "bottom right", "top right", "bottom left"


def _baseline_places(trial: Trial) -> tuple[str, ...]:
    # A dashed line may run through these, so their names stand above or below.
    if trial.name in _LEVEL_WORDS:
        return "top left", "bottom left", "top right", "bottom right"
    return "middle right", "bottom right", "middle left", "top right", "bottom left", "top left"


def _label_place(
    trial: Trial, shown: Sequence[Trial], split: Split, scale: "ParameterScale", places: Sequence[str]
) -> str:
    """Returns the first place where a label stays inside and meets no other point or interval, else the first."""
    spans = {other.name: _span(other, split) for other in shown}
    height = 0.055 * (max(high for _, high in spans.values()) - min(low for low, _ in spans.values()))
    score = trial.score(split)
    for place in places:
        vertical, side = place.split()
        sign = 1 if side == "right" else -1
        middle = (0.0 if score is None else score.spbleu) + {"top": height, "middle": 0.0, "bottom": -height}[vertical]
        is_inside = 0.0 < scale.share(trial) + sign * _LABEL_SHARE < 1.0
        is_free = not any(
            -0.01 <= sign * (scale.share(other) - scale.share(trial)) < _LABEL_SHARE
            and spans[other.name][0] < middle + height / 2
            and spans[other.name][1] > middle - height / 2
            for other in shown
            if other.name != trial.name
        )
        if is_inside and is_free:
            return place
    return places[0]


def _span(trial: Trial, split: Split) -> tuple[float, float]:
    score = trial.score(split)
    if score is None:
        return 0.0, 0.0
    has_bar = (trial.is_front or trial.kind == "baseline") and score.low is not None and score.high is not None
    return (score.low or 0.0, score.high or 0.0) if has_bar else (score.spbleu, score.spbleu)


def _points(trials: Sequence[Trial], split: Split, position: Callable[[Trial], float], *, name: str) -> Figure:
    scores = [trial.score(split) for trial in trials]
    return {
        "type": "scatter",
        "name": name,
        "meta": [trial.name for trial in trials],
        "x": [position(trial) for trial in trials],
        "y": [None if score is None else round(score.spbleu, 4) for score in scores],
        "customdata": [[plotly_text(text) for text in _hover_texts(trial, split)] for trial in trials],
        "hovertemplate": (
            "<b>%{customdata[0]}</b> · %{customdata[1]}<br>%{customdata[2]}<br>%{customdata[3]}<br>%{customdata[4]}"
            "<extra></extra>"
        ),
    }


def _hover_texts(trial: Trial, split: Split) -> list[str]:
    score = trial.score(split)
    state = STATE_WORDS[trial.state]
    if trial.epochs is not None and trial.max_epochs is not None:
        state += f", epoch {trial.epochs} of {trial.max_epochs}"
    size = f"{wording.parameters(trial.trainable_parameters)} trainable ({wording.percent(trial.trainable_percent)} %)"
    scored = f"{wording.spbleu(None if score is None else score.spbleu)} spBLEU, 95 % {wording.interval(score)}"
    scored += wording.over_seeds(score, "; ")
    return [wording.trial_label(trial), state, scored, size, trial.summary[:60]]


def _intervals(trials: Iterable[Trial], split: Split, colour: str) -> Figure:
    above, below = [], []
    for trial in trials:
        score = trial.score(split)
        above.append(0.0 if score is None or score.high is None else round(score.high - score.spbleu, 4))
        below.append(0.0 if score is None or score.low is None else round(score.spbleu - score.low, 4))
    error = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
    return {"error_y": error | {"color": colour, "thickness": 1.2, "width": 4}}


def _level(summary: Summary, split: Split) -> Trial | None:
    """Returns whose score the others are held against: full fine-tuning, else the pretrained base."""
    found = (summary.full_finetuning, summary.pretrained)
    return next((trial for trial in found if trial is not None and trial.score(split) is not None), None)


def _level_shapes(level: Trial | None, split: Split) -> list[Figure]:
    score = None if level is None else level.score(split)
    if score is None:
        return []
    line = {"color": "var(--baseline)", "width": 1, "dash": "dash"}
    place = {"xref": "paper", "x0": 0, "x1": 1, "y0": score.spbleu, "y1": score.spbleu}
    return [{"type": "line", "layer": "below", "opacity": 0.6, "line": line} | place]


def _gap_shapes(scale: "ParameterScale") -> list[Figure]:
    if not scale.has_zero:
        return []
    line = {"color": "var(--muted)", "width": 1, "dash": "dot"}
    gap = {"yref": "paper", "x0": scale.gap, "x1": scale.gap, "y0": 0, "y1": 1}
    return [{"type": "line", "layer": "below", "line": line} | gap]


class ParameterScale:
    """A logarithmic axis with a place for 0, left of the smallest positive count and set apart by a gap.

    Args:
        counts: All parameter counts to show, at least one.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        positive = [count for count in counts if count > 0] or [1]
        self.has_zero = min(counts) <= 0
        self._low, self._high = min(positive), max(positive)
        self._decades = max(math.log10(self._high / self._low), 0.5)
        self._zero = self._low / 10 ** (0.22 * self._decades)
        self.gap = self._low / 10 ** (0.11 * self._decades)
        left = math.log10(self._zero if self.has_zero else self._low)
        self._range = [left - 0.06 * self._decades, math.log10(self._high) + 0.08 * self._decades]

    def position(self, trial: Trial) -> float:
        """Returns the x of a trial, in the axis's units."""
        count = trial.trainable_parameters or 0
        return float(count) if count > 0 else self._zero

    def share(self, trial: Trial) -> float:
        """Returns how far right a trial stands, from 0 to 1."""
        return (math.log10(self.position(trial)) - self._range[0]) / (self._range[1] - self._range[0])

    def axis(self) -> Figure:
        """Returns the layout of the axis."""
        steps = (1, 2, 5) if self._decades < 1.5 else (1, 3) if self._decades < 3 else (1,)
        exponents = range(math.floor(math.log10(self._low)) - 1, math.ceil(math.log10(self._high)) + 1)
        ticks = [step * 10**exponent for exponent in exponents if exponent >= 0 for step in steps]
        ticks = [tick for tick in ticks if self._low * 0.8 <= tick <= self._high * 1.25]
        texts = [
            f"{tick:g}" if tick < 1000 else wording.parameters(tick).replace(".00", "").replace(".0", "")
            for tick in ticks
        ]
        return {
            "type": "log",
            "title": {"text": "trainable parameters"},
            "range": self._range,
            "tickvals": ([self._zero] if self.has_zero else []) + [float(tick) for tick in ticks],
            "ticktext": (["0"] if self.has_zero else []) + texts,
        }


def score_layout(scale: ParameterScale, title: str) -> Figure:
    """Returns the layout of a figure of scores over parameters.

    Args:
        scale: Of the parameters.
        title: Of the scores; plain text.
    """
    return {
        "xaxis": scale.axis(),
        "yaxis": {"title": {"text": plotly_text(title)}},
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 56, "r": 16, "t": 40, "b": 56},
    }
