"""The base that an experiment began with: recorded when it begins, found again, compared before anything is added."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from langsearch.experiment.folder import read_json, write_json
from langsearch.model.finding import FoundBase
from langsearch.space.problems import InputError
from langsearch.space.settings import BaseSource

BASE_FILE = "base.json"
"""In the folder of an experiment, or of a single training. Those of earlier versions have none."""


@dataclass(frozen=True)
class RecordedBase:
    """What was recorded of a base."""

    id: str
    commit: str | None
    """Of the hub; None for a folder."""

    fingerprint: str
    """See `FoundBase.fingerprint`."""

    family: str


def read_recorded(folder: Path) -> RecordedBase | None:
    """Returns what was recorded, None where nothing was.

    Raises:
        InputError: If the file cannot be read as such.
    """
    path = folder / BASE_FILE
    if not path.exists():
        return None
    try:
        return RecordedBase(**read_json(path))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} must be as langsearch wrote it, but cannot be read: {error}") from error


def recorded_source(folder: Path, source: BaseSource) -> BaseSource:
    """Returns a base at the commit that was recorded, where the space leaves the revision open."""
    recorded = read_recorded(folder)
    if recorded is None or recorded.id != source.id or source.revision is not None:
        return source
    return replace(source, revision=recorded.commit)


def check_recorded(folder: Path, found: FoundBase, family: str) -> None:
    """Checks that a base is the one that was recorded.

    Raises:
        InputError: If it is another, with what tells both.
    """
    recorded = read_recorded(folder)
    if recorded is None:
        return
    now = found.fingerprint()
    undo = "or start a new experiment with --name NAME."
    if now != recorded.fingerprint:
        what, put_back = "weights", f"Put the weights of before back into {found.folder}, {undo}"
        if recorded.commit is not None and found.commit is not None:
            what, put_back = "commit", f"Set base.revision to {recorded.commit}, or leave it out, {undo}"
        raise InputError(
            f"What has begun with a base must go on with it, but {folder} has the {what} {recorded.fingerprint} of "
            f"{recorded.id}, which has {now} now. {put_back}"
        )
    if family != recorded.family:
        raise InputError(
            f"What has begun with a base must go on with it, but {folder} took {recorded.id} for a base of the family "
            f"{recorded.family}, which is {family} now. Leave base.family as it was, {undo}"
        )


def record_base(folder: Path, found: FoundBase, family: str) -> None:
    """Records a base; what was recorded before stays."""
    if not (folder / BASE_FILE).exists():
        recorded = RecordedBase(found.source.id, found.commit, found.fingerprint(), family)
        write_json(folder / BASE_FILE, asdict(recorded))
