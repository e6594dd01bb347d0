"""The report: one HTML file that opens offline, with its figures, tables and data inside."""

import base64
import functools
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import plotly.offline
from markupsafe import Markup

from langsearch import __version__
from langsearch.experiment.folder import write_text
from langsearch.report import page_tables, wording
from langsearch.report.advice import next_sentences
from langsearch.report.choice_figures import choice_views
from langsearch.report.choices import Choices, choice_sentences, read_choices
from langsearch.report.curves import curve_figure
from langsearch.report.cuts import cut_sentences
from langsearch.report.experiment_reader import read_experiment
from langsearch.report.experiment_values import Experiment, Split, Trial
from langsearch.report.figures import (
    MAX_OTHER_POINTS,
    STATE_WORDS,
    Figure,
    front_figure,
    importance_figure,
    objective_figure,
)
from langsearch.report.learned import Priors, prior_views, read_priors, seed_sentences
from langsearch.report.material import Material, read_material
from langsearch.report.matrices import ordered_languages
from langsearch.report.payload import rank_payload, score_payload, translation_payload
from langsearch.report.quoted_commands import reproduce_command
from langsearch.report.sentences import demand_sentences, headline, sentences
from langsearch.report.summary import Summary, gain, has_seeds
from langsearch.report.timeline import timeline_figure
from langsearch.report.trial_columns import trial_columns
from langsearch.report.tries import try_rows, try_sentences

REPORT_NAME = "report.html"

# The page stays light to draw, so what grows with the experiment is capped, and the page says so.
MAX_SETTING_COLUMNS = 8
MAX_TEXT_CHARS = 20_000
MAX_FAILURE_GROUPS = 12

_FRONT_VIEWS: Mapping[Split, str] = {
    "validation": "all trials",
    "full": "candidates",
    "test": "front and baselines",
}
_TEMPLATES = Path(__file__).parent
STYLE = _TEMPLATES / "page.css"
_SCRIPTS = ("page.js", "matrices.js", "parallel.js", "trials.js", "translations.js", "start.js")
SCRIPTS = tuple(_TEMPLATES / name for name in _SCRIPTS)
"""In the order in which they are run; the last one starts the page."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a page is made of."""

    data: str
    """What its script draws from, as JSON."""

    values: Mapping[str, Any]
    """What its text is filled with."""


def write_report(experiment: Path, price_per_gpu_hour: float | None = None) -> Path:
    """Writes report.html into an experiment's folder and returns its path.

    Written aside and renamed: a reader never sees half a page, and a failure leaves the page before it.

    Args:
        experiment: The folder of the experiment.
        price_per_gpu_hour: For the costs, in any currency. None: no costs are shown.

    Raises:
        InputError: If the folder is no experiment.
    """
    page = render_page(read_experiment(experiment), price_per_gpu_hour)
    path = experiment / REPORT_NAME
    write_text(path, page)
    return path


def render_page(experiment: Experiment, price_per_gpu_hour: float | None = None) -> str:
    """Returns the page's HTML."""
    return render_material(read_material(experiment), price_per_gpu_hour)


def render_material(material: Material, price_per_gpu_hour: float | None = None) -> str:
    """Returns the page's HTML of what was read."""
    page = make_page(material, price_per_gpu_hour)
    assets = {
        "style": asset(STYLE),
        "script": scripts(SCRIPTS),
        "plotly": packed_plotly(),
    }
    return template("page.html").render(**page.values, **assets, payload=packed(page.data), live=None)


@functools.cache
def template(name: str, *folders: Path) -> jinja2.Template:
    """Returns a page's template, of this package or of other folders; what it is filled with is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([_TEMPLATES, *folders]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        *(wording.spbleu, wording.interval, wording.difference, wording.parameters, wording.percent),
        *(wording.duration, wording.memory, wording.trial_label, wording.over_seeds, with_code),
    ):
        environment.filters[function.__name__] = function
    return environment.get_template(name)


def json_text(value: object) -> str:
    """Returns data as the page's script takes it."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def with_code(text: str) -> Markup:
    """Returns a sentence in which what stands between backticks is code."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else part for index, part in enumerate(parts)
    )


def packed(text: str) -> str:
    """Returns a text as base64 of gzip, which the page's script unpacks: a fifth of the size, and no markup."""
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode("ascii")


