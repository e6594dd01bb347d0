"""Experiments as they are: listed, shown, reported, watched."""

from pathlib import Path
from typing import Annotated

import typer

from langsearch.cli.console import out, print_text
from langsearch.cli.options import ExperimentPlace, brought_here
from langsearch.space.problems import InputError
from langsearch.space.settings import EXPERIMENTS


def report(
    experiment: ExperimentPlace,
    price: Annotated[
        float | None,
        typer.Option(
            "--price-per-gpu-hour", metavar="PRICE", help="State what the GPU hours cost, in any currency.", min=0
        ),
    ] = None,
) -> None:
    """Write report.html and show the front against the baselines."""
    from langsearch.experiment.places import check_writable

    folder = brought_here(experiment)
    if folder.is_dir():
        check_writable(folder, "The experiment of a report", "Or see it without one: langsearch show EXPERIMENT")
    from langsearch.report.page import write_report

    path = write_report(folder, price)
    print_front(folder)
    print_text(f"Report: {path}")


def print_front(experiment: Path) -> None:
    """Shows the front against the baselines, as the experiment's folder has it now."""
    from langsearch.report import terminal
    from langsearch.report.experiment_reader import read_experiment

    terminal.print_front(out, read_experiment(experiment))


def dashboard(
    experiments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXPERIMENT",
            help="Experiments, or folders of them; they need not be there yet. Or URLs. [experiments]",
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Listen here, for others too; with --token. [this machine]")
    ] = None,
    token: Annotated[
        str | None, typer.Option(metavar="SECRET", help="What every request must bring; with --host.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="The port. [8266, or the next free one]", min=0, max=65535)] = None,
) -> None:
    """Show experiments live in a browser: the report's views, a second after a trial ends; compare; stop trials.

    One experiment opens its own page; several, or a folder, open a list of them, from which some can be compared.

    Nothing is written but requests to stop: a trial ends at the epoch it has reached and counts as stopped early; a
    search stops behind checkpoints, and --resume goes on. It can be started before, during and after a search, and
    ended by Ctrl+C at any time.

    Only this machine is served, without a login. From another one: ssh -L 8266:127.0.0.1:8266 HOST, then open
    http://127.0.0.1:8266. Or give --host and --token together; the token then goes over the network as it is.

    Experiments on remote storage are live on the machine that runs their search; elsewhere they are fetched once and
    shown as they were then.

    Example: langsearch dashboard experiments/quickstart
    """
    from langsearch.dashboard.serving import open_dashboard

    paths = [path for text in experiments or [EXPERIMENTS] for path in _to_watch(text)]
    opened = open_dashboard(paths, host=host, token=token, port=port, tell=print_text)
    print_text(f"Dashboard: {opened.url}  (Ctrl+C ends it; searches go on)")
    opened.run()


def _to_watch(text: str) -> list[Path]:
    """Returns the experiments that a dashboard shows; remote ones are brought here first."""
    if "://" not in text:
        return [Path(text)]
    from langsearch.experiment.lock import is_held
    from langsearch.experiment.working_copy import fetch_experiments

    paths = fetch_experiments(text, with_trials=True)
    if not paths:
        raise InputError(f"A URL must be an experiment's, or of a folder of experiments, but {text} holds none.")
    for path in paths:
        if not is_held(path):
            print_text(f"{text}: {path.name} was fetched as it is now. Start the dashboard again for what comes later.")
    return paths


def list_(
    experiments: Annotated[
        str, typer.Argument(metavar="EXPERIMENTS", help="The folder that holds all experiments, or its URL.")
    ] = EXPERIMENTS,
    is_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List experiments: state, trials, and the best one's spBLEU (v: on validation) against the baselines."""
    from langsearch.experiment.places import earlier_training_words
    from langsearch.experiment.printable import Unpadded, json_text
    from langsearch.experiment.working_copy import fetch_experiments
    from langsearch.report.listing import list_experiments, listing_data, listing_table

    paths = fetch_experiments(experiments, with_trials=False)
    listed = list_experiments(paths)
    if is_json:
        typer.echo(json_text(listing_data(listed)))
    elif listed:
        out.print(Unpadded(listing_table(listed)))
    else:
        print_text(f"No experiment in {experiments}.")
    for path in paths:
        if not is_json and (words := earlier_training_words(path)):
            print_text(f"{path}:{words}")


def show(
    experiment: ExperimentPlace,
    trial: Annotated[
        str | None, typer.Argument(metavar="TRIAL", help="A trial's number or a baseline's name. [the experiment]")
    ] = None,
    is_json: Annotated[bool, typer.Option("--json", help="Print all that is known as one JSON object.")] = False,
) -> None:
    """Show an experiment and its front, or one trial: scores, point, plan, curve, failure."""
    from langsearch.experiment.printable import json_text
    from langsearch.report.experiment_reader import read_experiment
    from langsearch.report.showing import experiment_data, find_trial, print_experiment, print_trial, trial_data

    found = read_experiment(brought_here(experiment))
    one = None if trial is None else find_trial(found, trial)
    if is_json:
        typer.echo(json_text(experiment_data(found) if one is None else trial_data(found, one)))
    elif one is None:
        print_experiment(out, found)
    else:
        print_trial(out, found, one)
