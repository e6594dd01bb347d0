"""Where an experiment lies: in a folder of this machine, or in an object store with a copy here to work on."""

import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from langsearch.experiment.fence import check_fence
from langsearch.experiment.folder import STORE_FOLDER
from langsearch.experiment.lock import is_held
from langsearch.experiment.object_store import StorageError, is_remote, write_bytes
from langsearch.experiment.remote import Remote, local_copy, open_remote
from langsearch.experiment.study_pieces import STUDY, pull_study
from langsearch.space.problems import InputError

logger = logging.getLogger(__name__)

_TRIALS, _PRIORS, _SPACE = "trials", "priors", "space.yaml"

_REQUESTS = ".stop"
"""Where stop requests lie on the remote, one file a trial."""


@dataclass(frozen=True)
class WorkingCopy:
    """The copy of a remote experiment on this machine; each machine has its own, at the same place for every run.

    What writes to the remote raises LeaseLostError where the process is fenced off (`fence`).
    """

    experiments: Remote
    name: str

    @property
    def path(self) -> Path:
        """The experiment's folder on this machine."""
        return local_copy(self.experiments.url) / self.name

    @property
    def remote(self) -> Remote:
        """The experiment's folder on the remote."""
        return self.experiments.child(self.name)

    def take_over(self) -> None:
        """Brings everything here, for a driver that begins.

        Raises:
            StorageError: If the remote cannot be read.
            OSError: If this machine's copy cannot be written.
        """
        try:
            bring(self.remote, self.path)
        except OSError as error:
            if str(error.filename or "").startswith(str(self.path)):
                raise
            raise StorageError(f"{self.remote.url} could not be read: {error}") from error

    def push(self, trial: str | None = None) -> None:
        """Sends what has changed of a trial, or, with None, of all that is no trial's but the study.

        Raises:
            StorageError: If the remote cannot be written.
        """
        self.remote.push(self.path, "" if trial is None else f"{_TRIALS}/{trial}", self.check, (STUDY,))

    def pull(self, trial: str) -> None:
        """Brings what has changed of a trial. Raises OSError if the remote cannot be read."""
        self.remote.pull(self.path, f"{_TRIALS}/{trial}")

    def push_prior(self, kind: str) -> None:
        """Sends what has changed of a prior: of "sides" or "subspace". Raises StorageError."""
        self.remote.push(self.path, f"{_PRIORS}/{kind}", self.check)

    def pull_prior(self, kind: str) -> None:
        """Brings what has changed of a prior. Raises OSError if the remote cannot be read."""
        self.remote.pull(self.path, f"{_PRIORS}/{kind}")

    def push_store(self) -> None:
        """Sends the token files. Raises StorageError."""
        self.experiments.push(self.path.parent, STORE_FOLDER, self.check)

    def pull_store(self) -> None:
        """Brings the token files. Raises OSError if the remote cannot be read."""
        self.experiments.pull(self.path.parent, STORE_FOLDER)

    def try_push(self, *trials: str | None) -> bool:
        """Sends as `push` does; what fails is logged, and sent with the next push of the part. Returns whether it went.

        For a driver between events: a remote that is away for a minute must not end a search.
        """
        try:
            for trial in trials:
                self.push(trial)
        except OSError as error:
            logger.warning("%s", error)
            return False
        return True

    def try_request_stop(self, trial: str) -> bool:
        """Asks a trial to stop, wherever it runs. What fails is logged; returns whether it was asked.

        The request lies in no part that is pushed or pulled, and stays: a trial's number is never given again.
        """
        self.check()
        try:
            write_bytes(self.remote.url, f"{_REQUESTS}/{trial}", b"")
        except OSError as error:
            logger.warning("%s", error)
            return False
        return True

    def is_stop_requested(self, trial: str) -> bool:
        """Returns whether a trial, or the whole run, is to stop; False where the remote cannot be reached."""
        try:
            return self.remote.exists("stop") or self.remote.exists(f"{_REQUESTS}/{trial}")
        except OSError:
            return False

    def check(self) -> None:
        """Called before every write. Raises LeaseLostError if this process may not write there any more."""
        check_fence(self.path)


