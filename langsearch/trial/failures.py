"""Failures by name: what happened to a trial, and what a space says to do about it."""

import errno
import logging
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from safetensors import SafetensorError

from langsearch.evaluate.evaluation import NonFiniteScoreError
from langsearch.experiment.folder import TrialFolder, write_json
from langsearch.experiment.object_store import StorageError
from langsearch.model.memory import SmallestBatchError, is_out_of_memory
from langsearch.space.settings import FailureSettings, Reaction
from langsearch.train.losses import NonFiniteLossError

logger = logging.getLogger(__name__)

FAILED = "failed"
"""Key of a result that reports a failure instead of scores: "KIND: message"."""

SPENT = "spent"
"""Key of a result beside `FAILED`: the process may be spoilt by what happened, and takes no further trial."""

PAUSED = "paused"
"""Key of a result that says that a trial paused on request, behind a checkpoint; it is to go on later."""

UNFIT = "unfit"
"""Key of a result that says that a worker's node is not fit: its id and name, and what is wrong. The trial has not
begun, and goes to another node."""

LOST = "lease lost"
"""Key of a result that says that another run has the experiment by now; the driver hears of nothing else."""

NON_FINITE_LOSS = "non-finite loss"
NON_FINITE_SCORE = "non-finite score"
OUT_OF_MEMORY = "out of memory"
DISK_FULL = "disk full"
CUDA_ERROR = "CUDA error"
"""The GPU's context is lost with it: every later call of this process would fail too."""

STALLED = "stalled"
WORKER_LOST = "worker lost"
NODE_LOST = "node lost"
NO_RESULT = "no result"
OBJECT_STORE = "storage"
"""The object store, or the file system that is shared, could not be read or written; treated as a full disk, since
every other trial would fail too. The text lies in tables and stays."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_SPACE_TEXT = re.compile(r"No space left on device|Disk quota exceeded|\(os error (28|122)\)")
_GONE = (errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.EHOSTDOWN, errno.ETIMEDOUT)
"""What a disk that breaks, or a network file system whose server is gone, answers to whoever reads or writes."""

_GONE_TEXT = re.compile(rf"\(os error ({'|'.join(str(number) for number in _GONE)})\)")


_CUDA_TEXT = re.compile(r"CUDA error|CUBLAS_STATUS_|CUDNN_STATUS_|device-side assert")


def failure_cause(error: BaseException) -> str:
    """Returns a few words for the kind of a failure."""
    if isinstance(error, NonFiniteLossError):
        return NON_FINITE_LOSS
    if isinstance(error, NonFiniteScoreError):
        return NON_FINITE_SCORE
    if isinstance(error, StorageError):
        return OBJECT_STORE
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    if any(isinstance(link, OSError) and link.errno in _NO_SPACE for link in chain):
        return DISK_FULL
    if any(isinstance(link, OSError) and link.errno in _GONE for link in chain):
        return OBJECT_STORE
    # safetensors has no errno, only the text of one
    if isinstance(error, OSError | SafetensorError) and _NO_SPACE_TEXT.search(str(error)):
        return DISK_FULL
    if isinstance(error, OSError | SafetensorError) and _GONE_TEXT.search(str(error)):
        return OBJECT_STORE
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return OUT_OF_MEMORY
    if isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and _CUDA_TEXT.search(str(error))):
        return CUDA_ERROR
    return type(error).__name__


def spends(cause_text: str) -> bool:
    """Returns whether the process of a trial that failed so may be spoilt for others: the failure was not foreseen."""
    foreseen = (NON_FINITE_LOSS, NON_FINITE_SCORE, OUT_OF_MEMORY, DISK_FULL, OBJECT_STORE, STALLED)
    return kind_of(cause_text) not in foreseen


def plain_cause(error: BaseException) -> str:
    """Returns in one line why something could not be written: a database's own words, without the statement."""
    cause = error.__cause__ or error
    return str(getattr(cause, "orig", None) or cause).partition("\n")[0]


def kind_of(cause_text: str) -> str:
    """Returns the kind of a full cause: "out of memory" of "out of memory: CUDA …"."""
    return cause_text.split(":", 1)[0].strip()


def reaction(settings: FailureSettings, cause_text: str) -> Reaction | Literal["halve"]:
    """Returns what a space says to do about a failure.

    Args:
        settings: The space's `failures`.
        cause_text: "KIND: message", or the kind alone.
    """
    kind = kind_of(cause_text)
    if kind == OUT_OF_MEMORY:
        return settings.out_of_memory
    by_kind: Mapping[str, Reaction] = {
        NON_FINITE_LOSS: settings.non_finite_loss,
        NON_FINITE_SCORE: settings.non_finite_loss,
        DISK_FULL: settings.disk_full,
        OBJECT_STORE: settings.disk_full,
        STALLED: settings.stalled,
        WORKER_LOST: "retry",
        NODE_LOST: "retry",
    }
    return by_kind.get(kind, settings.error)


@dataclass(frozen=True)
class Failure:
    """What is left of an error: text alone, since its traceback holds on to all that ran."""

    cause: str
    message: str
    traceback: str
    is_smallest: bool = False
    """Whether memory ran out with a single row, so that halving the batches once more cannot help."""

    @property
    def text(self) -> str:
        """The cause and the message."""
        return f"{self.cause}: {self.message}"


class StalledError(RuntimeError):
    """The trial's last worker ended because nothing went on."""


def as_failure(error: Exception) -> Failure:
    """Returns what is left of an error."""
    cause = STALLED if isinstance(error, StalledError) else failure_cause(error)
    text = "".join(traceback.format_exception(error))
    return Failure(cause, str(error), text, isinstance(error, SmallestBatchError))


def record_failure(folder: TrialFolder, failure: Failure) -> None:
    """Writes a trial's failure into its folder, unless the disk is full."""
    try:
        values = {"cause": failure.cause, "message": failure.message, "traceback": failure.traceback}
        write_json(folder.failure, values)
    except OSError:
        logger.exception("The failure of trial %s could not be written", folder.name)
