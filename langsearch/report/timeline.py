"""When each trial ran, and on which worker, as a figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from langsearch.report import wording
from langsearch.report.experiment_values import Experiment, Trial
from langsearch.report.figures import STATE_WORDS, Figure, plotly_text

MAX_WORKER_LANES = 24
"""Of more workers (each trial has a process of its own, unless Ray uses it again), a host's trials share lanes."""

_LONG_SECONDS = 3 * 3600

MAX_HEIGHT = 1_200
"""Of all lanes, in pixels."""

UNKNOWN = "worker not known"
_COLOURS = {
    "complete": "var(--line-5)",
    "pruned": "var(--pruned)",
    "failed": "var(--failed)",
    "running": "var(--running)",
    "baseline": "var(--baseline)",
}


@dataclass(frozen=True, kw_only=True)
class _Bar:
    trial: Trial
    start: float
    """Seconds since the first start."""

    end: float


def timeline_figure(experiment: Experiment) -> Figure | None:
    """Returns a bar for whatever trained, from its start to its end, by worker; None where no start is known.

    A trial that was resumed, or tried on another worker, is one bar on its last worker.
    """
    ran = [trial for trial in experiment.trials if trial.same_as is None and trial.tuned_from is None]
    bars = _bars([trial for trial in (*ran, *experiment.beside_trained) if not trial.is_rejected])
    if not bars:
        return None
    lanes = _lanes(bars)
    word, unit = ("hours", 3600.0) if max(bar.end for bar in bars) > _LONG_SECONDS else ("minutes", 60.0)
    names = sorted(set(lanes.values()), key=_natural)
    baselines = {trial.name for trial in experiment.trials if trial.kind == "baseline"}
    groups: dict[str, list[_Bar]] = {key: [] for key in _COLOURS}
    for bar in bars:
        # A baseline that failed counts as failed.
        is_baseline = bar.trial.kind in ("baseline", "try") or bar.trial.seed_of in baselines
        groups["baseline" if is_baseline and bar.trial.state == "complete" else bar.trial.state].append(bar)
    data: list[Figure] = []
    for key, members in groups.items():
        if members:
            label = "baselines" if key == "baseline" else STATE_WORDS[key]
            data.append(_trace(members, lanes, unit, label, _COLOURS[key]))
    if groups["failed"]:
        data.append(_crosses(groups["failed"], lanes, unit))
    layout: Figure = {
        "height": max(240, min(26 * len(names), MAX_HEIGHT) + 130),
        "barmode": "overlay",
        "bargap": 0.25,
        "hovermode": "closest",
        "xaxis": {"title": {"text": f"{word} since the first trial started"}, "rangemode": "tozero"},
        "yaxis": {
            "type": "category",
            "categoryorder": "array",
            "categoryarray": [plotly_text(name) for name in names],
            "autorange": "reversed",
            "showgrid": False,
        },
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 56, "r": 16, "t": 40, "b": 48},
    }
    return {"data": data, "layout": layout}


def _bars(trials: Sequence[Trial]) -> list[_Bar]:
    known = [(trial, start, _end(trial, start)) for trial in trials if (start := _time(trial.started)) is not None]
    if not known:
        return []
    first = min(start for _, start, _ in known)
    last = max(max(start, end or start) for _, start, end in known)
    return [
        _Bar(trial=trial, start=start - first, end=(last if end is None else max(start, end)) - first)
        for trial, start, end in known
    ]


def _end(trial: Trial, start: float) -> float | None:
    """Returns None for a trial that still runs; one whose end was not written down took its seconds at least."""
    if (end := _time(trial.finished)) is not None or trial.state == "running":
        return end
    return start + (trial.seconds or 0.0)


def _time(text: str | None) -> float | None:
    """Returns seconds; a time without a zone counts as it stands, since all of one file come from one clock."""
    try:
        return None if text is None else datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _lanes(bars: Sequence[_Bar]) -> dict[str, str]:
    """Returns the lane of each trial by its name."""
    workers = {bar.trial.worker or UNKNOWN for bar in bars}
    if len(workers) <= MAX_WORKER_LANES:
        return {bar.trial.name: bar.trial.worker or UNKNOWN for bar in bars}
    ends: dict[str, list[float]] = {}
    lanes = {}
    for bar in sorted(bars, key=lambda bar: bar.start):
        host = (bar.trial.worker or UNKNOWN).partition("/")[0]
        own = ends.setdefault(host, [])
        # Trials that follow each other within a second share a lane.
        slot = next((index for index, end in enumerate(own) if end <= bar.start + 1), len(own))
        own[slot : slot + 1] = [bar.end]
        lanes[bar.trial.name] = f"{host} #{slot + 1}"
    return lanes


def _natural(name: str) -> tuple[bool, str, int, str]:
    host, _, slot = name.rpartition("#")
    return name == UNKNOWN, host, int(slot) if host and slot.isdecimal() else 0, name


def _trace(bars: Sequence[_Bar], lanes: dict[str, str], unit: float, label: str, colour: str) -> Figure:
    return {
        "type": "bar",
        "orientation": "h",
        "name": label,
        "meta": [bar.trial.name for bar in bars],
        "base": [round(bar.start / unit, 4) for bar in bars],
        "x": [round((bar.end - bar.start) / unit, 4) for bar in bars],
        "y": [plotly_text(lanes[bar.trial.name]) for bar in bars],
        "marker": {"color": colour, "line": {"color": "var(--surface)", "width": 1}},
        "customdata": [[plotly_text(text) for text in _texts(bar)] for bar in bars],
        "hovertemplate": "<b>%{customdata[0]}</b> · %{customdata[1]}<br>%{customdata[2]}<br>%{y}<extra></extra>",
    }


def _crosses(bars: Sequence[_Bar], lanes: dict[str, str], unit: float) -> Figure:
    """Failures have a sign of their own, not only a colour."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "failure",
        "meta": [bar.trial.name for bar in bars],
        "x": [round(bar.end / unit, 4) for bar in bars],
        "y": [plotly_text(lanes[bar.trial.name]) for bar in bars],
        "marker": {"symbol": "x-thin-open", "size": 9, "color": "var(--failed)", "line": {"width": 2}},
        "customdata": [[plotly_text(text) for text in _texts(bar)] for bar in bars],
        "hovertemplate": "<b>%{customdata[0]}</b> · %{customdata[1]}<br>%{customdata[2]}<br>%{y}<extra></extra>",
        "showlegend": False,
    }


def _texts(bar: _Bar) -> list[str]:
    trial = bar.trial
    state = STATE_WORDS[trial.state]
    why = trial.cause or trial.note
    if trial.retry_of is not None:
        state += f", tries {trial.retry_of} again"
    took = wording.duration(bar.end - bar.start)
    return [wording.trial_label(trial), state, f"{took}: {why}" if why else took]
