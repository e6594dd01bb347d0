"""Learning about a space before searching it."""

from pathlib import Path
from typing import Annotated

import typer

from langsearch.cli.console import out, print_text
from langsearch.cli.options import Overrides, SpaceFile, check_target, load_with_options

_To = Annotated[Path | None, typer.Option("--to", help="Where to write. [experiments/NAME-sides or -subspace]")]
_Resume = Annotated[bool, typer.Option("--resume", help="Go on where an earlier learning stopped.")]
_Rank = Annotated[int | None, typer.Option(help="Every language's rank. [as in the space's prior]", min=1)]


def learn_sides(
    space: SpaceFile,
    steps: Annotated[int | None, typer.Option(help="Updates. [as in the space's prior, or 200]", min=1)] = None,
    rank: _Rank = None,
    by: Annotated[str | None, typer.Option(help="layer or module: what shares a side. [layer]")] = None,
    to: _To = None,
    resume: _Resume = False,
    overrides: Overrides = None,
) -> None:
    """Learn which layers should be indexed by the source language and which by the target's."""
    loaded = load_with_options(space, overrides)
    check_target(to)
    from langsearch.prior.standalone import learn_and_print

    _show_learned(learn_and_print(out, "sides", loaded, to, resume=resume, steps=steps, rank=rank, by=by))


def learn_subspace(
    space: SpaceFile,
    rank: _Rank = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs. [as in the space's prior, or 4]", min=2)] = None,
    target: Annotated[float | None, typer.Option(help="Share of B to prune. [as in the prior, or 0.9]")] = None,
    to: _To = None,
    resume: _Resume = False,
    overrides: Overrides = None,
) -> None:
    """Learn how much rank each language demands, and propose a narrowed space."""
    loaded = load_with_options(space, overrides)
    check_target(to)
    from langsearch.prior.standalone import learn_and_print

    given = {"rank": rank, "epochs": epochs, "target": target}
    _show_learned(learn_and_print(out, "subspace", loaded, to, resume=resume, **given))


def _show_learned(folder: Path) -> None:
    from langsearch.report.learned_page import write_learned_page

    print_text(f"Figures: {write_learned_page(folder)}")
