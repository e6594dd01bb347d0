"""The training loop: a generator that yields its progress and can be checkpointed at every yield.

Resumes bitwise: from a checkpoint it goes through the same batches and the same losses as if it had never stopped.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from langsearch.adapters.learners import Learner
from langsearch.data.batches import Batch, BatchVocabulary, collate
from langsearch.data.directions import Direction
from langsearch.data.epochs import SourceWeights
from langsearch.data.store import TokenStore
from langsearch.model.memory import smallest_told
from langsearch.model.positions import num_positions
from langsearch.space.settings import TrainerSettings
from langsearch.train.ahead import made_ahead
from langsearch.train.back_translation import BackTranslation, Translate
from langsearch.train.checkpoint import Checkpoint
from langsearch.train.dropout import set_dropout
from langsearch.train.forward import EncoderSides, ready, run_forward
from langsearch.train.losses import EpochLosses, UpdateLoss
from langsearch.train.modular import turns_of
from langsearch.train.optimizer import learning_rate, load_optimizer_state, make_optimizer, optimizer_state
from langsearch.train.pace import Pace
from langsearch.train.stages import Frozen, Stages, cut_apart, plan_of
from langsearch.train.term import Need, Term
from langsearch.train.terms import make_terms, precision_of


@dataclass(frozen=True)
class TrainingData:
    """The sentences to train on, and in which directions."""

    store: TokenStore
    directions: Sequence[Direction]
    languages: Sequence[str]
    vocabulary: BatchVocabulary
    weights: SourceWeights | None = None
    """How often sentences are drawn, by source. None: all alike."""


@dataclass(frozen=True)
class Progress:
    """Where training stands when it yields.

    `checkpoint` must be called before the generator goes on; the tensors in it are the live ones, not copies.
    """

    epoch: int
    """Counted from 1."""
    microbatch: int
    """Microbatches of this epoch done."""
    num_microbatches: int
    """Microbatches of this epoch."""
    updates: int
    """Updates since the start of training."""
    train_loss: float
    """Sum of the loss terms over this epoch so far, nats a target token."""
    lr: float
    """Learning rate of the last update."""
    train_seconds: float
    """Seconds spent in updates since the start of training, over all resumes."""
    checkpoint: Callable[[], Checkpoint]
    judge: Callable[[float, bool], None]
    """Tells the loss terms how good the model is at the end of an epoch: the higher the better, and whether earlier
    scores are of the same sentences. Before `checkpoint`, which holds what comes of it; may be left out."""

    @property
    def is_epoch_end(self) -> bool:
        """Whether the epoch is complete."""
        return self.microbatch == self.num_microbatches


def train(
    learner: Learner,
    data: TrainingData,
    settings: TrainerSettings,
    *,
    terms: Sequence[Term] | None = None,
    resume: Checkpoint | None = None,
    updates_between_yields: int | None = None,
    should_yield: Callable[[], bool] = lambda: False,
    num_parts: int = 1,
    translate: Translate | None = None,
) -> Iterator[Progress]:
    """Trains a learner; yields at the end of every epoch, and every so many updates if asked to.

    Between two yields the caller may use the model and the random number generators as it likes: both are
    set back before training goes on.

    Args:
        learner: What is trained, on the device where its parameters are.
        data: Sentences and directions.
        settings: How to train.
        terms: What is added up to the loss, at least one. None: the terms of the settings.
        resume: A checkpoint of the same learner, data and settings; training goes on right behind it.
        updates_between_yields: Yield also within epochs. None: only at their ends.
        should_yield: Called after every update; where it says so, training yields there too.
        num_parts: Each microbatch is split into so many parts, which take their share of the memory. The updates
            are made of the same pairs, so that this may differ from that of the run which is resumed, also within
            an epoch; only dropout and rounding differ.
        translate: Translates with the model; must be given where the settings ask for back-translation.

    Raises:
        InputError: If a teacher's adapters do not fit.
        NonFiniteLossError: If the loss becomes NaN or infinite.
    """
    given = make_terms(settings, learner, data.store, data.languages, data.vocabulary) if terms is None else terms
    return _Run(learner, data, settings, given, num_parts, translate).go(resume, updates_between_yields, should_yield)


def try_microbatch(learner: Learner, data: TrainingData, settings: TrainerSettings, rows: NDArray[np.int32]) -> None:
    """Goes forward and back with a microbatch, beside as much memory as the optimizer will take; learns nothing.

    Args:
        learner: What is to be trained; it is left as it is, but for random numbers that are drawn.
        data: Sentences and directions.
        settings: How to train.
        rows: As in `EpochPlan.microbatches`.

    Raises:
        Exception: Whatever says that there is no room; see `model.memory.is_out_of_memory`.
    """
    run = _Run(learner, data, settings, make_terms(settings, learner, data.store, data.languages, data.vocabulary), 1)
    set_dropout(learner.model, settings.dropout)
    learner.model.train()
    try:
        moments = [torch.empty_like(parameter) for parameter in run.parameters.values() for _ in range(2)]
        loss = run._loss(run._collated(rows).to(run.device))
        run.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        del moments
    finally:
        run.optimizer.zero_grad(set_to_none=True)
        learner.model.eval()


class _Run:
    def __init__(
        self,
        learner: Learner,
        data: TrainingData,
        settings: TrainerSettings,
        terms: Sequence[Term],
        num_parts: int,
        translate: Translate | None = None,
    ) -> None:
        self.learner, self.data = learner, data
        self.settings, num_own_parts = cut_apart(settings)
        self.num_parts = num_parts * num_own_parts
        self.terms = tuple(terms)
        self.needs = frozenset[Need]().union(*(term.needs for term in self.terms))
        self.back_translation, self.translate = BackTranslation.of(settings, data.languages), translate
        if self.back_translation.every:
            self.needs |= {"sentences"}
        align = settings.loss.align
        self.pivot = align.pivot_of(data.languages) if align is not None and "pivots" in self.needs else None
        self.sides = EncoderSides.of(learner)
        self.stages, self.directions = Stages.of(settings), data.directions
        self.frozen = Frozen(())
        self.turns = turns_of(settings, learner, data.languages)
        self.parameters = self.turns.parameters()
        for term in self.terms:
            self.parameters |= term.parameters()
        self.optimizer = make_optimizer(self.parameters, settings)
        self.device = next(iter(self.parameters.values())).device
        self.precision = precision_of(learner, settings, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision is torch.float16)
        self.pace = Pace.of(self.device)
        self.epoch, self.microbatch, self.updates = 1, 0, 0
        self.losses, self.train_seconds = EpochLosses(self.pace.losses_behind), 0.0
        self.lr = settings.lr

    def go(
        self, resume: Checkpoint | None, updates_between_yields: int | None, should_yield: Callable[[], bool]
    ) -> Iterator[Progress]:
        settings = self.settings
        if settings.tokens_per_batch is None:
            raise ValueError("`tokens_per_batch` must be found before training; see `fitting.find_tokens_per_batch`")
        torch.manual_seed(settings.seed)
        set_dropout(self.learner.model, settings.dropout)
        if resume is not None:
            self._load(resume)
        while self.epoch <= settings.epochs:
            self.directions = self.turns.learning(self.stages.directions(self.epoch, self.data.directions))
            plan = plan_of(
                settings,
                self.data.store,
                self.directions,
                epoch=self.epoch - 1,
                max_length=num_positions(self.learner.model.config),
                weights=self.data.weights,
            )
            for term in self.terms:
                for _ in term.before_epoch(self.directions, plan.microbatches):
                    if should_yield():
                        yield from self._yield(len(plan.microbatches))
            if self.microbatch == 0:
                self.learner.begin_epoch(self.epoch)
                if self.stages.starts_anew(self.epoch):
                    self.optimizer.state.clear()
            self.frozen = self.stages.frozen(self.epoch, self.learner)
            with closing(self._batches(plan.microbatches)) as batches:
                while self.microbatch < len(plan.microbatches):
                    done = self.epoch - 1 + float(plan.done[self.microbatch])
                    with self._timed():
                        self.learner.before_update(done / settings.epochs)
                        for term in self.terms:
                            term.before_update(self.epoch, done / settings.epochs)
                        self._update(self._with_translations(next(batches)))
                    self.microbatch = min(self.microbatch + settings.accumulation, len(plan.microbatches))
                    ended = self.microbatch == len(plan.microbatches)
                    is_due = updates_between_yields is not None and self.updates % updates_between_yields == 0
                    if should_yield() or is_due or ended:
                        # Before anything of it is kept: what was read later could be of an update that is.
                        with self._timed():
                            self.losses.read_all()
                        yield from self._yield(len(plan.microbatches))
            self.epoch, self.microbatch, self.losses = self.epoch + 1, 0, EpochLosses(self.pace.losses_behind)

    def _batches(self, microbatches: Sequence[NDArray[np.int32]]) -> Generator[list[Batch]]:
        """Yields the batches of each update that the epoch still has; made ahead where the pace says so."""
        first, accumulation = self.microbatch, self.settings.accumulation

        def make() -> Iterator[list[Batch]]:
            with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
                for start in range(first, len(microbatches), accumulation):
                    group = microbatches[start : start + accumulation]
                    parts = [part for rows in group for part in np.array_split(rows, min(self.num_parts, len(rows)))]
                    yield [self._collated(rows) for rows in parts]

        yield from made_ahead(make, self.pace.batches_ahead) if self.pace.batches_ahead else make()

    def _collated(self, rows: NDArray[np.int32]) -> Batch:
        """Returns the tensors of a microbatch or a part of one, rows as in `EpochPlan.microbatches`."""
        data = self.data
        batch = collate(
            data.store,
            self.directions,
            rows,
            data.vocabulary,
            data.languages,
            with_sentences="sentences" in self.needs,
            with_sources=self.settings.encode_once,
            pivot=self.pivot,
            length_multiple=self.pace.length_multiple,
            max_length=num_positions(self.learner.model.config),
        )
        batch = ready(batch)
        for term in self.terms:
            batch = term.attached(batch)
        return batch.pinned() if self.device.type == "cuda" else batch

    def _with_translations(self, batches: list[Batch]) -> list[Batch]:
        """Returns the batches of the next update, with those of back-translation where it is due."""
        if not self.back_translation.is_due(self.epoch, self.updates + 1):
            return batches
        assert self.translate is not None, "back-translation needs something to translate with"
        more = self.back_translation.pairs(
            self.learner,
            batches,
            self.updates + 1,
            store=self.data.store,
            languages=self.data.languages,
            vocabulary=self.data.vocabulary,
            translate=self.translate,
        )
        return [*batches, *map(ready, more)]

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Gives a context whose seconds are those of training."""
        started = time.perf_counter()
        yield
        self.train_seconds += time.perf_counter() - started

    def _yield(self, num_microbatches: int) -> Iterator[Progress]:
        rng = _rng_state(self.device)
        self.learner.model.eval()
        yield Progress(
            epoch=self.epoch,
            microbatch=self.microbatch,
            num_microbatches=num_microbatches,
            updates=self.updates,
            train_loss=self.losses.loss_sum / max(self.losses.num_tokens, 1),
            lr=self.lr,
            train_seconds=self.train_seconds,
            checkpoint=lambda: self._checkpoint(rng, num_microbatches),
            judge=self._judge,
        )
        _set_rng_state(rng)

    def _judge(self, score: float, is_comparable: bool) -> None:
        for term in self.terms:
            term.judged(self.epoch, score, is_comparable=is_comparable)

    def _update(self, batches: Sequence[Batch]) -> None:
        self.learner.model.train()
        self.turns.begin(batches[0])
        num_tokens = sum(batch.num_tgt_tokens for batch in batches)
        loss_sum = torch.zeros((), device=self.device)
        for batch in batches:
            with smallest_told(batch.src_ids.shape[0], "trained"):
                loss = self._loss(batch.to(self.device))
                self.scaler.scale(loss / num_tokens).backward()  # type: ignore[no-untyped-call]
                loss_sum += loss.detach()
        self.updates += 1
        self.losses.add(UpdateLoss(loss_sum, num_tokens, self.updates, self.epoch, self.lr))
        self.lr = learning_rate(self.turns.end(self.updates), self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        if self.settings.clip_norm > 0:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.frozen.hold()
        self.learner.after_update()

    def _loss(self, batch: Batch) -> Tensor:
        """Returns the sum of all terms, a scalar."""
        states = run_forward(self.learner, batch, self.needs, self.precision, self.sides)
        losses = [term.loss(self.learner.model, states, batch) for term in self.terms]
        if (penalty := self.learner.penalty()) is not None:
            losses.append(penalty * batch.num_tgt_tokens)
        return sum(losses[1:], losses[0])

    def _checkpoint(self, rng: dict[str, Tensor], num_microbatches: int) -> Checkpoint:
        ended = self.microbatch == num_microbatches
        tensors = {f"model/{name}": tensor for name, tensor in self.learner.state().items()}
        for term in self.terms:
            tensors |= {f"terms/{name}": tensor for name, tensor in term.state().items()}
        state = optimizer_state(self.optimizer, self.parameters)
        tensors |= {f"optimizer/{name}": tensor for name, tensor in state.items()}
        tensors |= {f"rng/{name}": tensor for name, tensor in rng.items()}
        return Checkpoint(
            tensors,
            {
                "epoch": self.epoch + ended,
                "microbatch": 0 if ended else self.microbatch,
                "updates": self.updates,
                "loss_sum": 0.0 if ended else self.losses.loss_sum,
                "num_tokens": 0 if ended else self.losses.num_tokens,
                "train_seconds": self.train_seconds,
                "lr": self.lr,
                "scaler": self.scaler.state_dict(),
                **self.turns.state(),
            },
        )

    def _load(self, checkpoint: Checkpoint) -> None:
        tensors, state = checkpoint.tensors, checkpoint.state

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

        self.learner.load_state(part("model/"))
        for term in self.terms:
            term.load_state(part("terms/"))
        load_optimizer_state(self.optimizer, self.parameters, part("optimizer/"))
        _set_rng_state(part("rng/"))
        self.epoch, self.microbatch, self.updates = state["epoch"], state["microbatch"], state["updates"]
        self.losses = EpochLosses(self.pace.losses_behind, state["loss_sum"], state["num_tokens"])
        self.train_seconds, self.lr = state["train_seconds"], state["lr"]
        self.scaler.load_state_dict(state["scaler"])
        self.turns.load_state(state)


def _rng_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_rng_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
