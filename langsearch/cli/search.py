"""Looking at a space, and searching it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langsearch.cli.console import err, out, print_text, write
from langsearch.cli.experiments import print_front
from langsearch.cli.options import (
    EXPERIMENTS,
    AcceptChangedSpace,
    ExperimentName,
    Experiments,
    Hours,
    Overrides,
    Quiet,
    Resume,
    ResumeIfBegun,
    Retry,
    RunAddress,
    SpaceFile,
    Trials,
    check_experiments,
    load_with_options,
    resumption,
)
from langsearch.space.problems import InputError, LeaseLostError

if TYPE_CHECKING:
    from langsearch.experiment.dirt import FoundDirt
    from langsearch.experiment.environment import CheckedSpace
    from langsearch.search.runner import Outcome


def check(
    space: SpaceFile,
    overrides: Overrides = None,
    is_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a page of the data too: sizes, lengths, unknown pieces, scripts, rows in common.",
        ),
    ] = None,
) -> None:
    """Validate a space, and show what it is: languages, directions, dimensions, sizes, plan. Starts and writes nothing.

    Of the data it shows what was read of every source, how many rows each direction has to train on, to select by and
    to be tested on, and what is wrong with the sentences; with --report it writes a page of that. Sources are {files:
    FOLDER}, {tsv: FILE}, {jsonl: FILE}, {parquet: FILE}, {moses: PREFIX}, {tmx: FILE}, {datasets: FOLDER}, {flores200:
    dev, folder: FOLDER}, one or a list of them; with * or a list for many files, max_rows: N for at most so many rows
    of each pair, weight: W to draw them more often.
    """
    loaded = load_with_options(space, overrides)
    from langsearch.experiment.environment import check_space
    from langsearch.search.checking import check_constraints, describe_check, print_check
    from langsearch.search.sentence_lines import find_dirt_of
    from langsearch.search.trackers import check_tracking

    checked = check_space(loaded)
    check_constraints(checked)
    check_tracking(loaded)
    dirt = find_dirt_of(checked)
    if is_json:
        typer.echo(json.dumps(describe_check(checked, dirt), ensure_ascii=False, indent=2))
    else:
        print_check(out, checked, dirt)
    if report is not None:
        _write_data_page(checked, dirt, report, is_told=not is_json)


def _write_data_page(checked: "CheckedSpace", dirt: "FoundDirt", path: Path, *, is_told: bool) -> None:
    from langsearch.report.data_page import write_data_page
    from langsearch.search.looking import look_at_data

    try:
        write_data_page(look_at_data(checked, dirt), path)
    except OSError as error:
        raise InputError(f"--report must name a file that can be written, but got {path}: {error.strerror}") from error
    if is_told:
        out.print(f"Page: {path}", soft_wrap=True, markup=False)


def run(
    space: SpaceFile,
    experiments: Experiments = EXPERIMENTS,
    name: ExperimentName = None,
    trials: Trials = None,
    hours: Hours = None,
    resume: Resume = False,
    resume_if_begun: ResumeIfBegun = False,
    retry: Retry = None,
    accept_changed_space: AcceptChangedSpace = False,
    address: RunAddress = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Search: run the trials, test the front and the baselines, write the report.

    Ctrl+C once: the trials stop behind a checkpoint. Twice: they stop now, and lose at most the epoch in progress.

    Exit codes: 0 done, or the time was up. 1 no trial could finish, the space's `failures` stopped the run, or another
    run has taken over the experiment. 2 wrong input. 130 interrupted.
    """
    options = resumption(
        resume=resume, resume_if_begun=resume_if_begun, retry=retry, accept_changed_space=accept_changed_space
    )
    loaded = load_with_options(space, overrides, name=name, trials=trials, hours=hours)
    if address is not None and address.startswith("ray://"):
        from langsearch.cluster.client import run_on_head

        options += ["--quiet"] if quiet else []
        raise typer.Exit(run_on_head(loaded, address, experiments, options, write))
    check_experiments(experiments, loaded.name)
    from langsearch.experiment.environment import check_space
    from langsearch.experiment.object_store import StorageError
    from langsearch.search.checking import check_constraints
    from langsearch.search.display import Display
    from langsearch.search.runner import run_search
    from langsearch.search.trackers import check_tracking

    checked = check_space(loaded)
    check_constraints(checked)
    check_tracking(loaded)
    display = Display(out, loaded.name, loaded.search.trials, len(loaded.baselines), is_quiet=quiet)
    written: list[bool] = []
    try:
        outcome = run_search(
            checked,
            experiments,
            display,
            resume=resume,
            resume_if_begun=resume_if_begun,
            accept_changed_space=accept_changed_space,
            retry=retry,
            address=address,
            conclude=lambda outcome: written.append(_write_results(checked, outcome)),
        )
    except KeyboardInterrupt:
        err.print("Interrupted. Go on with the same command and --resume.")
        raise typer.Exit(130) from None
    except LeaseLostError as error:
        err.print(f"Stopped: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except StorageError as error:
        err.print(f"Stopped: {error}. Go on with the same command and --resume.", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    code = _tell_end(outcome, is_idle=(resume or resume_if_begun) and display.num_started == 0)
    raise typer.Exit(code if all(written) else max(code, 1))


def _write_results(checked: "CheckedSpace", outcome: "Outcome") -> bool:
    """Writes the front's adapters and the report; returns whether they could be, which a full disk prevents."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    from langsearch.report.page import write_report
    from langsearch.trial.export import export_front

    path = outcome.folder.path
    try:
        if outcome.is_complete:
            export_front(checked, outcome.folder)
        report = write_report(path)
        print_front(path)
        if outcome.copy is not None:
            outcome.copy.push()
            print_text(f"Experiment: {outcome.copy.remote.url}")
    except (OSError, InputError, StorageInternalError, SQLAlchemyError) as error:
        what = "front and report" if outcome.is_complete else "report"
        cause = str(error).strip().partition("\n")[0].rstrip(".")
        err.print(
            f"The {what} could not be written: {cause}. --resume writes what is missing.",
            markup=False,
            soft_wrap=True,
        )
        return False
    print_text(f"Report: {report}")
    return True


def _tell_end(outcome: "Outcome", *, is_idle: bool) -> int:
    """Says how a search ended and what can be done next; returns the exit code.

    Args:
        outcome: The run's.
        is_idle: Whether the run went on with an experiment and started no trial.
    """
    if outcome.num_failed:
        trials = "1 trial" if outcome.num_failed == 1 else f"{outcome.num_failed} trials"
        print_text(f"{trials} failed; the causes are in the report. To try again: --resume --retry failed")
    reasons = {"time": "The time is up", "interrupted": "Interrupted", "requested": "Stopped on request"}
    if outcome.stopped_by in reasons:
        why = reasons[outcome.stopped_by]
        print_text(f"{why}: not all trials have ended. Go on with the same command and --resume.")
        return 130 if outcome.stopped_by == "interrupted" else 0
    if outcome.stopped_by is not None:
        way_out = "Remove the cause, or change `failures`"
        if outcome.stopped_by.startswith("disk full"):
            way_out = "Make room on the disk, or lower `checkpoints.max_gigabytes`"
        elif outcome.stopped_by.startswith("the trial table"):
            way_out = "See that its database answers and can be written"
        elif outcome.stopped_by.startswith("storage"):
            way_out = "See that the storage answers and can be written"
        err.print(
            f"Stopped: {outcome.stopped_by.rstrip('.')}. {way_out}; "
            "then go on with the same command and --resume: no finished epoch is lost.",
            markup=False,
            soft_wrap=True,
        )
        return 1
    if not outcome.is_complete:
        err.print("The front could not be scored or tested; --resume tries it again.")
        return 1
    if outcome.num_complete == 0:
        err.print("No searched trial could finish; the causes are in the report.")
        return 1
    if is_idle and outcome.ended_by != "exhausted":
        more = " For more: --resume --trials N" if outcome.ended_by == "trials" else ""
        print_text(f"No trial was left to run: the search had ended before.{more}")
    ends = {
        "plateau": "Ended before all trials: the last ones gained too little (`search.plateau`).",
        "exhausted": "Ended before all trials: every point of the space was tried.",
    }
    if outcome.ended_by in ends:
        print_text(ends[outcome.ended_by])
    return 0