def unpacked(text: str) -> str:
    """Returns what `packed` was given."""
    return gzip.decompress(base64.b64decode(text)).decode()


@functools.cache
def packed_plotly() -> str:
    """Returns Plotly's script, packed."""
    return packed(plotly.offline.get_plotlyjs())


def make_page(material: Material, price_per_gpu_hour: float | None = None) -> Page:
    """Returns the page of what was read.

    Args:
        material: What was read.
        price_per_gpu_hour: For the costs, in any currency. None: no costs are shown.
    """
    summary = material.summary
    priors, choices = read_priors(material.experiment), read_choices(material.experiment, summary.best)
    views = _views(material, priors, choices)
    scores, score_names = score_payload(material)
    ranks, rank_names = rank_payload(material)
    all_scores = {**material.other_scores, **material.scores}
    pairs = page_tables.class_pairs(material.experiment, all_scores)
    data = {
        **{name: [figure for _, figure in found] for name, found in views.items()},
        "scores": scores,
        "ranks": ranks,
        "trials": trial_columns(material.experiment, summary, material.curves, all_scores, pairs),
        "pair_splits": dict.fromkeys(material.scores, summary.split),
        "beside_full": [
            trial.name
            for trial in material.experiment.trials
            if trial.name in material.scores and gain(trial, summary.full_finetuning, summary.split) is not None
        ],
        "translations": translation_payload(material),
        "best": None if summary.best is None else summary.best.name,
        "pretrained": None if summary.pretrained is None else summary.pretrained.name,
        "full": None if summary.full_finetuning is None else summary.full_finetuning.name,
    }
    labels = {trial.name: _member_label(trial, summary) for trial in material.experiment.trials}
    values = {
        **_values(material, price_per_gpu_hour),
        "prior_sentences": seed_sentences(priors),
        "choice_sentences": choice_sentences(choices),
        "views": {name: [title for title, _ in found] for name, found in views.items()},
        "front_words": _first_words(views["front"]),
        "curve_words": _first_words(views["curves"]),
        "score_labels": [labels[name] for name in score_names],
        "score_names": score_names,
        "rank_labels": [labels[name] for name in rank_names],
    }
    return Page(data=json_text(data), values=values)


def _values(material: Material, price_per_gpu_hour: float | None) -> dict[str, Any]:
    experiment, summary = material.experiment, material.summary
    own_pairs = page_tables.class_pairs(experiment, material.scores)
    searched = [trial for trial in experiment.trials if trial.kind == "searched"]
    failures = page_tables.failure_groups(experiment, material.failures)
    shown = [trial.score(summary.split) for trial in (*summary.front, *summary.baselines)]
    best_architecture = None if summary.best is None else material.architectures.get(summary.best.name)
    demand = demand_sentences(experiment, summary, best_architecture, material.scores)
    advice = next_sentences(experiment, summary, material.dimensions, material.importances, material.curves)
    return {
        "experiment": experiment,
        "summary": summary,
        "version": __version__,
        "headline": _unbroken(headline(summary)),
        "sentences": [
            _unbroken(sentence)
            for sentence in (
                *sentences(experiment, summary, material.scores),
                *cut_sentences(experiment),
                *try_sentences(experiment),
            )
        ],
        "demand": [_unbroken(sentence) for sentence in demand],
        "advice": [_unbroken(sentence) for sentence in advice],
        "metric": wording.metric_label(experiment),
        "validation_words": wording.split_words("validation", experiment),
        "sample_size": wording.sample_size(
            experiment, next((score for score in shown if score is not None), None), summary.split
        ),
        "counted": wording.counted,
        "state_words": STATE_WORDS,
        "front_rows": page_tables.front_rows(summary),
        "has_seeds": has_seeds(summary),
        "try_rows": try_rows(experiment),
        "settings": _settings(summary),
        "pairs": own_pairs,
        "pair_rows": page_tables.class_pair_rows(experiment, summary, material.scores, own_pairs),
        "num_searched": sum(summary.num_by_state.values()),
        "num_trials": len(experiment.trials),
        "num_dimensions": len({name for trial in searched for name in trial.params}),
        "is_thinned": any(num > MAX_OTHER_POINTS for num in summary.num_by_state.values()),
        "rungs": material.rungs,
        "importance_notes": [
            f"{entry.objective}: {entry.reason}" for entry in material.importances if entry.reason is not None
        ],
        "importances": [entry for entry in material.importances if entry.values],
        "translations": material.translations,
        "failures": failures[:MAX_FAILURE_GROUPS],
        "num_failures_left_out": max(0, len(failures) - MAX_FAILURE_GROUPS),
        "facts": page_tables.facts(experiment, price_per_gpu_hour),
        "command": reproduce_command(experiment),
        "max_text_chars": MAX_TEXT_CHARS,
    }


