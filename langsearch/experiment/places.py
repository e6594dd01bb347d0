"""Places that a command is given, looked at before anything is loaded: can they be read, can they be written.

Needs neither torch nor Ray, so that a wrong place is told within a second, and not after minutes of work.
"""

import errno
import os
import re
import tempfile
from pathlib import Path

from langsearch.adapters.export_folder import FORMAT_FILE
from langsearch.space.problems import InputError
from langsearch.space.settings import EXPERIMENTS

_SPACE = "space.yaml"
_EARLIER_TASK = "trial.json"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WRONG_PLACE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP),
)
_FEW_BYTES = 1 << 16


def check_writable(folder: Path, name: str, way_out: str) -> None:
    """Checks that a folder can be made, or be written in, and that its disk has some room; leaves nothing there.

    Args:
        folder: The folder; it need not be there yet.
        name: What it is called in the message, such as --to.
        way_out: A sentence on what to do if it cannot.

    Raises:
        InputError: If it cannot, with the system's words for why.
    """
    rule = f"{name} must be a folder that can be written"
    there = folder.absolute()
    try:
        while not os.path.lexists(there):
            there = there.parent
        if not there.is_dir():
            what = "is a broken link" if there.is_symlink() and not there.exists() else "is a file"
            what = what if there == folder.absolute() else f"lies below {there}, which {what}"
            raise InputError(f"{rule}, but {folder} {what}. {way_out}")
        # The file has no name where the system can do without, and no content is left in any case.
        with tempfile.TemporaryFile(dir=there, prefix=".langsearch-", buffering=0) as file:
            file.write(b"\0" * _FEW_BYTES)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise InputError(
                f"{name} must have room, but the disk of {folder} has none ({_words(error)}). "
                f"Make room there. {way_out}"
            ) from error
        below = "" if there == folder.absolute() else f", since {there} cannot"
        raise InputError(f"{rule}, but {folder} cannot{below} ({_words(error)}). {way_out}") from error


def check_experiments(place: str, name: str) -> None:
    """Raises InputError if an experiment cannot be written in the folder of all; of a URL its opening tells."""
    if "://" not in place:
        check_writable(Path(place) / name, "An experiment in --experiments", "Name another with --experiments DIR.")


def check_target(to: Path | None) -> None:
    """Raises InputError if a command that writes a folder of its own cannot.

    Args:
        to: As --to gives it. None: it is made in `EXPERIMENTS`.
    """
    if to is None:
        check_writable(Path(EXPERIMENTS), f"{EXPERIMENTS}/", "Name another folder with --to DIR.")
        return
    if re.match(r"\w+:/", str(to)):  # a path has one slash where the URL had two
        raise InputError(f"--to must be a folder of this machine, but got the URL {str(to).replace(':/', '://', 1)}.")
    check_writable(to, "--to", "Name another with --to DIR.")
    # Exports are written beside their place, and renamed; tokenized text is shared by all that lies in a folder.
    check_writable(to.absolute().parent, "The folder that holds --to", "Name another with --to DIR.")


def brought_here(place: str) -> Path:
    """Returns a folder of this machine; a remote experiment is brought here first."""
    if "://" not in place:
        return Path(place)
    from langsearch.experiment.working_copy import fetch_experiment

    return fetch_experiment(place)


def check_experiment_or_adapters(folder: Path) -> None:
    """Raises InputError if a folder holds neither an experiment nor exported adapters, or cannot be read."""
    if not _has(folder, FORMAT_FILE) and not _has(folder, _SPACE):
        raise InputError(
            f"An experiment's folder holds a {_SPACE}, but {folder} has none.{_why(folder)} `langsearch list` shows "
            f"the experiments; exported adapters hold a {FORMAT_FILE}.{earlier_training_words(folder)}"
        )


def check_adapters(folder: Path) -> None:
    """Raises InputError if a folder holds neither exported adapters nor an experiment, or cannot be read."""
    if not _has(folder, FORMAT_FILE) and not _has(folder, _SPACE):
        raise InputError(
            f"Adapters must be a folder that `langsearch export` wrote, or an experiment, but {folder} has neither a "
            f"{FORMAT_FILE} nor a {_SPACE}.{_why(folder)}{earlier_training_words(folder)}"
        )


def is_earlier_training(folder: Path) -> bool:
    """Returns whether a folder is what `langsearch train` wrote before its folders were experiments."""
    is_trial = (folder.resolve().parent.parent / _SPACE).exists()
    return (folder / _EARLIER_TASK).is_file() and not (folder / _SPACE).exists() and not is_trial


def earlier_training_words(folder: Path) -> str:
    """Returns what to do with such a folder, in a sentence after a space; "" for any other one."""
    if not is_earlier_training(folder):
        return ""
    return (
        f" It is a training of an earlier version: `langsearch train SPACE --resume --to {folder}` makes it an "
        f"experiment; its adapters are in {folder / 'adapters'}."
    )


def file_problem(error: OSError) -> tuple[str, int]:
    """Returns a sentence on a file that could not be read or written, and the exit code: 2 if the place is wrong.

    For what no check has foreseen: a disk that fills, rights that are taken away, a storage that goes.
    """
    place = next((str(name) for name in (error.filename2, error.filename) if name is not None), None)
    what = "a file" if place is None else place
    if error.errno in _NO_ROOM:
        return f"The disk must have room, but {what} could not be written ({_words(error)}). Make room there.", 1
    if error.errno in _WRONG_PLACE and place is not None:
        rule = "A place that a command works with must be there, and be readable and writable"
        return f"{rule}, but {place} is not ({_words(error)}). Correct it, or name another place.", 2
    text = str(error).strip().partition("\n")[0].rstrip(".")
    if isinstance(error, ConnectionError) and error.errno is None:  # whoever raised it has said what to do
        return f"{text}.", 1
    return f"Files and storage must stay readable and writable, but: {text}. Try again once that is so.", 1


def _has(folder: Path, name: str) -> bool:
    try:
        (folder / name).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InputError(
            f"What a command is given must be readable, but {folder / name} is not ({_words(error)}). Ask its owner "
            "for the right, or name another folder."
        ) from error
    return True


def _why(folder: Path) -> str:
    if folder.is_dir():
        return ""
    return " It is a file." if folder.exists() else " It does not exist."


def _words(error: OSError) -> str:
    return error.strerror or type(error).__name__
