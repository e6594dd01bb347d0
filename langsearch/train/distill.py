"""The loss term of a teacher: its distributions over the next token beside the labels.

L = (1 - w) CE + w tau^2 D(teacher || student), summed over target tokens; the distributions are softmaxes of the logits
over tau. Formulas: KL as in Hinton et al. 2015 (arXiv 1503.02531, section 2); Jensen-Shannon as in Ferraz et al. 2023
(arXiv 2311.01070); a teacher that is the training's own best, while it is more than one epoch old, Huang et al. 2022
(arXiv 2205.01620).

Shapes: tokens = target tokens that count, d = d_model, vocab = rows of the output embedding.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from langsearch.adapters.learners import AdaptedModel
from langsearch.data.batches import IGNORED_LABEL, Batch
from langsearch.space.loss_settings import OWN_BEST, DistillSettings
from langsearch.train.cross_entropy import CrossEntropy, smoothed_cross_entropy, tokens_in_flight
from langsearch.train.teacher import base_teacher, earlier_self, exported_teacher
from langsearch.train.term import Need, Plain, States

_MIN_AGE = 2
"""Epochs that the own best must be old: the first that learns from the best of epoch 3 is epoch 5."""

_STATE = "distill."


class Distill(Plain):
    """The cross-entropy with a teacher beside it; a `Term` that stands for both.

    Where there is no teacher, yet or for a row's languages, it is the cross-entropy alone.

    Args:
        settings: Its weight, teacher, divergence and temperature.
        cross_entropy: The term whose place it takes.
        learner: The model that is trained.

    Raises:
        InputError: If the teacher is exported adapters that do not fit.
    """

    def __init__(self, settings: DistillSettings, cross_entropy: CrossEntropy, learner: AdaptedModel) -> None:
        self.settings, self.cross_entropy, self.learner = settings, cross_entropy, learner
        self.epoch = 1
        self.best: OwnBest | None = None
        if settings.folder is not None:
            self.teacher = exported_teacher(learner, settings.folder)
        elif settings.teacher == OWN_BEST:
            self.teacher, self.best = earlier_self(learner), OwnBest()
        else:
            self.teacher = base_teacher(learner)

    @property
    def needs(self) -> frozenset[Need]:
        """The decoder's states."""
        return frozenset({"decoder"})

    @property
    def is_taught(self) -> bool:
        """Whether there is a teacher in this epoch."""
        return self.best is None or self.best.is_old_enough(self.epoch)

    def before_update(self, epoch: int, progress: float) -> None:
        """Notes the epoch, which says whether the own best is old enough."""
        self.epoch = epoch

    def loss(self, model: Any, states: States, batch: Batch) -> Tensor:
        """Returns the sum over target tokens, nats."""
        if not self.is_taught:
            return self.cross_entropy.loss(model, states, batch)
        student, labels = states.decoder, states.labels
        assert student is not None and labels is not None
        taught = self.teacher.decoder_states(batch, student.dtype).decoder
        assert taught is not None
        weight, smoothing, w = model.lm_head.weight, self.cross_entropy.label_smoothing, self.settings.weight
        rest = torch.zeros((), device=student.device)
        if (known := self.teacher.known) is not None:
            is_known = _of_tokens(known[batch.src_lang] & known[batch.tgt_lang], batch)
            rest = smoothed_cross_entropy(student[~is_known], weight, labels[~is_known], smoothing)
            student, labels, taught = student[is_known], labels[is_known], taught[is_known]
        own = smoothed_cross_entropy(student, weight, labels, smoothing)
        teaching = divergence(student, taught, weight, self.settings.kind, self.settings.temperature)
        return rest + (1 - w) * own + w * teaching

    def state(self) -> dict[str, Tensor]:
        """Returns the own best's adapters, epoch and score, if there are any."""
        if self.best is None or self.best.epoch == 0:
            return {}
        taught = {f"{_STATE}teacher/{name}": value for name, value in self.teacher.model.state().items()}
        return taught | {f"{_STATE}best": torch.tensor([self.best.epoch, self.best.score], dtype=torch.float64)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave."""
        if self.best is not None and f"{_STATE}best" in state:
            epoch, score = state[f"{_STATE}best"].tolist()
            self.best = OwnBest(int(epoch), score)
            prefix = f"{_STATE}teacher/"
            own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            self.teacher.model.load_state(own)

    def judged(self, epoch: int, score: float, *, is_comparable: bool) -> None:
        """Takes the model for the own best where it is better than the one before."""
        if self.best is not None and self.best.judged(epoch, score, is_comparable=is_comparable):
            self.teacher.model.load_state(self.learner.state())


class OwnBest:
    """Which epoch of a training was its best, and when it teaches (LSSD: only once it is more than one epoch old).

    Args:
        epoch: Counted from 1. 0: none yet.
        score: Of that epoch.
    """

    def __init__(self, epoch: int = 0, score: float = -math.inf) -> None:
        self.epoch, self.score = epoch, score

    def judged(self, epoch: int, score: float, *, is_comparable: bool) -> bool:
        """Hears of an epoch's score; returns whether it is the best now. Of equal ones the earlier one is."""
        if self.epoch and is_comparable and score <= self.score:
            return False
        self.epoch, self.score = epoch, score
        return True

    def is_old_enough(self, epoch: int) -> bool:
        """Returns whether it teaches in an epoch."""
        return self.epoch > 0 and epoch - self.epoch >= _MIN_AGE


def divergence(
    student: Tensor, teacher: Tensor, weight: Tensor, kind: Literal["kl", "js"], temperature: float
) -> Tensor:
    """Returns temperature^2 KL(P || Q), or JS(P, Q), summed over tokens, in nats, a scalar.

    P and Q are softmax(states @ weight.T / temperature) of teacher and student. JS = KL(P || M) / 2 + KL(Q || M) / 2 of
    M = (P + Q) / 2. Logits are there for a chunk of tokens at a time, as in `smoothed_cross_entropy`; gradients go to
    the student's states alone.

    Args:
        student: (tokens, d), the decoder's output where labels count.
        teacher: (tokens, d), the teacher's.
        weight: (vocab, d), the frozen output embedding of both.
        kind: Which divergence.
        temperature: Above 0.
    """

    def diverged(cast: Tensor, rows: slice, log_q: Tensor) -> tuple[Tensor, Tensor]:
        log_p = F.log_softmax((teacher[rows] @ cast.T).float().div_(temperature), dim=1)
        return _kl(log_p, log_q) if kind == "kl" else _js(log_p, log_q)

    return summed_divergence(student, weight, temperature, diverged)


Diverged = Callable[[Tensor, slice, Tensor], tuple[Tensor, Tensor]]
"""Given the output embedding in the states' type (vocab, d), which tokens, and the student's logarithms of
probabilities of these (chunk, vocab): their divergences (chunk,), and what these are by the student's logits over the
temperature (chunk, vocab)."""


def summed_divergence(student: Tensor, weight: Tensor, temperature: float, diverged: Diverged) -> Tensor:
    """Returns temperature^2 times the sum of divergences from something, in nats, a scalar.

    Gradients go to the student's states alone; they are made in the forward pass, as in `smoothed_cross_entropy`.

    Args:
        student: (tokens, d), the decoder's output where labels count.
        weight: (vocab, d), the frozen output embedding.
        temperature: Above 0; divides the student's logits.
        diverged: Called with a chunk of tokens at a time, without gradients.
    """
    loss: Tensor = _Summed.apply(student, weight, temperature, diverged)  # type: ignore[no-untyped-call]
    return loss


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, weight: Tensor, temperature: float, diverged: Diverged) -> Tensor:
        cast = weight.to(student.dtype)
        # What is compared is as large as the logits: half as many tokens take the room of the cross-entropy's.
        chunk = max(tokens_in_flight(weight.shape[0], is_cuda=student.is_cuda) // 2, 1)
        grad_student = torch.empty_like(student, dtype=torch.float32)
        loss = torch.zeros((), device=student.device, dtype=torch.float32)
        for start in range(0, student.shape[0], chunk):
            rows = slice(start, start + chunk)
            log_q = F.log_softmax((student[rows] @ cast.T).float().div_(temperature), dim=1)
            divergences, grad = diverged(cast, rows, log_q)
            loss += divergences.sum()
            grad_student[rows] = (grad.to(student.dtype) @ cast).float()
        ctx.save_for_backward(grad_student)
        ctx.dtype, ctx.temperature = student.dtype, temperature
        return loss * temperature**2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (grad_student,) = ctx.saved_tensors
        return (grad_student * (grad * ctx.temperature)).to(ctx.dtype), None, None, None


def _kl(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    p = log_p.exp()
    return (p * (log_p - log_q)).sum(dim=1), log_q.exp() - p


def _js(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    p, q = log_p.exp(), log_q.exp()
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    half = 0.5 * (log_q - log_m)
    of_q = (q * half).sum(dim=1, keepdim=True)
    return 0.5 * (p * (log_p - log_m)).sum(dim=1) + of_q.squeeze(1), q * (half - of_q)


def _of_tokens(of_rows: Tensor, batch: Batch) -> Tensor:
    """Returns a value of each row for each of its labels that count, (rows,) -> (tokens,)."""
    counts = (batch.labels != IGNORED_LABEL).sum(dim=1)
    return of_rows.repeat_interleave(counts, output_size=batch.num_tgt_tokens)
