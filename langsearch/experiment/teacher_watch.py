"""How far a teacher is that reads for a worker, looked up in the files that it leaves."""

import time
from contextlib import suppress
from pathlib import Path

from langsearch.data.top_tokens import PROGRESS, TEACHERS
from langsearch.experiment.folder import read_json

_SECONDS_BETWEEN_LOOKS = 2.0
_STEPS = 10
"""So often at most it is told how far an epoch is."""


class TeacherWatch:
    """Tells of each tenth of an epoch that a teacher has read since the watch began.

    Args:
        store_folder: Where token files are kept.
    """

    def __init__(self, store_folder: Path) -> None:
        self._folder = store_folder / TEACHERS
        self._seen = self._stamps()
        self._began: dict[Path, tuple[float, int, int]] = {}
        """When it was first seen to read an epoch, how far it was, and of how many pairs."""
        self._told: dict[Path, int] = {}
        self._looked = -float("inf")

    def look(self) -> str | None:
        """Returns a sentence where there is something new to say; looks every two seconds at most."""
        now = time.monotonic()
        if now - self._looked < _SECONDS_BETWEEN_LOOKS:
            return None
        self._looked = now
        for path, stamp in self._stamps().items():
            if self._seen.get(path) != stamp:
                self._seen[path] = stamp
                with suppress(OSError, ValueError, KeyError, TypeError):
                    found = read_json(path)
                    if (text := self._words(path, int(found["done"]), int(found["total"]), now)) is not None:
                        return text
        return None

    def _words(self, path: Path, done: int, total: int, now: float) -> str | None:
        began = self._began.get(path)
        step = _STEPS * done // max(total, 1)
        if began is None or began[2] != total or done < began[1]:
            self._began[path] = began = (now, done, total)
        elif step <= self._told[path]:
            return None
        self._told[path] = step
        text = f"The teacher has read {done:,} of {total:,} pairs of an epoch"
        if done >= total or done == began[1]:
            return f"{text}."
        minutes = (now - began[0]) * (total - done) / (done - began[1]) / 60
        return f"{text}, about {minutes:,.0f} min left." if minutes >= 1 else f"{text}."

    def _stamps(self) -> dict[Path, int]:
        found = {}
        for path in self._folder.glob(f"*/{PROGRESS}"):
            with suppress(OSError):
                found[path] = path.stat().st_mtime_ns
        return found
