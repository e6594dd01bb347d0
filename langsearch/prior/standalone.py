"""`langsearch learn`: sides and demand on their own, without an experiment."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from langsearch.experiment.environment import CheckedSpace, build_environment, check_space
from langsearch.experiment.folder import STORE_FOLDER, write_text
from langsearch.experiment.printable import Unpadded
from langsearch.experiment.recorded_base import check_recorded, record_base, recorded_source
from langsearch.model.base import load_base
from langsearch.model.device import require_gpu, settle
from langsearch.model.new_languages import with_new_languages
from langsearch.prior.learning import (
    STACKS,
    LearningProgress,
    LearningTask,
    begin,
    sides_task,
    subspace_task,
    training_data,
)
from langsearch.prior.narrowing import narrowed_space
from langsearch.prior.seeding import NARROWED_FILE, describe_task
from langsearch.prior.sides import SIDES_FILE, LearnedSides, learn_sides, read_sides
from langsearch.prior.subspace import DEMAND_FILE, Demand, learn_subspace, read_demand, share
from langsearch.space.prior_section import MIN_SUBSPACE_EPOCHS, check_prior_shape
from langsearch.space.prior_settings import PriorSettings, SidesPrior, SubspacePrior
from langsearch.space.problems import InputError
from langsearch.space.schema import Space

_LINES = 10
"""Progress lines where there is no terminal."""


def learn_and_print(
    console: Console,
    kind: Literal["sides", "subspace"],
    space: Space,
    to: Path | None,
    *,
    resume: bool,
    **given: Any,
) -> Path:
    """Learns sides or demand, shows progress and result, and returns the folder that it wrote.

    Args:
        console: Where to show.
        kind: What is learned.
        space: The space.
        to: The folder to write. None: experiments/NAME-sides or experiments/NAME-subspace.
        resume: Go on in a folder that is there.
        given: Settings of `SidesPrior` or `SubspacePrior`; None is as the space's `prior` says, or the default.

    Raises:
        InputError: If the input is wrong, or the folder is there and not to be resumed; then nothing is written.
    """
    folder = (to or Path("experiments") / f"{space.name}-{kind}").resolve()
    checked = check_space(space, recorded_source(folder, space.base_source))
    prior = _settings(checked, kind, {name: value for name, value in given.items() if value is not None})
    task = (
        sides_task(space, checked.shape, prior)
        if isinstance(prior, SidesPrior)
        else subspace_task(space, checked.shape, prior)
    )
    if folder.exists() and any(folder.iterdir()) and not resume:
        raise InputError(
            f"Learning must have a folder of its own, but {folder} exists. "
            "Go on with it by --resume, or give another with --to DIR."
        )
    check_recorded(folder, checked.base, checked.family)
    require_gpu(space.resources.gpu)
    if folder.exists():
        begin(folder, task)
    base = with_new_languages(load_base(checked.base), space.new_languages)
    environment = build_environment(checked, base, folder.parent / STORE_FOLDER, console)
    base = settle(base, environment.compute.resident(task.trainer.precision))
    begin(folder, task)
    record_base(folder, checked.base, checked.family)
    console.print(describe_task(task, checked.shape), markup=False, soft_wrap=True)
    learn = learn_sides if kind == "sides" else learn_subspace
    _show(console, task, learn(base, training_data(base, environment), task, folder))
    if kind == "sides":
        learned = read_sides(folder)
        console.print(Unpadded(sides_table(learned)))
        if learned.unsure:
            names = ", ".join(learned.unsure)
            console.print(f"Not sure, and so left to the search: {names}", markup=False, soft_wrap=True)
        proposed = {
            stack: f"{{sides: [{', '.join(map(_side_text, part['sides']))}]}}"
            for stack, part in _proposal(learned, checked)
        }
        text = "  ".join(f"{stack}: {sides}" for stack, sides in proposed.items())
        console.print(f"In a space:  {text}", markup=False, soft_wrap=True)
        console.print(f"Sides: {folder / SIDES_FILE}", markup=False, soft_wrap=True)
        return folder
    demand = read_demand(folder)
    write_text(folder / NARROWED_FILE, _header(task, checked) + narrowed_space(space, checked.shape, demand))
    console.print(Unpadded(demand_table(demand)))
    console.print(f"Demand: {folder / DEMAND_FILE}", markup=False, soft_wrap=True)
    console.print(f"A narrowed space: {folder / NARROWED_FILE}", markup=False, soft_wrap=True)
    return folder


def sides_table(learned: LearnedSides) -> Table:
    """Returns the learned shares with a bar for the source's, and by how much they differ."""
    names = ("layer" if learned.by == "layer" else "module", "side", "source", "", "margin")
    table = Table(*names, box=None, pad_edge=False)
    for name, value in learned.weights.items():
        bar = "█" * round(20 * value.src) + "·" * round(20 * value.tgt)
        sure = "" if value.is_sure else ", not sure"
        table.add_row(name, value.side, f"{value.src:.2f}", bar, f"{value.margin:.2f}{sure}")
    return table


