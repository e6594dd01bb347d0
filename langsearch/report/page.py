"""The report: one HTML file that opens offline, with its figures, tables and data inside."""

import base64
import functools
import gzip
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import plotly.offline
from markupsafe import Markup
from optuna.distributions import BaseDistribution

from langsearch import __version__
from langsearch.report import page_tables, wording
from langsearch.report.answers import demand_sentences, next_sentences
from langsearch.report.columns import trial_columns
from langsearch.report.curves import curve_figure
from langsearch.report.experiment_reader import (
    CurvePoint,
    Experiment,
    Failure,
    Split,
    Trial,
    read_curve,
    read_details,
    read_experiment,
)
from langsearch.report.figures import (
    MAX_OTHER_POINTS,
    STATE_WORDS,
    Figure,
    front_figure,
    importance_figure,
    objective_figure,
    plotly_text,
)
from langsearch.report.importance import Importance, importances
from langsearch.report.learned import prior_views, read_priors, seed_sentences
from langsearch.report.matrices import adapted_sites, class_of, ordered_languages, rank_matrix, score_matrix
from langsearch.report.summary import DirectionScores, Summary, headline, sentences, summarise
from langsearch.report.timeline import timeline_figure
from langsearch.report.translations import Translations, read_translations
from langsearch.search.folder import write_text
from langsearch.space.architecture import Architecture
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space

REPORT_NAME = "report.html"

# The page stays below 6 MB and light to draw, so what grows with the experiment is capped, and the page says so.
MAX_SCORE_CELLS = 120_000
MAX_RANK_CELLS = 150_000
MAX_DETAILED_TRIALS = 600
"""Of more trials, those outside the front have no direction scores and no architecture on the page."""

MAX_SETTING_COLUMNS = 8
MAX_TEXT_CHARS = 20_000
MAX_SENTENCE_CHARS = 1_000
MAX_FAILURE_GROUPS = 12

_SCRIPTS = ("page.js", "matrices.js", "parallel.js", "trials.js", "translations.js", "start.js")
_FRONT_VIEWS: tuple[tuple[str, Split], ...] = (
    ("validation (all trials)", "validation"),
    ("the whole validation part (candidates)", "full"),
    ("test (front and baselines)", "test"),
)
_TEMPLATES = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class _Material:
    """All that the page shows, as read."""

    experiment: Experiment
    summary: Summary
    scores: Mapping[str, DirectionScores]
    """On the summary's split."""

    other_scores: Mapping[str, DirectionScores]
    """On validation, of trials that were not scored on the summary's split."""

    architectures: Mapping[str, Architecture]
    curves: Mapping[str, Sequence[CurvePoint]]
    failures: Mapping[str, Failure]
    translations: Translations | None
    dimensions: Mapping[str, BaseDistribution]
    rungs: tuple[int, ...]
    importances: tuple[Importance, ...]


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
        *(wording.duration, wording.memory, wording.trial_label, with_code),
    ):
        environment.filters[function.__name__] = function
    return environment.get_template("page.html").render(_context(material, price_per_gpu_hour))


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
def _packed_plotly() -> str:
    return packed(plotly.offline.get_plotlyjs())


def _read_material(experiment: Experiment) -> _Material:
    summary = summarise(experiment)
    shown = {trial.name for trial in (*summary.front, *summary.baselines)}
    searched = [trial.name for trial in experiment.trials if trial.name not in shown]
    detailed = [*shown, *(searched if len(searched) <= MAX_DETAILED_TRIALS else ())]
    failed = [trial.name for trial in experiment.trials if trial.state == "failed"][:MAX_DETAILED_TRIALS]
    names = [trial.name for trial in experiment.trials]
    # Thousands of small files: most of the time is the file system's.
    with ThreadPoolExecutor() as pool:
        details = dict(zip(detailed, pool.map(lambda name: read_details(experiment, name), detailed), strict=True))
        curves = dict(zip(names, pool.map(lambda name: read_curve(experiment, name), names), strict=True))
    failures = {name: details[name].failure if name in details else _read_failure(experiment, name) for name in failed}
    scores = {
        split: {
            name: found
            for name, detail in details.items()
            if (found := {(score.src, score.tgt): score.spbleu for score in detail.scores if score.split == split})
        }
        for split in ("validation", summary.split)
    }
    dimensions, rungs = _read_space(experiment)
    return _Material(
        experiment=experiment,
        summary=summary,
        scores=scores[summary.split],
        other_scores=scores["validation"],
        architectures={name: detail.architecture for name, detail in details.items() if detail.architecture},
        curves={name: curve for name, curve in curves.items() if curve},
        failures={name: failure for name, failure in failures.items() if failure},
        translations=read_translations(experiment, summary),
        dimensions=dimensions,
        rungs=rungs or _pruned_epochs(experiment),
        importances=importances(experiment, dimensions),
    )


