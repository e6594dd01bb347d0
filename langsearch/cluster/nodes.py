"""The nodes of a Ray cluster, and asking something of each of them."""

import json
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

T = TypeVar("T")

_SECONDS_TO_ANSWER = 180.0
"""A node's first task starts a process that imports langsearch from a cold disk."""

_BOOTSTRAP = "~/ray_bootstrap_config.yaml"
"""Where Ray's cluster launcher leaves its configuration on the head."""

_STATUS = b"__autoscaling_status"


@dataclass(frozen=True)
class Node:
    """A node that is alive."""

    id: str
    name: str
    address: str
    resources: Mapping[str, float]
    """All that it has, used or not, by Ray's names."""

    is_head: bool

    def __str__(self) -> str:
        return f"{self.name} ({self.address})"

    def fits(self, amounts: Mapping[str, float]) -> bool:
        """Returns whether it has as much, if nothing else ran there."""
        return fits(self.resources, amounts)


@dataclass(frozen=True)
class NodeError:
    """Why a node did not answer."""

    cause: str


def fits(resources: Mapping[str, float], amounts: Mapping[str, float]) -> bool:
    """Returns whether there is as much of each resource as is asked for."""
    return all(resources.get(name, 0.0) + 1e-6 >= amount for name, amount in amounts.items())


def show_amounts(amounts: Mapping[str, float]) -> str:
    """Returns "2 CPU, 0.5 GPU"; what every node has beside them is left out."""
    names = sorted((name for name in amounts if amounts[name] and not _is_bookkeeping(name)), key=_place)
    return ", ".join(f"{amounts[name]:g} {name}" for name in names) or "nothing"


def live_nodes() -> list[Node]:
    """Returns the nodes of the cluster, the head first, then by name."""
    nodes = [
        Node(
            id=node["NodeID"],
            name=node["NodeManagerHostname"],
            address=node["NodeManagerAddress"],
            resources=dict(node["Resources"]),
            is_head="node:__internal_head__" in node["Resources"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(nodes, key=lambda node: (not node.is_head, node.name, node.address, node.id))


def ask(nodes: Sequence[Node], function: Callable[..., T], *arguments: Any) -> dict[str, T | NodeError]:
    """Runs a function on each node, all at once, beside whatever runs there.

    Args:
        nodes: The nodes to ask.
        function: A function of a module of langsearch, which every node must have.
        arguments: The function's.

    Returns:
        The answer of each node by its id, or why there is none.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = {
        node.id: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(
            *arguments
        )
        for node in nodes
    }
    if asked:
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=_SECONDS_TO_ANSWER)
    return {node: _answer(reference) for node, reference in asked.items()}


def _answer(reference: Any) -> Any:
    try:
        return ray.get(reference, timeout=1)
    except GetTimeoutError:
        return NodeError(f"it did not answer within {_SECONDS_TO_ANSWER:g} seconds")
    except RayTaskError as error:
        return NodeError(str(error).strip().splitlines()[-1])
    except (RayError, RuntimeError, ImportError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        imports = [line for line in lines if line.startswith(("ModuleNotFoundError", "ImportError"))]
        return NodeError((imports or lines or [type(error).__name__])[-1 if imports else 0])


def may_come(amounts: Mapping[str, float]) -> bool | None:
    """Returns whether the autoscaler can start a node with so much; None where an autoscaler says not what it can."""
    head = next((node for node in live_nodes() if node.is_head), None)
    configuration = Path(_BOOTSTRAP).expanduser()
    if head is not None and head.name == socket.gethostname() and configuration.exists():
        kinds = _node_kinds(configuration)
        if kinds is not None:
            return any(fits(resources, amounts) for resources in kinds)
    return None if _is_autoscaled() else False


def _node_kinds(configuration: Path) -> list[Mapping[str, float]] | None:
    """Returns what the workers have that Ray's cluster launcher may start; None where it cannot be read."""
    try:
        loaded = YAML(typ="safe", pure=True).load(configuration.read_text(encoding="utf-8"))
        kinds = [kind for name, kind in loaded["available_node_types"].items() if name != loaded["head_node_type"]]
        # A kind without resources has what Ray finds on it when it is up: nobody knows before.
        if any(not kind.get("resources") and kind.get("max_workers", 1) for kind in kinds):
            return None
        return [kind["resources"] for kind in kinds if kind.get("max_workers", 1)]
    except (OSError, YAMLError, KeyError, AttributeError, TypeError):
        return None


def _is_autoscaled() -> bool:
    """Returns whether an autoscaler of the cluster can start nodes, as far as its state says."""
    try:
        state = ray.get(ray.remote(num_cpus=0)(read_autoscaler_state).remote(), timeout=_SECONDS_TO_ANSWER)
        kinds = json.loads(state or b"{}").get("autoscaler_report", {}).get("active_nodes", {})
    except (RayError, ValueError, AttributeError):
        return False
    # Where nothing can be started, Ray names a kind after each node.
    return any(not name.startswith("node_") for name in kinds)


def read_autoscaler_state() -> bytes | None:
    """Returns what the autoscaler has written of itself; a Ray task, since a client cannot read it."""
    from ray.experimental.internal_kv import _internal_kv_get

    found: bytes | None = _internal_kv_get(_STATUS)
    return found


def _place(name: str) -> tuple[bool, bool, str]:
    return name != "CPU", name != "GPU", name


def _is_bookkeeping(name: str) -> bool:
    return name in ("memory", "object_store_memory") or name.startswith(("node:", "bundle")) or "_group_" in name
