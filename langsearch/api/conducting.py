"""A whole search, or a single training: the space is checked, the trials run, what they leave is written."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from langsearch.experiment.places import check_experiments, check_target
from langsearch.model.collecting import without_collecting
from langsearch.space.problems import InputError, SearchStoppedError
from langsearch.space.schema import Space

if TYPE_CHECKING:
    from langsearch.experiment.environment import CheckedSpace
    from langsearch.experiment.folder import ExperimentFolder
    from langsearch.search.ending import Ending
    from langsearch.search.runner import Outcome
    from langsearch.search.tracking import SpaceTracker
    from langsearch.study.table import TrialTable
    from langsearch.trial.standalone import Track, Training

# What takes seconds to load is imported where it is needed: a wrong place is told before.

Tell = Callable[[str], None]


def conduct_search(
    space: Space,
    experiments: str,
    console: Console,
    fail: Tell,
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
    with without_collecting():
        from langsearch.experiment.try_tasks import num_tries
        from langsearch.search.checking import check_search
        from langsearch.search.display import Display
        from langsearch.search.ending import Ending, ending_of
        from langsearch.search.forecast import forecast
        from langsearch.search.forecast_lines import counted_warnings
        from langsearch.search.runner import run_search
        from langsearch.space.one_shot import num_donors

    checked = check_search(space)
    num_others = len(space.baselines) + num_tries(space) + num_donors(space)
    display = Display(console, space.name, space.search.num_planned, num_others, is_quiet=is_quiet)
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


def _write_results(checked: "CheckedSpace", outcome: "Outcome", console: Console, fail: Tell) -> bool:
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


def conduct_training(
    console: Console,
    target: Path | Space,
    space_file: Path | None = None,
    to: Path | None = None,
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
) -> tuple[Path, tuple[str, ...]]:
    """Trains one architecture, writes its report and shows its table; returns its folder, and what is to be told.

    Args:
        console: Shows what happens.
        target: What `standalone.train_single` takes.
        space_file: Likewise.
        to: Likewise.
        overrides: Likewise.
        resume: Likewise.

    Raises:
        InputError: If the input is wrong, or the folder is there and not to be resumed.
        SearchStoppedError: If the training failed.
        LeaseLostError: If another run took over the folder.
    """
    check_target(to)
    from langsearch.trial.standalone import train_single

    training, told = _trained(
        console, lambda track: train_single(console, target, space_file, to, overrides, resume=resume, track=track)
    )
    if isinstance(training, Path):
        return training, told
    adapters = [] if training.adapters is None else [f"Adapters: {training.adapters}"]
    return training.folder, (*adapters, *told)


def conduct_extension(
    console: Console,
    source: Path,
    space: Space,
    like: str,
    to: Path,
    *,
    languages: Sequence[str] = (),
    trial: str | None = None,
    resume: bool = False,
) -> tuple[Path, tuple[str, ...]]:
    """Adds languages to adapters, writes the report of their training; returns its folder, and what is to be told.

    Args:
        console: Shows what happens.
        source: An experiment, or exported adapters.
        space: Pairs of the new languages with known ones.
        like: The language whose ranks and places a new one gets.
        to: The folder of the training; the extended adapters are in `extended`.
        languages: The new languages. Empty: those of the space that the adapters do not have.
        trial: Of an experiment. None: the best.
        resume: Go on in a folder that is there.

    Raises:
        InputError: If the input is wrong, or the folder is there and not to be resumed.
        SearchStoppedError: If the training failed.
        LeaseLostError: If another run took over the folder.
    """
    check_target(to)
    from langsearch.adapters.export_folder import FORMAT_FILE
    from langsearch.trial.export import export_one
    from langsearch.trial.extending import plan_extension, write_extended
    from langsearch.trial.standalone import train_given

    start = source
    if not (source / FORMAT_FILE).exists():
        start = to.with_name(f"{to.name}-start")
        if not (resume and (start / FORMAT_FILE).exists()):
            export_one(source, trial, start, "peft")
    extension = plan_extension(start, space, like, languages)
    training, told = _trained(
        console,
        lambda track: train_given(
            console, space, extension.architecture, extension.trainer, to.resolve(), resume=resume, track=track
        ),
    )
    if isinstance(training, Path):
        return training, told
    assert training.adapters is not None, "a new language has adapters"
    extended = training.folder / "extended"
    names = write_extended(extension, training.adapters, extended)
    return training.folder, (f"Adapters: {extended}, with {', '.join(names)}; the others are as they were", *told)


def _trained(console: Console, train: "Callable[[Track], Training]") -> "tuple[Training | Path, tuple[str, ...]]":
    """Returns a training, with its report written, and what is to be told; its folder if it was asked to stop.

    Args:
        console: Shows its table.
        train: Trains, with what opens the trackers.

    Raises:
        SearchStoppedError: If the training failed.
    """
    from langsearch.report.experiment_reader import read_experiment
    from langsearch.report.page import write_report
    from langsearch.report.terminal import print_front
    from langsearch.search.trackers import check_tracking, describe_tracking
    from langsearch.trial.standalone import Open
    from langsearch.trial.training import TrainingFailedError, TrainingStoppedError

    def track(space: Space) -> Open:
        check_tracking(space)

        def opened(
            folder: "ExperimentFolder", table: "TrialTable", tell: Callable[[str], None]
        ) -> "list[SpaceTracker]":
            if not describe_tracking(space.tracking):
                return []  # Ray is not loaded for nothing
            from langsearch.search.tracking import training_trackers

            return training_trackers(space, folder, table, tell)

        return opened

    try:
        training = train(track)
    except TrainingFailedError as error:
        raise SearchStoppedError(
            f"The training failed: {str(error).rstrip('.')}. Change what led to it and train into another folder with "
            "--to DIR, or try again with the same command and --resume."
        ) from error
    except TrainingStoppedError as stopped:
        told = "Stopped on request, behind a checkpoint. Go on with the same command and --resume."
        return stopped.folder, (told,)
    report = write_report(training.folder)
    print_front(console, read_experiment(training.folder))
    return training, (f"Report: {report}",)
