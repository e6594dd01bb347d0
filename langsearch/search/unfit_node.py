"""Whether the node that a worker runs on is fit for its trial. Loads nothing but what a worker needs."""

import socket

import ray

from langsearch.cluster.probes import NodeCheck, try_node


class UnfitNodeError(Exception):
    """A task's node is not fit for it.

    Args:
        node_id: The node's.
        name: How it is shown.
        problem: What is wrong, as `try_node` says it.
    """

    def __init__(self, node_id: str, name: str, problem: str) -> None:
        super().__init__(node_id, name, problem)
        self.node_id, self.name, self.problem = node_id, name, problem


def check_here(check: NodeCheck | None) -> None:
    """Looks at the node that this worker runs on, unless that was done at the start of the search.

    Raises:
        UnfitNodeError: If it is not fit.
    """
    if check is None:
        return
    context = ray.get_runtime_context()
    node_id = context.get_node_id()
    if node_id not in check.passed and (problem := try_node(check)) is not None:
        raise UnfitNodeError(node_id, f"{socket.gethostname()} ({ray.util.get_node_ip_address()})", problem)