def remove_copy(copy: WorkingCopy) -> int:
    """Removes what a machine has of a remote experiment, unless a run of this machine holds it; a Ray task.

    Everything that counts has been sent to the remote. The token files, which experiments share, go with the last copy.

    Returns:
        How many bytes were freed.
    """
    experiments = copy.path.parent
    if is_held(copy.path):
        return 0
    others = [path for path in experiments.iterdir() if path.is_dir() and path != copy.path]
    is_last = all(path.name == STORE_FOLDER or path.name.startswith(".") for path in others)
    gone = experiments if is_last else copy.path
    freed = sum(path.stat().st_size for path in gone.rglob("*") if path.is_file()) if gone.exists() else 0
    shutil.rmtree(gone, ignore_errors=True)
    return freed


def bring(remote: Remote, path: Path) -> None:
    """Brings an experiment here, with its study, from pieces or as an older experiment has it.

    Raises:
        OSError: If the remote cannot be read.
    """
    path.mkdir(parents=True, exist_ok=True)
    in_pieces = pull_study(remote.url, path)
    remote.pull_all(path, (STUDY,) if in_pieces else ())


def find_experiments(text: str) -> tuple[Path, Remote | None]:
    """Returns the folder of all experiments on this machine, and the remote one that it is a copy of, if it is.

    Raises:
        InputError: If the text is a URL that cannot be opened.
    """
    if not is_remote(text):
        return Path(text).resolve(), None
    remote = open_remote(text)
    return local_copy(remote.url), remote


def fetch_experiment(text: str) -> Path:
    """Returns an experiment's folder on this machine; a remote one is brought here first.

    It comes to a place of its own, where it disturbs neither a run nor a worker of this machine. Where a run of this
    machine holds it, the run's working copy is returned, which is newer than what the remote has.

    Raises:
        InputError: If the text is a URL that cannot be opened, or names no experiment.
        OSError: If the remote cannot be read.
    """
    if not is_remote(text):
        return Path(text)
    place, mark, query = text.partition("?")
    parent, _, name = place.rstrip("/").rpartition("/")
    if "://" not in parent:
        raise InputError(
            f"An experiment's URL must end in FOLDER/NAME, but got {text}. `langsearch list` shows what a folder holds."
        )
    return _fetch(open_remote(f"{parent}{mark}{query}"), unquote(name), with_trials=True)


def fetch_experiments(text: str, *, with_trials: bool) -> list[Path]:
    """Returns the experiments in a folder on this machine; remote ones are brought here first, as above.

    Args:
        text: A folder or a URL; of experiments, or of one.
        with_trials: Whether what lies below trials/ is wanted, which is most of it.

    Raises:
        InputError: If the text is a URL that cannot be opened, or no folder.
        OSError: If the remote cannot be read.
    """
    if not is_remote(text):
        folder = Path(text)
        if not folder.is_dir():
            raise InputError(
                f"EXPERIMENTS must be a folder, but {folder} is none. `langsearch run` makes experiments/."
            )
        if (folder / _SPACE).is_file():
            return [folder]
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    experiments = open_remote(text)
    if experiments.exists(_SPACE):
        return [fetch_experiment(text)]
    names = [name for name in experiments.names() if experiments.exists(f"{name}/{_SPACE}")]
    return [_fetch(experiments, name, with_trials=with_trials) for name in names]


def _fetch(experiments: Remote, name: str, *, with_trials: bool) -> Path:
    working = WorkingCopy(experiments, name)
    if is_held(working.path):
        return working.path
    if not working.remote.exists(_SPACE):
        raise InputError(
            f"An experiment's URL must be of a folder that holds a {_SPACE}, but {working.remote.url} holds none. "
            f"`langsearch list URL` shows what a folder holds."
        )
    copy = local_copy(experiments.url, "fetched")
    if with_trials:
        bring(working.remote, copy / name)
        experiments.pull(copy, STORE_FOLDER)
    else:
        working.remote.pull(copy / name, without=(STUDY,))
    return copy / name


class RequestLook:
    """Looks on the remote whether a trial is to stop, at most every so many seconds: a request costs money."""

    def __init__(self, copy: WorkingCopy, trial: str, seconds: float = 10.0) -> None:
        self._copy, self._trial, self._seconds, self._looked = copy, trial, seconds, time.monotonic()

    def __call__(self) -> bool:
        """Returns whether it is, as far as was looked. Raises LeaseLostError as the fence of the copy does."""
        now = time.monotonic()
        if now - self._looked < self._seconds:
            return False
        self._looked = now
        check_fence(self._copy.path)
        return self._copy.is_stop_requested(self._trial)
