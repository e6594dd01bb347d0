"""A whole search: the space is checked, the trials run, the front is exported, the report is written."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from langsearch.experiment.places import check_experiments
from langsearch.space.problems import InputError
from langsearch.space.schema import Space

if TYPE_CHECKING:
    from langsearch.experiment.environment import CheckedSpace
    from langsearch.search.ending import Ending
    from langsearch.search.runner import Outcome

# What takes seconds to load is imported where it is needed: a wrong place is told before.


def conduct_search(
    space: Space,
    experiments: str,
    console: Console,
    fail: Callable[[str], None],
    *,
    resume: bool = False,
    resume_if_begun: bool = False,
    accept_changed_space: bool = False,
    retry: str | None = None,
    address: str | None = None,
    is_quiet: bool = False,
) -> tuple[Path, "Ending"]:
    """Runs a search, or goes on with one, and leaves its front and its report; returns its folder and how it ended.

    Args:
        space: What is searched.
        experiments: The folder of all experiments, or its URL; the space's name is the experiment's.
        console: Shows what happens, and in the end the front.
        fail: Called with a sentence on what could not be written.
        resume: Go on with an experiment that is there.
        resume_if_begun: Go on with an experiment where one has begun, and begin it where none has.
        accept_changed_space: Go on though the space has changed.
        retry: Which failed trials to try again, as `retrying.choose_failed` takes it.
        address: A Ray cluster's address. None: this machine alone.
        is_quiet: Show only the front.

    Raises:
        InputError: If the space, the data or the place is wrong; see `run_search`.
        LeaseLostError: If another run took over the experiment.
        StorageError: If the experiment's object store cannot be reached.
        KeyboardInterrupt: At the second Ctrl+C, or the first one outside of the trials.
    """
    check_experiments(experiments, space.name)
    from langsearch.search.checking import check_search
    from langsearch.search.display import Display
    from langsearch.search.ending import Ending, ending_of
    from langsearch.search.forecast import forecast
    from langsearch.search.forecast_lines import counted_warnings
    from langsearch.search.runner import run_search

    checked = check_search(space)
    display = Display(console, space.name, space.search.trials, len(space.baselines), is_quiet=is_quiet)
    if not resume and not resume_if_begun:
        for text in counted_warnings(checked, forecast(checked, is_measured=False)):
            display.message(f"Warning: {text}")
    written: list[bool] = []
    outcome = run_search(
        checked,
        experiments,
        display,
        resume=resume,
        resume_if_begun=resume_if_begun,
        accept_changed_space=accept_changed_space,
        retry=retry,
        address=address,
        conclude=lambda outcome: written.append(_write_results(checked, outcome, console, fail)),
    )
    ending = ending_of(outcome, is_idle=(resume or resume_if_begun) and display.num_started == 0)
    if not all(written):
        ending = Ending(max(ending.code, 1), ending.told, ending.error)
    return outcome.folder.path, ending


def _write_results(checked: "CheckedSpace", outcome: "Outcome", console: Console, fail: Callable[[str], None]) -> bool:
    """Writes the front's adapters and the report; returns whether they could be, which a full disk prevents."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    from langsearch.report.experiment_reader import read_experiment
    from langsearch.report.page import write_report
    from langsearch.report.terminal import print_front
    from langsearch.trial.export import export_front

    path = outcome.folder.path
    try:
        if outcome.is_complete:
            export_front(checked, outcome.folder)
        report = write_report(path)
        print_front(console, read_experiment(path))
        if outcome.copy is not None:
            outcome.copy.push()
            console.print(f"Experiment: {outcome.copy.remote.url}", markup=False, soft_wrap=True)
    except (OSError, InputError, StorageInternalError, SQLAlchemyError) as error:
        what = "front and report" if outcome.is_complete else "report"
        cause = str(error).strip().partition("\n")[0].rstrip(".")
        fail(f"The {what} could not be written: {cause}. --resume writes what is missing.")
        return False
    console.print(f"Report: {report}", markup=False, soft_wrap=True)
    return True
