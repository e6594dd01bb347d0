"""A search as a process of a cluster's head, held by an actor there: started, read and interrupted from elsewhere."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import ray

from langsearch import __version__
from langsearch.cluster.packing import unpack_folder

_PLACE = "space"
_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_TO_RETURN = 120.0
"""A client that has lost its connection may come back for the exit code so long after the search has ended."""

_MAX_BYTES = 1_000_000
"""Of output in one answer."""


class HeadSearch:
    """One `langsearch run`, in a session of its own: it goes on when who has started it goes away.

    An actor whose methods run beside each other. It ends itself when the search has ended and nobody asks any more.
    """

    def __init__(self, content: bytes, arguments: Sequence[str]) -> None:
        """Starts the search.

        Args:
            content: The packed folder to run in.
            arguments: langsearch's.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="langsearch-run-"))
        self._log = self._folder / "log.txt"
        self._asked, self._is_left = time.monotonic(), False
        unpack_folder(content, self._folder / _PLACE)
        environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address, "PYTHONUNBUFFERED": "1"}
        line = [sys.executable, "-m", "langsearch", *arguments]
        # Ray blocks SIGINT in its processes, and what they start would inherit that.
        blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        try:
            with self._log.open("wb") as output:
                self._process = subprocess.Popen(
                    line,
                    cwd=self._folder / _PLACE,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        threading.Thread(target=self._end_behind, daemon=True).start()

    def log(self) -> str:
        """Returns where the output is kept."""
        return str(self._log)

    def is_running(self) -> bool:
        """Returns whether the search goes on."""
        self._asked = time.monotonic()
        return self._process.poll() is None

    def read(self, begin: int, seconds: float) -> tuple[bytes, int | None]:
        """Returns the next output, and the exit code behind the last one.

        Args:
            begin: How many bytes were read before.
            seconds: How long to wait for some.
        """
        until = time.monotonic() + seconds
        while True:
            self._asked = time.monotonic()
            code = self._process.poll()  # looked at first: if it has ended, the file is whole
            with self._log.open("rb") as file:
                file.seek(begin)
                output = file.read(_MAX_BYTES)
            if output or code is not None or time.monotonic() > until:
                return output, None if len(output) == _MAX_BYTES else code
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def interrupt(self) -> None:
        """Sends Ctrl+C to the search."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def leave(self) -> None:
        """Says that nobody will ask any more."""
        self._is_left = True

    def _end_behind(self) -> None:
        self._process.wait()
        while not self._is_left and time.monotonic() - self._asked < _SECONDS_TO_RETURN:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        shutil.rmtree(self._folder if self._is_left else self._folder / _PLACE)
        ray.kill(ray.get_runtime_context().current_actor)


def read_version() -> str:
    """Returns langsearch's version here."""
    return __version__
