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
    name = experiment.folder.resolve().name
    renamed = ["--name", name] if name != experiment.name else []
    return _run(experiment, [*renamed, "--resume", *options], num_trials)


def reproduce_command(experiment: Experiment) -> str:
    """Returns the command that runs the same search again, beside this one."""
    return _run(experiment, ["--name", f"{experiment.folder.resolve().name}-again"], None)


def _run(experiment: Experiment, options: list[str], num_trials: int | None) -> str:
    folder = experiment.folder.resolve()
    place = _from_here(folder.parent)
    words = ["langsearch", "run", str(_from_here(folder) / "space.yaml")]
    if (folder / _REMOTE).exists():
        words += ["--experiments", "URL"]  # the copy does not know of what it is one
    elif place != _DEFAULT:
        words += ["--experiments", str(place)]
    words += options
    # The plan as of now: space.yaml stays as it was when a resumed run is given another number of trials.
    planned = experiment.num_trials if num_trials is None else num_trials
    return shlex.join(words if planned is None else [*words, "--trials", str(planned)])


def _from_here(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