def _views(material: Material, priors: Priors, choices: Choices) -> dict[str, list[tuple[str, Figure]]]:
    """Returns the figures that Python makes, with their titles, by the place that shows them."""
    experiment, summary = material.experiment, material.summary
    front = [
        (f"{wording.split_words(split, experiment)} ({who})", front_figure(experiment, summary, split))
        for split, who in _FRONT_VIEWS.items()
    ]
    front += [
        (f"validation, against {name.replace('_', ' ')}", objective_figure(experiment, summary, name))
        for name in experiment.objectives
        if name not in ("spbleu", "trainable_parameters")
    ]
    quantities = (
        ("spbleu", "validation spBLEU"),
        ("train_loss", "training loss"),
        ("nonzero_parameters", "non-zero parameters"),
    )
    curves = [
        (title, curve_figure(experiment, summary, material.curves, quantity, title, material.rungs))
        for quantity, title in quantities
    ]
    found: dict[str, Sequence[tuple[str, Figure | None]]] = {
        "front": front,
        "curves": curves,
        "importance": [("importance", importance_figure(material.importances))],
        "timeline": [("timeline", timeline_figure(experiment))],
        "priors": prior_views(priors, ordered_languages(experiment)),
        "choices": choice_views(choices, ordered_languages(experiment)),
    }
    return {name: [(title, figure) for title, figure in views if figure is not None] for name, views in found.items()}


def _first_words(views: Sequence[tuple[str, Figure]]) -> str:
    """Returns what the view that is shown first draws; the page's script says it of the others."""
    return views[0][1]["words"] if views else ""


def _unbroken(sentence: str) -> str:
    """No line may begin with a percent sign."""
    return sentence.replace(" %", "\u00a0%")


def scripts(paths: Sequence[Path]) -> Markup:
    """Returns some of the page's scripts as one."""
    return Markup("\n").join(asset(path) for path in paths)


def asset(path: Path) -> Markup:
    """Returns a style sheet or script of this package."""
    return Markup(path.read_text(encoding="utf-8"))  # safe: this package's own file


def _member_label(trial: Trial, summary: Summary) -> str:
    label = wording.trial_label(trial)
    if trial is summary.best:
        return f"{label} (best)"
    return f"{label} (smallest above full fine-tuning)" if trial is summary.smallest else label


def _settings(summary: Summary) -> dict[str, Any]:
    """The searched settings of the front's members, a row for each dimension."""
    members = list(reversed(summary.front))[:MAX_SETTING_COLUMNS]
    keys = sorted({key for trial in members for key in trial.params})
    return {"members": members, "rows": [(key, [_setting(trial.params.get(key)) for trial in members]) for key in keys]}


def _setting(value: object) -> str:
    if value is None:
        return wording.MISSING
    return f"{value:.3g}" if isinstance(value, float) else str(value)
