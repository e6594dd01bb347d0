"""A folder that an export writes: whole or not at all, and never over something that is no export."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from langsearch.space.problems import InputError, naming

FORMAT_FILE = "langsearch.json"
"""Beside the PEFT adapters: the base, the languages and the architecture, for `langsearch translate` and `evaluate`."""

BASE_FOLDER = "base"
"""Beside PEFT adapters of a base that travels with the package: the base itself, which nothing else could fetch."""

MERGED_FILE = "langsearch_merged.json"
"""Beside a merged model: where it comes from."""


@contextmanager
def export_folder(folder: Path, markers: Sequence[str] = (FORMAT_FILE, MERGED_FILE)) -> Iterator[Path]:
    """Gives a folder to write in, which takes the place of `folder` when all is written.

    Args:
        folder: Where to; replaced if it is an earlier export.
        markers: Files one of which an earlier export has.

    Raises:
        InputError: If the folder is there and is no export.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"An export's place must be a folder, but {folder} is a file.")
    is_export = any((folder / marker).exists() for marker in markers)
    if folder.exists() and any(folder.iterdir()) and not is_export:
        raise InputError(f"An export's folder must be new or an earlier export, but {folder} holds other files.")
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        try:
            with naming(folder):
                yield aside
        except SafetensorError as error:  # its name for a full disk
            raise OSError(f"{folder} could not be written: {error}") from error
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
