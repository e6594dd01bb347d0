"""What a search leaves on the nodes of a cluster, and who takes it away."""

import ray

from langsearch.cluster.nodes import begin_to_ask, live_nodes
from langsearch.experiment.working_copy import WorkingCopy, remove_copy

_SECONDS_TO_CLEAR = 30.0


def clear_nodes(copy: WorkingCopy) -> None:
    """Has all nodes remove their copies of a remote experiment; that of the machine that runs the search stays.

    A node that does not answer within half a minute is left as it is: its next search of the experiment takes over
    what is there.
    """
    asked = [begin_to_ask(node, remove_copy, copy) for node in live_nodes()]
    if asked:
        ray.wait(asked, num_returns=len(asked), timeout=_SECONDS_TO_CLEAR)
