"""Searches as jobs of a Ray cluster: sent over its job API, they go on when who sent them goes away."""

import asyncio
import logging
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from langsearch.cluster.packing import MAX_JOB_BYTES, pack, read_folder, run_arguments
from langsearch.cluster.ray_session import refusal, use_token
from langsearch.experiment.object_store import child, is_remote
from langsearch.experiment.working_copy import fetch_experiment
from langsearch.space.problems import InputError
from langsearch.space.schema import Space

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 2.0
_SECONDS_TO_COME_BACK = 600.0
"""For a head that does not answer while a job is followed: long enough to be restarted."""
_EXPERIMENTS, _NAME = "langsearch_experiments", "langsearch_name"
_STOPPING = {"env_vars": {"RAY_JOB_STOP_SIGNAL": "SIGTERM", "RAY_JOB_STOP_WAIT_TIME_S": "900"}}
"""At a stop Ray sends SIGTERM, at which trials stop behind a checkpoint, and kills after so many seconds, else after 3.
It waits no longer than the search takes to end. Where a job supervises itself, these stand in its environment."""

_AWAY = (OSError, RuntimeError, aiohttp.ClientError)
"""What Ray's client raises where nobody answers, or for a job that is not there."""


@dataclass(frozen=True)
class Job:
    """A search that was submitted."""

    id: str
    status: str
    message: str
    experiment: str | None
    """Where the experiment lies: a URL, or a path on the cluster. None: the job is no search of ours."""

    started: datetime | None
    ended: datetime | None


