"""What a teacher says next, as far as it is kept: of each target token of a pair the k most likely ones.

A folder holds whole Arrow files alone, each of some pairs, that are memory-mapped and never change. They are written
aside and renamed, so that a process that dies costs the file that it was writing. Who writes must hold the folder's
lock; who reads need not.

Shapes: pairs; tokens = labels of pairs, one pair after the other; k.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from langsearch.data.arrow_file import write_batch
from langsearch.data.token_parts import LOCK, held_at_once

FORMAT = b"langsearch top tokens 1"

TEACHERS = ".teachers"
"""The folder of all of them, beside the token files; by its dot a machine's own, which is sent nowhere."""

PROGRESS = "progress.json"
"""How far the one that reads is: `done` pairs of an epoch, and the `total` of them."""

BYTES_A_TOKEN = 6
"""Of each of the k: an int32, and a float16, whose logarithm of a probability is right to a thousandth."""

_NOTHING = np.zeros(0, np.int64)


@dataclass(frozen=True)
class _Part:
    """A file, as views of it."""

    keys: NDArray[np.int64]
    """(pairs,)."""

    ends: NDArray[np.int64]
    """(pairs + 1,): where the tokens of each pair begin, and of the last one end."""

    ids: NDArray[np.int32]
    """(tokens, k)."""

    log_probs: NDArray[np.float16]
    """(tokens, k), nats."""


class TopTokens:
    """The k most likely next tokens of a teacher, by pair.

    Args:
        folder: Of one teacher, one text, one k and one temperature; made if absent.
        k: How many of a place are kept.
    """

    def __init__(self, folder: Path, k: int) -> None:
        self.folder, self.k = folder, k
        self._parts: dict[str, _Part] = {}
        self._keys = self._part_of = self._place_of = _NOTHING

    def look(self) -> None:
        """Maps the files that have come since. One that is torn or foreign counts as not there."""
        new = sorted(path for path in self.folder.glob("[0-9]*.arrow") if path.name not in self._parts)
        for path in new:
            with suppress(OSError, pa.ArrowException, ValueError):
                self._parts[path.name] = _open(path, self.k)
        if new and self._parts:
            parts = list(self._parts.values())
            keys = np.concatenate([part.keys for part in parts])
            order = np.argsort(keys, kind="stable")
            self._keys = keys[order]
            self._part_of = np.repeat(np.arange(len(parts)), [len(part.keys) for part in parts])[order]
            self._place_of = np.concatenate([np.arange(len(part.keys)) for part in parts])[order]

    def missing(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns those of some pairs that are not there, as they stand."""
        return keys[~np.isin(keys, self._keys)]

    def read(self, keys: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
        """Returns ids (tokens, k), logarithms of their probabilities (tokens, k), and tokens of each pair (pairs,).

        Args:
            keys: (pairs,); all must be there.
        """
        ids, log_probs, counts = [np.zeros((0, self.k), np.int32)], [np.zeros((0, self.k), np.float16)], []
        parts = list(self._parts.values())
        for at in np.searchsorted(self._keys, keys).tolist():
            part, place = parts[self._part_of[at]], self._place_of[at]
            begin, end = part.ends[place], part.ends[place + 1]
            ids.append(part.ids[begin:end])
            log_probs.append(part.log_probs[begin:end])
            counts.append(end - begin)
        return np.concatenate(ids), np.concatenate(log_probs).astype(np.float32), np.array(counts, np.int64)

    def add(
        self,
        keys: NDArray[np.int64],
        counts: NDArray[np.int64],
        ids: NDArray[np.int32],
        log_probs: NDArray[np.float16],
    ) -> None:
        """Writes pairs that are not there yet; the lock must be held.

        Args:
            keys: (pairs,).
            counts: (pairs,), the tokens of each.
            ids: (tokens, k).
            log_probs: (tokens, k), nats.

        Raises:
            OSError: If the disk is full.
        """
        for left in self.folder.glob(".[0-9]*.arrow.*"):  # of one that died: nobody else writes now
            left.unlink(missing_ok=True)
        names = [int(path.stem) for path in self.folder.glob("[0-9]*.arrow")]
        path = self.folder / f"{max(names, default=-1) + 1:06d}.arrow"
        values = {"ids": pa.array(ids.ravel()), "log_probs": pa.array(log_probs.ravel())}
        ends = pa.array(np.concatenate([[0], np.cumsum(counts * self.k)]).astype(np.int64))
        columns = {name: pa.LargeListArray.from_arrays(ends, found) for name, found in values.items()}
        batch = pa.record_batch({"key": pa.array(keys), **columns})
        write_batch(path, batch, {b"format": FORMAT, b"k": b"%d" % self.k})

    def note(self, done: int, total: int) -> None:
        """Writes how many pairs of an epoch are there, for who shows it; the lock must be held."""
        aside = self.folder / f".{PROGRESS}"
        with suppress(OSError):  # nothing is lost without it
            aside.write_text(json.dumps({"done": done, "total": total}), encoding="utf-8")
            aside.replace(self.folder / PROGRESS)

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Gives whether the folder's lock is held here now; a process that is killed gives it back."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / LOCK).touch(0o600)
        with held_at_once(self.folder) as is_held:
            yield is_held


def _open(path: Path, k: int) -> _Part:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    if (reader.schema.metadata or {}) != {b"format": FORMAT, b"k": b"%d" % k} or reader.num_record_batches != 1:
        raise ValueError(f"{path} is no file of a teacher's {k} next tokens")
    batch = reader.get_batch(0)
    ids, log_probs = batch.column("ids"), batch.column("log_probs")
    return _Part(
        keys=batch.column("key").to_numpy(),
        ends=ids.offsets.to_numpy() // k,
        ids=ids.values.to_numpy().reshape(-1, k),
        log_probs=log_probs.values.to_numpy().reshape(-1, k),
    )
