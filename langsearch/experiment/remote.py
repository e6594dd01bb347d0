"""Experiments on object stores: what is there, and copying folders there and back.

An experiment on `s3://`, `gs://` or another of pyarrow's filesystems is worked on in a local copy on each node. Its
parts travel one by one: a *part* is one trial's folder, or all that is not below trials/. A part has one writer at a
time: the worker that has the trial, or the driver.
"""

import hashlib
import json
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.fs as pafs

from langsearch.experiment.folder import write_json
from langsearch.experiment.object_store import (
    CHUNK_BYTES,
    OBJECT_STORES,
    TICK_NS,
    Stat,
    StorageError,
    child,
    fetch_file,
    join,
    normal_url,
    open_system,
    open_to_look,
    reading,
    stat_of,
    upload,
)
from langsearch.model.cache import VARIABLE, cache_folder
from langsearch.space.problems import InputError

"""Bytes of one write. Closing a stream publishes what it got, also after an interrupt, so all but large tensors, whose
checksum stands beside them, go in one."""
_NUM_THREADS = 16
_SECONDS_BETWEEN_NOTES = 0.2
_KNOWN = ".remote"
_TRIALS = "trials"
_SQLITE = b"SQLite format 3\0"
_LAST = {"state.json": 1, "study.db": 1, "result.json": 2}
"""What says that other files are complete goes after them."""


def local_copy(url: str, purpose: Literal["remote", "fetched"] = "remote") -> Path:
    """Returns the folder where this machine has its copy of a remote folder, the same every time.

    It lies in `cache_folder()`. It may be deleted while nothing uses it.

    Args:
        url: The remote folder's.
        purpose: remote: runs and their workers work there. fetched: it is only read, and disturbs none of these.

    Raises:
        InputError: If that cannot be written.
    """
    root = cache_folder()
    name = PurePosixPath(url.partition("?")[0].rstrip("/")).name
    path = root / purpose / f"{name}-{hashlib.sha256(normal_url(url).encode()).hexdigest()[:12]}"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"This machine's copies of remote experiments must lie in a folder that can be written, but {root} cannot "
            f"({error.strerror}). Name another in {VARIABLE}."
        ) from error
    return path


