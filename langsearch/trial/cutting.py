"""Cuts of a trained donor: their scores, without training, and their weights."""

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from langsearch.adapters.cuts import CutMethod, Donor, fill
from langsearch.adapters.kinds import build_adapters
from langsearch.adapters.learners import AdaptedModel
from langsearch.evaluate.cuts import KnownRows, evaluate_cuts
from langsearch.evaluate.evaluation import Evaluation, EvaluationSet
from langsearch.evaluate.spbleu import SpBleu
from langsearch.experiment.cut_tasks import cut_task, donor_name, donor_of
from langsearch.experiment.environment import Environment
from langsearch.experiment.folder import ExperimentFolder, TrialFolder
from langsearch.experiment.opening import open_table
from langsearch.experiment.task import TrialTask
from langsearch.model.base import Base
from langsearch.space.one_shot import cut_decoding
from langsearch.space.problems import InputError, near_names
from langsearch.space.schema import Space
from langsearch.space.settings import DecodingSettings
from langsearch.study.cut_rows import CUT, as_cuts, cut_name
from langsearch.study.results import TrialResult
from langsearch.study.rows import State, TrialRow
from langsearch.study.table import TrialTable
from langsearch.train.checkpoint import Checkpoint, write_checkpoint
from langsearch.trial.evaluating import evaluation_data
from langsearch.trial.monitor import peak_memory_bytes
from langsearch.trial.scores import search_columns
from langsearch.trial.trial import load_trained


@dataclass
class OpenDonor:
    """A donor that is being cut, and what is known of its cuts."""

    name: str
    donor: Donor
    data: EvaluationSet
    settings: DecodingSettings
    """How cuts are scored."""

    known: KnownRows = field(default_factory=dict)
    """What was decoded already."""


def open_donor(base: Base, environment: Environment, folder: TrialFolder, sentences: int | None) -> OpenDonor:
    """Returns a donor that has been trained.

    Args:
        base: The base, without adapters; it is left so.
        environment: Sentences, directions and scores.
        folder: The donor's.
        sentences: How many a cut is scored on. None: as `evaluation.search` says.

    Raises:
        OSError: If it has no weights.
    """
    learner = load_trained(base, environment, folder)
    assert isinstance(learner, AdaptedModel)
    learner.remove()
    settings = cut_decoding(environment.evaluation.search, sentences)
    data = evaluation_data(base, environment, "full", settings)
    return OpenDonor(folder.name, Donor(learner.adapters), data, settings)


def score_cuts(
    base: Base,
    environment: Environment,
    of: OpenDonor,
    tasks: Sequence[TrialTask],
    method: CutMethod,
    num_parts: int = 1,
    after_batch: Callable[[], None] = lambda: None,
) -> list[TrialResult]:
    """Returns the scores of cuts, each as the result of a trial that was not trained.

    Args:
        base: The base, without adapters; it is left so.
        environment: Sentences, directions and scores.
        of: The donor.
        tasks: Of the cuts.
        method: How pairs are cut.
        num_parts: Batches are split into so many parts, where memory is short.
        after_batch: Called after every decoded batch.

    Raises:
        NonFiniteScoreError: If a score is NaN or infinite.
    """
    started = time.perf_counter()
    architectures = [task.architecture for task in tasks if task.architecture is not None]
    found = evaluate_cuts(
        base,
        of.donor,
        architectures,
        of.data,
        of.settings,
        SpBleu(environment.tokenizer),
        known=of.known,
        method=method,
        with_chrf=environment.with_chrf,
        num_parts=num_parts,
        after_batch=after_batch,
    )
    seconds = (time.perf_counter() - started) / max(len(tasks), 1)
    return [
        _result(base, environment, of, task, evaluation, seconds) for task, evaluation in zip(tasks, found, strict=True)
    ]


def write_cut(base: Base, of: OpenDonor, task: TrialTask, folder: TrialFolder, method: CutMethod) -> None:
    """Writes a cut's task and weights into a folder of its own, as those of a trained trial lie there.

    Raises:
        OSError: If the disk is full.
    """
    assert task.architecture is not None
    adapters = build_adapters(base, task.architecture, of.donor.adapters.languages)
    fill(adapters, of.donor, of.donor.slots_of(task.architecture), method)
    task.write(folder)
    state = {"updates": 0, "epoch": 0}
    write_checkpoint(folder.weights, Checkpoint(adapters.state(), state))


def _result(
    base: Base,
    environment: Environment,
    of: OpenDonor,
    task: TrialTask,
    evaluation: Evaluation,
    seconds: float,
) -> TrialResult:
    num_trainable = task.num_trainable(base.shape)
    return TrialResult(
        **search_columns(evaluation, of.settings, with_directions=environment.with_directions),
        epoch=0,
        finished=True,
        kept_epoch=0,
        trainable_parameters=num_trainable,
        nonzero_parameters=num_trainable,
        train_loss=None,
        updates=0,
        train_seconds=0.0,
        seconds=seconds,
        peak_memory_bytes=peak_memory_bytes(base.model.device),
        note=f"cut out of {of.name}, not trained",
        worker=f"{socket.gethostname()}/{os.getpid()}",
    )


def provide_cut(
    base: Base, environment: Environment, folder: ExperimentFolder, space: Space, table: TrialTable, name: str
) -> TrialRow:
    """Returns the row of a cut, whose weights are then in its folder: cut out of its donor unless they are there.

    Args:
        base: The base, without adapters; it is left so.
        environment: Sentences, directions and scores.
        folder: The experiment.
        space: Its space.
        table: The search's table.
        name: "cut-12" or "cut-00012".

    Raises:
        InputError: If there is no such cut, it has no score, or its donor's weights are gone.
    """
    cuts = open_table(folder, space, cuts_of=table)
    rows = {row.name: row for row in as_cuts(cuts.rows())}
    number = name.removeprefix(CUT)
    full = cut_name(int(number)) if number.isdecimal() else name
    if full not in rows:
        raise InputError(f"--trial must name a cut, but {name!r} is none.{near_names(full, rows)}")
    row = rows[rows[full].same_as or full]
    if row.state is not State.COMPLETE:
        raise InputError(f"A cut must have been scored, but {row.name} is {row.state.value}: {row.cause or 'no cause'}")
    trial, donor = folder.trial(row.name), donor_name(donor_of(row.params))
    if not trial.weights.exists():
        try:
            of = open_donor(base, environment, folder.trial(donor), None)
        except OSError as error:
            raise InputError(f"A cut needs its donor's weights, but {donor} has none: {error}") from error
        task = cut_task(space, base.shape, int(row.name.removeprefix(CUT)), row.params)
        write_cut(base, of, task, trial, space.search.one_shot.cut)
    return row
