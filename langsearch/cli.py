"""The command line: parse, build, call. Exit codes: 0 done, 1 failed, 2 the input is wrong."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from langsearch import __version__
from langsearch.space.problems import InputError

app = typer.Typer(
    help="Find, for each language of a translation model, the smallest adapters that translate best.\n\n"
    "Start with: langsearch run search_spaces/quickstart.yaml",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
_out, _err = Console(highlight=False), Console(stderr=True, highlight=False)

SpaceFile = Annotated[Path, typer.Argument(metavar="SPACE", help="The space's YAML file.")]
ExperimentFolderArgument = Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="An experiment's folder.")]
Experiments = Annotated[Path, typer.Option("--experiments", help="The folder that holds all experiments.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a value of the space, e.g. trainer.epochs=3. Repeatable."),
]
TrialName = Annotated[str | None, typer.Option("--trial", help="A trial's number or a baseline's name. [best]")]
EXPERIMENTS = Path("experiments")


def main() -> None:
    """Runs the command line and exits with its code."""
    try:
        app(prog_name="langsearch")
    except InputError as error:
        for problem in error.problems:
            _err.print(f"error: {problem}", markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        _err.print("Interrupted.")
        sys.exit(130)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
) -> None:
    if version:
        _out.print(__version__)
        raise typer.Exit


@app.command()
def check(space: SpaceFile, overrides: Overrides = None) -> None:
    """Validate a space: languages, directions, sentences, dimensions, sizes. Starts and writes nothing."""
    from langsearch.search.checking import print_check
    from langsearch.search.environment import check_space
    from langsearch.space.schema import load_space

    print_check(_out, check_space(load_space(space, overrides or ())))


@app.command()
def run(
    space: SpaceFile,
    experiments: Experiments = EXPERIMENTS,
    name: Annotated[str | None, typer.Option(help="The experiment's name. [the space's name]")] = None,
    trials: Annotated[int | None, typer.Option(help="Searched trials, baselines not counted.", min=1)] = None,
    hours: Annotated[float | None, typer.Option(help="Stop after so many hours; --resume goes on.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an experiment that is there.")] = False,
    address: Annotated[str | None, typer.Option(help="A Ray cluster's address. [this machine alone]")] = None,
    overrides: Overrides = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show only the result.")] = False,
) -> None:
    """Search: run the trials, test the front and the baselines, write the report."""
    from langsearch.report.page import write_report
    from langsearch.search.display import Display
    from langsearch.search.environment import check_space
    from langsearch.search.finish import export_front
    from langsearch.search.runner import run_search
    from langsearch.space.schema import load_space

    # In quotes, so that --name 7 is a text too.
    given = {"name": name and json.dumps(name), "search.trials": trials, "search.max_hours": hours}
    settings = [f"{key}={value}" for key, value in given.items() if value is not None]
    loaded = load_space(space, [*(overrides or ()), *settings])
    checked = check_space(loaded)
    display = Display(_out, loaded.name, loaded.search.trials, len(loaded.baselines), is_quiet=quiet)
    outcome = run_search(checked, experiments, display, resume=resume, address=address)
    if outcome.is_complete:
        export_front(checked, outcome.folder)
    report = write_report(outcome.folder.path)
    _print_front(outcome.folder.path)
    _out.print(f"Report: {report}", soft_wrap=True)
    if not outcome.is_complete:
        why = "The time is up" if outcome.is_late else "Interrupted"
        _out.print(f"{why}: not all trials have ended. Go on with the same command and --resume.")
        raise typer.Exit(0 if outcome.is_late else 130)
    if outcome.num_complete == 0:
        _err.print("No searched trial could finish; the causes are in the report.")
        raise typer.Exit(1)


@app.command()
def train(
    target: Annotated[Path, typer.Argument(metavar="SPACE|ARCHITECTURE", help="A space, or an architecture.json.")],
    to: Annotated[Path | None, typer.Option("--to", help="Where to write. [experiments/NAME-train]")] = None,
    space: Annotated[Path | None, typer.Option(help="The space whose data and trainer an architecture uses.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier training stopped.")] = False,
    overrides: Overrides = None,
) -> None:
    """Train one architecture, without a search, and export its adapters."""
    from langsearch.search.single import train_single

    train_single(_out, target, space, to, overrides or (), resume=resume)


@app.command()
def evaluate(
    target: Annotated[Path, typer.Argument(metavar="EXPERIMENT|ADAPTERS", help="An experiment or exported adapters.")],
    split: Annotated[str, typer.Option(help="validation, or test (devtest means test).")] = "test",
    trial: TrialName = None,
    space: Annotated[Path | None, typer.Option(help="The space whose data adapters outside an experiment use.")] = None,
    beams: Annotated[int | None, typer.Option(help="Beams. [as in the space's evaluation.final]", min=1)] = None,
) -> None:
    """Score a trial or exported adapters: spBLEU by direction and class pair, with its signature."""
    from langsearch.search.rescoring import print_evaluation

    print_evaluation(_out, target, split, trial, space, beams)


@app.command()
def translate(
    adapters: Annotated[Path, typer.Argument(metavar="ADAPTERS", help="A folder written by export, or front/NAME.")],
    src: Annotated[str, typer.Option("--from", help="The source language.")],
    tgt: Annotated[str, typer.Option("--to", help="The target language.")],
    beams: Annotated[int, typer.Option(help="1: greedy.", min=1)] = 5,
    base: Annotated[str | None, typer.Option(help="The base, if it is not where the adapters say.")] = None,
) -> None:
    """Translate: reads lines, writes lines."""
    from langsearch.search.translating import translate_lines

    for line in translate_lines(adapters, sys.stdin.buffer, src, tgt, beams, base):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


@app.command()
def export(
    experiment: ExperimentFolderArgument,
    to: Annotated[Path, typer.Option("--to", help="The folder to write.")],
    trial: TrialName = None,
    format_: Annotated[str, typer.Option("--format", help="peft: one PEFT LoRA adapter a language and side.")] = "peft",
) -> None:
    """Export a trial's adapters so that plain PEFT loads them."""
    from langsearch.search.finish import export_one

    names = export_one(experiment, trial, to, format_)
    _out.print(f"Wrote {len(names)} adapters and a card to {to}", soft_wrap=True)


@app.command()
def report(experiment: ExperimentFolderArgument) -> None:
    """Write report.html and show the front against the baselines."""
    from langsearch.report.page import write_report

    path = write_report(experiment)
    _print_front(experiment)
    _out.print(f"Report: {path}", soft_wrap=True)


def _print_front(experiment: Path) -> None:
    from langsearch.report.experiment_reader import read_experiment
    from langsearch.report.terminal import front_table

    _out.print(front_table(read_experiment(experiment)))


if __name__ == "__main__":
    main()
