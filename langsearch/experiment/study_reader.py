"""The trial table as somebody else reads it while a search runs: never written, never locked for long."""

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.opening import space_of_version, sqlite_url, storage_url
from langsearch.space.schema import Space
from langsearch.study.candidates import final_front, final_violations, find_candidates
from langsearch.study.constraints import Constraints
from langsearch.study.cut_rows import as_cuts
from langsearch.study.database import open_storage
from langsearch.study.front import Objective
from langsearch.study.rows import DIFFERENCES, FINAL, NAME, PRETRAINED, TEST, State, TrialRow, is_trial, read_row
from langsearch.study.stored import CUTS

_SECONDS_TO_WAIT = 1.0
"""For the driver, which locks SQLite for the moment of a commit."""


_KINDS = {"baseline": "baseline", "searched": "searched", "cut": "searched"}
"""How the rows of a study are kept in it, by what they are."""

_ERRORS = (sqlite3.Error, SQLAlchemyError, StorageInternalError, KeyError, ValueError, TypeError, RuntimeError)
"""Of databases, and of what a foreign or torn one holds."""


class UnreadableError(Exception):
    """The trial table cannot be read now: it is not made yet, or being written, or of another version."""


@dataclass(frozen=True)
class StudyState:
    """A search as its trial table had it at one moment."""

    rows: tuple[TrialRow, ...]
    """The baselines, then the searched trials by number; a trial that has not changed is the same object again."""

    front: frozenset[str]

    cuts: tuple[TrialRow, ...] = ()
    """Those of a one-shot search, by number; they are in no front."""


@dataclass(frozen=True)
class _Known:
    trial: FrozenTrial
    noted: tuple[Any, ...]
    """What the study has about the trial."""
    row: TrialRow


@dataclass(frozen=True)
class _Judged:
    row: TrialRow
    retried_as: str | None
    pretrained: TrialRow | None
    judged: TrialRow


