"""The report: one HTML file that opens offline, with its figures, tables and data inside."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import plotly.offline
from markupsafe import Markup

from langsearch import __version__
from langsearch.report import page_tables, wording
from langsearch.report.experiment_reader import (
    CurvePoint,
    Experiment,
    Failure,
    Split,
    Trial,
    read_details,
    read_experiment,
)
from langsearch.report.figures import MAX_OTHER_POINTS, STATE_WORDS, Figure, curve_figure, front_figure, plotly_text
from langsearch.report.learned import prior_views, read_priors, seed_sentences
from langsearch.report.matrices import adapted_sites, class_of, ordered_languages, rank_matrix, score_matrix
from langsearch.report.summary import DirectionScores, Summary, headline, sentences, summarise
from langsearch.search.folder import write_text
from langsearch.space.architecture import Architecture

REPORT_NAME = "report.html"

# The page stays below 6 MB: 4.8 are Plotly's, so what grows with the experiment is capped, and the page says so.
MAX_SCORE_CELLS = 40_000
MAX_RANK_CELLS = 80_000
MAX_TRIAL_ROWS = 500
MAX_SETTING_COLUMNS = 8
MAX_TEXT_CHARS = 20_000
MAX_SENTENCE_CHARS = 1_000
MAX_FAILURE_GROUPS = 12

_FRONT_VIEWS: tuple[tuple[str, Split], ...] = (
    ("validation (all trials)", "validation"),
    ("test (front and baselines)", "test"),
)
_TEMPLATES = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class _Material:
    """All that the page shows, as read."""

    experiment: Experiment
    summary: Summary
    scores: Mapping[str, DirectionScores]
    architectures: Mapping[str, Architecture]
    curves: Mapping[str, Sequence[CurvePoint]]
    failures: Mapping[str, Failure]


def write_report(experiment: Path) -> Path:
    """Writes report.html into an experiment's folder and returns its path.

    Written aside and renamed: a reader never sees half a page, and a failure leaves the page before it.

    Args:
        experiment: The folder of the experiment.

    Raises:
        InputError: If the folder is no experiment.
    """
    page = render_page(read_experiment(experiment))
    path = experiment / REPORT_NAME
    write_text(path, page)
    return path


def render_page(experiment: Experiment) -> str:
    """Returns the page's HTML."""
    material = _read_material(experiment)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        *(wording.spbleu, wording.interval, wording.difference, wording.parameters, wording.percent),
        *(wording.duration, wording.memory, wording.trial_label),
    ):
        environment.filters[function.__name__] = function
    return environment.get_template("page.html").render(_context(material))


