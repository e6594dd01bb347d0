"""What is learned about a space before it is searched: a task, its training with checkpoints, its folder."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from optuna.distributions import BaseDistribution, CategoricalDistribution

from langsearch.adapters.learners import AdaptedModel, Learner
from langsearch.adapters.lora import LanguageLoRA
from langsearch.adapters.mixed_sides import MixedSides
from langsearch.experiment.environment import Environment
from langsearch.experiment.fence import check_fence
from langsearch.experiment.folder import read_json, write_json
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, BaseShape, Pruning, Side, Site, Stack, uniform_ranks
from langsearch.space.dimensions import trainer_settings
from langsearch.space.loss_settings import NO_TERMS
from langsearch.space.prior_settings import SidesPrior, SubspacePrior
from langsearch.space.problems import InputError
from langsearch.space.rules import possible_sites
from langsearch.space.schema import Space
from langsearch.space.settings import TrainerSettings
from langsearch.space.values import pick
from langsearch.train.checkpoint import read_newest_checkpoint, write_checkpoint
from langsearch.train.loop import Progress, TrainingData, train
from langsearch.train.losses import NonFiniteLossError
from langsearch.trial.batch_size import settled_trainer

STACKS: tuple[Stack, Stack] = ("encoder", "decoder")

UPDATES_BETWEEN_CHECKPOINTS = 25
"""Within an epoch; every epoch ends with one too."""

_CHECKPOINT = "checkpoint"
"""The folder that only going on needs."""


_AdaptersT = TypeVar("_AdaptersT", LanguageLoRA, MixedSides)


@dataclass(frozen=True, kw_only=True)
class LearningTask:
    """One thing to learn: the sides, or the demand for rank."""

    kind: Literal["sides", "subspace"]
    architecture: Architecture
    """sides: sites and ranks of either side's adapters. subspace: the adapters that are trained and pruned."""

    trainer: TrainerSettings
    by: Literal["layer", "module"] = "layer"
    """sides: what shares a side."""

    steps: int | None = None
    """sides: updates. subspace: None, the trainer's epochs count."""

    classes: Mapping[str, tuple[str, ...]]

    @property
    def total(self) -> int:
        """Steps or epochs in all."""
        return self.steps or self.trainer.epochs

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over all that decides the result."""
        trainer = asdict(self.trainer)
        for name in ("nesting", "start_cut"):  # newer than the first of these, and never set here
            del trainer[name]
        values = [self.kind, self.architecture.fingerprint, trainer, self.by, self.steps]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class LearningProgress:
    """Where learning stands."""

    done: int
    """Steps or epochs."""
    train_loss: float
    """Label-smoothed cross-entropy of this epoch so far, nats a target token."""


def sides_task(space: Space, shape: BaseShape, settings: SidesPrior) -> LearningTask:
    """Returns the task of learning the side of every layer, or module, that some point of the space adapts.

    The learning rate is constant: with the published schedule (inverse square root after one update) the scalars
    would stand still after a few steps.
    """
    trainer = replace(_trainer(space), schedule="constant", epochs=settings.steps)
    return LearningTask(
        kind="sides",
        architecture=_architecture(space, shape, settings.rank, {}, None),
        trainer=trainer,
        by=settings.by,
        steps=settings.steps,
        classes=space.classes,
    )


def subspace_task(
    space: Space, shape: BaseShape, settings: SubspacePrior, sides: Mapping[Site, Side] | None = None
) -> LearningTask:
    """Returns the task of training equal ranks wherever some point of the space has adapters, pruned by layer.

    Start and duration of the pruning stand to the epochs as in the release: epochs 2 to 12 of 15.

    Args:
        space: The space.
        shape: The base's sizes.
        settings: Rank, epochs and target.
        sides: Learned sides, for the sites whose side the space searches; others there have the published side.
    """
    start = max(round(settings.epochs * 2 / 15), 1)
    end = min(max(round(settings.epochs * 12 / 15), start + 1), settings.epochs)
    pruning = Pruning(
        targets=tuple((language, settings.target) for language in space.languages),
        start=start,
        duration=end - start,
        scope="layer",
    )
    return LearningTask(
        kind="subspace",
        architecture=_architecture(space, shape, settings.rank, sides or {}, pruning),
        trainer=replace(_trainer(space), epochs=settings.epochs),
        classes=space.classes,
    )


def middle_point(dimensions: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Returns the middle of every range (of its logarithm where that is searched), and every choice's first option."""
    point: dict[str, Any] = {}
    for name, distribution in dimensions.items():
        if isinstance(distribution, CategoricalDistribution):
            point[name] = distribution.choices[0]
            continue
        low, high = distribution.low, distribution.high
        middle = (low * high) ** 0.5 if distribution.log else (low + high) / 2
        is_whole = isinstance(low, int)
        point[name] = low + round((middle - low) / distribution.step) * distribution.step if is_whole else middle
    return point


