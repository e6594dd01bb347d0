"""Arrow files of one record batch, written whole or not at all."""

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa

from langsearch.space.problems import naming


def write_batch(path: Path, batch: Any, metadata: dict[bytes, bytes]) -> None:
    """Writes a record batch aside and renames it, so that a process that dies leaves no half file by this name.

    What it leaves is named as the file is, after a dot and before a dot and 32 hexadecimal digits.

    Args:
        path: The file. Its folder must be there.
        batch: An Arrow record batch.
        metadata: Of its schema.

    Raises:
        OSError: If the disk is full.
    """
    batch = batch.replace_schema_metadata(metadata)
    aside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with naming(path), aside.open("wb") as file:
            with pa.ipc.new_file(file, batch.schema) as writer:
                writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
