"""Nodes that come while a search runs: each is looked at, and one that is not fit gets no trial.

The cluster's autoscaler starts a node when trials wait, and the first of them begins there at once. So a worker looks
at its node before it touches its trial, and gives the trial back where the node is not fit. Where langsearch itself
does not run, no worker can say so: the driver looks at each new node, too. Who runs a trial, or a task of its size,
leaves out the nodes that were found unfit; on the others the search goes on.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler

from langsearch.cluster.nodes import Node, NodeError, answer, begin_to_ask, live_nodes, not_on
from langsearch.cluster.probes import NodeCheck, try_node
from langsearch.study.early_stopping import AsyncHalving

_SECONDS_TO_SETTLE = 60.0


class LateNodes:
    """Which nodes trials may run on: all but those that have come and were found unfit.

    Args:
        wanted: What a trial takes, by Ray's names.
        check: What a node must show. None: on this machine alone no other node comes.
        tell: Gets one sentence for each node that is not fit.
    """

    def __init__(self, wanted: Mapping[str, float], check: NodeCheck | None, tell: Callable[[str], None]) -> None:
        self.check = check
        self._wanted, self._tell = wanted, tell
        self._unfit: set[str] = set()
        self._known: set[str] = set() if check is None else set(check.passed)
        self._asked: dict[str, tuple[Node, Any]] = {}

    @property
    def selector(self) -> dict[str, str]:
        """Of the nodes that a task may run on, by Ray's labels."""
        return not_on(self._unfit)

    def request(self) -> tune.PlacementGroupFactory:
        """Returns what a trial asks Tune for."""
        where = {"bundle_label_selector": [self.selector]} if self._unfit else {}
        return tune.PlacementGroupFactory([dict(self._wanted)], **where)

    def resources(self) -> list[Mapping[str, float]]:
        """Returns what each node that is there and not unfit has."""
        return [node.resources for node in live_nodes() if node.id not in self._unfit]

    def refuse(self, node_id: str, name: str, problem: str) -> None:
        """Leaves a node out from now on, and says so, once."""
        if node_id not in self._unfit:
            self._unfit.add(node_id)
            self._tell(f"Node {name} gets no trial: it {problem}")

    def look(self) -> None:
        """Asks the nodes that have come since the last look, and hears those that have answered; returns at once."""
        if self.check is None:
            return  # on this machine alone no node comes
        for node in live_nodes():
            if node.id not in self._known and node.fits(self._wanted):
                self._known.add(node.id)
                # Without its GPU, which a trial may have by now: its worker has looked at it.
                check = replace(self.check, needs_gpu=False)
                self._asked[node.id] = node, begin_to_ask(node, try_node, check)
        self._hear(0)

    def settle(self) -> None:
        """Hears what the nodes have to say that were asked, for a minute at most: one of them has lost a trial."""
        self.look()
        self._hear(_SECONDS_TO_SETTLE)

    def _hear(self, seconds: float) -> None:
        if not self._asked:
            return
        references = {reference: node_id for node_id, (_, reference) in self._asked.items()}
        done, _ = ray.wait(list(references), num_returns=len(references), timeout=seconds)
        for reference in done:
            node, _ = self._asked.pop(references[reference])
            found = answer(reference)
            if isinstance(found, NodeError):
                if any(node.id == other.id for other in live_nodes()):  # else it went away, as preemptible ones do
                    cause = found.cause.rstrip(".")
                    problem = f"must run langsearch, but cannot: {cause}. Install the same version there."
                    self.refuse(node.id, str(node), problem)
            elif found is not None:
                self.refuse(node.id, str(node), found)


class _Placed(FIFOScheduler):  # type: ignore[misc]  # Ray has no types
    """A scheduler whose trials run on fit nodes, and that can end those that wait for a node."""

    late_nodes: LateNodes
    controller: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its scheduler into its own folder; nobody reads that, so nothing goes in."""
        return {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Called by Tune before a trial, new or to be restarted, waits for its resources."""
        self.controller = tune_controller
        trial.placement_group_factory = self.late_nodes.request()
        super().on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Called by Tune when a trial has lost its worker, before it waits for another one."""
        self.late_nodes.settle()
        trial.placement_group_factory = self.late_nodes.request()
        super().on_trial_error(tune_controller, trial)

    def end_waiting(self) -> None:
        """Ends the trials that wait for a node, which need not come any more; in the table they are to go on later."""
        if self.controller is None:
            return
        for trial in list(self.controller.get_trials()):
            if trial.status == "PENDING":
                self.controller.stop_trial(trial)


class PlacedFifo(_Placed):
    """Every trial runs to its end."""


class PlacedHalving(_Placed, AsyncHalving):
    """Early stopping."""
