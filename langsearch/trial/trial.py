"""One trial, from its task to its scores. Knows nothing of Ray: `langsearch train` runs the same code."""

import logging
import os
import socket
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from langsearch.adapters.learners import AdaptedModel, FullModel, Learner, adapt
from langsearch.adapters.nested import nested_model
from langsearch.evaluate.decoding import DecodingRow, translate_pieces
from langsearch.evaluate.evaluation import Evaluation, EvaluationSet, evaluate, evaluation_set
from langsearch.evaluate.spbleu import SpBleu
from langsearch.experiment.environment import Environment
from langsearch.experiment.fence import check_fence
from langsearch.experiment.folder import TrialFolder, read_json, write_json, write_rows
from langsearch.experiment.task import TrialTask
from langsearch.model.base import Base
from langsearch.model.device import Resident, allow_tf32
from langsearch.space.architecture import Architecture
from langsearch.space.settings import DecodingSettings
from langsearch.study.beside_names import original_of
from langsearch.study.results import TrialResult
from langsearch.train.back_translation import ToTranslate
from langsearch.train.checkpoint import Checkpoint, read_checkpoint, read_newest_checkpoint, write_checkpoint
from langsearch.train.loop import Progress, TrainingData, train
from langsearch.trial.attempts import Attempts, read_attempts
from langsearch.trial.batch_size import found_tokens, settled_trainer
from langsearch.trial.choices import write_choices
from langsearch.trial.curve import CURVE, curve_row
from langsearch.trial.kept_weights import is_whole, remove_weights, tidy, weights_in_use
from langsearch.trial.merging import find_ratio, has_ratio
from langsearch.trial.monitor import Monitor, Unwatched, peak_memory_bytes, reset_peak_memory
from langsearch.trial.probing import probe_words
from langsearch.trial.scores import search_columns, write_scores
from langsearch.trial.starting import start_new

logger = logging.getLogger(__name__)

Split = Literal["validation", "test"]
"""A part that scores are computed on."""


def run_trial(
    base: Base,
    environment: Environment,
    task: TrialTask,
    folder: TrialFolder,
    *,
    monitor: Monitor | None = None,
    attempts: Attempts | None = None,
) -> Generator[TrialResult, None, None]:
    """Trains and evaluates one task; yields after every epoch, and goes on where an earlier run stopped.

    What an earlier run reported last is reported again first, since nobody may have heard it. A trial that is asked
    to pause writes a checkpoint and returns without a finished result.

    Args:
        base: The base, as `resident` says, without adapters; it is left so.
        environment: Sentences, directions and scores.
        task: What to train.
        folder: The trial's folder: checkpoints, weights, curve and scores go there.
        monitor: Hears of every update and decoded batch, and may ask for a pause. None: nobody.
        attempts: What was changed after earlier failures. None: as the trial's folder says.

    Raises:
        NonFiniteLossError: If the loss becomes NaN or infinite.
        NonFiniteScoreError: If a score is NaN or infinite.
        OSError: If the folder cannot be written.
    """
    if folder.result.exists():
        tidy(folder)
        yield TrialResult(**read_json(folder.result))
        return
    reset_peak_memory(base.model.device)
    allow_tf32(base.model.device, is_full=task.method == "full")
    learner = build_learner(base, environment, task)
    try:
        attempts = attempts or read_attempts(folder)
        run = _Run(base, environment, task, folder, monitor or Unwatched(), attempts, learner)
        if task.num_epochs == 0 or not learner.parameters():
            yield run.score_at_once()
        else:
            yield from run.train()
    finally:
        if isinstance(learner, AdaptedModel):
            learner.remove()


def settings_at(environment: Environment, task: TrialTask, epoch: int) -> DecodingSettings:
    """Returns how a task is evaluated after an epoch: baselines by all, others by more at each rung, at last all."""
    evaluation = environment.evaluation
    # A further seed of a trial is evaluated as that was; the names of trials are numbers.
    is_by_rungs = task.kind in ("searched", "donor") or original_of(task.name).isdecimal()
    if is_by_rungs and epoch < task.num_epochs:
        for rung, settings in zip(environment.rung_epochs, evaluation.rungs, strict=False):
            if epoch <= rung:
                return settings
    return evaluation.search


