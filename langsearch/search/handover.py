"""An experiment's folder as text: what `langsearch fetch` has a cluster's head print, since a job's log can be read.

python -m langsearch.search.handover FOLDER
"""

import base64
import binascii
import hashlib
import io
import os
import sys
import tarfile
from pathlib import Path

from langsearch.space.problems import InputError

BEGIN, END = "-----BEGIN EXPERIMENT-----", "-----END EXPERIMENT-----"

MAX_BYTES = 400_000_000
"""The log is read in one piece, and held in memory four times over."""

_LEFT_OUT = {"ray", ".lock", "stop"}
"""What only a run needs."""


def show_folder(folder: Path) -> str:
    """Returns a folder as lines of text with a checksum.

    Raises:
        InputError: If it is no experiment, or too large.
    """
    if not (folder / "space.yaml").is_file():
        raise InputError(f"An experiment's folder holds a space.yaml, but {folder} has none on the cluster's head.")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MAX_BYTES:
        raise InputError(
            f"An experiment must be at most {MAX_BYTES / 1e6:,.0f} MB to be fetched through a job's log, but {folder} "
            f"has {size / 1e6:,.0f} MB. Copy it with rsync, scp or `ray rsync-down`, or keep experiments on s3://… ."
        )
    content = pack_folder(folder)
    return f"{BEGIN}\n{hashlib.sha256(content).hexdigest()}\n{base64.encodebytes(content).decode()}{END}\n"


def read_folder(text: str, to: Path) -> None:
    """Writes the folder that a text holds.

    Args:
        text: What `show_folder` returned, between other lines.
        to: The folder to make.

    Raises:
        InputError: If the text holds none, or not the whole one.
    """
    _, begin, rest = text.partition(f"{BEGIN}\n")
    inner, end, _ = rest.partition(f"{END}")
    digest, _, body = inner.partition("\n")
    try:
        content = base64.b64decode(body)
    except binascii.Error:
        content = b""
    if not begin or not end or hashlib.sha256(content).hexdigest() != digest:
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "nothing")
        raise InputError(last.removeprefix("error: ") if not begin else "The experiment came torn. Fetch it again.")
    unpack_folder(content, to)


def pack_folder(folder: Path) -> bytes:
    """Returns a folder without what only a run needs, packed."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for path in sorted(folder.iterdir()):
            if path.name not in _LEFT_OUT:
                archive.add(path, arcname=path.name)
    return packed.getvalue()


def unpack_folder(content: bytes, to: Path) -> None:
    """Makes the folder that `pack_folder` packed."""
    to.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        archive.extractall(to, filter="data")


def main() -> None:
    """Prints the folder that the command line names."""
    try:
        sys.stdout.write(show_folder(Path(sys.argv[1])))
    except InputError as error:
        sys.stdout.write(f"error: {error}{os.linesep}")
        sys.exit(2)


if __name__ == "__main__":
    main()
