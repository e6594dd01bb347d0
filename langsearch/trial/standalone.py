"""`langsearch train`: one architecture through the same trial as a search's, without Ray and without a table."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from langsearch.adapters.learners import AdaptedModel
from langsearch.adapters.peft_export import export_peft
from langsearch.experiment.earlier import load_begun_space
from langsearch.experiment.environment import build_environment, check_space
from langsearch.experiment.folder import STORE_FOLDER, TrialFolder
from langsearch.experiment.recorded_base import check_recorded, record_base, recorded_source
from langsearch.experiment.task import TrialTask
from langsearch.model.base import load_base
from langsearch.model.device import require_gpu, settle
from langsearch.model.new_languages import with_new_languages
from langsearch.space.architecture import Architecture, BaseShape
from langsearch.space.dimensions import trainer_settings
from langsearch.space.plan import show_new
from langsearch.space.problems import InputError
from langsearch.space.schema import Space, load_space
from langsearch.space.settings import TrainerSettings
from langsearch.study.results import TrialResult, cut_words, kept_words
from langsearch.trial.trial import load_trained, resident, run_trial


def train_single(
    console: Console, target: Path, space_file: Path | None, to: Path | None, overrides: Sequence[str], *, resume: bool
) -> TrialResult:
    """Trains one architecture and exports its adapters.

    Args:
        console: Where progress is shown.
        target: A space without searched values, or an architecture.json.
        space_file: The space that gives an architecture its data and trainer. None: that of the experiment which
            the architecture lies in.
        to: The folder to write. None: experiments/NAME-train.
        overrides: `key=value` for the space.
        resume: Go on in a folder that is there.

    Raises:
        InputError: If the input is wrong, or the folder is there and not to be resumed.
    """
    is_architecture = target.suffix == ".json"
    is_begun = is_architecture and space_file is None
    if is_architecture and space_file is None:
        space_file = target.resolve().parents[2] / "space.yaml" if len(target.resolve().parents) > 2 else None
        if space_file is None or not space_file.exists():
            raise InputError(f"An architecture needs data to train on: name a space with --space for {target}.")
    read_from = space_file if is_architecture and space_file else target
    space = load_begun_space(read_from, overrides) if is_begun else load_space(read_from, overrides)
    folder = TrialFolder((to or Path("experiments") / f"{space.name}-train").resolve())
    checked = check_space(space, recorded_source(folder.path, space.base_source))
    shape = checked.shape
    architecture, trainer = _given_architecture(target, space) if is_architecture else (None, TrainerSettings())
    if architecture is not None:
        _check_fits(architecture, shape, target)
    else:
        searched = sorted(space.dimensions())
        if searched:
            raise InputError(
                f"`langsearch train` needs a space without searched values, but {len(searched)} are searched: "
                f"{', '.join(searched)}. Fix each with --set KEY=VALUE, or give an architecture.json of a trial."
            )
        architecture, trainer = space.architecture({}, shape), space.trainer({})
    if folder.path.exists() and any(folder.path.iterdir()) and not resume:
        raise InputError(
            f"A training must have a folder of its own, but {folder.path} exists. "
            "Go on with it by --resume, or give another with --to DIR."
        )
    task = TrialTask(
        name="single",
        kind="searched",
        method="adapters",
        trainer=trainer,
        architecture=architecture,
        classes=space.classes,
    )
    if folder.task.exists() and TrialTask.read(folder).fingerprint != task.fingerprint:
        raise InputError(f"A training must be resumed as it was started, but {folder.path} has other settings.")
    check_recorded(folder.path, checked.base, checked.family)
    require_gpu(space.resources.gpu)
    base = with_new_languages(load_base(checked.base), space.new_languages)
    environment = build_environment(checked, base, folder.path.parent / STORE_FOLDER, console)
    base = settle(base, resident(environment, task))
    task.write(folder)
    record_base(folder.path, checked.base, checked.family)
    console.print(f"{task.summary}: {task.num_trainable(shape):,} parameters", markup=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("training", total=task.num_epochs)
        # Without a search there are no rungs: every epoch is scored alike.
        for result in run_trial(base, replace(environment, rung_epochs=()), task, folder):
            progress.update(bar, completed=result.epoch, description=f"spBLEU {result.spbleu:.2f}")
            console.print(_epoch_line(result, task.num_epochs))
    if task.num_trainable(shape):
        learner = load_trained(base, environment, folder)
        assert isinstance(learner, AdaptedModel)
        card = f"# {space.name}\n\n{task.summary}\n"
        export_peft(learner, folder.path / "adapters", base.source, card, base.tokenizer)
        learner.remove()
        console.print(f"Adapters: {folder.path / 'adapters'}", markup=False, soft_wrap=True)
    return result


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
    return architecture, trainer_settings(space.trainer_section, {})


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


def _epoch_line(result: TrialResult, num_epochs: int) -> str:
    loss = "" if result.train_loss is None else f" · loss {result.train_loss:.3f}"
    warning = cut_words(result.cut_share, result.num_cut_sources)
    return (
        f"epoch {result.epoch}/{num_epochs}  spBLEU {result.spbleu:.2f} "
        f"({result.spbleu_low:.2f}–{result.spbleu_high:.2f}){kept_words(result)}{loss} · {result.seconds:.0f} s"
        f"{f' · {warning}' if warning else ''}"
    )
