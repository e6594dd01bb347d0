"""`langsearch run --address ray://…`: a search that the cluster's head drives, started and followed from outside.

Ray Tune cannot be driven through Ray's client: it would move the search, with its open trial table, into a process of
the head. So the client sends the space with its files, has a process of the head run it, and shows its output.
"""

import codecs
import logging
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import ray
from ray._private.grpc_utils import init_grpc_channel
from ray.core.generated import ray_client_pb2, ray_client_pb2_grpc
from ray.exceptions import AuthenticationError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from langsearch import __version__
from langsearch.cluster.head import HeadSearch, read_version
from langsearch.cluster.interrupts import Interrupts, exit_code, gentle_interrupts, keeping_sigterm
from langsearch.cluster.nodes import Node, NodeError, ask, live_nodes
from langsearch.cluster.packing import pack, pack_folder, run_arguments
from langsearch.cluster.ray_session import SECONDS_TO_CONNECT, check_answers, refusal, use_token
from langsearch.experiment.object_store import child
from langsearch.space.problems import InputError
from langsearch.space.schema import Space

SCHEME = "ray://"
_NAMESPACE = "langsearch"
_SECONDS_TO_WAIT = 1.0
"""For output, in one request; a Ctrl+C waits as long."""

_SECONDS_FOR_A_BUSY_HEAD = 300.0
"""A head gives itself half a minute to start a process for a client, which it needs more than once while it is busy."""

_BUSY = ("Starting Ray client server failed", "Proxy failed to Connect", "connection timed out")
"""What Ray says where a head lives and had no process for a client in time (ray.util.client.server.proxier)."""

_RESUMING = {"--resume", "--resume-if-begun"}

_NUM_TOLD = 2
"""Interrupts that go to the search; the next one ends the following."""


def run_on_head(
    space: Space, address: str, experiments: str, options: Sequence[str], write: Callable[[str], None]
) -> int:
    """Runs a search on a cluster's head and shows its output; returns its exit code.

    If the connection is lost, or this process ends, the search goes on; the same command with --resume follows it.
    SIGINT goes there: the first one has the trials stop behind checkpoints, the second one stops them at once, the
    third one ends only the following.

    Args:
        space: The space; what it names by relative paths goes along.
        address: ray://HOST:PORT, the cluster's client server.
        experiments: Where the cluster keeps experiments: a URL, or a path that is absolute there.
        options: More of `langsearch run`'s.
        write: Gets the output.

    Raises:
        InputError: If no cluster answers there, it refuses the token, it has other versions, the experiment is being
            searched and not to be resumed, or the place or the files are wrong.
    """
    check_answers(address)
    arguments = run_arguments(experiments, options)
    name = child(experiments, space.name)
    _connect(address, write)
    try:
        with gentle_interrupts(num_gentle=_NUM_TOLD) as interrupts:
            actor = _running(name, address, is_resumed=not _RESUMING.isdisjoint(options))
            if actor is None:
                with TemporaryDirectory() as folder:
                    pack(space, Path(folder))
                    content = pack_folder(Path(folder))
                actor = _start(name, _find_head(address), content, arguments)
                log = ray.get(actor.log.remote())
                write(f"Sent to {address}; what is not shown here of its output stays in {log} there.\n")
            else:
                write(f"{name} is being searched already. Its output follows; what was given now does not count.\n")
            return _follow(actor, address, interrupts, write)
    except RayError as error:
        cause = str(error).strip().splitlines()[-1]
        raise ConnectionError(
            f"The head of {address} must start the search, but has not ({cause}). Try again; if the search did begin, "
            "the same command with --resume follows it."
        ) from error
    finally:
        ray.shutdown()


def _connect(address: str, write: Callable[[str], None]) -> None:
    code, details = _ping(address)
    if code is grpc.StatusCode.UNAUTHENTICATED:
        use_token()
        code, details = _ping(address)
    if code is grpc.StatusCode.UNAUTHENTICATED:
        raise InputError(refusal(address, AuthenticationError(details)))
    if code is not grpc.StatusCode.OK:
        raise InputError(
            f"--address ray://HOST:PORT must be that of Ray's client server, by default port 10001 of the head, but at "
            f"{address!r} something else answers ({details or code.name})."
        )
    until, is_told = time.monotonic() + _SECONDS_FOR_A_BUSY_HEAD, False
    while (error := _try_to_connect(address)) is not None:
        if not any(said in str(error) for said in _BUSY):
            raise InputError(refusal(address, error)) from error
        if _ping(address)[0] is not grpc.StatusCode.OK:
            raise InputError(
                f"The head at {address!r} answered, and ended while it started a process for this client. A search "
                "that it was running goes on where the head is started again, with the same command and --resume."
            ) from error
        if time.monotonic() > until:
            raise InputError(
                f"The head must start a process for its client, but the one at {address!r} answers and has started "
                f"none in {_SECONDS_FOR_A_BUSY_HEAD:.0f} s: it is too busy, or cannot (ray_client_server_*.err in its "
                "logs says why). A search that it runs goes on; try the same command again."
            ) from error
        if not is_told:
            write(f"The head at {address} lives, but is too busy to serve another client. Trying again …\n")
        is_told = True