@dataclass
class _Run:
    """A trial that runs; its fields from `history` on are what a checkpoint holds beside the training's."""

    base: Base
    environment: Environment
    task: TrialTask
    folder: TrialFolder
    monitor: Monitor
    attempts: Attempts
    learner: Learner
    history: list[dict[str, Any]] = field(default_factory=list)
    kept: TrialResult | None = None
    """The last result: the kept epoch's scores, and where training stands."""
    kept_updates: int | None = None
    """Names the kept weights."""
    kept_settings: dict[str, Any] | None = None
    """How the kept epoch was evaluated."""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.spbleu = SpBleu(self.environment.tokenizer)
        self.started = time.perf_counter()

    def score_at_once(self) -> TrialResult:
        """Returns the result of a task that trains nothing."""
        evaluation, data, settings = self._evaluate(0)
        self.seconds = time.perf_counter() - self.started
        result = self._result(evaluation, settings)
        write_scores(self.folder, "validation", evaluation, data)
        return self._close(result)

    def train(self) -> Generator[TrialResult, None, None]:
        """Yields the last result of an earlier run, then one after every epoch."""
        checkpoint = self._load()
        if self.kept is not None:
            if self.kept.epoch >= self.task.num_epochs:
                # The last checkpoint was written, the result was not: the trial died between the two.
                yield self._finish()
                return
            yield self.kept
        environment = self.environment
        vocabulary = self.base.vocabulary(environment.languages)
        training = TrainingData(
            environment.train, environment.directions, environment.languages, vocabulary, environment.weights
        )
        self.started = time.perf_counter()
        if checkpoint is None and isinstance(self.learner, AdaptedModel):
            start_new(self.learner, training, self.task.trainer, self.base.shape, self.folder)
        for progress in train(
            self.learner,
            training,
            settled_trainer(self.learner, training, self.task.trainer, self.folder.path),
            resume=checkpoint,
            should_yield=self._after_update,
            num_parts=self.attempts.num_parts,
            translate=self._translate,
        ):
            checkpoint = None
            if not progress.is_epoch_end:
                self._count_seconds()
                self._write_checkpoint(progress)
                return
            result = self._end_epoch(progress)
            yield self._finish() if result.finished else result
            if self.monitor.should_pause():
                return

    def _finish(self) -> TrialResult:
        """Returns the kept result of a trained trial, with the merge ratio where one is found, and closes the trial."""
        assert self.kept is not None and self.kept_updates is not None
        if has_ratio(self.learner, self.task.trainer):
            self.learner.load_state(read_checkpoint(self.folder.weights / f"{self.kept_updates:09d}").tensors)
            ratio, (evaluation, data, settings) = find_ratio(
                self.learner,
                self.task.trainer,
                lambda: self._evaluate(self.task.num_epochs),
                lambda found: found[0].scores.spbleu,
            )
            self._count_seconds()
            spbleu = evaluation.scores.spbleu
            state = {"updates": self.kept_updates, "epoch": self.kept.kept_epoch, "spbleu": spbleu}
            weights = Checkpoint(self.learner.state(), state)
            write_checkpoint(self.folder.weights, weights, num_kept=3, check=self._check_fence)
            write_scores(self.folder, "validation", evaluation, data)
            note = f"merge ratio {ratio[0]:g} of the source, {ratio[1]:g} of the target"
            self.kept = replace(
                self.kept,
                **self._columns(evaluation, settings),
                seconds=self.seconds,
                peak_memory_bytes=self._peak_memory_bytes(),
                note="; ".join(filter(None, (self.kept.note, note))),
            )
        return self._close(self.kept)

    def _translate(self, learner: Learner, sentences: Sequence[ToTranslate]) -> list[list[int] | None]:
        languages = self.environment.languages
        rows = [DecodingRow(one.tokens, one.src, one.tgt) for one in sentences]
        vocabulary = self.base.vocabulary(languages)
        found = translate_pieces(learner, rows, vocabulary, languages, self.attempts.num_parts)
        self.monitor.progressed()
        return found

    def _after_update(self) -> bool:
        self.monitor.progressed()
        return self.monitor.should_pause()

    def _end_epoch(self, progress: Progress) -> TrialResult:
        evaluation, data, settings = self._evaluate(progress.epoch)
        self._count_seconds()
        result = self._result(evaluation, settings, progress)
        self.history.append(curve_row(progress, result))
        # Of an older version they lack keys, which mean their defaults.
        is_comparable = self.kept_settings is not None and DecodingSettings(**self.kept_settings) == settings
        progress.judge(result.spbleu, is_comparable)
        with_pruning = self.task.architecture is not None and self.task.architecture.pruning is not None
        is_donor = self.task.kind == "donor"  # what is cut out of it is scored, not it
        if self.kept is None or with_pruning or is_donor or not is_comparable or result.spbleu > self.kept.spbleu:
            state = {"updates": result.updates, "epoch": result.epoch, "spbleu": result.spbleu}
            # The checkpoints still refer to the weights before, so those go only once the next checkpoint is there.
            weights = Checkpoint(self.learner.state(), state)
            write_checkpoint(self.folder.weights, weights, num_kept=3, check=self._check_fence)
            write_scores(self.folder, "validation", evaluation, data)
            task = self.task
            write_choices(self.folder, self.learner, task.architecture, task.trainer.loss, self.base, self.environment)
            self.kept, self.kept_updates, self.kept_settings = result, result.updates, asdict(settings)
        self.kept = _with_progress(self.kept, result)
        write_rows(self.folder.curve, self.history, CURVE)
        self._write_checkpoint(progress)
        remove_weights(self.folder, weights_in_use(self.folder))
        self.monitor.progressed()
        return self.kept

    def _evaluate(self, epoch: int) -> tuple[Evaluation, EvaluationSet, DecodingSettings]:
        environment = self.environment
        settings = settings_at(environment, self.task, epoch)
        vocabulary = self.base.vocabulary(environment.languages)
        data = evaluation_set(
            environment.validation,
            environment.directions,
            settings,
            environment.classes,
            vocabulary,
            environment.train,
            environment.zero_shot,
        )
        evaluation = evaluate(
            self.learner,
            data,
            settings,
            self.base.tokenizer,
            self.spbleu,
            with_chrf=environment.with_chrf,
            num_parts=self.attempts.num_parts,
            after_batch=self.monitor.progressed,
        )
        return evaluation, data, settings

    def _result(
        self, evaluation: Evaluation, settings: DecodingSettings, progress: Progress | None = None
    ) -> TrialResult:
        task, epoch = self.task, progress.epoch if progress else 0
        num_trainable = task.num_trainable(self.base.shape)
        return TrialResult(
            **self._columns(evaluation, settings),
            epoch=epoch,
            finished=progress is None or epoch == task.num_epochs,
            kept_epoch=epoch,
            trainable_parameters=num_trainable,
            nonzero_parameters=self.learner.num_nonzero() if task.method == "adapters" else num_trainable,
            train_loss=progress.train_loss if progress else None,
            updates=progress.updates if progress else 0,
            train_seconds=progress.train_seconds if progress else 0.0,
            seconds=self.seconds,
            peak_memory_bytes=self._peak_memory_bytes(),
            note=self._note(is_last=epoch == task.num_epochs),
            worker=f"{socket.gethostname()}/{os.getpid()}",
        )

    def _columns(self, evaluation: Evaluation, settings: DecodingSettings) -> dict[str, Any]:
        return search_columns(evaluation, settings, with_directions=self.environment.with_directions)

    def _peak_memory_bytes(self) -> int:
        """Returns the most of this process, and of those that the trial was in before."""
        return max(peak_memory_bytes(self.base.model.device), self.kept.peak_memory_bytes if self.kept else 0)

    def _note(self, *, is_last: bool) -> str:
        found = found_tokens(self.folder.path)
        words = "" if found is None else f"tokens_per_batch {found:,}, the most that the device has room for"
        probe, environment = "", self.environment
        if is_last and self.task.trainer.loss.language_adversary and isinstance(self.learner, AdaptedModel):
            probe = probe_words(self.learner, environment.validation, self.base.vocabulary(environment.languages))
        return "; ".join(filter(None, (words, probe, self.attempts.note)))

    def _count_seconds(self) -> None:
        now = time.perf_counter()
        self.seconds += now - self.started
        self.started = now

    def _load(self) -> Checkpoint | None:
        """Takes over an earlier run's state, if there is one whose kept weights are whole."""
        checkpoint = read_newest_checkpoint(self.folder.checkpoint)
        if checkpoint is not None:
            state = checkpoint.state
            kept_updates = state.get("kept_updates")
            if kept_updates is None or is_whole(self.folder, kept_updates):
                self.history = list(state["history"])
                self.kept = TrialResult(**state["kept"]) if state["kept"] is not None else None
                self.kept_updates, self.kept_settings = kept_updates, state.get("kept_settings")
                self.seconds = float(state["seconds"])
            else:
                logger.warning("The weights kept in %s are torn: the trial starts anew.", self.folder.weights)
                checkpoint = None
        if checkpoint is None:
            self.folder.remove_checkpoints()
        # Weights of epochs that are trained again would count as newer than theirs.
        remove_weights(self.folder, weights_in_use(self.folder))
        return checkpoint

    def _write_checkpoint(self, progress: Progress) -> None:
        training = progress.checkpoint()
        extra = {
            "history": self.history,
            "kept": asdict(self.kept) if self.kept else None,
            "kept_updates": self.kept_updates,
            "kept_settings": self.kept_settings,
            "seconds": self.seconds,
        }
        checkpoint = Checkpoint(training.tensors, {**training.state, **extra})
        write_checkpoint(self.folder.checkpoint, checkpoint, check=self._check_fence)

    def _check_fence(self) -> None:
        check_fence(self.folder.path)

    def _close(self, result: TrialResult) -> TrialResult:
        """Writes the result, after which the trial is never trained again, and drops what only resuming needs."""
        write_json(self.folder.result, asdict(result))
        tidy(self.folder)
        return result


