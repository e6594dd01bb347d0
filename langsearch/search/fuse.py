"""The fuse: failures in a row that say more of a machine than of trials end a run before they end every trial."""

from collections import Counter

from langsearch.trial.failures import NON_FINITE_LOSS, NON_FINITE_SCORE, OUT_OF_MEMORY, kind_of

_OF_THE_TRIAL = (NON_FINITE_LOSS, NON_FINITE_SCORE, OUT_OF_MEMORY)
"""Failures that a trial's own architecture and settings bring about: the next trial is another one."""

_NUM_SHOWN = 200
"""Characters of a cause."""


class Fuse:
    """Counts failed trials between which no trial has ended an epoch, in all and on each node.

    Args:
        limit: So many failures in a row blow it. None: it never blows.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._num_in_a_row = 0
        self._by_node: Counter[str] = Counter()

    def went_on(self, node: str | None) -> None:
        """Takes note of a trial that has ended an epoch.

        Args:
            node: The address of the node that it runs on; None: not known.
        """
        self._num_in_a_row = 0
        if node is not None:
            del self._by_node[node]

    def failed(self, cause: str, node: str | None) -> str | None:
        """Takes note of a trial that has failed for good; returns why the run is to stop, None if it goes on.

        Args:
            cause: "KIND: message".
            node: The address of the node that it ran on; None: not known, such as that of a lost worker.
        """
        if self._limit is None or kind_of(cause) in _OF_THE_TRIAL:
            return None
        self._num_in_a_row += 1
        if node is not None:
            self._by_node[node] += 1
        shown = cause.strip().partition("\n")[0]
        shown = shown if len(shown) <= _NUM_SHOWN else shown[: _NUM_SHOWN - 1] + "…"
        if self._num_in_a_row >= self._limit:
            return f"{self._num_in_a_row} trials in a row failed before one had ended an epoch, the last by {shown}"
        if node is not None and self._by_node[node] >= self._limit:
            return f"{self._by_node[node]} trials in a row failed on node {node} alone, the last by {shown}"
        return None
