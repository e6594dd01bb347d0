"""Commands that go on with an experiment, or run its search again, from where langsearch was started."""

import shlex
from pathlib import Path

from langsearch.report.experiment_values import Experiment

_DEFAULT = Path("experiments")
"""Where `langsearch run` looks without --experiments."""

_REMOTE = ".remote"
"""In the copy of an experiment that lies in an object store."""


def resume_command(experiment: Experiment, *options: str, num_trials: int | None = None) -> str:
    """Returns the command that goes on with this experiment, wherever it lies.

    Args:
        experiment: The experiment.
        options: More of `langsearch run`'s.
        num_trials: Searched trials in all. None: as planned.
    """
    if experiment.is_training:
        return _train(experiment, from_here(experiment.folder.resolve()), "--resume")
    name = experiment.folder.resolve().name
    renamed = ["--name", name] if name != experiment.name else []
    return _run(experiment, [*renamed, "--resume", *options], num_trials)


def reproduce_command(experiment: Experiment) -> str:
    """Returns the command that runs the same search again, beside this one."""
    if experiment.is_training:
        place = experiment.folder.resolve()
        return _train(experiment, from_here(place.with_name(f"{place.name}-again")))
    return _run(experiment, ["--name", f"{experiment.folder.resolve().name}-again"], None)


def _train(experiment: Experiment, to: Path, *options: str) -> str:
    """Returns the command that trains what a training trained; its architecture may be none that a space can write."""
    trained = [trial.name for trial in experiment.trials if trial.kind == "searched"] or ["00000"]
    architecture = from_here(experiment.folder.resolve()) / "trials" / trained[-1] / "architecture.json"
    return shlex.join(["langsearch", "train", str(architecture), "--to", str(to), *options])


def _run(experiment: Experiment, options: list[str], num_trials: int | None) -> str:
    folder = experiment.folder.resolve()
    place = from_here(folder.parent)
    words = ["langsearch", "run", str(from_here(folder) / "space.yaml")]
    if (folder / _REMOTE).exists():
        words += ["--experiments", "URL"]  # the copy does not know of what it is one
    elif place != _DEFAULT:
        words += ["--experiments", str(place)]
    words += options
    # The plan as of now: space.yaml stays as it was when a resumed run is given another number of trials.
    planned = experiment.num_trials if num_trials is None else num_trials
    return shlex.join(words if planned is None else [*words, "--trials", str(planned)])


def from_here(path: Path) -> Path:
    """Returns a path as it is typed from where langsearch was started."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
