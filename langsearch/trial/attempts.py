"""How often a trial was tried again and what was changed for it, as a file in its folder."""

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from langsearch.experiment.folder import TrialFolder, read_json, write_json
from langsearch.experiment.task import TrialTask
from langsearch.model.memory import MAX_PARTS
from langsearch.space.settings import FailureSettings
from langsearch.trial.failures import STALLED, reaction

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """How often a trial was tried again, in this process or an earlier one."""

    counts: Mapping[str, int] = field(default_factory=dict)
    """By kind of failure."""

    num_parts: int = 1
    """Into how many parts each microbatch is split: 2, 4, 8 … after it ran out of memory once, twice, three times."""

    notes: tuple[str, ...] = ()
    """What the trial's results say about it."""

    @property
    def note(self) -> str:
        """The notes in one line."""
        return "; ".join(self.notes)

    def plus(self, kind: str, note: str) -> "Attempts":
        """Returns these and one more of a kind.

        Args:
            kind: The kind of failure.
            note: What is done about it.
        """
        counts = {**self.counts, kind: self.counts.get(kind, 0) + 1}
        return Attempts(counts=counts, num_parts=self.num_parts, notes=(*self.notes, note))

    def halved(self, kind: str, epoch: int, accumulation: int, *, is_trained: bool) -> "Attempts":
        """Returns these with every microbatch split once more; one note tells of all that in an epoch.

        Args:
            kind: The kind of failure.
            epoch: In which it happened, from 1.
            accumulation: Microbatches of an update, as the space has it.
            is_trained: Whether the trial is trained, not only scored.
        """
        parts = 2 * self.num_parts
        if not is_trained:
            begin, note = f"{kind}: decoded with ", f"{kind}: decoded with 1/{parts} of a batch at once"
        else:
            begin, before = f"{kind} in epoch {epoch}: accumulation ", self.num_parts * accumulation
            if self.notes and (found := re.fullmatch(rf"{begin}\d+ instead of (\d+) from there", self.notes[-1])):
                before = int(found[1])
            note = f"{begin}{parts * accumulation} instead of {before} from there"
        notes = self.notes[:-1] if self.notes and self.notes[-1].startswith(begin) else self.notes
        counts = {**self.counts, kind: self.counts.get(kind, 0) + 1}
        return Attempts(counts=counts, num_parts=parts, notes=(*notes, note))

    def write(self, trial: TrialFolder) -> None:
        """Writes them into the trial's folder in one step. Raises OSError if the disk is full."""
        write_json(_attempts_file(trial), asdict(self))


def next_attempts(
    attempts: Attempts,
    trial: TrialFolder,
    task: TrialTask,
    failures: FailureSettings,
    cause: str,
    *,
    epoch: int,
    max_failures: int,
    can_halve: bool = True,
) -> Attempts | None:
    """Returns what a trial is tried again with after a failure, written into its folder; None: it is not.

    Args:
        attempts: Those before.
        trial: The trial's folder.
        task: What it trains.
        failures: What a space says to do about failures.
        cause: The kind of the failure.
        epoch: In which it happened, from 1.
        max_failures: How often a kind of failure is tried again where `failures` says retry.
        can_halve: Whether smaller batches can help.
    """
    what = reaction(failures, cause)
    if what == "halve" and can_halve and attempts.num_parts < MAX_PARTS:
        found = attempts.halved(cause, epoch, task.trainer.accumulation, is_trained=task.num_epochs > 0)
    elif what == "retry" and attempts.counts.get(cause, 0) < max_failures:
        where = "before" if cause == STALLED else f"in epoch {epoch}"
        found = attempts.plus(cause, f"{cause} {where}: tried again")
    else:
        return None
    try:
        found.write(trial)
    except OSError:  # a full disk; this process knows it anyway
        logger.exception("The attempts of trial %s could not be written", trial.name)
    return found


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