def open_remote(url: str) -> "Remote":
    """Returns a remote folder, after looking whether it can be reached; it need not exist yet, its bucket must.

    Args:
        url: What `pyarrow.fs.FileSystem.from_uri` takes: s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, file:///FOLDER;
            options stand in the query, such as ?region=eu-west-1 or ?endpoint_override=HOST:PORT&scheme=http.

    Raises:
        InputError: If the URL is none of them, holds a password, or the place cannot be reached.
    """
    if re.match(r"[^:]+://[^/@]*:[^/@]*@", url):
        raise InputError(
            "A remote folder must be named without a password, which would be kept in the experiment, but got one. "
            "Give it in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    try:
        system, path = open_to_look(normal_url(url))
        bucket = path.partition("/")[0]
        if system.type_name in OBJECT_STORES and system.get_file_info(bucket).type is pafs.FileType.NotFound:
            raise InputError(
                f"A remote folder must be in a bucket that is there, but there is no {bucket!r} for {url}. "
                "Make the bucket first, or correct its name."
            )
        system.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    except (OSError, pa.ArrowException, NotImplementedError) as error:
        cause = str(error).splitlines()[0]
        raise InputError(
            f"A remote folder must be one that can be opened, but {url} cannot ({cause}). Check the bucket's name, "
            "the credentials (for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile; for GCS "
            "GOOGLE_APPLICATION_CREDENTIALS), the region (?region=NAME) and, for a store of your own, "
            "?endpoint_override=HOST:PORT&scheme=http."
        ) from error
    return Remote(normal_url(url))


@dataclass(frozen=True)
class Remote:
    """A folder in an object store. Holds its URL only, opens lazily, and can be sent to workers."""

    url: str

    def child(self, name: str) -> "Remote":
        """Returns a folder in this one."""
        return Remote(child(self.url, name))

    def names(self, relative: str = "") -> list[str]:
        """Returns the names of what lies directly in a folder, sorted; none if it is not there."""
        system, root = open_system(self.url)
        infos = system.get_file_info(pafs.FileSelector(join(root, relative), allow_not_found=True))
        return sorted(info.base_name for info in infos if not info.base_name.startswith("."))

    def exists(self, relative: str) -> bool:
        """Returns whether there is a file or folder; one request."""
        system, root = open_system(self.url)
        return bool(system.get_file_info(join(root, relative)).type is not pafs.FileType.NotFound)

    def push(
        self,
        local_root: Path,
        relative: str = "",
        check: Callable[[], None] = lambda: None,
        without: Collection[str] = (),
    ) -> int:
        """Copies what has changed in a part since it was last pushed or pulled, and deletes what is gone from it.

        Files go in the order in which they were written, those last that say that others are complete; deletions
        follow. So whatever a kill leaves there is an older state that is whole, or a torn checkpoint, which is seen.
        Hidden files stay here. An SQLite file goes as a consistent snapshot. Nothing that this working copy has
        never seen is deleted.

        Args:
            local_root: The working copy of the experiment.
            relative: trials/NAME, or "" for all that is not below trials/.
            check: Called before every write; what it raises ends the push there.
            without: Files that are left as they are, here and there.

        Returns:
            How many files were copied.

        Raises:
            StorageError: If the store cannot be written; pushing again goes on.
        """
        system, root = open_system(self.url)
        known = _Known.read(local_root, relative, without)
        here = _local_files(local_root / relative, relative, without)
        changed = [path for path, stat in here.items() if path not in known.files or known.files[path][0] != stat]
        gone = [path for path in known.files if path not in here]
        num_sent = 0
        try:
            for path in sorted(changed, key=lambda path: _order(path, here[path])):
                with suppress(FileNotFoundError):  # deleted meanwhile by who works here
                    sent = _send(system, local_root / relative / path, join(root, relative, path), check)
                    known.note(path, sent, stat_of(system.get_file_info(join(root, relative, path))))
                    num_sent += 1
            for path in sorted(gone, key=lambda path: _order(path, known.files[path][0]), reverse=True):
                check()
                with suppress(FileNotFoundError):
                    system.delete_file(join(root, relative, path))
                del known.files[path]
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(f"{self.url} could not be written: {error}") from error
        finally:
            if changed or gone:
                known.write()
        return num_sent

    def pull(self, local_root: Path, relative: str = "", without: Collection[str] = ()) -> int:
        """Copies what differs in a part to the working copy.

        Where another machine has written the part since, its state wins and what is only here goes. Else what
        happened here since the last push stays; the next push brings it there.

        Args:
            local_root: The working copy of the experiment.
            relative: trials/NAME, or "" for all that is not below trials/.
            without: Files that are left as they are.

        Returns:
            How many files were copied.

        Raises:
            StorageError: If the store cannot be read; pulling again goes on.
            OSError: If the disk is full; likewise.
        """
        return self._pull(local_root, relative, self._files(relative), without)[0]

    def pull_all(self, local_root: Path, without: Collection[str] = ()) -> int:
        """Copies all parts that differ, as `pull` does; for the driver, before anything else.

        Trials that are only here go if another machine has run the experiment since.
        """
        local_root.mkdir(parents=True, exist_ok=True)
        parts: dict[str, dict[str, Stat]] = {"": {}}
        for path, stat in self._list("").items():
            top, _, rest = path.partition("/")
            name, _, inner = rest.partition("/")
            part, inside = (f"{_TRIALS}/{name}", inner) if top == _TRIALS and inner else ("", path)
            parts.setdefault(part, {})[inside] = stat
        num_files, is_older = self._pull(local_root, "", parts.pop(""), without)
        if is_older and (local_root / _TRIALS).is_dir():
            for trial in (local_root / _TRIALS).iterdir():
                if f"{_TRIALS}/{trial.name}" not in parts:
                    shutil.rmtree(trial)
        with ThreadPoolExecutor(_NUM_THREADS) as threads:
            pulled = threads.map(lambda part: self._pull(local_root, part, parts[part])[0], parts)
            return num_files + sum(pulled)

    def _pull(
        self, local_root: Path, relative: str, there: Mapping[str, Stat], without: Collection[str] = ()
    ) -> tuple[int, bool]:
        """Returns how many files were copied, and whether the state here was older."""
        system, root = open_system(self.url)
        known = _Known.read(local_root, relative, without)
        here = _local_files(local_root / relative, relative, without)
        there = {path: stat for path, stat in there.items() if path not in without}
        is_older = bool(there) and there != {path: remote for path, (_, remote) in known.files.items()}
        if is_older:
            wanted = [path for path in there if path not in here or known.files.get(path) != (here[path], there[path])]
        else:
            wanted = [path for path in there if path not in here]
        for path in sorted(wanted, key=lambda path: _order(path, there[path])):
            target = local_root / relative / path
            fetch_file(system, join(root, relative, path), target, self.url)
            known.note(path, _stat_of(target), there[path])
        if is_older:
            for path in (here.keys() | known.files.keys()) - there.keys():
                (local_root / relative / path).unlink(missing_ok=True)
                _remove_empty((local_root / relative / path).parent, local_root / relative)
                known.files.pop(path, None)
        if wanted or is_older:
            known.write()
        return len(wanted), is_older

    def _files(self, relative: str) -> dict[str, Stat]:
        """Returns the files of a part there; not those of the trials for "", which may be many."""
        if relative:
            return self._list(relative)
        system, root = open_system(self.url)
        files: dict[str, Stat] = {}
        with reading(self.url):
            infos = system.get_file_info(pafs.FileSelector(root, allow_not_found=True))
        for info in infos:
            if info.base_name.startswith(".") or info.base_name == _TRIALS:
                continue
            if info.is_file:
                files[info.base_name] = stat_of(info)
            else:
                files |= {f"{info.base_name}/{path}": stat for path, stat in self._list(info.base_name).items()}
        return files

    def _list(self, relative: str) -> dict[str, Stat]:
        system, root = open_system(self.url)
        folder = join(root, relative)
        with reading(self.url):
            infos = system.get_file_info(pafs.FileSelector(folder, recursive=True, allow_not_found=True))
        files = {PurePosixPath(info.path).relative_to(folder): info for info in infos if info.is_file}
        return {str(path): stat_of(info) for path, info in files.items() if not _is_hidden(path)}


@dataclass
class _Known:
    """What a working copy knows of a part: of each file its state here and there when both were the same."""

    path: Path
    files: dict[str, tuple[Stat, Stat]]
    written: float = float("-inf")

    @classmethod
    def read(cls, local_root: Path, relative: str, without: Collection[str]) -> "_Known":
        path = local_root / _KNOWN / f"{relative.replace('/', '~') or 'top'}.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            files = {name: ((a, b), (c, d)) for name, (a, b, c, d) in values.items() if name not in without}
        except (OSError, ValueError, AttributeError, TypeError):  # then everything is compared anew
            files = {}
        return cls(path, files)

    def note(self, path: str, here: Stat, there: Stat) -> None:
        """Remembers a file that was copied, from time to time on the disk: after a kill the rest is compared anew."""
        self.files[path] = (here, there)
        if time.monotonic() - self.written > _SECONDS_BETWEEN_NOTES:
            self.write()

    def write(self) -> None:
        write_json(self.path, {name: [*here, *there] for name, (here, there) in self.files.items()})
        self.written = time.monotonic()


def _is_hidden(path: PurePosixPath) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _stat_of(path: Path) -> Stat:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _order(path: str, stat: Stat) -> tuple[int, int, str]:
    return _LAST.get(PurePosixPath(path).name, 0), stat[1], path


def _local_files(folder: Path, relative: str, without: Collection[str]) -> dict[str, Stat]:
    files: dict[str, Stat] = {}
    for path in _walk(folder, skipped=None if relative else _TRIALS):
        if (name := path.relative_to(folder).as_posix()) not in without:
            with suppress(FileNotFoundError):
                files[name] = _stat_of(path)
    return files


def _walk(folder: Path, skipped: str | None = None) -> Iterator[Path]:
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name == skipped or entry.name.endswith(("-journal", "-wal", "-shm")):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path))
        else:
            yield Path(entry.path)


