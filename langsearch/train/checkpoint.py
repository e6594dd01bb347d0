"""Checkpoints that a crash cannot tear: written aside, synced, renamed, and checked when read."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

logger = logging.getLogger(__name__)

_TENSORS, _STATE = "tensors.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """All that training needs to go on: tensors by name, and plain values."""

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def write_checkpoint(
    folder: Path, checkpoint: Checkpoint, *, num_kept: int = 2, check: Callable[[], None] = lambda: None
) -> Path:
    """Writes a checkpoint under `folder` and drops all but the newest ones.

    It is complete under its name or not there at all: written aside, synced to the disk, then renamed.

    Args:
        folder: The trial's checkpoint folder; made if needed. One writer at a time.
        checkpoint: Its state must hold "updates", which orders checkpoints.
        num_kept: How many stay. 2: the newest, and the one before it that serves if the newest turns out torn.
        check: Called before anything is written, and once more before it gets its name; what it raises stops that.

    Returns:
        The checkpoint's own folder.

    Raises:
        OSError: If the disk is full or not writable; what was there before stays.
    """
    name = f"{checkpoint.state['updates']:09d}"
    aside = folder / f".{name}.{os.getpid()}.partial"
    check()
    _remove_partial(folder)
    aside.mkdir(parents=True)
    try:
        save_file({key: tensor.contiguous() for key, tensor in checkpoint.tensors.items()}, aside / _TENSORS)
        state = {**checkpoint.state, "tensors_sha256": _sha256(aside / _TENSORS)}
        (aside / _STATE).write_text(json.dumps(state), encoding="utf-8")
        for path in (aside / _TENSORS, aside / _STATE, aside):
            _sync(path)
        check()
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, SafetensorError):  # safetensors has its own name for a full disk
            raise OSError(f"Could not write a checkpoint to {folder}: {error}") from error
        raise
    final = folder / name
    earlier = folder / f".{name}.{os.getpid()}.earlier.partial"
    if final.exists():
        final.rename(earlier)
    aside.rename(final)
    _sync(folder)
    shutil.rmtree(earlier, ignore_errors=True)
    for old in _by_age(folder)[num_kept:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def read_newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Returns the newest checkpoint that is whole, or None if there is none.

    A torn one is named in a warning, and the one before it serves.
    """
    for path in _by_age(folder):
        try:
            return read_checkpoint(path)
        except (OSError, ValueError, SafetensorError) as error:
            logger.warning("The checkpoint %s is torn (%s); the one before it serves.", path, error)
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads one checkpoint's folder.

    Raises:
        OSError: If a file is missing.
        ValueError: If the state is torn, or the tensors are not those that it was written with.
    """
    state = json.loads((path / _STATE).read_text(encoding="utf-8"))
    if not isinstance(state, dict):
        raise ValueError(f"{_STATE} must hold a JSON object, but holds {state!r}")  # noqa: TRY004 - torn, not misused
    if (digest := _sha256(path / _TENSORS)) != state.pop("tensors_sha256", None):
        raise ValueError(f"{_TENSORS} must be the file that {_STATE} was written with, but its SHA-256 is {digest}")
    try:
        return Checkpoint(load_file(path / _TENSORS), state)
    except RuntimeError as error:  # PyTorch's name for a file that has gone meanwhile
        raise OSError(str(error)) from error


def _by_age(folder: Path) -> list[Path]:
    """Returns the checkpoints' folders, newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.name.isdigit()), reverse=True)


def _remove_partial(folder: Path) -> None:
    if folder.is_dir():
        for path in folder.glob(".*.partial"):
            shutil.rmtree(path, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
