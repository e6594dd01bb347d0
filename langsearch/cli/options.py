"""Arguments and options that several commands have."""

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langsearch.cli.console import err
from langsearch.space.problems import InputError, LeaseLostError, SearchStoppedError

if TYPE_CHECKING:
    from langsearch.space.schema import Space

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

ExperimentName = Annotated[str | None, typer.Option("--name", help="The experiment's name. [the space's name]")]
Trials = Annotated[
    int | None,
    typer.Option(help="Searched trials, baselines not counted; with --resume, in all: more adds to them.", min=1),
]
Hours = Annotated[
    float | None,
    typer.Option(help="Stop after so many hours of this run, trials behind a checkpoint; --resume goes on."),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with an experiment after any end. Complete trials stay, running ones go on from their last "
        "checkpoint.",
    ),
]
ResumeIfBegun = Annotated[
    bool,
    typer.Option(
        "--resume-if-begun",
        help="Begin where there is no experiment yet, and go on, as --resume does, where one has begun: for jobs that "
        "a scheduler starts again.",
    ),
]
Retry = Annotated[
    str | None,
    typer.Option(
        metavar="WHAT",
        help="With --resume: try failed trials again. failed: all; 12,17: these; or how their cause begins, "
        "e.g. 'out of memory'.",
    ),
]
AcceptChangedSpace = Annotated[
    bool,
    typer.Option(
        "--accept-changed-space",
        help="With --resume: go on with a changed space in the same study; the old one is kept beside it. Base, "
        "languages, data, evaluation and objectives must stay.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show only the result.")]


def resumption(*, resume: bool, resume_if_begun: bool, retry: str | None, accept_changed_space: bool) -> list[str]:
    """Returns the options of `langsearch run` that say what is gone on with, as they are typed.

    Raises:
        InputError: If some of them do not go together.
    """
    problems = []
    if resume and resume_if_begun:
        problems.append(
            "--resume goes on with what is there and --resume-if-begun also begins anew, but both are given. Leave out "
            "one of them."
        )
    for option, is_given in {"--retry": retry is not None, "--accept-changed-space": accept_changed_space}.items():
        if is_given and not resume and not resume_if_begun:
            problems.append(
                f"{option} goes on with an experiment, but neither --resume nor --resume-if-begun is given. Add one."
            )
    if problems:
        raise InputError(problems)
    flags = {
        "--resume": resume,
        "--resume-if-begun": resume_if_begun,
        "--accept-changed-space": accept_changed_space,
    }
    return [flag for flag, is_given in flags.items() if is_given] + ([] if retry is None else ["--retry", retry])


@contextmanager
def stops_told() -> Iterator[None]:
    """Says why a training has stopped, and ends with exit code 1.

    Raises:
        typer.Exit: If it has.
    """
    try:
        yield
    except SearchStoppedError as error:
        err.print(str(error), markup=False, soft_wrap=True)
    except LeaseLostError as error:
        err.print(f"Stopped: {error}", markup=False, soft_wrap=True)
    else:
        return
    raise typer.Exit(1)


def check_target(to: Path | None) -> None:
    """Raises InputError if a command that writes a folder of its own cannot; see `places.check_target`."""
    from langsearch.experiment import places

    places.check_target(to)


def brought_here(place: str) -> Path:
    """Returns a folder of this machine; a remote experiment is brought here first."""
    from langsearch.experiment import places

    return places.brought_here(place)


def load_with_options(
    path: Path,
    overrides: list[str] | None,
    *,
    name: str | None = None,
    trials: int | None = None,
    hours: float | None = None,
    is_here: bool = True,
) -> "Space":
    """Loads a space with what options set in it; problems with these name the options as they were typed.

    A command does this before it imports what runs it: a mistake is told at once, and not after seconds of loading.
    Only where a space is wrong and has a base or data that can be looked at, these are, so that all is told.

    Args:
        path: The space's file.
        overrides: As `--set` has them.
        name: --name.
        trials: --trials.
        hours: --hours.
        is_here: Whether its base and its data are on this machine.
    """
    from langsearch.space.draft import WrongSpaceError
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
        if is_here and isinstance(error, WrongSpaceError) and error.draft.has_more_to_check:
            from langsearch.search.checking import all_problems

            problems = tuple(all_problems(error))
        for setting, option in options.items():
            begin = f"--set {setting}: "
            problems = tuple(
                f"{option}: {problem.removeprefix(begin)}" if problem.startswith(begin) else problem
                for problem in problems
            )
        raise InputError(problems) from error
