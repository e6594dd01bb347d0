"""The rows of the page's tables and lists, ready to be shown: the template only places them."""

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from langsearch.report import wording
from langsearch.report.experiment_reader import Experiment, Failure, Split, Translation, Trial, read_translations
from langsearch.report.matrices import class_of, class_pair_averages
from langsearch.report.summary import DirectionScores, Summary, gain

MAX_SAMPLES = 18
NUM_ROWS_PER_DIRECTION = 2


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


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sentence as the best member and the baselines translate it."""

    translation: Translation
    pair: str
    others: tuple[tuple[str, str], ...]
    """(label, hypothesis) of the baselines."""


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
    pairs = {pair for values in scores.values() for pair in class_pair_averages(experiment, values)}
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
    """Returns the failed trials by cause, the most frequent first."""
    names = defaultdict(list)
    for trial in experiment.trials:
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


def samples(experiment: Experiment, summary: Summary, split: Split) -> tuple[Sample, ...]:
    """Returns translations of the best member: the first direction of each class pair, rows evenly spaced."""
    if summary.best is None:
        return ()
    directions: dict[tuple[str, str], tuple[str, str]] = {}
    for text in experiment.directions:
        src, _, tgt = text.partition("-")
        directions.setdefault((class_of(experiment, src), class_of(experiment, tgt)), (src, tgt))
    wanted = frozenset(directions.values())
    mine = read_translations(experiment, summary.best.name, split, wanted)
    baselines = [trial for trial in (summary.full_finetuning, summary.pretrained) if trial is not None]
    others = {
        trial.name: {
            (line.src, line.tgt, line.row): line.hypothesis
            for line in read_translations(experiment, trial.name, split, wanted)
        }
        for trial in baselines
    }
    found = []
    for (src_class, tgt_class), direction in directions.items():
        lines = [line for line in mine if (line.src, line.tgt) == direction]
        count = min(NUM_ROWS_PER_DIRECTION, len(lines))
        for line in (lines[len(lines) * (2 * index + 1) // (2 * count)] for index in range(count)):
            key = (line.src, line.tgt, line.row)
            hypotheses = tuple(
                (wording.trial_label(trial), others[trial.name][key])
                for trial in baselines
                if key in others[trial.name]
            )
            pair = f"{src_class} → {tgt_class}" if src_class and tgt_class else ""
            found.append(Sample(translation=line, pair=pair, others=hypotheses))
    return tuple(found[:MAX_SAMPLES])


def facts(experiment: Experiment) -> tuple[tuple[str, str], ...]:
    """Returns (name, value) of what the experiment was; unknown values say so."""
    versions = ", ".join(f"{name} {version}" for name, version in experiment.versions.items())
    base = experiment.base
    if base is not None and experiment.base_parameters is not None:
        base += f" ({experiment.base_parameters:,} parameters)"
    classes = "; ".join(f"{name}: {', '.join(members)}" for name, members in experiment.classes.items())
    tokenizer = experiment.tokenizer
    if tokenizer is not None and experiment.is_stand_in:
        tokenizer += " (a stand-in: compare these scores only with each other)"
    finished = [trial.seconds for trial in experiment.trials if trial.seconds is not None]
    values = {
        "Base": base,
        "Languages": classes or ", ".join(experiment.languages) or None,
        "Directions": f"{len(experiment.directions):,}" if experiment.directions else None,
        "Objectives": ", ".join(f"{name} ({way})" for name, way in experiment.objectives.items()) or None,
        "Sample sizes": _sample_sizes(experiment),
        "Score signature": experiment.signature,
        "spBLEU tokenizer": tokenizer,
        "Seed": None if experiment.seed is None else str(experiment.seed),
        "Started": experiment.started,
        "Finished": experiment.finished,
        "Wall time": None if experiment.seconds is None else wording.duration(experiment.seconds),
        "Time of all trials": wording.duration(sum(finished)) if finished else None,
        "Resources": ", ".join(f"{name} {value}" for name, value in experiment.resources.items()) or None,
        "Versions": versions or None,
        "Git commit": experiment.git_commit,
    }
    return tuple((name, value if value is not None else "not recorded") for name, value in values.items())


def reproduce_command(experiment: Experiment) -> str:
    """Returns the command that runs the same search again, beside this one."""
    again = shlex.quote(f"{experiment.name}-again")
    command = f"langsearch run {shlex.quote(f'experiments/{experiment.name}/space.yaml')} --name {again}"
    return command if experiment.num_trials is None else f"{command} --trials {experiment.num_trials}"


def _sample_sizes(experiment: Experiment) -> str | None:
    splits: tuple[Split, ...] = ("validation", "test")
    sizes = []
    for split in splits:
        scores = [score for trial in experiment.trials if (score := trial.score(split)) is not None]
        found = sorted({wording.sample_size(score, split) for score in scores})
        sizes.append(" or ".join(found))
    return "; ".join(size for size in sizes if size) or None