def _remove_empty(folder: Path, root: Path) -> None:
    while folder != root:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _send(system: Any, source: Path, target: str, check: Callable[[], None]) -> Stat:
    """Copies a file there; returns its state here when it was read."""
    with source.open("rb") as file:
        if time.time_ns() - os.fstat(file.fileno()).st_mtime_ns < TICK_NS:
            time.sleep(TICK_NS / 1e9)
        stat = os.fstat(file.fileno())
        is_sqlite = file.read(len(_SQLITE)) == _SQLITE
        file.seek(0)
        if is_sqlite:
            with _snapshot(source) as snapshot:
                _copy(snapshot, system, target, check)
        else:
            _copy(file, system, target, check)
    return stat.st_size, stat.st_mtime_ns


def _copy(file: BinaryIO, system: Any, target: str, check: Callable[[], None]) -> None:
    chunk = file.read(CHUNK_BYTES)  # before the stream is opened: what cannot be read must not become an empty one
    with upload(system, target, check) as stream:
        while chunk:
            stream.write(chunk)
            chunk = file.read(CHUNK_BYTES)


@contextmanager
def _snapshot(path: Path) -> Iterator[BinaryIO]:
    """Opens a copy of a database as it is between two transactions, while others use it."""
    copy = path.with_name(f".{path.name}.snapshot")
    copy.unlink(missing_ok=True)  # of a run that was killed
    try:
        with closing(sqlite3.connect(path, timeout=60)) as live, closing(sqlite3.connect(copy)) as target:
            live.backup(target, sleep=0.01)
        with copy.open("rb") as file:
            yield file
    except sqlite3.Error as error:
        raise StorageError(f"{path} could not be read: {error}") from error
    finally:
        copy.unlink(missing_ok=True)
