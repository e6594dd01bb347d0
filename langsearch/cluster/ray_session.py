"""Starting Ray on this machine, or connecting to a cluster, with the settings that a search needs."""

import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.exceptions import AuthenticationError, RayError

from langsearch.cluster.interrupts import keeping_sigterm
from langsearch.experiment.places import check_writable
from langsearch.model.cpus import available_cpus, wait_passively
from langsearch.model.device import require_gpu
from langsearch.space.problems import InputError
from langsearch.space.schema import Space

SECONDS_TO_CONNECT = 10.0
_NUM_STARTS = 3
"""How often Ray is started, where the machine is too busy for the half minute that it gives itself."""
_SHORT_FOLDERS = ("/tmp", "/var/tmp")
_TOKEN_SETUP = "ray._private.authentication.authentication_token_setup"

_ENVIRONMENT = {
    # Baselines report nothing to the scheduler, and our own table is the only log.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Ctrl+C is ours: trials stop behind a checkpoint.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Tune's own state is never read: it is written at the beginning and the end, not in between, when another run may
    # have taken over the folder.
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**8),
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # The searcher says how many trials may wait (room.py).
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",
    # Our own display takes the place of Tune's.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Relative paths in a space mean the same on a worker as here.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Workers that wait for the last scores (getting_ready.py) would be ended after a second beside those of trials.
    "RAY_idle_worker_killing_time_threshold_ms": str(10**6),
    # Nothing of a run is sent to anybody.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
}


def connect(address: str) -> None:
    """Connects to a running cluster.

    Args:
        address: auto, or HOST:PORT of the head where this machine is a node.

    Raises:
        InputError: If there is none at the address, it refuses this process, it runs other versions, or the address
            is a Ray client's, through which no search can be driven.
    """
    if address != "auto":
        check_answers(address)
    if address.startswith("ray://"):
        raise InputError(
            f"--address must be auto or HOST:PORT, on a node of the cluster, but is a client's, {address!r}. Only "
            "`langsearch run` takes one: it has the head do the rest."
        )
    set_environment()
    if address != "auto" and _asks_for_token(address):  # for auto Ray itself sees to it
        use_token()
    if ray.is_initialized():
        return
    try:
        with keeping_sigterm():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, RayError) as error:
        raise InputError(refusal(address, error)) from error


def check_answers(address: str) -> None:
    """Raises InputError if nothing answers at HOST:PORT; Ray itself would try for minutes, and log all the while."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        raise InputError(f"--address must be auto, HOST:PORT or ray://HOST:PORT, but got {address!r}.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--address must be that of a running Ray cluster, but nothing answers at {address!r} ({error})."
        ) from error


def _asks_for_token(address: str) -> bool:
    """Returns whether a cluster refuses who shows no token; who shows one to a cluster without gets no actors."""
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")(b"", timeout=SECONDS_TO_CONNECT)
        except grpc.RpcError as error:
            return bool(error.code() is grpc.StatusCode.UNAUTHENTICATED)
    return False


def use_token() -> None:
    """Has this process show its token, if it has one and the user has not said otherwise by RAY_AUTH_MODE."""
    logging.getLogger(_TOKEN_SETUP).setLevel(logging.ERROR)
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def refusal(address: str, error: BaseException) -> str:
    """Returns what is wrong where Ray could not connect."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = "\n".join(str(cause) for cause in causes)
    if any(isinstance(cause, AuthenticationError) for cause in causes) or "InvalidAuthToken" in text:
        return (
            f"The token must be the cluster's, but {address!r} refuses it. Copy the head's ~/.ray/auth_token here, "
            "with file mode 600, or name it in RAY_AUTH_TOKEN_PATH."
        )
    if "ersion mismatch" in text:
        lines = " ".join(line.strip() for line in text.splitlines() if "Ray:" in line or "Python:" in line)
        return (
            f"Ray and Python must be of the cluster's versions, but at {address!r} they are others ({lines.strip()})."
        )
    if "raylet" in text.lower() or "node_ip_address" in text or "This node has an IP" in text:
        return (
            f"--address HOST:PORT must be given on a node of the cluster, but this machine is none of {address!r}'s. "
            "Use `langsearch submit --address http://HOST:8265`."
        )
    return (
        f"--address must be that of a running Ray cluster, but nothing answers at {address!r} ({_first_line(error)})."
    )


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def start_ray(base_bytes: int, tell: Callable[[str], None] = lambda text: None) -> None:
    """Starts Ray on this machine alone, unless this process has a Ray already.

    Args:
        base_bytes: The size of the base's weights, which decides how much memory is shared.
        tell: Gets a sentence where Ray is started once more: it gives itself half a minute, which a busy machine may
            exceed.

    Raises:
        InputError: If Ray does not start.
    """
    set_environment()
    if ray.is_initialized():
        return
    folder = session_folder(tell)
    for tries_left in reversed(range(_NUM_STARTS)):
        try:
            with keeping_sigterm():
                ray.init(
                    "local",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=False,
                    # Ray sees a container's quota, but no affinity, and takes half a CPU for none.
                    num_cpus=available_cpus(),
                    # The base once and small things, not Ray's default of 30 % of the memory.
                    object_store_memory=base_bytes + base_bytes // 20 + 200_000_000,
                    _node_ip_address="127.0.0.1",  # nothing of a run on one machine is open to others
                    _temp_dir=str(folder),
                )
        except Exception as error:  # Ray raises a bare one
            ray.shutdown()
            if "timed out" not in str(error):
                raise InputError(
                    f"Ray must start on this machine, but has not ({_first_line(error)}). Its files are in {folder}; "
                    "RAY_TMPDIR=FOLDER puts them elsewhere. When the cause is gone, go on with --resume."
                ) from error
            if not tries_left:
                raise InputError(
                    f"Ray must start within half a minute, but has not, {_NUM_STARTS} times: the machine is too busy. "
                    "Nothing is lost: when other work has ended, go on with --resume."
                ) from error
            tell("Ray did not start within half a minute, since the machine is busy. Once more …")
        else:
            return


