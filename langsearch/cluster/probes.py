"""What a node is asked, as Ray tasks; light to import, since each node starts a process for it."""

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from uuid import uuid4

from langsearch.experiment import object_store
from langsearch.experiment.remote import local_copy, open_remote
from langsearch.space.problems import InputError

PACKAGES = ("langsearch", "ray", "torch", "transformers", "optuna", "pyarrow")
_TOKEN = "token"


@dataclass(frozen=True)
class Examined:
    """What a machine says of itself."""

    versions: Mapping[str, str | None]
    cpus: int
    gpus: Sequence[str]
    memory_bytes: int
    free_memory_bytes: int
    free_disk_bytes: int | None
    """Where trials write; None where the place is not there."""

    place_problem: str | None
    missing: Sequence[str]
    """What the space names and this machine cannot read."""


def examine(place: str, name: str, token: str, paths: Sequence[str]) -> Examined:
    """Examines the machine that this runs on; a Ray task on a cluster.

    Args:
        place: The folder of all experiments, or its URL.
        name: A folder in it, with the token.
        token: What the driver has written there.
        paths: What must be readable.
    """
    total, free = _memory()
    return Examined(
        versions={"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}},
        cpus=os.cpu_count() or 1,
        gpus=_gpus(),
        memory_bytes=total,
        free_memory_bytes=free,
        free_disk_bytes=_free_disk(place),
        place_problem=try_place(place, name, token),
        missing=[path for path in paths if not os.access(path, os.R_OK)],
    )


def read_clock() -> float:
    """Returns the time of the machine that this runs on, in seconds; a Ray task."""
    return time.time()


def try_place(place: str, name: str, token: str) -> str | None:
    """Reads the token of the driver and writes a file beside it; a Ray task. Returns what is wrong."""
    try:
        if not object_store.is_remote(place):
            if not Path(place).is_dir():
                return f"there is no {place}"
            if not (Path(place) / name / _TOKEN).exists():
                return f"{place} is another folder there, not the one of the machine that runs the search"
        else:
            open_remote(place)
            if not local_copy(place).is_dir():
                return f"there can be no copy in {local_copy(place)}"
        if _read(place, f"{name}/{_TOKEN}") != token:
            return f"{place} is another place there, not the one of the machine that runs the search"
        write_token(place, name, token, uuid4().hex)
    except (OSError, InputError) as error:
        return str(error)
    return None


def try_files(sizes: Mapping[str, int]) -> str | None:
    """Opens files of known sizes; a Ray task. A size of -1 is that of a folder. Returns what is wrong."""
    for path, size in sizes.items():
        try:
            if size < 0 and not Path(path).is_dir():
                return f"there is no folder {path}"
            if size >= 0:
                with Path(path).open("rb") as file:
                    file.read(1)
                if Path(path).stat().st_size != size:
                    return f"{path} is another file there"
        except OSError as error:
            return str(error)
    return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpus() -> list[str]:
    """Returns "NAME, MEMORY" of each GPU. Asks the driver: Ray hides GPUs from tasks that take none."""
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in found.stdout.splitlines() if line.strip()]


def _memory() -> tuple[int, int]:
    """Returns the bytes of the machine's memory, and those that are free; 0 where the system does not say."""
    with suppress(OSError, ValueError, KeyError):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        sizes = {line.partition(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.endswith("kB")}
        return sizes["MemTotal"], sizes["MemAvailable"]
    return 0, 0


def _free_disk(place: str) -> int | None:
    try:
        return shutil.disk_usage(local_copy(place) if object_store.is_remote(place) else place).free
    except OSError:
        return None


def _read(place: str, relative: str) -> str:
    if object_store.is_remote(place):
        return object_store.read_bytes(place, relative).decode()
    return (Path(place) / relative).read_text(encoding="utf-8")


def write_token(place: str, folder: str, token: str, name: str = _TOKEN) -> None:
    """Writes a small file into a folder of the storage, which is made. Raises OSError if it cannot be."""
    if object_store.is_remote(place):
        object_store.write_bytes(place, f"{folder}/{name}", token.encode())
        return
    (Path(place) / folder).mkdir(parents=True, exist_ok=True)
    (Path(place) / folder / name).write_text(token, encoding="utf-8")


def remove_token(place: str, name: str) -> None:
    """Removes such a folder, as far as that can be."""
    with suppress(OSError):
        if not object_store.is_remote(place):
            shutil.rmtree(Path(place) / name, ignore_errors=True)
            return
        for file in object_store.modified(place, name):
            object_store.delete(place, f"{name}/{file}")
