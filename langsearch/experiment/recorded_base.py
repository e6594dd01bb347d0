"""The base that an experiment began with: recorded when it begins, found again, compared before anything is added."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from langsearch.experiment.folder import read_json, write_json
from langsearch.model.finding import FoundBase
from langsearch.space.problems import InputError
from langsearch.space.settings import BaseSource

BASE_FILE = "base.json"
"""In the folder of an experiment, or of a single training. Those of earlier versions have none."""

_TEACHERS_FILE = "teachers.json"
"""Beside it, where other bases teach: what tells each from others, by its name."""


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


def check_recorded(folder: Path, found: FoundBase, family: str, teachers: Sequence[FoundBase] = ()) -> None:
    """Checks that a base, and those that teach, are the ones that were recorded.

    Raises:
        InputError: If one is another, with what tells both.
    """
    _check_teachers(folder, teachers)
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


def _check_teachers(folder: Path, teachers: Sequence[FoundBase]) -> None:
    recorded = _recorded_teachers(folder)
    problems = []
    for teacher in teachers:
        name = teacher.source.id
        if name in recorded and (now := teacher.fingerprint()) != recorded[name]:
            way_out = f"Name it as {{base: {name}@{recorded[name]}}}" if teacher.commit else "Put those weights back"
            problems.append(
                f"What has begun with a teacher must go on with it, but {folder} has {recorded[name]} of {name}, which "
                f"is {now} now. {way_out}, or start a new experiment with --name NAME."
            )
    if problems:
        raise InputError(problems)


def _recorded_teachers(folder: Path) -> dict[str, str]:
    path = folder / _TEACHERS_FILE
    return dict(read_json(path)) if path.exists() else {}


def record_base(folder: Path, found: FoundBase, family: str, teachers: Sequence[FoundBase] = ()) -> None:
    """Records a base, and those that teach; what was recorded before stays."""
    known = _recorded_teachers(folder)
    if new := {teacher.source.id: teacher.fingerprint() for teacher in teachers if teacher.source.id not in known}:
        write_json(folder / _TEACHERS_FILE, known | new)
    if not (folder / BASE_FILE).exists():
        recorded = RecordedBase(found.source.id, found.commit, found.fingerprint(), family)
        write_json(folder / BASE_FILE, asdict(recorded))
