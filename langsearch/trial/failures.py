"""Failures by name: what happened to a trial, what a space says to do about it, and what was tried already."""

import errno
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch

from langsearch.evaluate.evaluation import NonFiniteScoreError
from langsearch.experiment.folder import TrialFolder, read_json, write_json
from langsearch.experiment.object_store import UploadError
from langsearch.space.settings import FailureSettings, Reaction
from langsearch.train.loop import NonFiniteLossError

FAILED = "failed"
"""Key of a result that reports a failure instead of scores: "KIND: message"."""

PAUSED = "paused"
"""Key of a result that says that a trial paused on request, behind a checkpoint; it is to go on later."""

NON_FINITE_LOSS = "non-finite loss"
NON_FINITE_SCORE = "non-finite score"
OUT_OF_MEMORY = "out of memory"
DISK_FULL = "disk full"
STALLED = "stalled"
WORKER_LOST = "worker lost"
NODE_LOST = "node lost"
NO_RESULT = "no result"
OBJECT_STORE = "storage"
"""The object store could not be written; treated as a full disk. The text lies in tables and stays."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_SPACE_TEXT = re.compile(r"No space left on device|Disk quota exceeded|\(os error (28|122)\)")
_NO_MEMORY_TEXT = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED"
)


def failure_cause(error: BaseException) -> str:
    """Returns a few words for the kind of a failure."""
    if isinstance(error, NonFiniteLossError):
        return NON_FINITE_LOSS
    if isinstance(error, NonFiniteScoreError):
        return NON_FINITE_SCORE
    if isinstance(error, UploadError):
        return OBJECT_STORE
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    if any(isinstance(link, OSError) and link.errno in _NO_SPACE for link in chain):
        return DISK_FULL
    # safetensors has no errno, only the text of one
    if isinstance(error, OSError) and _NO_SPACE_TEXT.search(str(error)):
        return DISK_FULL
    if any(isinstance(link, MemoryError | torch.OutOfMemoryError) for link in chain):
        return OUT_OF_MEMORY
    # PyTorch's allocator on a CPU, and cuBLAS, raise RuntimeError
    if isinstance(error, RuntimeError) and _NO_MEMORY_TEXT.search(str(error)):
        return OUT_OF_MEMORY
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return OUT_OF_MEMORY
    return type(error).__name__


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


def stall_file(trial: TrialFolder) -> Path:
    """Returns where the stacks of a trial that made no progress are written; empty while all is well."""
    return trial.path / "stall.txt"


def stalled_cause(trial: TrialFolder) -> str | None:
    """Returns the cause if a trial's last worker ended because nothing went on, else None."""
    path = stall_file(trial)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    if not text.strip():
        return None
    return f"{STALLED}: no progress for {_waited(text)}; where it hung is in {path.name}"


def _waited(text: str) -> str:
    """Returns the time in a dump's first line, "Timeout (0:30:00)!", in words."""
    found = re.match(r"Timeout \((\d+):(\d+):(\d+(?:\.\d+)?)\)", text)
    if found is None:
        return "too long"
    hours, minutes, seconds = int(found[1]), int(found[2]), float(found[3])
    total = 3600 * hours + 60 * minutes + seconds
    return f"{total / 60:g} minutes" if total >= 60 else f"{total:g} seconds"


def lost_cause(trial: TrialFolder, error_text: str) -> str:
    """Returns the full cause of a trial whose worker died.

    Args:
        trial: Its folder, where the worker may have said why.
        error_text: Ray's error.
    """
    if (stalled := stalled_cause(trial)) is not None:
        return stalled
    if re.search(r"its node has died|[Nn]ode died|NodeDiedError|raylet died|marked dead", error_text):
        return f"{NODE_LOST}: {_telling_line(error_text)}"
    if re.search(r"low on memory|memory pressure|OutOfMemoryError|OOM", error_text):
        return f"{OUT_OF_MEMORY}: {_telling_line(error_text)}"
    return f"{WORKER_LOST}: {_telling_line(error_text)}"


def _telling_line(error_text: str) -> str:
    """Returns the line of an error that says most: the first that is no heading of a traceback."""
    lines = [line.strip() for line in error_text.splitlines()]
    telling = [line for line in lines if line and not line.startswith(("Traceback", "File ", "return ", "raise ", "^"))]
    for line in telling:
        if re.search(r"died|killed|low on memory|lost|crashed|unexpectedly|Error", line):
            return line[:300]
    return telling[0][:300] if telling else "Ray did not say why"


def take_stall(trial: TrialFolder, number: int) -> str | None:
    """Returns the cause if a trial's last worker stalled, else None; the stacks then go to a file of their own.

    Args:
        trial: The trial's folder.
        number: Names the file: stall-1.txt for the first time.
    """
    cause, path = stalled_cause(trial), stall_file(trial)
    if cause is None:
        return None
    try:
        path.replace(path.with_name(f"stall-{number}.txt"))
    except OSError:
        return cause
    return cause.replace(path.name, f"stall-{number}.txt")


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """How often a trial was tried again, in this process or an earlier one."""

    counts: Mapping[str, int] = field(default_factory=dict)
    """By kind of failure."""

    num_parts: int = 1
    """Into how many parts each microbatch is split: 2 after it ran out of memory."""

    notes: tuple[str, ...] = ()
    """What the trial's results say about it."""

    @property
    def note(self) -> str:
        """The notes in one line."""
        return "; ".join(self.notes)

    def plus(self, kind: str, note: str, *, is_halved: bool = False) -> "Attempts":
        """Returns these and one more of a kind.

        Args:
            kind: The kind of failure.
            note: What is done about it.
            is_halved: Whether microbatches are split once more from here on.
        """
        counts = {**self.counts, kind: self.counts.get(kind, 0) + 1}
        return Attempts(counts=counts, num_parts=self.num_parts * (2 if is_halved else 1), notes=(*self.notes, note))

    def write(self, trial: TrialFolder) -> None:
        """Writes them into the trial's folder in one step. Raises OSError if the disk is full."""
        write_json(_attempts_file(trial), asdict(self))


def read_attempts(trial: TrialFolder) -> Attempts:
    """Reads a trial's attempts; none if there is no file, or one that cannot be read."""
    try:
        value = read_json(_attempts_file(trial))
        return Attempts(
            counts={str(kind): int(count) for kind, count in value["counts"].items()},
            num_parts=int(value["num_parts"]),
            notes=tuple(str(note) for note in value["notes"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Attempts()


def _attempts_file(trial: TrialFolder) -> Path:
    return trial.path / "attempts.json"