def session_folder(tell: Callable[[str], None] = lambda text: None) -> Path:
    """Returns where Ray's session on this machine is to lie: where Ray would put it, or else a short folder.

    The system takes at most 107 bytes for the path of a socket (104 with its end on macOS: unix(4), unix(7)), of which
    Ray needs some 60 itself; a TMPDIR below a home or a job's scratch folder is often longer.

    Args:
        tell: Gets a sentence if it is not where Ray would put it.

    Raises:
        InputError: If no folder will do.
    """
    wanted = Path(get_default_ray_temp_dir())
    longest = 103 if sys.platform == "darwin" else 107
    own = len(f"/session_2000-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store")
    problem = ""
    for place in (wanted, *(Path(root, "ray") for root in _SHORT_FOLDERS)):
        if len(os.fsencode(place)) + own > longest:
            why = f"{place} leaves too few of the {longest} bytes that a socket's path may have"
        else:
            try:
                check_writable(place, "The folder of Ray's session", "")
            except InputError as error:
                why = str(error).strip().rstrip(".")
            else:
                if problem:
                    tell(f"{problem}. Ray's session is in {place}.")
                return place
        problem = problem or why
    raise InputError(
        f"Ray's session must lie in a folder that can be written, with a path of at most {longest - own} bytes, but "
        f"there is none: {problem}. Name one in RAY_TMPDIR."
    )


def set_environment() -> None:
    """Sets the variables that a search needs, where the user has not."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    wait_passively()
    # Tune would print a traceback for every lost worker and every full disk; ours says what happened in a line.
    for name in ("ray.tune.execution.experiment_state", "ray.tune.execution.tune_controller", "ray.tune.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def check_local_resources(space: Space, address: str | None) -> None:
    """Raises InputError if this machine alone is to run trials that it has no room for."""
    if address is not None or ray.is_initialized():
        return
    session_folder()
    problems = []
    num_cpus = available_cpus()
    if space.resources.cpu > num_cpus:
        problems.append(
            f"`resources.cpu` must be at most the {num_cpus} that this machine gives, but is {space.resources.cpu:g}. "
            f"Run with --set resources.cpu={num_cpus}, or on a cluster with --address."
        )
    try:
        require_gpu(space.resources.gpu)
    except InputError as error:
        problems += error.problems
    if custom := space.resources.custom:
        problems.append(
            f"`resources.custom` must name resources of a cluster, but this machine alone has no {', '.join(custom)}. "
            "Run with --set resources.custom={}, or on a cluster with --address."
        )
    if problems:
        raise InputError(problems)