def _read_failure(experiment: Experiment, name: str) -> Failure | None:
    return read_details(experiment, name).failure


def _read_space(experiment: Experiment) -> tuple[dict[str, BaseDistribution], tuple[int, ...]]:
    """Returns the dimensions and the rungs; none where the space cannot be read (another version wrote it)."""
    try:
        space = load_space(experiment.folder / "space.yaml")
        return space.dimensions(), space.search.rung_epochs(space.trainer_section.epochs)
    except (InputError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, ()


def _pruned_epochs(experiment: Experiment) -> tuple[int, ...]:
    return tuple(sorted({trial.epochs for trial in experiment.trials if trial.state == "pruned" and trial.epochs}))


def _context(material: _Material, price_per_gpu_hour: float | None) -> dict[str, Any]:
    experiment, summary = material.experiment, material.summary
    views = _views(material)
    priors = read_priors(experiment)
    scores, score_names = _score_payload(material)
    ranks, rank_names = _rank_payload(material)
    labels = {trial.name: _member_label(trial, summary) for trial in experiment.trials}
    pairs = page_tables.class_pairs(experiment, {**material.other_scores, **material.scores})
    own_pairs = page_tables.class_pairs(experiment, material.scores)
    payload = {
        **{name: [figure for _, figure in found] for name, found in views.items()},
        "scores": scores,
        "ranks": ranks,
        "trials": trial_columns(
            experiment, summary, material.curves, {**material.other_scores, **material.scores}, pairs
        ),
        "pair_splits": dict.fromkeys(material.scores, summary.split),
        "translations": _translation_payload(material),
        "best": None if summary.best is None else summary.best.name,
        "pretrained": None if summary.pretrained is None else summary.pretrained.name,
        "full": None if summary.full_finetuning is None else summary.full_finetuning.name,
    }
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
        "sentences": [_unbroken(sentence) for sentence in sentences(summary, material.scores)],
        "demand": [_unbroken(sentence) for sentence in demand],
        "advice": [_unbroken(sentence) for sentence in advice],
        "metric": wording.metric_label(experiment),
        "sample_size": wording.sample_size(next((score for score in shown if score is not None), None), summary.split),
        "counted": wording.counted,
        "state_words": STATE_WORDS,
        "views": {name: [title for title, _ in found] for name, found in views.items()},
        "prior_sentences": seed_sentences(priors),
        "front_rows": page_tables.front_rows(summary),
        "settings": _settings(summary),
        "score_labels": [labels[name] for name in score_names],
        "score_names": score_names,
        "rank_labels": [labels[name] for name in rank_names],
        "pairs": own_pairs,
        "pair_rows": page_tables.class_pair_rows(experiment, summary, material.scores, own_pairs),
        "num_searched": sum(summary.num_by_state.values()),
        "num_trials": len(experiment.trials),
        "num_dimensions": len({name for trial in experiment.trials for name in trial.params}),
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
        "command": page_tables.reproduce_command(experiment),
        "max_text_chars": MAX_TEXT_CHARS,
        "style": _asset("page.css"),
        "script": Markup("\n").join(_asset(name) for name in _SCRIPTS),
        "plotly": _packed_plotly(),
        "payload": packed(json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))),
    }


def _views(material: _Material) -> dict[str, list[tuple[str, Figure]]]:
    """Returns the figures that Python makes, with their titles, by the place that shows them."""
    experiment, summary = material.experiment, material.summary
    front = [(label, front_figure(experiment, summary, split)) for label, split in _FRONT_VIEWS]
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
        "priors": prior_views(read_priors(experiment), ordered_languages(experiment)),
    }
    return {name: [(title, figure) for title, figure in views if figure is not None] for name, views in found.items()}


def _translation_payload(material: _Material) -> Figure | None:
    found = material.translations
    if found is None:
        return None
    experiment = material.experiment
    by_name = {trial.name: wording.trial_label(trial) for trial in experiment.trials}
    return {
        "systems": [by_name.get(name, name) for name in found.systems],
        "names": found.systems,
        "sentences": [
            {
                "src": line.src,
                "tgt": line.tgt,
                "row": line.row,
                "pair": [class_of(experiment, line.src), class_of(experiment, line.tgt)],
                "source": line.source[:MAX_SENTENCE_CHARS],
                "reference": line.reference[:MAX_SENTENCE_CHARS],
                "texts": [None if text is None else text[:MAX_SENTENCE_CHARS] for text in line.hypotheses],
                "chrf": [None if score is None else round(score, 2) for score in line.chrf],
                "spread": line.is_spread,
            }
            for line in found.sentences
        ],
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
        "names": names,
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
        "names": names,
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
