"""The rows of the page's tables and lists, ready to be shown: the template only places them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from langsearch.report import wording
from langsearch.report.costs import cost_facts
from langsearch.report.experiment_values import SPLITS, Experiment, Failure, Trial
from langsearch.report.matrices import class_by_language, class_pair_averages
from langsearch.report.summary import DirectionScores, Summary, gain

MAX_NAMED = 12
"""So many zero-shot directions are named; the matrix marks them all."""


@dataclass(frozen=True, kw_only=True)
class IntervalBar:
    """Where an interval lies on a common scale, in percent of its width."""

    low: float
    middle: float
    high: float
    reference: float | None
    """Full fine-tuning's score."""


@dataclass(frozen=True, kw_only=True)
class FrontRow:
    """One line of the front against the baselines."""

    trial: Trial
    label: str
    mark: str
    """"best", "smallest" or ""."""

    gain_full: float | None
    gain_pretrained: float | None
    bar: IntervalBar | None


@dataclass(frozen=True, kw_only=True)
class ClassPairRow:
    """One system's averages by class pair, in the order of the table's columns."""

    label: str
    is_baseline: bool
    averages: tuple[float | None, ...]
    overall: float | None


@dataclass(frozen=True, kw_only=True)
class FailureGroup:
    """The failed trials of one cause, with one example of what was written down."""

    cause: str
    names: tuple[str, ...]
    example: Failure | None


def front_rows(summary: Summary) -> tuple[FrontRow, ...]:
    """Returns the front, the best first, then the baselines."""
    shown = [*reversed(summary.front), *summary.baselines]
    scores = [score for trial in shown if (score := trial.score(summary.split)) is not None]
    ends = [end for score in scores for end in (score.spbleu, score.low, score.high) if end is not None]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    width = (high - low) or 1.0

    def place(value: float) -> float:
        return round(3 + 94 * (value - low) / width, 2)

    full = summary.full_finetuning
    full_score = None if full is None else full.score(summary.split)
    reference = None if full_score is None else place(full_score.spbleu)
    rows = []
    for trial in shown:
        score = trial.score(summary.split)
        bar = None
        if score is not None:
            bounds = (score.low, score.high)
            low_end, high_end = (score.spbleu if end is None else end for end in bounds)
            middle = place(score.spbleu)
            bar = IntervalBar(low=place(low_end), middle=middle, high=place(high_end), reference=reference)
        mark = "best" if trial is summary.best else "smallest" if trial is summary.smallest else ""
        rows.append(
            FrontRow(
                trial=trial,
                label=wording.trial_label(trial),
                mark=mark,
                gain_full=None
                if trial is summary.full_finetuning
                else gain(trial, summary.full_finetuning, summary.split),
                gain_pretrained=None if trial is summary.pretrained else gain(trial, summary.pretrained, summary.split),
                bar=bar,
            )
        )
    return tuple(rows)


def class_pairs(experiment: Experiment, scores: Mapping[str, DirectionScores]) -> tuple[tuple[str, str], ...]:
    """Returns the (source class, target class) pairs that any trial was scored on, in the order of the classes."""
    order = {name: index for index, name in enumerate(experiment.classes)}
    classes = class_by_language(experiment)
    directions = {direction for values in scores.values() for direction in values}
    pairs = {(classes.get(src, ""), classes.get(tgt, "")) for src, tgt in directions}
    return tuple(sorted(pairs, key=lambda pair: tuple(order.get(name, len(order)) for name in pair)))


def class_pair_rows(
    experiment: Experiment, summary: Summary, scores: Mapping[str, DirectionScores], pairs: Sequence[tuple[str, str]]
) -> tuple[ClassPairRow, ...]:
    """Returns the averages of the front, the best first, then of the baselines."""
    rows = []
    for trial in (*reversed(summary.front), *summary.baselines):
        values = scores.get(trial.name)
        if values:
            averages = class_pair_averages(experiment, values)
            rows.append(
                ClassPairRow(
                    label=wording.trial_label(trial),
                    is_baseline=trial.kind == "baseline",
                    averages=tuple(averages.get(pair) for pair in pairs),
                    overall=sum(values.values()) / len(values),
                )
            )
    return tuple(rows)


def failure_groups(experiment: Experiment, failures: Mapping[str, Failure]) -> tuple[FailureGroup, ...]:
    """Returns by cause the names of all that failed to train, the most frequent cause first."""
    names = defaultdict(list)
    for trial in (*experiment.trials, *experiment.beside_trained):
        if trial.state == "failed":
            written = failures.get(trial.name)
            names[trial.cause or (written.cause if written else "unknown cause")].append(trial.name)
    groups = [
        FailureGroup(
            cause=cause,
            names=tuple(members),
            example=next((failures[name] for name in members if name in failures), None),
        )
        for cause, members in names.items()
    ]
    return tuple(sorted(groups, key=lambda group: -len(group.names)))


def facts(experiment: Experiment, price_per_gpu_hour: float | None = None) -> tuple[tuple[str, str], ...]:
    """Returns (name, value) of what the experiment was; unknown values say so."""
    versions = ", ".join(f"{name} {version}" for name, version in experiment.versions.items())
    base = experiment.base
    if base is not None and experiment.base_parameters is not None:
        base += f" ({experiment.base_parameters:,} parameters)"
    classes = "; ".join(f"{name}: {', '.join(members)}" for name, members in experiment.classes.items())
    tokenizer = experiment.tokenizer
    if tokenizer is not None and experiment.is_stand_in:
        tokenizer += " (a stand-in: compare these scores only with each other)"
    versions_of_space = sorted({trial.space_version for trial in experiment.trials if trial.space_version is not None})
    values = {
        "Base": base,
        "Languages": classes or ", ".join(experiment.languages) or None,
        "Directions": f"{len(experiment.directions):,}" if experiment.directions else None,
        **_zero_shot(experiment),
        "Objectives": ", ".join(f"{name} ({way})" for name, way in experiment.objectives.items()) or None,
        "Constraints": ", ".join(experiment.constraints) or "none",
        "Versions of the space": ", ".join(map(str, versions_of_space)) or None,
        "Sample sizes": _sample_sizes(experiment),
        "Score signature": experiment.signature,
        "spBLEU tokenizer": tokenizer,
        "Seed": None if experiment.seed is None else str(experiment.seed),
        "Started": experiment.started,
        "Finished": experiment.finished,
        "Wall time": None if experiment.seconds is None else wording.duration(experiment.seconds),
        **cost_facts(experiment, price_per_gpu_hour),
        "Resources": ", ".join(f"{name} {value}" for name, value in experiment.resources.items()) or None,
        "Versions": versions or None,
        "Git commit": experiment.git_commit,
    }
    return tuple((name, value if value is not None else "not recorded") for name, value in values.items())


def _zero_shot(experiment: Experiment) -> dict[str, str]:
    if not experiment.zero_shot:
        return {}
    more = len(experiment.zero_shot) - MAX_NAMED
    named = ", ".join(experiment.zero_shot[:MAX_NAMED]) + (f" and {more:,} more" if more > 0 else "")
    return {"Zero-shot directions": f"{len(experiment.zero_shot):,}, without training sentences: {named}"}


def _sample_sizes(experiment: Experiment) -> str | None:
    sizes = []
    for split in SPLITS:
        scores = [score for trial in experiment.trials if (score := trial.score(split)) is not None]
        found = sorted({wording.sample_size(experiment, score, split) for score in scores})
        sizes.append(" or ".join(found))
    return "; ".join(size for size in sizes if size) or None
