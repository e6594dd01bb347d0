"""What becomes of a trial whose node or worker is lost: it goes on elsewhere, and in the end it has a cause.

Ray Tune starts it again on another worker, as often as `resources.max_failures` says. That one finds the trial's own
checkpoint in its folder, so that at most the epoch in progress is lost. After that the trial has failed, for a cause
that is read here from Ray's error and from what the worker has left behind. A later node takes trials as they come.
"""

import logging
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import tune

from langsearch.experiment.folder import ExperimentFolder, TrialFolder
from langsearch.space.run_sections import ResourcesSection
from langsearch.trial.failures import NODE_LOST, OUT_OF_MEMORY, WORKER_LOST
from langsearch.trial.stalls import stalled_cause

logger = logging.getLogger(__name__)


def restarts(resources: ResourcesSection) -> tune.FailureConfig:
    """Returns how often Tune starts a trial again whose worker died."""
    return tune.FailureConfig(max_failures=resources.max_failures)


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


@dataclass
class Losses:
    """Why workers were lost, from the files in which Tune keeps the text of Ray's errors."""

    folder: ExperimentFolder
    max_failures: int = 0
    trials: dict[str, Any] = field(default_factory=dict)
    """Tune's trials by our names, from when they begin."""

    num_again: Counter[str] = field(default_factory=Counter)

    def begins_again(self, name: str) -> bool:
        """Returns whether a trial that has not begun goes on: Tune counts as failed what a warm worker dies before."""
        if name in self.trials or self.num_again[name] >= self.max_failures:
            return False
        self.num_again[name] += 1
        return True

    def explain(self, name: str) -> str:
        """Returns the cause of a trial whose worker was lost, "KIND: message"."""
        trial, text = self.trials.get(name), ""
        try:
            text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace") if trial else ""
        except (OSError, TypeError):
            logger.debug("Tune has no error of trial %s", name)
        return lost_cause(self.folder.trial(name), text)
