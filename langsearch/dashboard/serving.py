"""Serving the dashboard: the address, the port, and the end."""

import errno
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from waitress import create_server

from langsearch.dashboard.application import is_experiment, is_folder_of_experiments, make_application
from langsearch.dashboard.guard import LOOPBACK
from langsearch.space.problems import InputError

PORT = 8266
"""The first that is tried; Ray's own dashboard has the one before."""

_MAX_PORT_TRIES = 50
_NUM_THREADS = 8


@dataclass(frozen=True)
class Dashboard:
    """A dashboard that listens, and answers once it runs."""

    server: Any
    url: str

    def run(self) -> None:
        """Answers until Ctrl+C."""
        self.server.run()

    def close(self) -> None:
        """Stops listening."""
        self.server.close()


def open_dashboard(
    paths: Sequence[Path],
    *,
    host: str | None = None,
    token: str | None = None,
    port: int | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Dashboard:
    """Listens for the dashboard of some experiments.

    Args:
        paths: Experiments, which need not be there yet, and folders of them.
        host: The address to listen on, with `token`. None: this machine's loopback.
        token: What every request must bring, with `host`.
        port: The port. None: `PORT`, or the next one that is free.
        tell: Gets sentences for the person who started it.

    Raises:
        InputError: If only one of `host` and `token` is given, a path is a file, or the port is taken.
    """
    _check_access(host, token)
    for path in paths:
        if path.exists() and not path.is_dir():
            raise InputError(f"An experiment must be a folder, but {path} is a file. Name the folder that it is in.")
        if not path.exists():
            tell(f"{path} does not exist yet: its page shows it as soon as a run has begun it.")
        elif not is_experiment(path) and not is_folder_of_experiments(path):
            tell(f"{path} holds no experiment yet: its page shows it as soon as a run has begun it.")
    listened = host or LOOPBACK[1]
    application = make_application(paths, token=token, host=listened)
    logging.getLogger("waitress").setLevel(logging.ERROR)
    server = _listen(application, listened, port)
    # A free port's number, if 0 was asked for, is only known now.
    name = listened if host is not None and host not in ("0.0.0.0", "::") else LOOPBACK[1]
    place = f"[{name}]" if ":" in name else name
    url = f"http://{place}:{server.effective_port}/"
    return Dashboard(server, url if token is None else f"{url}?token={quote(token, safe='')}")


def _check_access(host: str | None, token: str | None) -> None:
    rule = "--host and --token must be given together, so that nobody else on the network sees or stops a search"
    if token is not None and not token.strip():
        raise InputError(f"--token must be a secret, but got {token!r}. Make one: openssl rand -hex 16")
    if host is not None and token is None:
        raise InputError(
            f"{rule}, but --host {host} is given alone. Add --token SECRET, or leave --host out and reach this machine "
            f"by ssh -L {PORT}:127.0.0.1:{PORT}."
        )
    if host is None and token is not None:
        raise InputError(
            f"{rule}, but --token is given alone. Add --host 0.0.0.0 to be reached from elsewhere, or leave --token "
            "out: then only this machine is served."
        )


def _listen(application: Any, host: str, port: int | None) -> Any:
    ports = [port] if port is not None else range(PORT, PORT + _MAX_PORT_TRIES)
    for candidate in ports:
        try:
            return create_server(application, host=host, port=candidate, threads=_NUM_THREADS, ident=None)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise InputError(f"The dashboard cannot listen on {host}:{candidate}: {error.strerror}.") from error
        except ValueError as error:  # waitress's answer to a name that it cannot find
            raise InputError(f"--host must be an address of this machine, but got {host!r} ({error}).") from error
    if port is not None:
        raise InputError(f"--port must be free, but {port} is taken. Leave it out to take the next free one.")
    raise InputError(f"All ports from {PORT} to {ports[-1]} are taken. Give another one by --port.")
