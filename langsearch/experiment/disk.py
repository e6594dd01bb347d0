"""What the trials take on the disk: nothing that resuming or the front needs is ever deleted."""

import contextlib
import itertools
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from langsearch.experiment.fence import check_fence
from langsearch.experiment.folder import ExperimentFolder, TrialFolder
from langsearch.space.settings import CheckpointSettings
from langsearch.study.rows import State, TrialRow
from langsearch.train.checkpoint import read_checkpoint

logger = logging.getLogger(__name__)

_GIGABYTE = 10**9
_ENDED_WELL = (State.COMPLETE, State.PRUNED)


@dataclass(frozen=True)
class Freed:
    """What a call has deleted."""

    num_bytes: int
    names: tuple[str, ...]
    """The trials that something was deleted of."""
    message: str | None
    """Why the budget is still not kept, and what to do; None if it is, or if it was said before."""


@dataclass(frozen=True)
class _Sizes:
    """Bytes of a trial's folder."""

    weights: int
    checkpoint: int
    rest: int

    @property
    def total(self) -> int:
        return self.weights + self.checkpoint + self.rest


class DiskBudget:
    """Deletes weights and checkpoints that nobody needs any more; one object for a run, used by its driver alone.

    A folder is renamed aside before it is removed, so a kill in the middle leaves it whole or gone; what is left
    aside goes at the next call. Of running trials only checkpoints before the newest are touched, and only where the
    newest is whole: their workers delete those themselves at the next one.

    Args:
        folder: The experiment.
        settings: What stays.
    """

    def __init__(self, folder: ExperimentFolder, settings: CheckpointSettings) -> None:
        self._folder, self._settings = folder, settings
        self._cache: dict[str, tuple[object, _Sizes]] = {}
        self._said: str | None = None

    def keep_within(self, rows: Sequence[TrialRow], front: Collection[str], returning: Collection[str] = ()) -> Freed:
        """Deletes what the settings ask for; called when a trial has ended.

        With `keep: front` the weights of searched trials that have ended outside of the front go at once, but for
        those that other bounds of the constraints would bring back to it; so do those of tries of a baseline but for
        its best one, and those of further seeds once these are tested, since what is exported is the original's. Over
        the budget go, in this order and only until it is kept: what a retried trial has left; weights outside of the
        front, first those that violate a constraint, then the pruned ones, then by spBLEU, and last those that might
        come back; the checkpoint before the newest of running trials; what failed trials have left for a retry, oldest
        first; weights of baselines and further seeds that are tested.

        Args:
            rows: The trial table.
            front: Names of its candidates, and of the tries that baselines may yet be made of. Not only of the front
                by final scores: with more trials another candidate may come back to it.
            returning: Names of the trials that would be candidates with other bounds of the constraints.
        """
        _empty_trash(self._folder)
        trained = [row for row in rows if row.same_as is None]
        freed: dict[str, int] = {}
        for row, path in self._not_needed(trained, {*front, *returning}):
            self._remove(row, path, freed)
        message = None
        if self._settings.max_gigabytes is not None:
            message = self._meet_budget(trained, front, returning, freed, self._settings.max_gigabytes)
        return Freed(sum(freed.values()), tuple(freed), message)

    def _not_needed(self, rows: Sequence[TrialRow], front: Collection[str]) -> Iterator[tuple[TrialRow, Path]]:
        for row in rows:
            if row.state not in _ENDED_WELL:
                continue
            sizes = self._sizes(row)
            if sizes.checkpoint:  # the run was killed between the result and the deletion
                yield row, self._folder.trial(row.name).checkpoint
            is_over = _is_outside(row, front) or (row.kind == "seed" and row.test is not None)
            if sizes.weights and self._settings.keep == "front" and is_over:
                yield row, self._folder.trial(row.name).weights

    def _meet_budget(
        self,
        rows: Sequence[TrialRow],
        front: Collection[str],
        returning: Collection[str],
        freed: dict[str, int],
        max_gigabytes: float,
    ) -> str | None:
        max_bytes = max_gigabytes * _GIGABYTE
        total = sum(self._sizes(row).total for row in rows)
        if total > max_bytes:
            for row, path in self._by_need(rows, front, returning):
                total -= self._remove(row, path, freed)
                if total <= max_bytes:
                    break
        if total <= max_bytes:
            self._said = None
            return None
        message = self._shortage(rows, front, max_gigabytes)
        is_new, self._said = message != self._said, message
        return message if is_new else None

    def _by_need(
        self, rows: Sequence[TrialRow], front: Collection[str], returning: Collection[str]
    ) -> Iterator[tuple[TrialRow, Path]]:
        """Yields what may go, the least needed first."""
        failed = [row for row in rows if row.state is State.FAILED]
        failed.sort(key=lambda row: row.finished.timestamp() if row.finished else 0.0)
        for row in failed:
            if row.retried_as is not None:
                yield from self._leftovers(row)
        outside = [row for row in rows if row.state in _ENDED_WELL and _is_outside(row, front)]
        for row in sorted(outside, key=lambda row: (row.name in returning, *_worth(row))):
            yield row, self._folder.trial(row.name).weights
        for row in rows:
            if row.state is State.RUNNING:
                yield from ((row, path) for path in _older_checkpoints(self._folder.trial(row.name)))
        for row in failed:
            yield from self._leftovers(row)
        for row in rows:
            if row.kind in ("baseline", "seed") and row.test is not None:
                yield row, self._folder.trial(row.name).weights

    def _leftovers(self, row: TrialRow) -> Iterator[tuple[TrialRow, Path]]:
        trial = self._folder.trial(row.name)
        yield row, trial.checkpoint
        yield row, trial.weights

    def _sizes(self, row: TrialRow) -> _Sizes:
        """Returns a trial's sizes; those of trials that have ended are measured once, as long as nothing happens."""
        key = (row.state, row.retried_as, row.test is None)
        if row.state.is_finished and (cached := self._cache.get(row.name)) is not None and cached[0] == key:
            return cached[1]
        trial = self._folder.trial(row.name)
        weights, checkpoint = _num_bytes(trial.weights), _num_bytes(trial.checkpoint)
        sizes = _Sizes(weights, checkpoint, max(_num_bytes(trial.path) - weights - checkpoint, 0))
        self._cache[row.name] = (key, sizes)
        return sizes

    def _remove(self, row: TrialRow, path: Path, freed: dict[str, int]) -> int:
        num_bytes = _num_bytes(path)
        if not num_bytes or not remove_safely(self._folder, path):
            return 0
        self._cache.pop(row.name, None)
        freed[row.name] = freed.get(row.name, 0) + num_bytes
        return num_bytes

    def _shortage(self, rows: Sequence[TrialRow], front: Collection[str], max_gigabytes: float) -> str:
        needs: dict[str, list[int]] = {}
        rest = 0
        for row in rows:
            sizes = self._sizes(row)
            rest += sizes.rest
            if row.state is State.RUNNING:
                name = "checkpoints and weights of running trials"
            elif row.kind == "seed":
                name = "weights of further seeds"
            elif row.kind == "baseline" or (row.kind == "try" and row.name in front):
                name = "weights of baselines"
            elif row.name in front:
                name = "weights of the front"
            else:  # what could not be deleted
                name = "weights and checkpoints of other trials"
            needs.setdefault(name, []).append(sizes.weights + sizes.checkpoint)
        total = rest + sum(map(sum, needs.values()))
        parts = [f"{name} {_text(sum(sizes))} ({sum(map(bool, sizes))})" for name, sizes in needs.items() if sum(sizes)]
        if rest > 0.05 * total:
            parts.append(f"curves, scores and translations {_text(rest)}")
        enough = int(1.5 * total / _GIGABYTE) + 1
        return (
            f"The trials take {_text(total)}, but `checkpoints.max_gigabytes` is {max_gigabytes:g} and the search "
            f"still needs all of it: {', '.join(parts)}. Give it more by --resume --set "
            f"checkpoints.max_gigabytes={enough}, or run fewer trials at a time (`resources`)."
        )