def resident(environment: Environment, task: TrialTask) -> Resident:
    """Returns on which device and in which type the base of a trial is to be.

    Raises:
        InputError: If a GPU is asked for and there is no usable one.
    """
    return environment.compute.resident(task.trainer.precision, is_full=task.method == "full")


def build_learner(base: Base, environment: Environment, task: TrialTask) -> Learner:
    """Returns the task's model, untrained. An `AdaptedModel` must be removed from the base after use."""
    if task.method == "full":
        return FullModel(base)
    architecture = task.architecture
    if architecture is None:
        architecture = Architecture(slots=tuple((name, name) for name in environment.languages), adapters=())
    if (nesting := task.trainer.nesting) is not None:
        return nested_model(base, architecture, environment.languages, task.trainer.seed, nesting)
    return adapt(base, architecture, environment.languages, task.trainer.seed)


def load_trained(base: Base, environment: Environment, folder: TrialFolder) -> Learner:
    """Returns a trial's model with its kept weights. Raises OSError if the trial has none."""
    task = TrialTask.read(folder)
    learner = build_learner(base, environment, task)
    if learner.parameters() and task.num_epochs:
        kept = read_newest_checkpoint(folder.weights)
        if kept is None:
            if isinstance(learner, AdaptedModel):
                learner.remove()
            raise OSError(f"The trial {folder.name} must have weights, but {folder.weights} holds none")
        learner.load_state(kept.tensors)
    return learner


def _with_progress(kept: TrialResult, latest: TrialResult) -> TrialResult:
    """Returns the kept scores with the latest epoch's position and costs."""
    return replace(
        kept,
        epoch=latest.epoch,
        finished=latest.finished,
        train_loss=latest.train_loss,
        updates=latest.updates,
        train_seconds=latest.train_seconds,
        seconds=latest.seconds,
        peak_memory_bytes=latest.peak_memory_bytes,
        note=latest.note,
        epoch_spbleu=latest.spbleu,
        worker=latest.worker,
    )
