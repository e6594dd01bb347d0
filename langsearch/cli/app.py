"""The application: its commands in the order of its help, and `main`."""

import atexit
import gc
import logging
import sys
from typing import Annotated

import typer

from langsearch import __version__
from langsearch.cli.adapters import evaluate, export, train, translate
from langsearch.cli.cluster import doctor, fetch, status, submit
from langsearch.cli.console import err, out
from langsearch.cli.experiments import dashboard, list_, report, show
from langsearch.cli.extend import extend
from langsearch.cli.interrupted import KEPT, interrupt_at_sigterm, tell_interrupt, telling_interrupts
from langsearch.cli.learn import learn_sides, learn_subspace
from langsearch.cli.search import check, run
from langsearch.space.problems import InputError

logger = logging.getLogger(__name__)

app = typer.Typer(
    help="Find, for each language of a translation model, the smallest adapters that translate best.\n\n"
    "Start with: langsearch run search_spaces/quickstart.yaml",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
_learn = typer.Typer(help="Learn about a space before searching it: sides, or the demand for rank.")

for _command in (
    check,
    run,
    train,
    extend,
    evaluate,
    translate,
    export,
    report,
    dashboard,
    submit,
    status,
    fetch,
    doctor,
):
    app.command()(telling_interrupts(_command, KEPT if _command in (run, train, extend) else ""))
app.command("list")(telling_interrupts(list_))
app.command()(telling_interrupts(show))
_learn.command("sides")(telling_interrupts(learn_sides, KEPT))
_learn.command("subspace")(telling_interrupts(learn_subspace, KEPT))
app.add_typer(_learn, name="learn", no_args_is_help=True)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit


def main() -> None:
    """Runs the command line and exits with its code.

    0 done, 1 failed, 2 the input is wrong, 130 interrupted, 143 interrupted by SIGTERM.
    """
    from langsearch.model.cpus import wait_passively

    # What is left in the end is freed with the process; looking through all of it before took 0.5 s.
    atexit.register(gc.freeze)
    wait_passively()
    interrupt_at_sigterm()
    try:
        app(prog_name="langsearch")
    except InputError as error:
        for problem in error.problems:
            err.print(f"error: {problem}", markup=False, soft_wrap=True)
        sys.exit(2)
    except OSError as error:
        logger.debug("Where it happened:", exc_info=True)
        from langsearch.experiment.places import file_problem

        problem, code = file_problem(error)
        err.print(f"error: {problem}", markup=False, soft_wrap=True)
        sys.exit(code)
    except KeyboardInterrupt:  # before the command has begun
        sys.exit(tell_interrupt())
