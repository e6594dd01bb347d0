"""Workers for the last scores, started while the last trials still train: a process takes seconds to begin."""

from typing import Any

import ray

from langsearch.model.families import FAMILIES


class ReadyWorkers:
    """Has the cores that no trial will need any more start workers, which Ray keeps for the tasks that follow.

    Args:
        is_meant: Whether it does; elsewhere than on one machine alone, room is left to who comes.
    """

    def __init__(self, *, is_meant: bool) -> None:
        self._is_meant = is_meant
        self._begun: list[Any] = []

    def look(self, num_free: int) -> None:
        """Begins workers until there are so many, counting those that were begun before."""
        while self._is_meant and len(self._begun) < num_free:
            # Tune may still hold the room of a trial that has ended; the core is free.
            self._begun.append(ray.remote(_get_ready).options(num_cpus=0).remote())


def _get_ready() -> None:
    """Imports what scoring needs. The base is left to the scores: a trial that has ended may hold a copy yet."""
    from langsearch.search import tasks  # noqa: F401

    for family in FAMILIES:
        _ = family.model_class
