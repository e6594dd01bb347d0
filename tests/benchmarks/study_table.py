"""What a finished search found, as tables for a page: scores by class pair, parameters by class, what each cost.

    python -m tests.benchmarks.study_table experiments/verses10                          # Markdown
    python -m tests.benchmarks.study_table experiments/verses10 --figure verses10.html   # and a figure of the front

Everything is read from the experiment's folder. A score is a mean over directions on the test set; of a system that was
trained with several seeds, the mean over these, also by class pair. The figure is a page, of which a browser makes a
picture.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from langsearch.experiment.folder import ExperimentFolder
from langsearch.model.finding import locate_base
from langsearch.model.shape import read_shape
from langsearch.report import verdicts, wording
from langsearch.report.costs import budgets
from langsearch.report.experiment_reader import read_details, read_experiment
from langsearch.report.experiment_values import Experiment, PairedDifference, Score, Trial
from langsearch.report.matrices import class_pair_averages
from langsearch.report.page_tables import class_pairs
from langsearch.report.summary import DirectionScores, summarise
from langsearch.space.architecture import Architecture
from langsearch.space.plan import shared_slots
from langsearch.space.pruned_size import num_nonzero
from langsearch.space.schema import load_space

_COLOURS = {"searched": "#1f6f8b", "baseline": "#b3541e"}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path, help="its folder")
    parser.add_argument("--figure", type=Path, help="an HTML page of the front and the baselines")
    arguments = parser.parse_args()
    experiment = read_experiment(arguments.experiment)
    systems = tested_systems(experiment)
    tables = (
        score_rows(systems),
        pair_rows(experiment, systems),
        difference_rows(systems),
        parameter_rows(experiment, systems),
        budget_rows(experiment),
    )
    for table in tables:
        if len(table) > 1:
            print(markdown(table), end="\n\n")
    print(f"{wording.metric_label(experiment)}; {experiment.signature}")
    if arguments.figure is not None:
        figure(systems).write_html(arguments.figure, include_plotlyjs=True, config={"displayModeBar": False})


def tested_systems(experiment: Experiment) -> tuple[Trial, ...]:
    """Returns the baselines and the front, the smallest first, as far as they were tested."""
    summary = summarise(experiment)
    return tuple(trial for trial in (*summary.baselines, *summary.front) if trial.test is not None)


def score_rows(systems: Sequence[Trial]) -> Sequence[tuple[str, ...]]:
    """Returns what each system is, its sizes, and its scores on validation and on test."""
    rows = [("System", "What it is", "stored", "not zero", "validation", "test, 95 %", "seeds, sd")]
    for trial in systems:
        sizes = (_count(trial.trainable_parameters), _count(trial.nonzero_parameters))
        validation = "" if trial.validation is None else f"{trial.validation.spbleu:.2f}"
        rows.append((wording.trial_label(trial), trial.summary, *sizes, validation, *_score(trial.test)))
    return rows


def pair_rows(experiment: Experiment, systems: Sequence[Trial]) -> Sequence[tuple[str, ...]]:
    """Returns the mean test scores by source and target class, and over all directions."""
    scores = {trial.name: _over_seeds(experiment, trial) for trial in systems}
    pairs = class_pairs(experiment, scores)
    rows = [("System", *(f"{src} → {tgt}" for src, tgt in pairs), "AVG")]
    for trial in systems:
        averages = class_pair_averages(experiment, scores[trial.name])
        mean = float(np.mean(list(scores[trial.name].values())))
        rows.append((wording.trial_label(trial), *(f"{averages[pair]:.2f}" for pair in pairs), f"{mean:.2f}"))
    return rows


def difference_rows(systems: Sequence[Trial]) -> Sequence[tuple[str, ...]]:
    """Returns how each member of the front compares with each baseline."""
    baselines = [trial for trial in systems if trial.kind == "baseline"]
    rows = [("Member", *(f"to {wording.trial_label(trial)}" for trial in baselines))]
    for trial in systems:
        if trial.kind == "searched":
            rows.append((trial.name, *(_difference(trial.differences.get(other.name)) for other in baselines)))
    return rows


def parameter_rows(experiment: Experiment, systems: Sequence[Trial]) -> Sequence[tuple[str, ...]]:
    """Returns stored and non-zero adapter parameters by class, where a language has its own."""
    base = locate_base(load_space(ExperimentFolder(experiment.folder).space).base_source)
    shape = read_shape(base.folder)
    rows = [("System", *(f"{name}: stored, not zero" for name in experiment.classes))]
    for trial in systems:
        architecture = read_details(experiment, trial.name).architecture
        if architecture is not None and architecture.adapters and not shared_slots(architecture):
            of_classes = (_of_class(architecture, members) for members in experiment.classes.values())
            cells = [
                f"{part.num_parameters(shape):,}, {num_nonzero(part, shape, trial.max_epochs or 0):,}"
                for part in of_classes
            ]
            rows.append((wording.trial_label(trial), *cells))
    return rows


def budget_rows(experiment: Experiment) -> Sequence[tuple[str, ...]]:
    """Returns how many trainings the search had, and each tuned baseline, and their hours."""
    own = [(one.label, str(one.num_trials), f"{one.seconds / 3600:.2f}") for one in budgets(experiment)]
    return [("Trained by", "trainings", "hours"), *own]


def figure(systems: Sequence[Trial]) -> go.Figure:
    """Returns test scores over stored parameters that are not zero, with their 95 % intervals."""
    shown = go.Figure()
    for kind, label in (("baseline", "baselines, tuned"), ("searched", "the front")):
        of_kind = [trial for trial in systems if trial.kind == kind]
        tests = [trial.test for trial in of_kind if trial.test is not None]
        shown.add_trace(
            go.Scatter(
                x=[max(trial.nonzero_parameters or 0, 1_000) for trial in of_kind],
                y=[test.spbleu for test in tests],
                error_y={
                    "array": [(test.high or test.spbleu) - test.spbleu for test in tests],
                    "arrayminus": [test.spbleu - (test.low or test.spbleu) for test in tests],
                },
                mode="markers+text",
                text=[wording.trial_label(trial) for trial in of_kind],
                textposition="middle right",
                cliponaxis=False,
                marker={"size": 11, "color": _COLOURS[kind]},
                name=label,
            )
        )
    shown.update_xaxes(type="log", title="parameters that are not zero (pretrained: none)")
    shown.update_yaxes(title="spBLEU on test, mean of seeds")
    shown.update_layout(
        template="plotly_white",
        width=1000,
        height=460,
        font={"size": 14},
        legend={"x": 0.01, "y": 0.99},
        margin={"t": 16, "r": 130, "b": 60},
    )
    return shown


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Returns a table whose first row is its head."""
    head, *body = rows
    return "\n".join(_lines(head, body))


