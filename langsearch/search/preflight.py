"""What must hold on a cluster before the first trial: a node has room, and all see the same storage and data."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from langsearch.search import storage
from langsearch.search.display import Display
from langsearch.search.environment import Environment
from langsearch.search.nodes import Node, NodeError, ask, fits, live_nodes, may_come, show_amounts
from langsearch.search.remote import Remote, local_copy, open_remote
from langsearch.search.trial_resources import amounts
from langsearch.space.problems import InputError
from langsearch.space.schema import Space

Asked = Callable[[Mapping[str, float]], bool | None]

_TOKEN = "token"


def check_cluster(space: Space, root: Path, remote: Remote | None, display: Display) -> None:
    """Checks a cluster that this process is connected to, before anything is written.

    Args:
        space: What its nodes are to run.
        root: The folder of all experiments; made if absent.
        remote: The remote folder that it is a copy of, if it is.
        display: Shows what cannot be known.

    Raises:
        InputError: If no node has room for a trial and none can come, or a node with room cannot write the storage
            or sees another one under the same path.
    """
    wanted = amounts(space.resources)
    check_room(wanted, live_nodes(), may_come, display)
    nodes = [node for node in live_nodes() if node.fits(wanted)]
    check_storage(nodes, root, remote)


def check_room(wanted: Mapping[str, float], nodes: list[Node], may_come: Asked, display: Display) -> None:
    """Raises InputError if no node has room for a trial and none can come.

    Args:
        wanted: What a trial takes.
        nodes: The nodes that are there.
        may_come: Asked if none has room: whether one can come, or None where nobody knows.
        display: Shows that nobody knows.
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
    display.message(f"No node has {show_amounts(wanted)} for a trial yet ({have}): {known}.")


def check_storage(nodes: list[Node], root: Path, remote: Remote | None) -> None:
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
        _write_token(place, name, token)
        answers = ask(nodes, try_storage, place, name, token)
    except OSError as error:
        raise InputError(
            f"The experiments must lie where this machine can write, but {place} is not such a place ({error}). "
            "Give another one with --experiments."
        ) from error
    finally:
        _remove(place, name)
    _raise(nodes, answers, f"must read and write the experiments in {place}")


def check_files(environment: Environment, space: Space) -> None:
    """Raises InputError, naming node and file, if a node that may run trials cannot read what they read.

    Args:
        environment: Names the token files.
        space: Names the adapters that trials start from, if they do.
    """
    sizes = {
        str(path): path.stat().st_size
        for store in (environment.train, environment.validation, environment.test)
        for path in store.files.values()
    }
    if space.trainer_section.init_from is not None:
        sizes |= {str(Path(space.trainer_section.init_from).absolute()): -1}
    nodes = [node for node in live_nodes() if node.fits(amounts(space.resources))]
    _raise(nodes, ask(nodes, try_files, sizes), "must read the data of the trials")


def try_storage(place: str, name: str, token: str) -> str | None:
    """Reads the token of the driver and writes a file beside it; a Ray task. Returns what is wrong."""
    try:
        if not storage.is_remote(place):
            if not Path(place).is_dir():
                return f"there is no {place}"
            if not (Path(place) / name / _TOKEN).exists():
                return f"{place} is another folder there, not the one of the machine that runs the search"
        else:
            open_remote(place)
            if not local_copy(place).is_dir():
                return f"there can be no copy in {local_copy(place)}"
        if _read(place, f"{name}/{_TOKEN}") != token:
            return f"{place} is another place there, not the one of the machine that runs the search"
        _write_token(place, name, token, uuid4().hex)
    except (OSError, InputError) as error:
        return str(error)
    return None


def try_files(sizes: Mapping[str, int]) -> str | None:
    """Opens files of known sizes; a Ray task. A size of -1 is that of a folder. Returns what is wrong."""
    for path, size in sizes.items():
        try:
            if size < 0 and not Path(path).is_dir():
                return f"there is no folder {path}"
            if size >= 0:
                with Path(path).open("rb") as file:
                    file.read(1)
                if Path(path).stat().st_size != size:
                    return f"{path} is another file there"
        except OSError as error:
            return str(error)
    return None


def _raise(nodes: Iterable[Node], answers: Mapping[str, str | NodeError | None], rule: str) -> None:
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
            problems.append(
                f"Node {node} {rule}, but cannot: {answer.rstrip('.')}. Mount the same storage on every node, under "
                "one path, or give a URL such as s3://… with --experiments."
            )
    if problems:
        raise InputError(problems)


def _read(place: str, relative: str) -> str:
    if storage.is_remote(place):
        return storage.read_bytes(place, relative).decode()
    return (Path(place) / relative).read_text(encoding="utf-8")


def _write_token(place: str, folder: str, token: str, name: str = _TOKEN) -> None:
    if storage.is_remote(place):
        storage.write_bytes(place, f"{folder}/{name}", token.encode())
        return
    (Path(place) / folder).mkdir(parents=True, exist_ok=True)
    (Path(place) / folder / name).write_text(token, encoding="utf-8")


def _remove(place: str, name: str) -> None:
    with suppress(OSError):
        if not storage.is_remote(place):
            shutil.rmtree(Path(place) / name, ignore_errors=True)
            return
        for file in storage.modified(place, name):
            storage.delete(place, f"{name}/{file}")
