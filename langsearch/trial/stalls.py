"""A trial that makes no progress: where its stacks are kept, and the cause that its next worker tells."""

import re
from pathlib import Path

from langsearch.experiment.folder import TrialFolder
from langsearch.trial.failures import STALLED


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