def _try_to_connect(address: str) -> Exception | None:
    try:
        with keeping_sigterm():
            ray.init(address, namespace=_NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, RayError) as error:
        ray.shutdown()
        return error
    return None


def _ping(address: str) -> tuple[grpc.StatusCode, str]:
    """Returns how a client server answers, in seconds; Ray's own client tries for half a minute, whatever is wrong."""
    request = ray_client_pb2.ClusterInfoRequest(type=ray_client_pb2.ClusterInfoType.PING)
    try:
        with init_grpc_channel(address.removeprefix(SCHEME)) as channel:
            stub = ray_client_pb2_grpc.RayletDriverStub(channel)
            stub.ClusterInfo(request, timeout=SECONDS_TO_CONNECT, metadata=[("client_id", "ping")])
    except grpc.RpcError as error:
        return error.code(), str(error.details())
    except AuthenticationError as error:  # there is no token here
        return grpc.StatusCode.UNAUTHENTICATED, str(error)
    return grpc.StatusCode.OK, ""


def _running(name: str, address: str, *, is_resumed: bool) -> Any:
    """Returns the actor of a search that goes on, None if there is none."""
    while True:
        try:
            actor = ray.get_actor(name, namespace=_NAMESPACE)
            if ray.get(actor.is_running.remote()):
                break
            ray.get(actor.leave.remote())
        except ValueError:
            return None
        except RayActorError:  # it has just ended itself
            pass
        time.sleep(0.1)  # until its name is free
    if not is_resumed:
        raise InputError(
            f"One search at a time may work on an experiment, but {address} is searching {name}. Follow it with "
            "--resume, or start another with --name NAME."
        )
    return actor


def _start(name: str, head: Node, content: bytes, arguments: Sequence[str]) -> Any:
    """Returns the actor of a new search."""
    actor = ray.remote(HeadSearch).options(
        name=name,
        namespace=_NAMESPACE,
        lifetime="detached",
        num_cpus=0,
        max_concurrency=8,
        scheduling_strategy=NodeAffinitySchedulingStrategy(head.id, soft=False),
    )
    return actor.remote(ray.put(content), list(arguments))


def _find_head(address: str) -> Node:
    """Returns the cluster's head. Raises InputError if it does not run the langsearch that runs here."""
    head = next(node for node in live_nodes() if node.is_head)
    version = ask([head], read_version)[head.id]
    if isinstance(version, NodeError):
        raise InputError(
            f"The head must run langsearch {__version__}, but at {address!r} it cannot: {version.cause.rstrip('.')}. "
            "Install the same version there."
        )
    if version != __version__:
        raise InputError(
            f"langsearch must be of the cluster's version, but here it is {__version__} and at {address!r} {version}."
        )
    return head


def _follow(actor: Any, address: str, interrupts: Interrupts, write: Callable[[str], None]) -> int:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    num_read = num_sent = 0
    try:
        while True:
            while num_sent < min(interrupts.count, _NUM_TOLD):
                ray.get(actor.interrupt.remote())
                num_sent += 1
            output, code = ray.get(actor.read.remote(num_read, _SECONDS_TO_WAIT))
            num_read += len(output)
            if text := decoder.decode(output, final=code is not None):
                write(text)
            if code is not None:
                ray.get(actor.leave.remote())
                # The head's search was sent Ctrl+C, whichever signal came here.
                if code == exit_code(signal.SIGINT) and interrupts.first is not None:
                    return exit_code(interrupts.first)
                return int(code if code >= 0 else exit_code(-code))
    except (ConnectionError, RayError) as error:
        cause = str(error).strip().splitlines()[0]
        write(
            f"The connection to {address} is lost ({cause}), and the search goes on there as long as its head does. "
            "The same command with --resume follows it, or goes on with it.\n"
        )
        return 1
    except KeyboardInterrupt:
        write(f"Not followed any more; the search goes on or ends on {address} by itself.\n")
        return exit_code(signal.SIGINT)