def demand_table(demand: Demand) -> Table:
    """Returns what each language keeps, in percent by layer, and the rank that it demands."""
    layers = list(dict.fromkeys((cell.stack, cell.layer) for cell in demand.cells))
    table = Table("language", "rank", box=None, pad_edge=False, title="% of B kept, by layer", title_justify="left")
    for stack, layer in layers:
        table.add_column(f"{stack[:3]} {layer}", justify="right")
    for language, rank in demand.language_ranks().items():
        own = [cell for cell in demand.cells if cell.language == language]
        shares = [share(cell for cell in own if (cell.stack, cell.layer) == layer) for layer in layers]
        table.add_row(language, f"{rank:.1f}", *(f"{100 * value:.1f}" for value in shares))
    return table


def _settings(checked: CheckedSpace, kind: str, given: dict[str, Any]) -> SidesPrior | SubspacePrior:
    """Returns what is given over what the space says. Raises InputError for a value that is wrong."""
    space = checked.space
    problems = []
    prior: SidesPrior | SubspacePrior
    if kind == "sides":
        prior = replace(space.prior.sides or SidesPrior(), **given)
        settings = PriorSettings(sides=prior)
        if prior.by not in ("layer", "module"):
            problems.append(f"--by must be layer or module, but got {prior.by!r}.")
    else:
        prior = replace(space.prior.subspace or SubspacePrior(), **given)
        settings = PriorSettings(subspace=prior)
        if prior.epochs < MIN_SUBSPACE_EPOCHS:
            problems.append(f"--epochs must be at least {MIN_SUBSPACE_EPOCHS}, but got {prior.epochs}.")
        if not 0 < prior.target < 1:
            problems.append(f"--target must lie between 0 and 1, but got {prior.target:g}.")
    problems += [f"--rank {text}" for _, text in check_prior_shape(settings, space.architecture_section, checked.shape)]
    if problems:
        raise InputError(problems)
    return prior


def _show(console: Console, task: LearningTask, steps: Iterator[LearningProgress]) -> None:
    unit = "step" if task.steps else "epoch"
    interval = max(task.total // _LINES, 1)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("learning", total=task.total)
        for step in steps:
            progress.update(bar, completed=step.done, description=f"loss {step.train_loss:.3f}")
            if step.done % interval == 0 or step.done == task.total:
                console.print(f"{unit} {step.done}/{task.total}  loss {step.train_loss:.3f}")


def _side_text(side: Any) -> str:
    return side if isinstance(side, str) else f"{{choice: [{', '.join(side['choice'])}]}}"


def _proposal(learned: LearnedSides, checked: CheckedSpace) -> Iterator[tuple[str, Any]]:
    proposal = learned.proposal(checked.shape)
    return ((stack, proposal[stack]) for stack in STACKS)


def _header(task: LearningTask, checked: CheckedSpace) -> str:
    return f"# {checked.space.name} with ranks around the demand ({describe_task(task, checked.shape)}).\n"
