"""Whether this machine, or each node of a cluster, is fit to run trials: what is there, and what would break a run."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from rich.console import Console
from rich.table import Table

from langsearch.cluster.nodes import Node, NodeError, ask, live_nodes, may_come, show_amounts
from langsearch.cluster.probes import MUST_BE_EQUAL, Examined, examine, read_clock, remove_token, write_token
from langsearch.cluster.resources import amounts
from langsearch.experiment.object_store import is_remote
from langsearch.experiment.printable import Unpadded
from langsearch.experiment.remote import open_remote
from langsearch.space.problems import InputError
from langsearch.space.schema import Space

_MAX_SKEW = 60.0
_LEAST_DISK = 10**9


@dataclass(frozen=True)
class Diagnosis:
    """A machine, and what is wrong with it."""

    name: str
    resources: Mapping[str, float] | None
    """What Ray gives out there; None on a machine without a cluster."""

    examined: Examined | None
    skew_seconds: float | None
    """How far its clock is ahead of this machine's; None if it was not measured."""

    has_room: bool | None
    """Whether a trial of the space fits; None without a space."""

    problems: tuple[str, ...]
    """What would break a run."""

    warnings: tuple[str, ...] = ()


def diagnose(experiments: str, space: Space | None, address: str | None) -> list[Diagnosis]:
    """Examines this machine, or all nodes of the cluster that this process is connected to.

    Args:
        experiments: The folder of all experiments, or its URL.
        space: What is to run. None: nothing is said of it.
        address: The cluster's. None: this machine alone.
    """
    place = experiments if is_remote(experiments) else str(Path(experiments).absolute())
    paths = _paths(space)
    name, token = f".doctor-{uuid4().hex}", uuid4().hex
    made = None if is_remote(place) else _first_missing(Path(place))
    is_written = False
    try:
        with suppress(OSError, InputError):  # then no machine finds the token, and each says why
            if is_remote(place):
                open_remote(place)  # within seconds, where nothing answers
            write_token(place, name, token)
            is_written = True
        here = examine(place, name, token, paths)
        if address is None:
            return [_judge("this machine", None, here, here, None, None)]
        return _nodes(here, space, (place, name, token, paths))
    finally:
        if is_written or not is_remote(place):
            remove_token(place, name)
        if made is not None:
            _remove_empty(Path(place), made)


def diagnosis_data(diagnoses: Sequence[Diagnosis], problems: Sequence[str]) -> dict[str, Any]:
    """Returns everything as plain data."""
    return {"nodes": [asdict(diagnosis) for diagnosis in diagnoses], "problems": list(problems)}


def print_diagnoses(console: Console, diagnoses: Sequence[Diagnosis], problems: Sequence[str]) -> None:
    """Prints a table of the machines, then what is wrong.

    Args:
        console: Where to.
        diagnoses: The machines.
        problems: What is wrong, but not with one of them.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("Node", "Versions", "CPUs", "GPUs", "Memory", "Disk", "Storage", "Clock", "Trials"):
        table.add_column(title)
    first = next((found.examined for found in diagnoses if found.examined is not None), None)
    for found in diagnoses:
        table.add_row(*_cells(found, first))
    console.print(Unpadded(table))
    if first is not None:
        console.print(", ".join(f"{name} {number}" for name, number in first.versions.items()), soft_wrap=True)
    for found in diagnoses:
        for warning in found.warnings:
            console.print(f"warning: {found.name}: {warning}", markup=False, soft_wrap=True)
        for problem in found.problems:
            console.print(f"problem: {found.name}: {problem}", markup=False, soft_wrap=True)
    for problem in problems:
        console.print(f"problem: {problem}", markup=False, soft_wrap=True)
    if not problems and not any(found.problems for found in diagnoses):
        console.print("Nothing here would break a run.")


def room_problems(diagnoses: Sequence[Diagnosis], space: Space | None, address: str | None) -> list[str]:
    """Returns what is wrong if no node has room for a trial of the space and none can come."""
    if space is None or address is None or any(found.has_room for found in diagnoses):
        return []
    wanted = amounts(space.resources)
    return [f"No node has room for a trial, {show_amounts(wanted)}."] if may_come(wanted) is False else []


def _nodes(here: Examined, space: Space | None, arguments: tuple[Any, ...]) -> list[Diagnosis]:
    nodes = live_nodes()
    answers = ask(nodes, examine, *arguments)
    found = []
    for node in nodes:
        answer = answers[node.id]
        skew = None if isinstance(answer, NodeError) else _skew(node)
        room = None if space is None else node.fits(amounts(space.resources))
        found.append(_judge(str(node), node.resources, answer, here, skew, room))
    return found


def _skew(node: Node) -> float | None:
    """Measures a node's clock against ours; within half the time that the answer took it is the same."""
    before = time.time()
    there = ask([node], read_clock)[node.id]
    after = time.time()
    if isinstance(there, NodeError):
        return None
    return min((there - before, there - after), key=abs) if not before <= there <= after else 0.0


