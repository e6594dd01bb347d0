"""What becomes of a trial whose node or worker is lost: it goes on elsewhere, and in the end it has a cause.

Ray Tune starts it again on another worker, as often as `resources.max_failures` says. That one finds the trial's own
checkpoint in its folder, so that at most the epoch in progress is lost. After that the trial has failed, for a cause
that is read here from Ray's error and from what the worker has left behind. A later node takes trials as they come.
"""

import re

from ray import tune

from langsearch.experiment.folder import TrialFolder
from langsearch.space.run_sections import ResourcesSection
from langsearch.trial.failures import NODE_LOST, OUT_OF_MEMORY, WORKER_LOST
from langsearch.trial.stalls import stalled_cause


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
