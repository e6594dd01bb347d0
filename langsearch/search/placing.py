"""The base in Ray's object store: a task puts it there, so that the driver holds no weights, unless it is small.

The object store keeps it once a node, and every worker of the node maps it without a copy, also where the node has none
of the base's files. Ray knows which task made it: where the object is lost, the task runs again.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from langsearch.model.base import SharedBase, load_base, share_base
from langsearch.model.finding import FoundBase
from langsearch.model.new_languages import with_new_languages
from langsearch.space.problems import InputError

_SMALL_BYTES = 200_000_000
"""A base whose files have no more is put into the store by the driver: another process takes seconds to begin."""


def place_base(
    found: FoundBase,
    weights: Path,
    new_languages: Mapping[str, str],
    node_id: str | None = None,
    *,
    is_alone: bool = False,
) -> Any:
    """Returns a reference to a `SharedBase` in the object store, once it is there; the driver must hold on to it.

    Args:
        found: The base.
        weights: The folder with its weights that `provide_weights` has returned.
        new_languages: For each new language the one whose token its own starts from.
        node_id: The node that has the files. None: this process's. Another one serves where that one is gone.
        is_alone: Whether Ray has this machine alone, so that no object is ever lost.

    Raises:
        InputError: If the base cannot be loaded.
    """
    if is_alone and sum(path.stat().st_size for path in weights.glob("*.safetensors")) <= _SMALL_BYTES:
        return ray.put(_share(found, weights, new_languages)[0])
    here = NodeAffinitySchedulingStrategy(node_id or ray.get_runtime_context().get_node_id(), soft=True)
    # It takes no CPU: it has to run on a node without any, too, and nothing else runs until it has ended.
    task = ray.remote(_share).options(num_cpus=0, num_returns=2, scheduling_strategy=here)
    base, name = task.remote(_anywhere(found), weights.absolute(), new_languages)
    try:
        ray.get(name)  # the base itself would be mapped into this process
    except RayTaskError as error:
        with suppress(RayTaskError):
            ray.get(base)  # Ray logs errors that nobody has heard of
        if isinstance(error.cause, InputError):
            raise InputError(error.cause.problems) from error
        raise
    return base


def _share(found: FoundBase, weights: Path, new_languages: Mapping[str, str]) -> tuple[SharedBase, str]:
    # On a node without the files that the driver has found it is looked for as if it were the first time.
    base = load_base(found, weights=weights) if weights.is_dir() else load_base(found.source)
    return share_base(with_new_languages(base, new_languages)), base.name


def _anywhere(found: FoundBase) -> FoundBase:
    """Returns what was found by absolute paths: a worker of a cluster need not run in the driver's folder."""
    return replace(found, folder=found.folder.absolute())
