"""How a search ended, in sentences, with what can be done next."""

import signal
from dataclasses import dataclass

from langsearch.cluster.interrupts import exit_code
from langsearch.search.runner import Outcome
from langsearch.search.stop_reasons import INTERRUPTED, REQUESTED, TERMINATED, TIME

_SIGNALLED = {INTERRUPTED: exit_code(signal.SIGINT), TERMINATED: exit_code(signal.SIGTERM)}
"""Exit codes, by what stopped the run."""


@dataclass(frozen=True)
class Ending:
    """What is told of a search's end."""

    code: int
    """The command's exit code: 0 done, or the time was up; 1 failed; 130 interrupted, 143 by SIGTERM."""

    told: tuple[str, ...] = ()
    error: str | None = None
    """What went wrong, in a sentence."""


def ending_of(outcome: Outcome, *, is_idle: bool) -> Ending:
    """Returns how a search ended and what can be done next.

    Args:
        outcome: The run's.
        is_idle: Whether the run went on with an experiment and started no trial.
    """
    told: list[str] = []
    if outcome.num_failed:
        trials = "1 trial" if outcome.num_failed == 1 else f"{outcome.num_failed} trials"
        told.append(f"{trials} failed; the causes are in the report. To try again: --resume --retry failed")
    reasons = {
        TIME: "The time is up",
        INTERRUPTED: "Interrupted",
        TERMINATED: "Interrupted by SIGTERM",
        REQUESTED: "Stopped on request",
    }
    if outcome.stopped_by in reasons:
        why = reasons[outcome.stopped_by]
        told.append(f"{why}: not all trials have ended. Go on with the same command and --resume.")
        return Ending(_SIGNALLED.get(outcome.stopped_by, 0), tuple(told))
    if outcome.stopped_by is not None:
        error = (
            f"Stopped: {outcome.stopped_by.rstrip('.')}. {_way_out(outcome.stopped_by)}; "
            "then go on with the same command and --resume: no finished epoch is lost."
        )
        return Ending(1, tuple(told), error)
    if not outcome.is_complete:
        return Ending(1, tuple(told), "The front could not be scored or tested; --resume tries it again.")
    if outcome.num_complete == 0:
        return Ending(1, tuple(told), "No searched trial could finish; the causes are in the report.")
    if is_idle and outcome.ended_by != "exhausted":
        more = " For more: --resume --trials N" if outcome.ended_by == "trials" else ""
        told.append(f"No trial was left to run: the search had ended before.{more}")
    ends = {
        "plateau": "Ended before all trials: the last ones gained too little (`search.plateau`).",
        "exhausted": "Ended before all trials: every point of the space was tried.",
    }
    if outcome.ended_by in ends:
        told.append(ends[outcome.ended_by])
    return Ending(0, tuple(told))


def _way_out(cause: str) -> str:
    if cause.startswith("disk full"):
        return "Make room on the disk, or lower `checkpoints.max_gigabytes`"
    if cause.startswith("the trial table"):
        return "See that its database answers and can be written"
    if cause.startswith("storage"):
        return "See that the storage answers and can be written"
    return "Remove the cause, or change `failures`"
