"""An object store that is away for a while must not end a trial that has trained for an hour."""

import logging
import time
from collections.abc import Callable

from langsearch.experiment.lock import DEAD_AFTER_SECONDS

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_TRIES = 5.0


def patiently(
    action: Callable[[], None],
    should_give_up: Callable[[], bool] = lambda: False,
    *,
    seconds: float = DEAD_AFTER_SECONDS,
    seconds_between: float = _SECONDS_BETWEEN_TRIES,
) -> None:
    """Does something with an object store, again and again as long as it fails.

    Args:
        action: What to do; it can be repeated.
        should_give_up: Asked between two tries.
        seconds: How long to try: by default as long as a driver's lease lasts without the store.
        seconds_between: How long to wait between two tries.

    Raises:
        OSError: The last one, if it does not succeed in time, or is given up.
        LeaseLostError: If the driver has lost its lease, at once.
    """
    until, has_told = time.monotonic() + seconds, False
    while True:
        try:
            action()
        except OSError as error:
            if time.monotonic() + seconds_between > until or should_give_up():
                raise
            if not has_told:
                logger.warning("%s; this is tried again for %.0f seconds.", error, seconds)
            has_told = True
            time.sleep(seconds_between)
        else:
            return