def _judge(
    name: str,
    resources: Mapping[str, float] | None,
    answer: Examined | NodeError,
    here: Examined,
    skew: float | None,
    has_room: bool | None,
) -> Diagnosis:
    if isinstance(answer, NodeError):
        problem = f"langsearch does not run there: {answer.cause.rstrip('.')}. Install the version that runs here."
        return Diagnosis(name, resources, None, skew, has_room, (problem,))
    problems, warnings = [], []
    for package, number in answer.versions.items():
        ours = here.versions[package]
        if number is None:
            problems.append(f"{package} is not installed.")
        elif number != ours and (package in MUST_BE_EQUAL):
            problems.append(f"{package} must be {ours} as here, but is {number}.")
        elif number != ours:
            warnings.append(f"{package} is {number}, but {ours} here: scores may differ in the last digits.")
    if answer.place_problem is not None:
        problems.append(f"the storage cannot be used: {answer.place_problem.rstrip('.')}.")
    if answer.free_disk_bytes is not None and answer.free_disk_bytes < _LEAST_DISK:
        problems.append(f"at least 1 GB of disk must be free, but {_gigabytes(answer.free_disk_bytes)} are.")
    problems += [f"{path} must be readable, but is not." for path in answer.missing]
    if skew is not None and abs(skew) > _MAX_SKEW:
        problems.append(f"the clock must be within {_MAX_SKEW:g} s of this machine's, but is {skew:+.0f} s off.")
    num_gpus = 0 if resources is None else resources.get("GPU", 0)
    is_cpu_build = "+cpu" in (answer.versions["torch"] or "")
    if (num_gpus or (resources is None and answer.gpus)) and is_cpu_build:
        problems.append("there are GPUs, but torch is a build for CPUs alone: trials would not use them.")
    if resources is not None and resources.get("CPU", 0) > answer.cpus:
        warnings.append(
            f"Ray was started with {resources['CPU']:g} CPUs, but its processes may use {answer.cpus}: trials would "
            "slow each other down. Start it with --num-cpus."
        )
    if resources is not None and answer.gpus and not num_gpus:
        warnings.append(f"{len(answer.gpus)} GPUs are there, but Ray was started without them.")
    return Diagnosis(name, resources, answer, skew, has_room, tuple(problems), tuple(warnings))


def _cells(found: Diagnosis, first: Examined | None) -> list[str]:
    answer = found.examined
    if answer is None or first is None:
        return [found.name, "no answer", *[""] * 7]
    other = {name: number for name, number in answer.versions.items() if number != first.versions[name]}
    resources = found.resources or {"CPU": answer.cpus, "GPU": len(answer.gpus)}
    kinds = ", ".join(sorted(set(answer.gpus)))
    return [
        found.name,
        ", ".join(f"{name} {number}" for name, number in other.items()) or "as below",
        f"{resources.get('CPU', 0):g}",
        f"{resources.get('GPU', 0):g}{f' {kinds}' if kinds else ''}",
        f"{answer.free_memory_bytes / 1e9:.0f}/{_gigabytes(answer.memory_bytes)}",
        "none" if answer.free_disk_bytes is None else _gigabytes(answer.free_disk_bytes),
        "ok" if answer.place_problem is None else "no",
        "" if found.skew_seconds is None else f"{found.skew_seconds:+.1f} s",
        "" if found.has_room is None else "yes" if found.has_room else "no room",
    ]


def _paths(space: Space | None) -> list[str]:
    """Returns what trials of a space read from files on their node; base and tokenizer travel with them."""
    if space is None:
        return []
    trainer = space.trainer_section
    folders = [] if trainer.init_from is None else [Path(trainer.init_from)]
    return [str(folder.absolute()) for folder in (*folders, *trainer.loss.folders)]


def _first_missing(path: Path) -> Path | None:
    """Returns the outermost folder of a path that is not there yet."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    return missing[-1] if missing else None


def _remove_empty(path: Path, last: Path) -> None:
    """Removes the empty folders that the test of the storage has made, from the innermost to `last`."""
    for folder in (path, *path.parents):
        try:
            folder.rmdir()
        except OSError:
            return
        if folder == last:
            return


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
