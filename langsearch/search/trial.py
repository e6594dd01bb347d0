"""One trial, from its task to its scores. Knows nothing of Ray: `langsearch train` runs the same code."""

import platform
import resource
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import torch

from langsearch.evaluate.evaluation import Evaluation, EvaluationSet, evaluate, evaluation_set
from langsearch.evaluate.spbleu import SpBleu
from langsearch.model.base import Base
from langsearch.model.learners import AdaptedModel, FullModel, Learner
from langsearch.model.peft_import import read_adapters, start_from
from langsearch.search.environment import Environment
from langsearch.search.folder import TrialFolder, read_json, read_rows, write_json, write_rows
from langsearch.search.task import TrialTask
from langsearch.space.architecture import Architecture
from langsearch.space.settings import DecodingSettings
from langsearch.train.checkpoint import Checkpoint, read_newest_checkpoint, write_checkpoint
from langsearch.train.loop import Progress, TrainingData, train

Split = Literal["validation", "test"]

CURVE = pa.schema(
    [
        ("epoch", pa.int64()),
        ("updates", pa.int64()),
        ("train_loss", pa.float64()),
        ("spbleu", pa.float64()),
        ("lr", pa.float64()),
        ("seconds", pa.float64()),
        ("nonzero_parameters", pa.int64()),
    ]
)
SCORES = pa.schema(
    [
        ("split", pa.string()),
        ("src", pa.string()),
        ("tgt", pa.string()),
        ("spbleu", pa.float64()),
        ("num_sentences", pa.int64()),
        ("signature", pa.string()),
    ]
)
TRANSLATIONS = pa.schema(
    [
        ("split", pa.string()),
        ("src", pa.string()),
        ("tgt", pa.string()),
        ("row", pa.int64()),
        ("source", pa.string()),
        ("hypothesis", pa.string()),
        ("reference", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """Where a trial stands after an epoch."""

    epoch: int
    """Epochs trained: the trial's fidelity."""
    finished: bool
    """Whether that was the last epoch."""
    spbleu: float
    """Validation score of the weights that are kept, mean over directions."""
    spbleu_low: float
    spbleu_high: float
    kept_epoch: int
    """The epoch whose weights are kept: the best on validation, or the last where there is pruning."""
    num_sentences: int
    num_directions: int
    signature: str
    trainable_parameters: int
    nonzero_parameters: int
    train_loss: float | None
    updates: int
    train_seconds: float
    seconds: float
    """Seconds in updates and evaluation, over all resumes."""
    peak_memory_bytes: int
    """Of the worker's process on a CPU, of the device's allocations on a GPU."""


def run_trial(
    base: Base, environment: Environment, task: TrialTask, folder: TrialFolder
) -> Generator[TrialResult, None, None]:
    """Trains and evaluates one task; yields after every epoch, and goes on where an earlier run stopped.

    Args:
        base: The base, on the device to train on, without adapters; it is left so.
        environment: Sentences, directions and scores.
        task: What to train.
        folder: The trial's folder: checkpoints, weights, curve and scores go there.

    Raises:
        NonFiniteLossError: If the loss becomes NaN or infinite.
        OSError: If the folder cannot be written.
    """
    if folder.result.exists():
        yield TrialResult(**read_json(folder.result))
        return
    with_pruning = task.architecture is not None and task.architecture.pruning is not None
    spbleu = SpBleu(environment.tokenizer)
    settings = environment.evaluation.search
    vocabulary = base.vocabulary(environment.languages)
    data = evaluation_set(environment.validation, environment.directions, settings, environment.classes, vocabulary)
    learner = build_learner(base, environment, task)
    try:
        if task.num_epochs == 0 or not learner.parameters():
            started = time.perf_counter()
            evaluation = evaluate(learner, data, settings, base.tokenizer, spbleu)
            result = _result(evaluation, data, learner, task, base, time.perf_counter() - started)
            _finish(folder, result, evaluation, data)
            yield result
            return
        checkpoint = read_newest_checkpoint(folder.checkpoint)
        if checkpoint is None and task.trainer.init_from is not None and isinstance(learner, AdaptedModel):
            start_from(learner, read_adapters(Path(task.trainer.init_from), base.shape))
        history: list[dict[str, Any]] = list(checkpoint.state["history"]) if checkpoint else []
        kept = TrialResult(**checkpoint.state["kept"]) if checkpoint else None
        seconds = float(checkpoint.state["seconds"]) if checkpoint else 0.0
        if kept is not None and kept.epoch == task.num_epochs:
            # The last checkpoint was written, the result was not: the trial died between the two.
            yield _close(folder, kept)
            return
        training = TrainingData(environment.train, environment.directions, environment.languages, vocabulary)
        started = time.perf_counter()
        for progress in train(learner, training, task.trainer, resume=checkpoint):
            evaluation = evaluate(learner, data, settings, base.tokenizer, spbleu)
            seconds += time.perf_counter() - started
            started = time.perf_counter()
            result = _result(evaluation, data, learner, task, base, seconds, progress)
            history.append(_curve_row(progress, result))
            if kept is None or with_pruning or result.spbleu > kept.spbleu:
                kept = result
                _keep(folder, learner, result)
                _write_scores(folder, "validation", evaluation, data)
            kept = _with_progress(kept, result)
            write_rows(folder.curve, history, CURVE)
            state = progress.checkpoint()
            extra = {"history": history, "kept": asdict(kept), "seconds": seconds}
            write_checkpoint(folder.checkpoint, Checkpoint(state.tensors, {**state.state, **extra}))
            yield _close(folder, kept) if result.finished else kept
    finally:
        if isinstance(learner, AdaptedModel):
            learner.remove()


def build_learner(base: Base, environment: Environment, task: TrialTask) -> Learner:
    """Returns the task's model, untrained. An `AdaptedModel` must be removed from the base after use."""
    if task.method == "full":
        return FullModel(base)
    architecture = task.architecture
    if architecture is None:
        architecture = Architecture(slots=tuple((name, name) for name in environment.languages), adapters=())
    return AdaptedModel(base, architecture, environment.languages, task.trainer.seed)


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


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """A trial's scores on the test set."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    test_spbleu: float
    test_spbleu_low: float
    test_spbleu_high: float
    test_num_sentences: int
    test_num_directions: int


def evaluate_trial(
    base: Base, environment: Environment, folder: TrialFolder, split: Split, settings: DecodingSettings
) -> Evaluation:
    """Evaluates a trial's kept weights and writes scores and translations into its folder."""
    store = environment.test if split == "test" else environment.validation
    vocabulary = base.vocabulary(environment.languages)
    data = evaluation_set(store, environment.directions, settings, environment.classes, vocabulary)
    learner = load_trained(base, environment, folder)
    try:
        evaluation = evaluate(learner, data, settings, base.tokenizer, SpBleu(environment.tokenizer))
    finally:
        if isinstance(learner, AdaptedModel):
            learner.remove()
    _write_scores(folder, split, evaluation, data)
    return evaluation


def test_result(evaluation: Evaluation) -> TestResult:
    """Returns an evaluation on the test set as columns of the trial table."""
    scores = evaluation.scores
    return TestResult(
        test_spbleu=scores.spbleu,
        test_spbleu_low=scores.spbleu_low,
        test_spbleu_high=scores.spbleu_high,
        test_num_sentences=scores.num_sentences,
        test_num_directions=len(scores.by_direction),
    )


test_result.__test__ = False  # type: ignore[attr-defined]


def _result(
    evaluation: Evaluation,
    data: EvaluationSet,
    learner: Learner,
    task: TrialTask,
    base: Base,
    seconds: float,
    progress: Progress | None = None,
) -> TrialResult:
    scores = evaluation.scores
    epoch = progress.epoch if progress else 0
    is_full = task.method == "full"
    return TrialResult(
        epoch=epoch,
        finished=progress is None or epoch == task.num_epochs,
        spbleu=scores.spbleu,
        spbleu_low=scores.spbleu_low,
        spbleu_high=scores.spbleu_high,
        kept_epoch=epoch,
        num_sentences=scores.num_sentences,
        num_directions=len(data.rows),
        signature=scores.signature,
        trainable_parameters=task.num_trainable(base.shape),
        nonzero_parameters=base.shape.num_parameters if is_full else learner.num_nonzero(),
        train_loss=progress.train_loss if progress else None,
        updates=progress.updates if progress else 0,
        train_seconds=progress.train_seconds if progress else 0.0,
        seconds=seconds,
        peak_memory_bytes=_peak_memory_bytes(),
    )


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
    )


def _curve_row(progress: Progress, result: TrialResult) -> dict[str, Any]:
    return {
        "epoch": progress.epoch,
        "updates": progress.updates,
        "train_loss": progress.train_loss,
        "spbleu": result.spbleu,
        "lr": progress.lr,
        "seconds": result.seconds,
        "nonzero_parameters": result.nonzero_parameters,
    }


def _keep(folder: TrialFolder, learner: Learner, result: TrialResult) -> None:
    state = {"updates": result.updates, "epoch": result.epoch, "spbleu": result.spbleu}
    write_checkpoint(folder.weights, Checkpoint(learner.state(), state), num_kept=1)


def _finish(folder: TrialFolder, result: TrialResult, evaluation: Evaluation, data: EvaluationSet) -> None:
    _write_scores(folder, "validation", evaluation, data)
    _close(folder, result)


def _close(folder: TrialFolder, result: TrialResult) -> TrialResult:
    """Writes the result, after which the trial is never trained again, and drops what only resuming needs."""
    write_json(folder.result, asdict(result))
    folder.remove_checkpoints()
    return result


def _write_scores(folder: TrialFolder, split: Split, evaluation: Evaluation, data: EvaluationSet) -> None:
    """Writes scores and translations of a split beside those of the other split."""
    scores = [row for row in read_rows(folder.scores) if row["split"] != split]
    scores += [
        {
            "split": split,
            "src": score.direction.src,
            "tgt": score.direction.tgt,
            "spbleu": score.spbleu,
            "num_sentences": score.num_sentences,
            "signature": evaluation.scores.signature,
        }
        for score in evaluation.scores.by_direction
    ]
    write_rows(folder.scores, scores, SCORES)
    if split == "test":
        write_rows(folder.translations, list(_translation_rows(split, evaluation.hypotheses, data)), TRANSLATIONS)


def _translation_rows(split: Split, hypotheses: Mapping[Any, Any], data: EvaluationSet) -> Iterator[dict[str, Any]]:
    for direction, rows in data.rows.items():
        for row, hypothesis in zip(rows.tolist(), hypotheses[direction], strict=True):
            yield {
                "split": split,
                "src": direction.src,
                "tgt": direction.tgt,
                "row": row,
                "source": data.store.text(direction.src, row),
                "hypothesis": hypothesis,
                "reference": data.store.text(direction.tgt, row),
            }


def _peak_memory_bytes() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if platform.system() == "Darwin" else 1024  # getrusage counts KiB on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