def embedded_json(value: object) -> Markup:
    """Returns JSON that can stand inside a script element: it cannot end it, nor break a line of JavaScript."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # safe: escaped above


def _read_material(experiment: Experiment) -> _Material:
    summary = summarise(experiment)
    details = {trial.name: read_details(experiment, trial.name) for trial in experiment.trials}
    scores = {
        name: {(score.src, score.tgt): score.spbleu for score in detail.scores if score.split == summary.split}
        for name, detail in details.items()
    }
    return _Material(
        experiment=experiment,
        summary=summary,
        scores={name: values for name, values in scores.items() if values},
        architectures={name: detail.architecture for name, detail in details.items() if detail.architecture},
        curves={name: detail.curve for name, detail in details.items() if detail.curve},
        failures={name: detail.failure for name, detail in details.items() if detail.failure},
    )


def _context(material: _Material) -> dict[str, Any]:
    experiment, summary = material.experiment, material.summary
    front_views = [
        (label, figure)
        for label, split in _FRONT_VIEWS
        if (figure := front_figure(experiment, summary, split)) is not None
    ]
    quantities = (
        ("spbleu", "validation spBLEU"),
        ("train_loss", "training loss"),
        ("nonzero_parameters", "non-zero parameters"),
    )
    curve_views = [
        (title, figure)
        for quantity, title in quantities
        if (figure := curve_figure(experiment, summary, material.curves, quantity, title)) is not None
    ]
    priors = read_priors(experiment)
    learned_views = prior_views(priors, ordered_languages(experiment))
    scores, score_names = _score_payload(material)
    ranks, rank_names = _rank_payload(material)
    labels = {trial.name: _member_label(trial, summary) for trial in experiment.trials}
    payload = {
        "front": [figure for _, figure in front_views],
        "curves": [figure for _, figure in curve_views],
        "priors": [figure for _, figure in learned_views],
        "scores": scores,
        "ranks": ranks,
    }
    pairs = page_tables.class_pairs(experiment, material.scores)
    failures = page_tables.failure_groups(experiment, material.failures)
    searched = [trial for trial in experiment.trials if trial.kind == "searched"]
    shown = [trial.score(summary.split) for trial in (*summary.front, *summary.baselines)]
    return {
        "experiment": experiment,
        "summary": summary,
        "version": __version__,
        "headline": _unbroken(headline(summary)),
        "sentences": [_unbroken(sentence) for sentence in sentences(summary, material.scores)],
        "metric": wording.metric_label(experiment),
        "sample_size": wording.sample_size(next((score for score in shown if score is not None), None), summary.split),
        "counted": wording.counted,
        "state_words": STATE_WORDS,
        "front_views": [label for label, _ in front_views],
        "curve_views": [title for title, _ in curve_views],
        "prior_views": [title for title, _ in learned_views],
        "prior_sentences": seed_sentences(priors),
        "front_rows": page_tables.front_rows(summary),
        "settings": _settings(summary),
        "score_labels": [labels[name] for name in score_names],
        "rank_labels": [labels[name] for name in rank_names],
        "pairs": pairs,
        "pair_rows": page_tables.class_pair_rows(experiment, summary, material.scores, pairs),
        "trials": searched[:MAX_TRIAL_ROWS],
        "is_thinned": any(num > MAX_OTHER_POINTS for num in summary.num_by_state.values()),
        "num_trials_left_out": max(0, len(searched) - MAX_TRIAL_ROWS),
        "front_names": {trial.name for trial in summary.front},
        "samples": page_tables.samples(experiment, summary, summary.split),
        "failures": failures[:MAX_FAILURE_GROUPS],
        "num_failures_left_out": max(0, len(failures) - MAX_FAILURE_GROUPS),
        "facts": page_tables.facts(experiment),
        "command": page_tables.reproduce_command(experiment),
        "max_text_chars": MAX_TEXT_CHARS,
        "max_sentence_chars": MAX_SENTENCE_CHARS,
        "style": _asset("page.css"),
        "script": _asset("page.js"),
        "plotly": Markup(plotly.offline.get_plotlyjs()),  # safe: a package's own file
        "payload": embedded_json(payload),
    }


def _unbroken(sentence: str) -> str:
    """No line may begin with a percent sign."""
    return sentence.replace(" %", "\u00a0%")


def _asset(name: str) -> Markup:
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))  # safe: this package's own file


def _member_label(trial: Trial, summary: Summary) -> str:
    label = wording.trial_label(trial)
    if trial is summary.best:
        return f"{label} (best)"
    return f"{label} (smallest above full fine-tuning)" if trial is summary.smallest else label


def _by_interest(summary: Summary) -> list[Trial]:
    """The best member, what it is compared with, then the rest: what is left out for size comes last."""
    first = [summary.best, summary.full_finetuning, summary.pretrained, summary.smallest]
    shown = [trial for trial in first if trial is not None]
    return shown + [trial for trial in (*reversed(summary.front), *summary.baselines) if trial not in shown]


def _score_payload(material: _Material) -> tuple[Figure, list[str]]:
    """Returns the matrices and the names of their trials: the front first, then the baselines."""
    languages = ordered_languages(material.experiment)
    room = max(3, MAX_SCORE_CELLS // max(1, len(languages) ** 2))
    shown = [trial for trial in _by_interest(material.summary) if trial.name in material.scores][:room]
    names = [trial.name for trial in sorted(shown, key=lambda trial: trial.kind == "baseline")]
    payload = {
        "languages": [plotly_text(code) for code in languages],
        "classes": [plotly_text(class_of(material.experiment, code)) for code in languages],
        "members": [score_matrix(material.scores[name], languages) for name in names],
        "labels": [plotly_text(name) for name in names],
    }
    return payload, names


def _rank_payload(material: _Material) -> tuple[Figure, list[str]]:
    languages = ordered_languages(material.experiment)
    members = [trial for trial in _by_interest(material.summary) if trial.name in material.architectures]
    architectures = {trial.name: material.architectures[trial.name] for trial in members}
    names = [name for name, architecture in architectures.items() if architecture.adapters]
    sites = adapted_sites({name: architectures[name] for name in names})
    names = names[: max(2, MAX_RANK_CELLS // max(1, len(languages) * len(sites)))]
    matrices = [rank_matrix(architectures[name], languages, sites) for name in names]
    payload = {
        "languages": [plotly_text(code) for code in languages],
        "classes": [plotly_text(class_of(material.experiment, code)) for code in languages],
        "sites": [[site.stack, site.layer, site.module] for site in sites],
        "members": [{"ranks": matrix.ranks, "sides": matrix.sides} for matrix in matrices],
    }
    return payload, names


def _settings(summary: Summary) -> dict[str, Any]:
    """The searched settings of the front's members, a row for each dimension."""
    members = list(reversed(summary.front))[:MAX_SETTING_COLUMNS]
    keys = sorted({key for trial in members for key in trial.params})
    return {"members": members, "rows": [(key, [_setting(trial.params.get(key)) for trial in members]) for key in keys]}


def _setting(value: object) -> str:
    if value is None:
        return wording.MISSING
    return f"{value:.3g}" if isinstance(value, float) else str(value)
