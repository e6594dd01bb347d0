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
from langsearch.model.cpus import available_cpus
from langsearch.space.problems import InputError

PACKAGES = ("langsearch", "ray", "torch", "transformers", "optuna", "pyarrow")
MUST_BE_EQUAL = ("langsearch", "ray", "python")
"""What processes of one run talk to each other with."""

SAME_STORAGE = "Mount the same storage on every node, under one path, or give a URL such as s3://… with --experiments"
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


@dataclass(frozen=True)
class NodeCheck:
    """What must hold on a node before its first trial. It travels to the workers."""

    versions: Mapping[str, str | None]
    """The driver's, of what must be equal."""

    place: str
    """The folder of all experiments, or its URL."""

    name: str
    """A folder in it, with the token."""

    token: str
    sizes: Mapping[str, int]
    """Of the files that trials read, as `try_files` takes them."""

    needs_gpu: bool
    passed: frozenset[str] = frozenset()
    """The ids of nodes that were looked at before."""


def versions() -> dict[str, str | None]:
    """Returns the versions here of what must be equal on all nodes; a Ray task."""
    return {name: platform.python_version() if name == "python" else _version(name) for name in MUST_BE_EQUAL}


def try_versions(ours: Mapping[str, str | None]) -> str | None:
    """Compares versions with the driver's; a Ray task. Returns what is wrong."""
    there = versions()
    other = [f"{name} is {there[name]} instead of {ours[name]}" for name in ours if there[name] != ours[name]]
    return ", ".join(other) or None


def try_node(check: NodeCheck, *, with_gpu: bool = True) -> str | None:
    """Looks whether the node that this runs on may run trials; a Ray task.

    Args:
        check: What must hold.
        with_gpu: Whether a product is made on its GPU, if trials need one: a process of a trial's own may, another
            would be in the way where a GPU takes one process at a time.

    Returns:
        What is wrong, as the end of a sentence with its way out; None if nothing is.
    """
    if (problem := try_versions(check.versions)) is not None:
        return f"must have the versions of the machine that runs the search, but {problem}. Install these there."
    if (problem := try_place(check.place, check.name, check.token)) is not None:
        rule = f"must read and write the experiments in {check.place}"
        return f"{rule}, but cannot: {problem.rstrip('.')}. {SAME_STORAGE}."
    if (problem := try_files(check.sizes)) is not None:
        return f"must read the data of the trials, but cannot: {problem.rstrip('.')}. {SAME_STORAGE}."
    if with_gpu and check.needs_gpu:
        from langsearch.model.device import cuda_problem

        if (problem := cuda_problem()) is not None:
            return f"{GPU_RULE}, but cannot: {problem.rstrip('.')}. {GPU_WAY_OUT}."
    return None


GPU_RULE = "must have a GPU that CUDA can use for `resources.gpu`"
GPU_WAY_OUT = "Mend the driver or PyTorch there, or set resources.gpu=0"


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
        versions={**versions(), **{package: _version(package) for package in PACKAGES}},
        cpus=available_cpus(),
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
    """Returns the bytes of memory that this process may have, and those that are free."""
    import torch

    from langsearch.model.memory import available_bytes, total_bytes

    return total_bytes(torch.device("cpu")), available_bytes(torch.device("cpu"))


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
