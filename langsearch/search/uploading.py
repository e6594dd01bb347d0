"""When the parts of a remote experiment go there: what others wait for at once, the rest from time to time."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from langsearch.experiment.folder import ExperimentFolder, read_json, write_json
from langsearch.experiment.study_pieces import StudyUpload
from langsearch.experiment.working_copy import WorkingCopy
from langsearch.study.recording import add_recorded, record_proposals
from langsearch.study.table import TrialTable

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_STUDIES = 5.0
"""The study may be so much older there: what it lacks is in the trials' folders."""

SECONDS_BETWEEN_RESTS = 60.0
"""Results, description and what trackers write: nobody needs them to go on."""

PROPOSALS = "proposals.json"
"""In a trial's folder: the trials up to this one that the study on the remote may not have."""


class Uploads:
    """Sends what the driver of a remote experiment writes.

    A trial's folder goes before its worker begins, and says which trials the study there does not have yet. So a
    driver that is killed between two uploads of the study loses none: the next one adds them (`add_missing`), and
    finds what they had reached in their folders. What is deleted here is deleted there behind the study that says why.

    Args:
        copy: The working copy.
        folder: The experiment in it.
        table: The trial table.
        clock: Returns seconds.
    """

    def __init__(
        self,
        copy: WorkingCopy,
        folder: ExperimentFolder,
        table: TrialTable,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._copy, self._folder, self._table, self._clock = copy, folder, table, clock
        self._study = StudyUpload(copy.remote.url, copy.path, copy.check)
        self._num_known = 0
        self._study_sent = self._rest_sent = float("-inf")
        self._freed: dict[str, None] = {}

    def push(self) -> None:
        """Sends all that has changed. Raises StorageError."""
        self._copy.push()
        self._push_study()
        self._push_freed()

    def try_push(self) -> None:
        """Sends all that has changed; what fails is logged, and goes with the next one."""
        self._rest_sent = self._study_sent = float("-inf")
        self.look()

    def look(self) -> None:
        """Sends what is due; called often."""
        now = self._clock()
        if now - self._study_sent >= SECONDS_BETWEEN_STUDIES:
            self._study_sent = now
            try:
                self._push_study()
                self._push_freed()
            except OSError as error:
                logger.warning("%s", error)
        if now - self._rest_sent >= SECONDS_BETWEEN_RESTS:
            self._rest_sent = now
            self._copy.try_push(None)

    def propose(self, name: str, retried: str | None) -> None:
        """Sends a new trial, before a worker on another machine gets it.

        Args:
            name: The trial's.
            retried: The failed trial that it tries again, and has taken over the checkpoints of.
        """
        self.look()
        records = record_proposals(self._table, self._num_known)
        file = self._folder.trial(name).path / PROPOSALS
        if records:
            write_json(file, {"proposals": records})
        else:
            file.unlink(missing_ok=True)
        # The new trial before the old one: it has taken over the old one's checkpoints.
        self._copy.try_push(name, *([retried] if retried else []))

    def free(self, names: Iterable[str]) -> None:
        """Has what was deleted of some trials deleted there too, once the study there says that they have ended."""
        self._freed |= dict.fromkeys(names)

    def _push_study(self) -> None:
        num = self._table.num_searched
        self._study.push()
        self._num_known = num

    def _push_freed(self) -> None:
        for name in list(self._freed):
            if self._copy.try_push(name):
                del self._freed[name]


def add_missing(folder: ExperimentFolder, table: TrialTable) -> int:
    """Adds the trials to a table that a driver before had begun when it was lost, and the study does not have.

    Args:
        folder: The experiment, brought from the remote.
        table: Its trial table.

    Returns:
        How many they were.
    """
    records: list[dict[str, Any]] = []
    for path in (folder.path / "trials").glob(f"*/{PROPOSALS}"):
        try:
            records += read_json(path)["proposals"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s cannot be read: %s", path, error)
    return add_recorded(table, records)