class StudyReader:
    """Reads one experiment's study again and again; only what is new or not finished is read anew.

    One thread at a time may use it.

    Args:
        folder: The experiment.
        space: Its space as of now.
        base_parameters: What a constraint's percentage is of.

    Raises:
        UnreadableError: If there is no study yet, or it cannot be read now.
    """

    def __init__(self, folder: ExperimentFolder, space: Space, base_parameters: int) -> None:
        self.objectives = tuple(Objective(name, way == "max") for name, way in space.search.objectives.items())
        self._constraints = Constraints(
            all=tuple(space.search.constraints), base_parameters=base_parameters, classes=dict(space.classes)
        )
        name = space_of_version(folder, 1).name
        self.study_names = (f"{name}/baselines", name)
        self._cuts_name = name + CUTS if space.search.strategy == "one_shot" else None
        self._watch: sqlite3.Connection | None = None
        self._known: dict[tuple[str, int], _Known] = {}
        self._judged: dict[str, _Judged] = {}
        self._final: dict[str, tuple[TrialRow, TrialRow]] = {}
        url = storage_url(folder, space)
        with _reading():
            if space.search.storage is None:
                if not folder.study.is_file():
                    raise UnreadableError("The trial table is not there yet.")
                url = sqlite_url(folder.study, is_read_only=True)
                self._watch = sqlite3.connect(
                    f"{folder.study.resolve().as_uri()}?mode=ro",
                    uri=True,
                    timeout=_SECONDS_TO_WAIT,
                    check_same_thread=False,
                )
            database = open_storage(url, seconds_to_wait=_SECONDS_TO_WAIT, is_read_only=True)
            self._engine = database.engine
            # Optuna keeps finished trials in memory, and reads the others and the new ones again.
            self.storage = optuna.storages.get_storage(database)

    def version(self) -> int | None:
        """Returns a number that changes with every commit; costs microseconds. None: only reading can tell.

        Raises:
            UnreadableError: If the study cannot be read now.
        """
        if self._watch is None:
            return None
        with _reading():
            return int(self._watch.execute("PRAGMA data_version").fetchone()[0])

    def read(self) -> StudyState:
        """Returns the trials as they are now.

        Raises:
            UnreadableError: If the study cannot be read now.
        """
        with _reading():
            baselines = self._rows(self.study_names[0], "baseline")
            searched = self._rows(self.study_names[1], "searched")
            cuts = self._cuts()
        retried = {row.retry_of: row.name for row in searched.values() if row.retry_of is not None}
        pretrained = baselines.get(PRETRAINED)
        if pretrained is not None and pretrained.state is not State.COMPLETE:
            pretrained = None
        rows = [self._judge(row, retried.get(row.name), pretrained) for row in searched.values()]
        candidates = find_candidates(self.objectives, rows)
        front = final_front(self.objectives, self._constraints, candidates, pretrained)
        final = final_violations(candidates, self._constraints, pretrained)
        rows = [self._finally_judged(row, final[row.name]) if row.name in final else row for row in rows]
        judged = (self._judge(row, None, pretrained) for row in cuts)
        return StudyState((*baselines.values(), *rows), frozenset(row.name for row in front), tuple(judged))

    def close(self) -> None:
        """Closes the database."""
        if self._watch is not None:
            self._watch.close()
        self._engine.dispose()

    def _cuts(self) -> list[TrialRow]:
        """Returns the rows of what was cut; none of an ordinary search, and none before there are any."""
        if self._cuts_name is None:
            return []
        try:
            self.storage.get_study_id_from_name(self._cuts_name)
        except KeyError:
            return []
        return list(self._rows(self._cuts_name, "cut").values())

    def _rows(self, name: str, kind: str) -> dict[str, TrialRow]:
        study_id = self.storage.get_study_id_from_name(name)
        attributes = self.storage.get_study_user_attrs(study_id)
        rows = {}
        for trial in self.storage.get_all_trials(study_id, deepcopy=False):
            if is_trial(trial, _KINDS[kind]):
                row = self._row(trial, kind, attributes)
                rows[row.name] = row
        return rows

    def _row(self, trial: FrozenTrial, kind: str, attributes: Mapping[str, Any]) -> TrialRow:
        name = trial.user_attrs[NAME] if kind == "baseline" else f"{trial.number:05d}"
        noted = tuple(attributes.get(f"{key}/{name}") for key in (TEST, FINAL, DIFFERENCES))
        known = self._known.get((kind, trial.number))
        if known is None or known.noted != noted or (known.trial is not trial and known.trial != trial):
            row = read_row(trial, _KINDS[kind], attributes)
            known = _Known(trial, noted, *(as_cuts([row]) if kind == "cut" else [row]))
            self._known[kind, trial.number] = known
        return known.row

    def _judge(self, row: TrialRow, retried_as: str | None, pretrained: TrialRow | None) -> TrialRow:
        """Returns a searched trial with what only the others tell: who tries it again, and what it violates."""
        known = self._judged.get(row.name)
        if known is not None and known.row is row and known.retried_as == retried_as and known.pretrained is pretrained:
            return known.judged
        judged = row if retried_as is None else replace(row, retried_as=retried_as)
        if row.state is State.COMPLETE and row.violations is None and row.result is not None:
            scores = pretrained.result if pretrained is not None else None
            judged = replace(judged, violations=self._constraints.violations(row.result, scores))
        self._judged[row.name] = _Judged(row, retried_as, pretrained, judged)
        return judged

    def _finally_judged(self, row: TrialRow, violations: Mapping[str, float]) -> TrialRow:
        """Returns a candidate with what it violates by its final scores; the same object as long as nothing changes."""
        known = self._final.get(row.name)
        if known is None or known[0] is not row or known[1].violations != violations:
            known = self._final[row.name] = row, replace(row, violations=violations)
        return known[1]


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Turns what a database says into one error."""
    try:
        yield
    except _ERRORS as error:
        cause = error.__cause__ or error
        text = str(getattr(cause, "orig", None) or cause).partition("\n")[0]
        raise UnreadableError(f"The trial table cannot be read now: {text}") from error
    except ImportError as error:
        raise UnreadableError(f"The trial table needs a driver that is not installed: {error}") from error