def _lines(head: Sequence[str], body: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'---:|' * (len(head) - 1)}"
    for row in body:
        yield f"| {' | '.join(row)} |"


def _over_seeds(experiment: Experiment, trial: Trial) -> DirectionScores:
    """Returns the mean test score of each direction over all trainings of a system that were tested."""
    further = [one.name for one in experiment.beside if one.seed_of == trial.name and one.test is not None]
    found: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for name in (trial.name, *further):
        for score in read_details(experiment, name).scores:
            if score.split == "test":
                found[score.src, score.tgt].append(score.spbleu)
    return {direction: float(np.mean(values)) for direction, values in found.items()}


def _of_class(architecture: Architecture, members: Sequence[str]) -> Architecture:
    """Returns the adapters of some languages alone."""
    slots = {slot for language, slot in architecture.slots if language in members}
    adapters = []
    for entry in architecture.adapters:
        ranks = tuple((slot, rank) for slot, rank in entry.ranks if slot in slots)
        if ranks:
            adapters.append(replace(entry, ranks=ranks))
    return replace(architecture, adapters=tuple(adapters))


def _score(score: Score | None) -> tuple[str, str]:
    assert score is not None, "only tested systems are shown"
    interval = "" if score.low is None or score.high is None else f" ({score.low:.2f} to {score.high:.2f})"
    spread = "1" if score.seeds_sd is None else f"{score.num_seeds}, {score.seeds_sd:.2f}"
    return f"{score.spbleu:.2f}{interval}", spread


def _difference(found: PairedDifference | None) -> str:
    return "" if found is None else f"{wording.difference(found.value)}, {verdicts.short_evidence(found)}"


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


if __name__ == "__main__":
    main()
