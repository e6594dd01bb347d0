"""Arguments and options that several commands have."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langsearch.space.problems import InputError

if TYPE_CHECKING:
    from langsearch.space.schema import Space

EXPERIMENTS = "experiments"
"""The folder that holds all experiments, unless another is given."""


SpaceFile = Annotated[Path, typer.Argument(metavar="SPACE", help="The space's YAML file.")]
ExperimentPlace = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment's folder, or its URL.")]
ExperimentOrAdapters = Annotated[
    str, typer.Argument(metavar="EXPERIMENT|ADAPTERS", help="An experiment, or its URL, or exported adapters.")
]
Experiments = Annotated[
    str,
    typer.Option(
        "--experiments", metavar="DIR", help="The folder that holds all experiments, or its URL: s3://…, gs://…"
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a value of the space, e.g. trainer.epochs=3. Repeatable."),
]
TrialName = Annotated[str | None, typer.Option("--trial", help="A trial's number or a baseline's name. [best]")]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="A Ray cluster that this machine is a node of: auto, or its head's HOST:PORT. [this machine alone]",
    ),
]
RunAddress = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="A Ray cluster: auto, or its head's HOST:PORT, where this machine is a node of it; from elsewhere "
        "ray://HOST:10001, which has the head run the search. [this machine alone]",
    ),
]


def brought_here(place: str) -> Path:
    """Returns a folder of this machine; a remote experiment is brought here first."""
    if "://" not in place:
        return Path(place)
    from langsearch.experiment.working_copy import fetch_experiment

    return fetch_experiment(place)


def load_with_options(
    path: Path,
    overrides: list[str] | None,
    *,
    name: str | None = None,
    trials: int | None = None,
    hours: float | None = None,
) -> "Space":
    """Loads a space with what options set in it; problems with these name the options as they were typed.

    A command does this before it imports what runs it: a mistake is told at once, and not after seconds of loading.
    """
    from langsearch.space.schema import load_space

    options = {}
    if name is not None:
        # In quotes, so that --name 7 is a text too.
        options[f"name={json.dumps(name, ensure_ascii=False)}"] = f"--name {shlex.quote(name)}"
    if trials is not None:
        options[f"search.trials={trials}"] = f"--trials {trials}"
    if hours is not None:
        options[f"search.max_hours={hours}"] = f"--hours {hours:g}"
    try:
        return load_space(path, [*(overrides or ()), *options])
    except InputError as error:
        problems = error.problems
        for setting, option in options.items():
            begin = f"--set {setting}: "
            problems = tuple(
                f"{option}: {problem.removeprefix(begin)}" if problem.startswith(begin) else problem
                for problem in problems
            )
        raise InputError(problems) from error
