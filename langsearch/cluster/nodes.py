"""The nodes of a Ray cluster, and asking something of each of them."""

import json
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
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

NODE_LABEL = "ray.io/node-id"
"""By which Ray labels each node with its id."""

_STATUS = b"__autoscaling_status"
"""Where the autoscaler's first version writes what it has and starts; the second one writes nothing there."""

_SECOND_VERSION, _AUTOSCALER_NAMESPACE = b"__autoscaler_v2_enabled", b"__autoscaler"
"""Where Ray says that the autoscaler is of the second version, as KubeRay's always is."""


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


def not_on(node_ids: Iterable[str]) -> dict[str, str]:
    """Returns a selector of Ray's node labels that leaves nodes out; empty where there are none."""
    listed = ",".join(sorted(node_ids))
    return {NODE_LABEL: f"!in({listed})"} if listed else {}


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
    asked = {node.id: begin_to_ask(node, function, *arguments) for node in nodes}
    if asked:
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=_SECONDS_TO_ANSWER)
    return {node: answer(reference) for node, reference in asked.items()}


def begin_to_ask(node: Node, function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns a reference to the answer of a node, as `ask` asks for it; `answer` reads it."""
    there = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return ray.remote(num_cpus=0, max_retries=0)(function).options(scheduling_strategy=there).remote(*arguments)


def answer(reference: Any) -> Any:
    """Returns what a node has answered, or a `NodeError`; waits no longer than a second."""
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
        is_second, state = ray.get(ray.remote(num_cpus=0)(read_autoscaler_state).remote(), timeout=_SECONDS_TO_ANSWER)
    except RayError:
        return False
    # The second version is only switched on with an autoscaler, and writes no state before it has something to do.
    return is_second or _has_kinds(state)


def _has_kinds(state: bytes | None) -> bool:
    """Returns whether the state of an autoscaler's first version names kinds of nodes."""
    try:
        report = json.loads(state or b"{}").get("autoscaler_report") or {}
        kinds = {**(report.get("active_nodes") or {}), **(report.get("pending_launches") or {})}
    except (ValueError, AttributeError, TypeError):
        return False
    # Where nothing can be started, Ray names a kind after each node.
    return any(not name.startswith("node_") for name in kinds)


def read_autoscaler_state() -> tuple[bool, bytes | None]:
    """Returns whether there is an autoscaler of the second version, and what one of the first has written of itself.

    A Ray task, since a client cannot read it.
    """
    from ray.experimental.internal_kv import _internal_kv_get

    is_second = _internal_kv_get(_SECOND_VERSION, namespace=_AUTOSCALER_NAMESPACE) == b"1"
    return is_second, _internal_kv_get(_STATUS)


def _place(name: str) -> tuple[bool, bool, str]:
    return name != "CPU", name != "GPU", name


def _is_bookkeeping(name: str) -> bool:
    return name in ("memory", "object_store_memory") or name.startswith(("node:", "bundle")) or "_group_" in name
