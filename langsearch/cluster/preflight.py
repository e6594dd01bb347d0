"""What must hold on a cluster before the first trial: a node has room, and all see the same experiments and data."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from langsearch.cluster.nodes import Node, NodeError, ask, fits, live_nodes, may_come, show_amounts
from langsearch.cluster.probes import (
    GPU_RULE,
    GPU_WAY_OUT,
    SAME_STORAGE,
    NodeCheck,
    remove_token,
    try_files,
    try_place,
    try_versions,
    versions,
    write_token,
)
from langsearch.cluster.resources import amounts
from langsearch.experiment.environment import Environment
from langsearch.experiment.remote import Remote
from langsearch.model.device import cuda_problem
from langsearch.space.problems import InputError
from langsearch.space.schema import Space

Asked = Callable[[Mapping[str, float]], bool | None]


def check_cluster(space: Space, root: Path, remote: Remote | None, tell: Callable[[str], None]) -> None:
    """Checks a cluster that this process is connected to, before anything is written.

    Args:
        space: What its nodes are to run.
        root: The folder of all experiments; made if absent.
        remote: The remote folder that it is a copy of, if it is.
        tell: Shows what cannot be known.

    Raises:
        InputError: If no node has room for a trial and none can come, or a node with room cannot write the storage
            or sees another one under the same path, has other versions, or has a GPU that CUDA cannot use.
    """
    wanted = amounts(space.resources)
    check_room(wanted, live_nodes(), may_come, tell)
    nodes = [node for node in live_nodes() if node.fits(wanted)]
    check_versions(nodes)
    check_place(nodes, root, remote)
    if space.resources.gpu > 0:
        check_gpus(nodes)


def check_room(wanted: Mapping[str, float], nodes: list[Node], may_come: Asked, tell: Callable[[str], None]) -> None:
    """Raises InputError if no node has room for a trial and none can come.

    Args:
        wanted: What a trial takes.
        nodes: The nodes that are there.
        may_come: Asked if none has room: whether one can come, or None where nobody knows.
        tell: Shows that nobody knows.
    """
    if any(node.fits(wanted) for node in nodes):
        return
    have = "; ".join(f"{node} has {show_amounts(node.resources)}" for node in nodes) or "there is none"
    can_come = may_come(wanted)
    if can_come is False:
        missing = [name for name in wanted if not any(fits(node.resources, {name: wanted[name]}) for node in nodes)]
        keys = {"CPU": "resources.cpu", "GPU": "resources.gpu or resources.trials_per_gpu"}
        changed = ", ".join(keys.get(name, f"resources.custom.{name}") for name in missing or wanted)
        raise InputError(
            f"A node must have all that a trial takes, {show_amounts(wanted)}, but {have}. "
            f"Change {changed}, or add such a node."
        )
    known = "one is asked for" if can_come else "this waits until the cluster brings one"
    tell(f"No node has {show_amounts(wanted)} for a trial yet ({have}): {known}.")


def check_versions(nodes: list[Node]) -> None:
    """Raises InputError, naming nodes and versions, if one of the nodes has others than this machine."""
    way_out = "Install these versions there; `langsearch doctor --address` compares them"
    rule = "must have the versions of langsearch, Ray and Python that this machine has"
    _raise(nodes, ask(nodes, try_versions, versions()), rule, way_out, but="but")


def check_place(nodes: list[Node], root: Path, remote: Remote | None) -> None:
    """Raises InputError, naming nodes and path, if one of the nodes does not write the storage that is seen here.

    Args:
        nodes: The nodes that may run trials.
        root: The folder of all experiments; made if absent.
        remote: The remote folder that it is a copy of, if it is.
    """
    if not nodes:
        return
    name, token = f".preflight-{uuid4().hex}", uuid4().hex
    place = str(root) if remote is None else remote.url
    try:
        write_token(place, name, token)
        answers = ask(nodes, try_place, place, name, token)
    except OSError as error:
        raise InputError(
            f"The experiments must lie where this machine can write, but {place} is not such a place ({error}). "
            "Give another one with --experiments."
        ) from error
    finally:
        remove_token(place, name)
    _raise(nodes, answers, f"must read and write the experiments in {place}")


def check_gpus(nodes: list[Node]) -> None:
    """Raises InputError, naming nodes and causes, if one of the nodes has a GPU for Ray that CUDA cannot use."""
    _raise(nodes, ask(nodes, cuda_problem), GPU_RULE, GPU_WAY_OUT)


def check_files(environment: Environment, space: Space) -> None:
    """Raises InputError, naming node and file, if a node that may run trials cannot read what they read.

    Args:
        environment: Names the token files.
        space: Names the adapters that trials start from, if they do.
    """
    nodes = [node for node in live_nodes() if node.fits(amounts(space.resources))]
    _raise(nodes, ask(nodes, try_files, _sizes(environment, space)), "must read the data of the trials")


@contextmanager
def node_check(space: Space, environment: Environment, root: Path, remote: Remote | None) -> Iterator[NodeCheck]:
    """Gives what nodes that come later must show; those that are there have shown it.

    The folder with the token, of the experiment's name, is there as long as the context.

    Args:
        space: What the nodes are to run; this process holds its experiment.
        environment: Names the token files.
        root: The folder of all experiments.
        remote: The remote folder that it is a copy of, if it is.
    """
    place, name, token = str(root) if remote is None else remote.url, f".nodes-{space.name}", uuid4().hex
    passed = frozenset(node.id for node in live_nodes() if node.fits(amounts(space.resources)))
    sizes = _sizes(environment, space) if remote is None else {}
    write_token(place, name, token)
    try:
        yield NodeCheck(versions(), place, name, token, sizes, space.resources.gpu > 0, passed)
    finally:
        remove_token(place, name)


def _sizes(environment: Environment, space: Space) -> dict[str, int]:
    sizes = {
        str(path): path.stat().st_size
        for store in (environment.train, environment.validation, environment.test)
        for path in store.files.values()
    }
    if space.trainer_section.init_from is not None:
        sizes |= {str(Path(space.trainer_section.init_from).absolute()): -1}
    sizes |= {str(folder.absolute()): -1 for folder in space.trainer_section.loss.folders}
    return sizes


def _raise(
    nodes: Iterable[Node],
    answers: Mapping[str, str | NodeError | None],
    rule: str,
    way_out: str = SAME_STORAGE,
    but: str = "but cannot:",
) -> None:
    alive = {node.id for node in live_nodes()}
    problems = []
    for node in nodes:
        answer = answers[node.id]
        if isinstance(answer, NodeError):
            if node.id in alive:  # else it went away, as preemptible ones do
                problems.append(
                    f"Node {node} must run langsearch, but cannot: {answer.cause.rstrip('.')}. Install the same "
                    "version there; `langsearch doctor --address` compares them."
                )
        elif answer is not None:
            problems.append(f"Node {node} {rule}, {but} {answer.rstrip('.')}. {way_out}.")
    if problems:
        raise InputError(problems)
