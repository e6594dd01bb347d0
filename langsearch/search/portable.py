"""An environment that unpacks itself on another machine: of a remote experiment the token files are fetched there."""

import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from langsearch.data.store import TokenStore
from langsearch.search.environment import STORE_FOLDER, Environment
from langsearch.search.working_copy import WorkingCopy

_LOCK = ".store.lock"
_PARTS = ("train", "validation", "test")


def portable(environment: Environment, copy: WorkingCopy | None) -> "Environment | Portable":
    """Returns what to send to workers, which get the environment.

    Args:
        environment: The environment; its token files lie in the copy's folder, if there is one.
        copy: Of a remote experiment. None: all machines see the same files.
    """
    if copy is None:
        return environment
    files = {part: dict(getattr(environment, part).files) for part in _PARTS}
    names = {part: {language: path.name for language, path in found.items()} for part, found in files.items()}
    empty = TokenStore({}, {})
    return Portable(replace(environment, train=empty, validation=empty, test=empty), names, copy)


@dataclass(frozen=True)
class Portable:
    """An environment without its token files; becomes the whole one where it is unpickled."""

    bare: Environment
    names: Mapping[str, Mapping[str, str]]
    """Of each part the token file's name by language."""

    copy: WorkingCopy

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack, (self.bare, self.names, self.copy)


def _unpack(bare: Environment, names: Mapping[str, Mapping[str, str]], copy: WorkingCopy) -> Environment:
    experiments = copy.path.parent
    experiments.mkdir(parents=True, exist_ok=True)
    folder = experiments / STORE_FOLDER
    if not all((folder / name).exists() for part in names.values() for name in part.values()):
        _fetch(copy, experiments / _LOCK)

    def store(part: str) -> TokenStore:
        return TokenStore.open({language: folder / name for language, name in names[part].items()})

    return replace(bare, train=store("train"), validation=store("validation"), test=store("test"))


def _fetch(copy: WorkingCopy, lock: Path) -> None:
    """Brings the token files to this machine, once for all its workers."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        copy.pull_store()
    finally:
        os.close(descriptor)
