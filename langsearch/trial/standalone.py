"""`langsearch train`: one architecture through a trial as a search's, without Ray, beside the pretrained base."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from langsearch.experiment.earlier import load_begun_space, with_earlier_defaults
from langsearch.experiment.environment import CheckedSpace, build_environment, check_space
from langsearch.experiment.folder import STORE_FOLDER, ExperimentFolder, TrialFolder
from langsearch.experiment.recorded_base import check_recorded, recorded_source
from langsearch.experiment.task import TrialTask
from langsearch.model.base import load_base
from langsearch.model.device import require_gpu, settle
from langsearch.model.larger import identified
from langsearch.model.new_languages import with_new_languages
from langsearch.space.architecture import Architecture, BaseShape
from langsearch.space.dimensions import trainer_settings
from langsearch.space.plan import show_new
from langsearch.space.problems import InputError
from langsearch.space.schema import Space, load_space
from langsearch.space.settings import TrainerSettings
from langsearch.study.results import TrialResult, cut_words, kept_words
from langsearch.study.rows import PRETRAINED
from langsearch.study.table import TrialTable
from langsearch.trial.export import export_trial
from langsearch.trial.training import (
    RunningTraining,
    Tracker,
    check_training,
    held_training,
    pretrained_task,
    training_space,
)
from langsearch.trial.trial import resident

Open = Callable[[ExperimentFolder, TrialTable, Callable[[str], None]], Sequence[Tracker]]
"""Opens trackers of an experiment; what they have to say goes to the last argument."""

Track = Callable[[Space], Open]
"""Checks the trackers that a space names, before anything is written. Raises InputError if one is not installed."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training that has ended."""

    folder: Path
    """Its experiment, which `show`, `report`, `export`, `evaluate` and `translate` take."""

    adapters: Path | None
    """Where its adapters are exported to, with a card. None: the architecture has none."""

    result: TrialResult
    """Its scores on validation."""

    pretrained: TrialResult
    """Those of the base as it is, on the same sentences."""


def train_single(
    console: Console,
    target: Path | Space,
    space_file: Path | None = None,
    to: Path | None = None,
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    track: Track | None = None,
) -> Training:
    """Trains one architecture, scores the pretrained base beside it, and exports its adapters.

    Leaves an experiment with one trial and one baseline. Nothing is scored on the test set: whoever trains again and
    again would select by it.

    Args:
        console: Where progress is shown; a quiet one shows nothing.
        target: A space without searched values, or its file, or an architecture.json.
        space_file: The space that gives an architecture its data and trainer. None: that of the experiment which
            the architecture lies in.
        to: The folder to write. None: experiments/NAME-train.
        overrides: `key=value` for the space's file.
        resume: Go on in a folder that is there.
        track: Opens the trackers that the space names. None: there are none.

    Raises:
        InputError: If the input is wrong, or the folder is there and not to be resumed.
        TrainingFailedError: If the loss or a score becomes NaN, or memory runs out; `resume` tries it again.
        TrainingStoppedError: If a stop request was found in the folder; `resume` goes on.
    """
    given = target if isinstance(target, Path) and target.suffix == ".json" else None
    space = target if isinstance(target, Space) else _read_space(target, space_file, overrides)
    path = (to or Path("experiments") / f"{space.name}-train").resolve()
    architecture, trainer = (None, None) if given is None else _given_architecture(given, space)
    space = with_earlier_defaults(ExperimentFolder(path), training_space(space, path.name, trainer))
    checked = check_space(space, recorded_source(path, space.base_source))
    open_trackers = None if track is None else track(space)
    shape = checked.shape
    if architecture is not None and given is not None:
        _check_fits(architecture, shape, given)
    else:
        searched = sorted(space.dimensions())
        if searched:
            raise InputError(
                f"`langsearch train` needs a space without searched values, but {len(searched)} are searched: "
                f"{', '.join(searched)}. Fix each with --set KEY=VALUE, or give an architecture.json of a trial."
            )
        architecture, trainer = space.architecture({}, shape), space.trainer({})
    assert trainer is not None
    return _train(console, checked, path, architecture, trainer, resume=resume, open_trackers=open_trackers)


def train_given(
    console: Console,
    space: Space,
    architecture: Architecture,
    trainer: TrainerSettings,
    path: Path,
    *,
    resume: bool = False,
    track: Track | None = None,
) -> Training:
    """Trains an architecture with settings that are no space's; else as `train_single`.

    Args:
        console: Where progress is shown.
        space: Data, evaluation and what else a training takes from a space.
        architecture: Of the space's languages.
        trainer: How it is trained.
        path: The folder to write.
        resume: Go on in a folder that is there.
        track: Opens the trackers that the space names.

    Raises:
        InputError: If the input is wrong, or the folder is there and not to be resumed.
        TrainingFailedError: As `train_single`.
        TrainingStoppedError: Likewise.
    """
    space = with_earlier_defaults(ExperimentFolder(path), training_space(space, path.name, trainer))
    checked = check_space(space, recorded_source(path, space.base_source))
    open_trackers = None if track is None else track(space)
    return _train(console, checked, path, architecture, trainer, resume=resume, open_trackers=open_trackers)


