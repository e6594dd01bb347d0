"""All that the page shows, as read from an experiment's files."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from optuna.distributions import BaseDistribution

from langsearch.report.experiment_reader import read_curve, read_details
from langsearch.report.experiment_values import CurvePoint, Experiment, Failure, TrialDetails
from langsearch.report.importance import Importance, importances
from langsearch.report.summary import DirectionScores, Summary, summarise
from langsearch.report.translations import Translations, read_translations
from langsearch.space.architecture import Architecture
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space

MAX_DETAILED_TRIALS = 600
"""Of more trials, those outside the front have no direction scores and no architecture on the page."""


_Curve = Sequence[CurvePoint]
_Space = tuple[Mapping[str, BaseDistribution], tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Material:
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


_Found = TypeVar("_Found")


def _read_each(
    read: Callable[[Experiment, str], _Found], experiment: Experiment, names: Sequence[str]
) -> dict[str, _Found]:
    # Thousands of small files: most of the time is the file system's.
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(lambda name: read(experiment, name), names), strict=True))


def read_all_details(experiment: Experiment, names: Sequence[str]) -> dict[str, TrialDetails]:
    """Reads the files of some trials."""
    return _read_each(read_details, experiment, names)


def read_all_curves(experiment: Experiment, names: Sequence[str]) -> dict[str, _Curve]:
    """Reads the curves of some trials."""
    return _read_each(read_curve, experiment, names)


def read_dimensions(experiment: Experiment) -> _Space:
    """Returns the dimensions and the rungs; none where the space cannot be read (another version wrote it)."""
    try:
        space = load_space(experiment.folder / "space.yaml", is_recorded=True)
        return space.dimensions(), space.search.rung_epochs(space.trainer_section.epochs)
    except (InputError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, ()


@dataclass(frozen=True, kw_only=True)
class Readers:
    """How the parts are read. The dashboard's remember what has not changed since."""

    details: Callable[[Experiment, Sequence[str]], Mapping[str, TrialDetails]] = read_all_details
    curves: Callable[[Experiment, Sequence[str]], Mapping[str, _Curve]] = read_all_curves
    dimensions: Callable[[Experiment], _Space] = read_dimensions
    importances: Callable[[Experiment, Mapping[str, BaseDistribution]], tuple[Importance, ...]] = importances
    translations: Callable[[Experiment, Summary], Translations | None] = read_translations


def read_material(experiment: Experiment, readers: Readers | None = None) -> Material:
    """Reads what the page shows of an experiment; what is missing or torn is left out."""
    readers = readers or Readers()
    summary = summarise(experiment)
    shown = {trial.name for trial in (*summary.front, *summary.baselines)}
    searched = [trial.name for trial in experiment.trials if trial.name not in shown]
    failed = [trial.name for trial in experiment.trials if trial.state == "failed"][:MAX_DETAILED_TRIALS]
    detailed = [*shown, *(searched if len(searched) <= MAX_DETAILED_TRIALS else ())]
    details = readers.details(experiment, [*detailed, *(name for name in failed if name not in set(detailed))])
    curves = readers.curves(experiment, [trial.name for trial in experiment.trials])
    failures = {name: details[name].failure for name in failed}
    scores = {
        split: {
            name: found
            for name in detailed
            if (
                found := {
                    (score.src, score.tgt): score.spbleu for score in details[name].scores if score.split == split
                }
            )
        }
        for split in ("validation", summary.split)
    }
    dimensions, rungs = readers.dimensions(experiment)
    return Material(
        experiment=experiment,
        summary=summary,
        scores=scores[summary.split],
        other_scores=scores["validation"],
        architectures={name: own for name in detailed if (own := details[name].architecture) is not None},
        curves={name: curve for name, curve in curves.items() if curve},
        failures={name: failure for name, failure in failures.items() if failure},
        translations=readers.translations(experiment, summary),
        dimensions=dimensions,
        rungs=rungs or _pruned_epochs(experiment),
        importances=readers.importances(experiment, dimensions),
    )


def _pruned_epochs(experiment: Experiment) -> tuple[int, ...]:
    return tuple(sorted({trial.epochs for trial in experiment.trials if trial.state == "pruned" and trial.epochs}))
