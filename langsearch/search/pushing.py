"""The searcher of an experiment that may lie in an object store."""

from typing import Any

from langsearch.search.searcher import TableSearcher
from langsearch.search.uploading import Uploads


class PushingSearcher(TableSearcher):
    """Sends a new trial's row and task to the remote before a worker on another machine gets it."""

    uploads: Uploads | None = None

    def suggest(self, trial_id: str) -> Any:
        """As `TableSearcher.suggest`."""
        config = super().suggest(trial_id)
        if self.uploads is not None and isinstance(config, dict):
            try:
                self.uploads.propose(config["name"], self._table.row(config["name"]).retry_of)
            except OSError as error:  # a full disk
                self._stop_run_unwritten(error)
        return config
