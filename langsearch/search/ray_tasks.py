"""Ray tasks of a trial's size, on nodes that are fit for them: begun together, and heard of as they end."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, TypeVar

import ray

from langsearch.cluster.resources import task_options
from langsearch.search.search import Search
from langsearch.search.unfit_node import UnfitNodeError

Key = TypeVar("Key", bound=Hashable)

_SECONDS_BETWEEN_LOOKS = 1.0
"""At whether the experiment is held still."""


def as_they_end(
    search: Search, function: Callable[..., Any], asked: Mapping[Key, tuple[Any, ...]]
) -> Iterator[tuple[Key, Any, Exception | None]]:
    """Runs a function as several tasks; yields (key, what it returned, None), or (key, None, what it or Ray raised).

    A node that is not fit for them is left out, and what it had begins on another one.

    Args:
        search: The search; another run that takes over its experiment ends this with LeaseLostError.
        function: Takes the arguments, then what a node must show that came late, and the driver's lease.
        asked: The arguments of each task, by a key of the caller's, in the order in which they are to begin.
    """
    late_nodes = search.late_nodes

    def begin(key: Key) -> Any:
        task = ray.remote(function).options(**task_options(search.space.resources, late_nodes.selector))
        return task.remote(*asked[key], late_nodes.check, search.lease_mark)

    pending = {begin(key): key for key in asked}
    while pending:
        search.check_held()
        for reference in ray.wait(list(pending), timeout=_SECONDS_BETWEEN_LOOKS)[0]:
            key = pending.pop(reference)
            try:
                value = ray.get(reference)
            except Exception as error:  # of whoever began it to tell
                if isinstance(unfit := getattr(error, "cause", None), UnfitNodeError):
                    late_nodes.refuse(*unfit.args)
                    pending[begin(key)] = key
                else:
                    yield key, None, error
            else:
                yield key, value, None


def result_of(search: Search, function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns what one such task returns. Raises what it or Ray raised."""
    ((_, value, error),) = as_they_end(search, function, {0: arguments})
    if error is not None:
        raise error
    return value