def begin(folder: Path, task: LearningTask) -> None:
    """Makes the folder of a task, or opens it to go on.

    Raises:
        InputError: If it was begun with other settings.
    """
    file = folder / "task.json"
    if file.exists() and read_json(file)["fingerprint"] != task.fingerprint:
        raise InputError(
            f"Learning must go on as it was begun, but {folder} has other settings. Give another folder with --to DIR."
        )
    trainer = asdict(task.trainer)
    value = {"kind": task.kind, "fingerprint": task.fingerprint, "trainer": trainer, "by": task.by, "steps": task.steps}
    write_json(file, {**value, "architecture": task.architecture.to_dict()})


def training_data(base: Base, environment: Environment) -> TrainingData:
    """Returns what is trained on: the train part, as every trial."""
    vocabulary = base.vocabulary(environment.languages)
    return TrainingData(
        environment.train, environment.directions, environment.languages, vocabulary, environment.weights
    )


def learn_once(
    base: Base,
    task: LearningTask,
    data: TrainingData,
    file: Path,
    make_adapters: Callable[[], _AdaptersT],
    write: Callable[[_AdaptersT], None],
) -> Iterator[LearningProgress]:
    """Trains a task and writes what was learned; goes on where an earlier run stopped, and repeats nothing.

    Args:
        base: The base, on the device to train on, without adapters; it is left so.
        task: The task.
        data: Sentences and directions.
        file: What is written in the end, in the task's folder.
        make_adapters: Builds what is trained in the base; called if there is something to do.
        write: Writes the file.

    Raises:
        InputError: If the folder was begun with other settings, or the training fails.
    """
    folder = file.parent
    begin(folder, task)
    if file.exists():
        return
    adapters = make_adapters()
    learner = AdaptedModel(base, adapters)
    try:
        yield from _train_with_checkpoints(learner, data, task, folder)
        write(adapters)
    finally:
        learner.remove()
    shutil.rmtree(folder / _CHECKPOINT, ignore_errors=True)


def _train_with_checkpoints(
    learner: Learner, data: TrainingData, task: LearningTask, folder: Path
) -> Iterator[LearningProgress]:
    """Trains the task's steps or epochs, going on from its newest checkpoint; the learner then holds the result.

    Raises:
        InputError: If the loss becomes NaN or infinite, or no pair is short enough to be trained on.
    """
    checkpoint = read_newest_checkpoint(folder / _CHECKPOINT)
    updates = int(checkpoint.state["updates"]) if checkpoint else 0
    if checkpoint is not None and task.steps is not None and updates >= task.steps:
        prefix = "model/"
        tensors = checkpoint.tensors.items()
        learner.load_state({name.removeprefix(prefix): value for name, value in tensors if name.startswith(prefix)})
        return
    try:
        trainer = settled_trainer(learner, data, task.trainer, folder)
        for progress in train(
            learner, data, trainer, resume=checkpoint, updates_between_yields=1 if task.steps else None
        ):
            updates = progress.updates
            _keep(progress, task, folder)
            yield LearningProgress(updates if task.steps else progress.epoch, progress.train_loss)
            if updates == task.steps:
                return
    except NonFiniteLossError as error:
        raise InputError(f"What is learned before the search must train, but: {error}") from error
    if updates == 0:
        raise InputError(
            f"There must be a pair to train on, but all are longer than `trainer.max_length` {task.trainer.max_length}."
        )


def _keep(progress: Progress, task: LearningTask, folder: Path) -> None:
    is_last = progress.updates == task.steps
    if progress.is_epoch_end or is_last or progress.updates % UPDATES_BETWEEN_CHECKPOINTS == 0:
        write_checkpoint(folder / _CHECKPOINT, progress.checkpoint(), check=lambda: check_fence(folder))


def _trainer(space: Space) -> TrainerSettings:
    found = trainer_settings(space.trainer_section, middle_point(space.dimensions()), space.classes)
    # What is learned before a search is of all languages from the start, and from the translations alone.
    together = {"first_stage": (), "modular_bridge": None, "merge_src": (), "merge_tgt": ()}
    return replace(found, **together, back_translation_every=0, loss=NO_TERMS)  # type: ignore[arg-type]


def _architecture(
    space: Space, shape: BaseShape, rank: int, sides: Mapping[Site, Side], pruning: Pruning | None
) -> Architecture:
    section, point = space.architecture_section, middle_point(space.dimensions())
    sites = []
    for stack in STACKS:
        for possible in possible_sites(section, stack, shape.num_layers(stack)):
            site = Site(stack, possible.layer, possible.module)
            side = sides.get(site, _published_side(site, shape))
            sites.append((site, side if side in possible.sides else next(iter(possible.sides))))
    return Architecture(
        slots=tuple((language, language) for language in space.languages),
        adapters=uniform_ranks(sites, dict.fromkeys(space.languages, rank)),
        pruning=pruning,
        init=pick(section.init, "init", point),
        scaling=pick(section.scaling, "scaling", point),
        alpha=pick(section.alpha, "alpha", point),
        ffn_slice=pick(section.ffn_slice, "ffn_slice", point),
        new_languages=tuple(space.new_languages.items()),
    )


def _published_side(site: Site, shape: BaseShape) -> Side:
    """Returns the release's side: the first 9 of 12 encoder layers by source, all others by target."""
    return "src" if site.stack == "encoder" and site.layer < shape.encoder_layers * 3 // 4 else "tgt"