class Jobs:
    """The jobs of a cluster.

    Args:
        address: http://HOST:8265, the cluster's dashboard.

    Raises:
        InputError: If nothing answers there, or it refuses the token.
    """

    def __init__(self, address: str) -> None:
        if not address.startswith(("http://", "https://")):
            raise InputError(f"--address must be the cluster's dashboard, http://HOST:8265, but got {address!r}.")
        use_token()
        self.address = address
        try:
            self._client = JobSubmissionClient(address)
        except AuthenticationError as error:
            raise InputError(refusal(address, error)) from error
        except _AWAY as error:
            raise InputError(
                f"--address must be the cluster's dashboard, but nothing answers at {address}. It listens on the head "
                "alone: ssh -L 8265:localhost:8265 HEAD brings it here."
            ) from error

    def submit(self, space: Space, experiments: str, options: Sequence[str] = ()) -> str:
        """Sends a space with the files of this machine that it names; returns the job's id.

        Args:
            space: The space.
            experiments: Where the cluster keeps experiments: a URL, or a path that is absolute there.
            options: More of `langsearch run`'s.

        Raises:
            InputError: If `experiments` is neither, or what goes along is not there or too large.
        """
        line = ["python", "-m", "langsearch", *run_arguments(experiments, options)]
        with tempfile.TemporaryDirectory() as folder:
            pack(space, Path(folder), MAX_JOB_BYTES)
            return self._send(
                line, f"{space.name}-{uuid4().hex[:6]}", {_EXPERIMENTS: experiments, _NAME: space.name}, folder
            )

    def all(self) -> list[Job]:
        """Returns the searches among the cluster's jobs, the latest first."""
        with self._asking():
            listed = self._client.list_jobs()
        jobs = [_job(details) for details in listed if details.submission_id is not None]
        found = [job for job in jobs if job.experiment is not None]
        return sorted(found, key=lambda job: job.started or datetime.now(UTC), reverse=True)

    def find(self, job: str) -> Job:
        """Returns a job. Raises InputError if there is none."""
        try:
            return _job(self._client.get_job_info(job))
        except _AWAY as error:
            if not _is_unknown(error):
                raise ConnectionError(self._refused(error)) from error
            known = ", ".join(found.id for found in self.all()[:10]) or "none"
            raise InputError(f"JOB must be a job of {self.address}, but {job!r} is not. There: {known}.") from error

    def follow(self, job: str, write: Callable[[str], None]) -> int:
        """Passes on a job's log until it ends, also over a lost connection; returns the exit code.

        Args:
            job: Its id.
            write: Gets the text as it comes.

        Raises:
            InputError: If the cluster does not know the job, or not any more.
            ConnectionError: If nobody has answered for `_SECONDS_TO_COME_BACK`.
        """
        shown, answered, is_told = 0, time.monotonic(), False

        def pass_on(text: str) -> None:
            nonlocal shown
            shown += len(text)
            write(text)

        while True:
            with suppress(*_AWAY):
                asyncio.run(self._tail(job, shown, pass_on))
            try:
                details = self._client.get_job_info(job)
                answered, is_told = time.monotonic(), False
                if details.status.is_terminal():
                    pass_on(self._client.get_job_logs(job)[shown:])
                    return _exit_code(details)
            except _AWAY as error:  # the head is away, or the connection; the job goes on without us
                if _is_unknown(error):
                    raise InputError(self._vanished(job)) from error
                seconds = time.monotonic() - answered
                if seconds > _SECONDS_TO_COME_BACK:
                    raise ConnectionError(self._silent(job, seconds, error)) from error
                if not is_told:
                    logger.warning("%s does not answer (%s). Trying again …", self.address, _last_line(error))
                    is_told = True
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _vanished(self, job: str) -> str:
        return (
            f"A job that is followed must be known to the cluster, but {self.address} knows no {job!r} any more: it "
            "was deleted, or the head was started anew. What the search has written is there still; submit it again "
            "with --resume."
        )

    def _silent(self, job: str, seconds: float, error: BaseException) -> str:
        again = shlex.join(["langsearch", "status", job, "--address", self.address, "--follow"])
        return (
            f"{self.address} must answer to follow a job, but has not for {seconds / 60:.0f} minutes "
            f"({_last_line(error)}). The job may go on there; follow it again with: {again}"
        )

    def fetch(self, what: str, to: Path) -> Path:
        """Brings an experiment here; returns its folder.

        One on a URL comes from there. One in a path of the cluster comes through the log of a small job on the head.

        Args:
            what: A job's id, or the experiment's path on the cluster.
            to: The folder to make.

        Raises:
            InputError: If there is no such experiment, or it is too large.
        """
        if to.exists() and any(to.iterdir()):
            raise InputError(f"--to must be a folder that is empty or not there yet, but {to} has files.")
        place = what if what.startswith("/") else self.find(what).experiment
        if place is None:
            raise InputError(f"JOB must be a search that `langsearch submit` has sent, but {what!r} is none.")
        if is_remote(place):
            return fetch_remote(place, to)
        line = ["python", "-m", "langsearch.cluster.packing", place]
        job = self._send(line, f"fetch-{uuid4().hex[:6]}", {}, None)
        with self._asking():
            while not self._client.get_job_status(job).is_terminal():
                time.sleep(0.5)
            text = self._client.get_job_logs(job)
        with suppress(*_AWAY):
            self._client.delete_job(job)
        read_folder(text, to)
        return to

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Says which cluster it was that did not answer."""
        try:
            yield
        except _AWAY as error:
            raise ConnectionError(self._refused(error)) from error

    def _refused(self, error: BaseException) -> str:
        return f"{self.address} must answer, but does not ({_last_line(error)}). Try again once its head is back."

    def _send(self, line: Sequence[str], job: str, metadata: dict[str, str], folder: str | None) -> str:
        try:
            sent: str = self._client.submit_job(
                entrypoint=shlex.join(line),
                submission_id=job,
                metadata=metadata,
                runtime_env=_STOPPING if folder is None else {"working_dir": folder, **_STOPPING},
            )
        except _AWAY as error:
            raise InputError(f"{self.address} must take the job, but does not: {_last_line(error)}") from error
        return sent

    async def _tail(self, job: str, shown: int, write: Callable[[str], None]) -> None:
        skipped = shown  # a log comes from its begin
        async for text in self._client.tail_job_logs(job):
            new = text[skipped:]
            skipped = max(skipped - len(text), 0)
            if new:
                write(new)


def fetch_remote(url: str, to: Path) -> Path:
    """Copies an experiment of an object store to a folder; returns it. Raises InputError if the URL has none."""
    import shutil

    copy = fetch_experiment(url)
    shutil.copytree(copy, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".remote"))
    return to


def _is_unknown(error: BaseException) -> bool:
    """Returns whether the cluster has answered that it knows no such job; Ray raises one error for all answers.

    A 404 alone may be that of a gateway whose cluster is away.
    """
    return isinstance(error, RuntimeError) and "does not exist" in str(error)


def _job(details: Any) -> Job:
    metadata = details.metadata or {}
    experiments, name = metadata.get(_EXPERIMENTS), metadata.get(_NAME)
    return Job(
        id=details.submission_id or "",
        status=str(details.status.value).lower(),
        message=_last_line(details.message or ""),
        experiment=child(experiments, name) if experiments and name else None,
        started=_time(details.start_time),
        ended=_time(details.end_time),
    )


def _exit_code(details: Any) -> int:
    if details.status is JobStatus.SUCCEEDED:
        return 0
    return 130 if details.status is JobStatus.STOPPED else details.driver_exit_code or 1


def _time(milliseconds: int | None) -> datetime | None:
    return None if not milliseconds else datetime.fromtimestamp(milliseconds / 1000, UTC)


def _last_line(text: object) -> str:
    return next((line.strip() for line in reversed(str(text).splitlines()) if line.strip()), "")
