"""What the page's script draws from: matrices and translations as plain values, capped in size."""

from langsearch.report import wording
from langsearch.report.experiment_values import Trial
from langsearch.report.figures import Figure, plotly_text
from langsearch.report.material import Material
from langsearch.report.matrices import adapted_sites, class_of, ordered_languages, rank_matrix, score_matrix
from langsearch.report.summary import Summary

MAX_SCORE_CELLS = 120_000
MAX_RANK_CELLS = 150_000
MAX_SENTENCE_CHARS = 1_000


def translation_payload(material: Material) -> Figure | None:
    """Returns translations of the best member and the baselines side by side; None where there are none."""
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


def _by_interest(summary: Summary) -> list[Trial]:
    """The best member, what it is compared with, then the rest: what is left out for size comes last."""
    first = [summary.best, summary.full_finetuning, summary.pretrained, summary.smallest]
    shown = [trial for trial in first if trial is not None]
    return shown + [trial for trial in (*reversed(summary.front), *summary.baselines) if trial not in shown]


def score_payload(material: Material) -> tuple[Figure, list[str]]:
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
    if material.experiment.zero_shot:
        zero_shot = set(material.experiment.zero_shot)
        payload["zero_shot"] = [[f"{src}-{tgt}" in zero_shot for tgt in languages] for src in languages]
    return payload, names


def rank_payload(material: Material) -> tuple[Figure, list[str]]:
    """Returns the ranks by language and site, and the names of their trials, those of most interest first."""
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
