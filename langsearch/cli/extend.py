"""Languages added to adapters that are there."""

from pathlib import Path
from typing import Annotated

import typer

from langsearch.cli.console import out, print_text
from langsearch.cli.options import (
    ExperimentOrAdapters,
    Overrides,
    TrialName,
    brought_here,
    check_target,
    load_with_options,
    stops_told,
)


def extend(
    source: ExperimentOrAdapters,
    space: Annotated[
        Path, typer.Argument(metavar="SPACE", help="Pairs of the new language with one that the adapters have.")
    ],
    like: Annotated[str, typer.Option(help="The language of the adapters whose ranks and places it gets.")],
    to: Annotated[Path, typer.Option("--to", help="Where to write; the adapters of all languages are in extended/.")],
    language: Annotated[
        list[str] | None, typer.Option("--language", help="The new language. [those that the adapters do not have]")
    ] = None,
    trial: TrialName = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier training stopped.")] = False,
    overrides: Overrides = None,
) -> None:
    """Add a language to a finished experiment's adapters, or to exported ones, and leave all others as they are.

    SPACE has the new language and one or more that the adapters have, their data, trainer and evaluation; what it says
    of `architecture` is not read. Only the new language's adapters are trained, on these pairs; the old ones' files are
    copied as they are, so that every other direction says what it said. Works with LoRA that not all languages share.
    """
    from langsearch.experiment.places import check_experiment_or_adapters

    folder = brought_here(source)
    check_experiment_or_adapters(folder)
    check_target(to)
    loaded = load_with_options(space, overrides)
    from langsearch.api.conducting import conduct_extension

    with stops_told():
        _, told = conduct_extension(
            out, folder, loaded, like, to, languages=tuple(language or ()), trial=trial, resume=resume
        )
    for sentence in told:
        print_text(sentence)
