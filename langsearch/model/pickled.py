"""Published weights in PyTorch's pickles: read without running what they hold, kept as safetensors once a machine."""

import errno
import json
import os
import pickle
import re
import shutil
import struct
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from torch import Tensor

from langsearch.model.cache import VARIABLE, cache_folder, file_digest, locked
from langsearch.space.problems import InputError

_MANIFEST = "langsearch.json"
"""Beside converted weights: the digest of each file."""

_SHARED = "model.shared.weight"
_TIED = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
"""What published files repeat of the shared embedding."""

_SINUSOIDAL = "embed_positions.weights"
"""Positions that the model computes, which older files hold too. Learned ones are called `embed_positions.weight`."""

# What unpickling something torn may raise; see the documentation of pickle.
_TORN = (
    *(pickle.UnpicklingError, EOFError, RuntimeError, ValueError, KeyError, IndexError, AttributeError, TypeError),
    *(ImportError, OverflowError, struct.error, zipfile.BadZipFile),
)


def read_pickled(path: Path, *, is_check: bool = False) -> dict[str, Tensor]:
    """Returns the tensors of a pickle by name, mapped from the file where its format allows it. Nothing in it is run.

    Args:
        path: The file that `torch.save` wrote.
        is_check: Read nothing but the directory: of a file in the format before PyTorch 1.6, which has none, only
            the first bytes are looked at, and nothing is returned.

    Raises:
        InputError: If the file is torn, holds code, or something else than tensors by name.
    """
    again = "Copy or fetch it again."
    try:
        is_zip = zipfile.is_zipfile(path)
        with path.open("rb") as file:
            first = file.read(2)
        if not is_zip and first[:1] != b"\x80":
            raise InputError(f"A base's weights must be whole, but {path} is torn or no file of PyTorch's. {again}")
        if is_check and not is_zip:
            return {}
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except OSError as error:
        raise InputError(f"A base's weights must be readable, but {path} is not: {error}. {again}") from error
    except _TORN as error:
        if isinstance(error, InputError):
            raise
        if (code := re.search(r"(?:GLOBAL|class|function) ([\w.]+)", str(error))) and "nsupported" in str(error):
            raise InputError(
                f"A base's weights must be tensors and nothing else, but {path} holds code ({code[1]}), which was not "
                "run. Take weights from a source that you trust, best as safetensors."
            ) from error
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"A base's weights must be whole, but {path} cannot be read: {cause} {again}") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(
            f"A base's weights must be tensors by name, as `save_pretrained` writes them, but {path} holds something "
            "else, such as a whole training checkpoint. Convert it first."
        )
    return dict(found)


def as_safetensors(folder: Path, names: Sequence[str], fingerprint: str) -> Path:
    """Returns the folder with weights as safetensors that are equal to those of pickles.

    They are written once a machine, and checked whenever they are used: torn ones are written again.

    Args:
        folder: Where the pickles lie.
        names: Their files.
        fingerprint: Of their content.

    Raises:
        InputError: If a pickle is wrong, or the cache has no room or cannot be written.
    """
    target = cache_folder() / "weights" / fingerprint
    num_bytes = sum((folder / name).stat().st_size for name in names)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.with_name(f"{fingerprint}.lock")):
            if not _is_whole(target):
                _write(folder, names, target, num_bytes)
    except (OSError, SafetensorError) as error:
        is_full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        why = "has no more room" if is_full else f"cannot be written: {error}"
        raise InputError(_no_room(target, num_bytes, why)) from error
    return target


def _no_room(target: Path, num_bytes: int, why: str) -> str:
    return (
        f"A base's pickled weights are kept as safetensors, which takes {num_bytes / 1e9:.2f} GB, but "
        f"{target.parent} {why}. Make room, or name another folder by {VARIABLE}."
    )


def _is_whole(target: Path) -> bool:
    try:
        digests = json.loads((target / _MANIFEST).read_text(encoding="utf-8"))
        return bool(digests) and all(file_digest(target / name) == digest for name, digest in digests.items())
    except (OSError, ValueError, AttributeError):
        return False


def _write(folder: Path, names: Sequence[str], target: Path, num_bytes: int) -> None:
    """Writes the weights aside and renames them. The caller holds the lock."""
    aside = target.with_name(f".{target.name}.partial")
    for old in (aside, target):  # of a process that was killed; torn
        shutil.rmtree(old, ignore_errors=True)
    free = shutil.disk_usage(target.parent).free
    if free < num_bytes:
        raise InputError(_no_room(target, num_bytes, f"has {free / 1e9:.2f} GB free"))
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= read_pickled(folder / name)
    aside.mkdir()
    try:
        save_torch_state_dict(_without_repeated(tensors), aside)
        digests = {}
        for path in sorted(aside.iterdir()):
            with path.open("rb") as file:
                os.fsync(file.fileno())
            digests[path.name] = file_digest(path)
        (aside / _MANIFEST).write_text(json.dumps(digests, indent=1), encoding="utf-8")
        aside.rename(target)
    finally:
        with suppress(OSError):
            shutil.rmtree(aside, ignore_errors=True)


def _without_repeated(tensors: dict[str, Any]) -> dict[str, Tensor]:
    """Leaves out what a model computes, and what repeats the shared embedding: safetensors hold each tensor once."""
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(_SINUSOIDAL)}
    shared = kept.get(_SHARED)
    for name in _TIED:
        if shared is not None and name in kept and _is_equal(kept[name], shared):
            del kept[name]
    return kept


def _is_equal(tensor: Tensor, other: Tensor) -> bool:
    return tensor.data_ptr() == other.data_ptr() or (tensor.dtype == other.dtype and torch.equal(tensor, other))
