"""Readers that remember: what has not changed since is not read again, so that a redraw costs what changed."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from optuna.distributions import BaseDistribution

from langsearch.report.experiment_reader import trial_folder
from langsearch.report.experiment_values import CurvePoint, Experiment, TrialDetails
from langsearch.report.importance import Importance, importances
from langsearch.report.material import Readers, read_all_curves, read_all_details, read_dimensions
from langsearch.report.summary import Summary
from langsearch.report.translations import Translations, read_translations

_SHARE_OF_IMPORTANCES = 0.05
"""Of the time, at most, spent on importances: of thousands of trials they take a second and hardly move."""

Stamp = tuple[int, int, int] | None
_Found = TypeVar("_Found")


def stamp(path: Path) -> Stamp:
    """Returns what changes when a file is written anew; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


@dataclass
class _Files(Generic[_Found]):
    """What was read of each trial, with the stamps of its files.

    Args:
        read: Reads some trials.
        names: The files in a trial's folder that it reads.
        is_settled: Whether a trial that has ended is never looked at again.
    """

    read: Callable[[Experiment, Sequence[str]], Mapping[str, _Found]]
    names: Sequence[str]
    is_settled: bool
    known: dict[str, tuple[Any, _Found]] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)

    def __call__(self, experiment: Experiment, names: Sequence[str]) -> dict[str, _Found]:
        looked = [name for name in names if name not in self.settled]
        stamps = {name: self._stamps(experiment, name) for name in looked}
        stale = [name for name in looked if name not in self.known or self.known[name][0] != stamps[name]]
        if stale:
            self.known |= {name: (stamps[name], found) for name, found in self.read(experiment, stale).items()}
        if self.is_settled:
            self.settled |= {trial.name for trial in experiment.trials if trial.state != "running"} & set(looked)
        return {name: self.known[name][1] for name in names}

    def _stamps(self, experiment: Experiment, name: str) -> tuple[Stamp, ...]:
        folder = trial_folder(experiment, name)
        return () if folder is None else tuple(stamp(folder / file) for file in self.names)


class RememberingReaders:
    """The readers of one experiment's page. One thread at a time may use them."""

    def __init__(self) -> None:
        self._space: tuple[Stamp, Any] | None = None
        self._importances: tuple[Any, tuple[Importance, ...]] | None = None
        self._next_importances = 0.0
        self._translations: tuple[Any, Translations | None] | None = None
        files = ("architecture.json", "curve.parquet", "scores.parquet", "failure.json")
        details: _Files[TrialDetails] = _Files(read_all_details, files, is_settled=False)
        curves: _Files[Sequence[CurvePoint]] = _Files(read_all_curves, ("curve.parquet",), is_settled=True)
        self.readers = Readers(
            details=details,
            curves=curves,
            dimensions=self._read_dimensions,
            importances=self._find_importances,
            translations=self._read_translations,
        )

    def _read_dimensions(self, experiment: Experiment) -> Any:
        now = stamp(experiment.folder / "space.yaml")
        if self._space is None or self._space[0] != now:
            self._space = (now, read_dimensions(experiment))
        return self._space[1]

    def _find_importances(
        self, experiment: Experiment, known: Mapping[str, BaseDistribution]
    ) -> tuple[Importance, ...]:
        complete = tuple(trial.name for trial in experiment.trials if trial.state == "complete")
        start = time.monotonic()
        is_due = self._importances is None or (self._importances[0] != complete and start >= self._next_importances)
        if is_due or self._importances is None:
            self._importances = (complete, importances(experiment, known))
            end = time.monotonic()
            self._next_importances = end + (end - start) / _SHARE_OF_IMPORTANCES
        return self._importances[1]

    def _read_translations(self, experiment: Experiment, summary: Summary) -> Translations | None:
        shown = (summary.best, summary.pretrained, summary.full_finetuning)
        names = [trial.name for trial in shown if trial is not None]
        folders = [trial_folder(experiment, name) for name in names]
        stamps = [stamp(folder / "translations.parquet") for folder in folders if folder is not None]
        key = (summary.split, names, stamps)
        if self._translations is None or self._translations[0] != key:
            self._translations = (key, read_translations(experiment, summary))
        return self._translations[1]