def keep_within(
    folder: ExperimentFolder,
    rows: Sequence[TrialRow],
    front: Collection[str],
    settings: CheckpointSettings,
    returning: Collection[str] = (),
) -> Freed:
    """Does once what `DiskBudget.keep_within` does, measuring all trials anew."""
    return DiskBudget(folder, settings).keep_within(rows, front, returning)


def without_weights(folder: ExperimentFolder, rows: Sequence[TrialRow]) -> list[str]:
    """Returns the names of complete trials whose weights are gone; one that has trained nothing has none to lose."""
    return [
        row.name
        for row in rows
        if row.result is not None and row.result.trainable_parameters and not _num_bytes(folder.trial(row.name).weights)
    ]


_numbers = itertools.count()


def remove_safely(folder: ExperimentFolder, path: Path) -> bool:
    """Deletes a folder inside the experiment so that no kill leaves half of it; returns whether it is gone."""
    check_fence(path)
    trash = _trash(folder)
    try:
        trash.mkdir(parents=True, exist_ok=True)
        aside = trash / f"{path.parent.name}.{path.name}.{os.getpid()}.{next(_numbers)}"
        path.rename(aside)
    except FileNotFoundError:  # its worker has deleted it meanwhile
        return True
    except OSError as error:
        logger.warning("%s could not be deleted: %s", path, error)
        return False
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(OSError):
        trash.rmdir()
    return True


def _trash(folder: ExperimentFolder) -> Path:
    return folder.path / ".trash"


def _empty_trash(folder: ExperimentFolder) -> None:
    trash = _trash(folder)
    if trash.exists():
        check_fence(trash)
        shutil.rmtree(trash, ignore_errors=True)


def _is_outside(row: TrialRow, front: Collection[str]) -> bool:
    return row.kind in ("searched", "try") and row.name not in front


def _worth(row: TrialRow) -> tuple[bool, bool, float]:
    """Orders trials outside of the front, the least worth first."""
    return row.is_feasible is not False, row.state is State.COMPLETE, row.result.spbleu if row.result else 0.0


def _older_checkpoints(trial: TrialFolder) -> list[Path]:
    """Returns the checkpoints before the newest, none if the newest is not whole: then one of them serves."""
    try:
        newest, *older = sorted((path for path in trial.checkpoint.iterdir() if path.name.isdigit()), reverse=True)
        if older:
            read_checkpoint(newest)
    except (OSError, ValueError, SafetensorError):
        return []
    return older


def _num_bytes(path: Path) -> int:
    """Returns what the files below a folder take; those that go meanwhile count nothing."""
    total = 0
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += _num_bytes(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    except OSError:
        return total
    return total


def _text(num_bytes: int) -> str:
    return f"{num_bytes / _GIGABYTE:.2f} GB"