def _train(
    console: Console,
    checked: CheckedSpace,
    path: Path,
    architecture: Architecture | None,
    trainer: TrainerSettings,
    *,
    resume: bool,
    open_trackers: Open | None,
) -> Training:
    space, shape, trainer = checked.space, checked.shape, identified(trainer)
    task = TrialTask(
        name="00000",
        kind="searched",
        method="adapters",
        trainer=trainer,
        architecture=architecture,
        classes=space.classes,
    )
    # What tells a base or a teacher from others tells more than that the settings are others.
    check_recorded(path, checked.base, checked.family, checked.teachers)
    check_training(path, space, task, resume=resume)
    require_gpu(space.resources.gpu)
    base = with_new_languages(load_base(checked.base), space.new_languages)
    environment = build_environment(checked, base, path.parent / STORE_FOLDER, console)
    base = settle(base, resident(environment, task))
    num_epochs = task.num_epochs if task.num_trainable(shape) else 0
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with held_training(checked, path, task, resume=resume) as (folder, table, name):
        task = replace(task, name=name)
        console.print(f"{task.summary}: {task.num_trainable(shape):,} parameters", markup=False, soft_wrap=True)
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            bar = progress.add_task("pretrained", total=num_epochs)

            def tell(told: TrialTask, result: TrialResult) -> None:
                progress.update(bar, completed=result.epoch, description=f"spBLEU {result.spbleu:.2f}")
                console.print(_epoch_line(told, result))

            def warn(text: str) -> None:
                console.print(text, markup=False, soft_wrap=True)

            trackers = () if open_trackers is None else open_trackers(folder, table, warn)
            running = RunningTraining(checked, folder, table, base, environment, tell, warn, trackers)
            try:
                pretrained = running.run(PRETRAINED, pretrained_task(checked))
                result = running.run(name, task)
            finally:
                for tracker in trackers:
                    tracker.close()
        adapters = None
        if task.num_trainable(shape):
            adapters = folder.adapters
            export_trial(base, environment, folder, table.row(name), adapters)
    return Training(folder=path, adapters=adapters, result=result, pretrained=pretrained)


def _read_space(target: Path, space_file: Path | None, overrides: Sequence[str]) -> Space:
    """Returns the space that is trained in: a file, or that of the experiment which an architecture lies in."""
    if target.suffix != ".json":
        return load_space(target, overrides)
    if space_file is not None:
        return load_space(space_file, overrides)
    places = target.resolve().parents
    own = places[2] / "space.yaml" if len(places) > 2 else None
    if own is None or not own.exists():
        raise InputError(f"An architecture needs data to train on: name a space with --space for {target}.")
    return load_begun_space(own, overrides)


def _given_architecture(path: Path, space: Space) -> tuple[Architecture, TrainerSettings]:
    try:
        architecture = Architecture.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} must be an architecture, but cannot be read as one: {error}") from error
    if set(architecture.languages) != set(space.languages):
        raise InputError(
            f"An architecture must have the space's languages {', '.join(space.languages)}, "
            f"but {path} has {', '.join(architecture.languages)}."
        )
    own, theirs = show_new(dict(architecture.new_languages)), show_new(space.new_languages)
    if own != theirs:
        raise InputError(f"An architecture must have the space's new languages {theirs}, but {path} has {own}.")
    sibling = TrialFolder(path.parent)
    if sibling.task.exists():
        return architecture, TrialTask.read(sibling).trainer
    searched = sorted(name for name in space.dimensions() if name.startswith("trainer."))
    if searched:
        raise InputError(f"Training needs fixed settings, but {', '.join(searched)} is searched. Fix it with --set.")
    return architecture, trainer_settings(space.trainer_section, {}, space.classes)


def _check_fits(architecture: Architecture, shape: BaseShape, path: Path) -> None:
    """Raises InputError if an architecture was made for another base: layers or ranks that this one has no room for."""
    problems = []
    for entry in architecture.adapters:
        site, num_layers = entry.site, shape.num_layers(entry.site.stack)
        if site.layer >= num_layers:
            problems.append(
                f"An architecture must fit the base's {num_layers} {site.stack} layers, but {path} names {site}."
            )
        width = min(shape.features(site.stack, site.module, architecture.ffn_slice))
        if (rank := max(rank for _, rank in entry.ranks)) > width:
            problems.append(
                f"An architecture must have ranks up to the width {width} of {site}, but {path} has {rank}."
            )
    if problems:
        raise InputError(problems)


def _epoch_line(task: TrialTask, result: TrialResult) -> str:
    loss = "" if result.train_loss is None else f" · loss {result.train_loss:.3f}"
    warning = cut_words(result.cut_share, result.num_cut_sources)
    where = f"epoch {result.epoch}/{task.num_epochs}" if task.kind == "searched" else task.name
    return (
        f"{where}  spBLEU {result.spbleu:.2f} "
        f"({result.spbleu_low:.2f}–{result.spbleu_high:.2f}){kept_words(result)}{loss} · {result.seconds:.0f} s"
        f"{f' · {warning}' if warning else ''}"
    )
