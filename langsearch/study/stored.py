"""How trials lie in Optuna's storage: the layout that older experiments are resumed from, and the only writes to it."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from langsearch.study.database import open_storage, take_over
from langsearch.study.front import Objective
from langsearch.study.mirror import CONSTRAINT, Proposal
from langsearch.study.rows import (
    CUT,
    FINGERPRINT,
    FINISHED,
    IS_FROM_CUT,
    NAME,
    POINT,
    RETRY_OF,
    SAME_AS,
    SAMPLER,
    SPACE_VERSION,
    STARTED,
    TUNED_FROM,
    Columns,
    TrialRow,
    is_trial,
    plain_name,
    read_row,
)

CUTS = "/cuts"
"""The study of cuts, beside that of the search, whose samplers never see them."""


@dataclass(frozen=True)
class StoredTrial:
    """Where a trial lies in the storage, and what only samplers need of it."""

    trial_id: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """What the sampler noted on the trial."""

    study_attributes: Mapping[str, Any] = field(default_factory=dict)
    """What the sampler noted on the study."""

    intermediate: dict[int, float] = field(default_factory=dict)
    """With one objective: its value by epoch."""


class StoredTrials:
    """Two studies of one storage: the search's, and the baselines' beside it.

    Baselines are apart so that samplers never see trials without parameters. Every write is one transaction, or a few
    of which each alone leaves a study that a new driver goes on with.

    Args:
        url: The storage, as SQLAlchemy writes it.
        name: The study's name.
        objectives: In the study's order.
        part: What the search's study is called behind the name: `CUTS` for that of cuts.
    """

    def __init__(self, url: str, name: str, objectives: Sequence[Objective], part: str = "") -> None:
        self._storage = open_storage(url)
        self._study_ids = {
            "searched": self._open_study(f"{name}{part}", objectives),
            "baseline": self._open_study(f"{name}/baselines", objectives),
        }
        self._study_ids |= dict.fromkeys(("donor", "try", "seed"), self._study_ids["baseline"])
        self._found: dict[str, StoredTrial] = {}
        self._columns = Columns()

    def take_over(self, check: Callable[[], None]) -> None:
        """As `database.take_over`: called by the driver, before it writes."""
        take_over(self._storage, self._study_ids["searched"], check)

    def load(self, kind: str) -> tuple[list[TrialRow], int]:
        """Reads all trials of a kind; returns them, and how many numbers are taken."""
        study_id = self._study_ids[kind]
        attributes = self._storage.get_study_user_attrs(study_id)
        trials = self._storage.get_all_trials(study_id, deepcopy=False)
        rows = []
        for trial in trials:
            if is_trial(trial, kind):
                row = read_row(trial, kind, attributes)
                self._found[row.name] = _stored(trial)
                self._columns.note(trial.distributions)
                rows.append(row)
        return rows, len(trials)

    def __getitem__(self, name: str) -> StoredTrial:
        return self._found[name]

    def distributions(self, name: str) -> dict[str, BaseDistribution]:
        """Returns the dimensions that a searched trial was proposed in."""
        found = self._storage.get_trial(self._found[name].trial_id).distributions
        return {plain_name(column): distribution for column, distribution in found.items()}

    def add_searched(self, row: TrialRow, proposal: Proposal) -> datetime:
        """Writes a new running trial in one transaction; returns when it began."""
        point, distributions = row.params, proposal.distributions
        columns = {name: self._columns.find(name, distributions[name]) for name in point}
        began = _now()
        given = {
            STARTED: began.isoformat(),
            FINGERPRINT: row.fingerprint,
            SAME_AS: row.same_as,
            RETRY_OF: row.retry_of,
            SAMPLER: proposal.study_attributes or None,
            SPACE_VERSION: row.space_version if row.space_version > 1 else None,
            CUT: row.cut,
            IS_FROM_CUT: row.is_from_cut or None,
        }
        template = create_trial(
            state=TrialState.RUNNING,
            params={columns[name]: value for name, value in point.items()},
            distributions={columns[name]: distributions[name] for name in point},
            user_attrs={key: json.dumps(value) for key, value in given.items() if value is not None},
            system_attrs=dict(proposal.attributes),
        )
        trial_id = self._storage.create_new_trial(self._study_ids["searched"], template)
        self._found[row.name] = StoredTrial(trial_id, proposal.attributes, proposal.study_attributes)
        self._columns.note(template.distributions)
        return began

    def add_baseline(self, row: TrialRow) -> datetime:
        """Writes a new running baseline, donor or try in one transaction; returns when it began."""
        began = _now()
        given = {STARTED: began.isoformat(), POINT: dict(row.params) or None, TUNED_FROM: row.tuned_from}
        attributes = {key: json.dumps(value) for key, value in given.items() if value is not None}
        # In attributes, not as parameters: Optuna would have all tries of all baselines be in the same dimensions.
        template = create_trial(state=TrialState.RUNNING, user_attrs={NAME: row.name} | attributes)
        self._found[row.name] = StoredTrial(self._storage.create_new_trial(self._study_ids["baseline"], template))
        return began

    def note(self, name: str, key: str, value: Any) -> None:
        """Writes an attribute of a trial that runs."""
        self._storage.set_trial_user_attr(self._found[name].trial_id, key, json.dumps(value))

    def note_on_study(self, row: TrialRow, key: str, value: Any) -> None:
        """Writes something about a trial on its study, since a finished trial takes no attribute."""
        self._storage.set_study_user_attr(self._study_ids[row.kind], f"{key}/{row.name}", json.dumps(value))

    def report(self, name: str, epoch: int, value: float) -> None:
        """Writes the single objective's value after an epoch."""
        found = self._found[name]
        self._storage.set_trial_intermediate_value(found.trial_id, epoch, value)
        found.intermediate[epoch] = value

    def end(
        self, name: str, state: TrialState, values: Sequence[float] | None, violations: Mapping[str, float] | None
    ) -> datetime:
        """Ends a trial; returns when it ended."""
        trial_id = self._found[name].trial_id
        for text, value in (violations or {}).items():
            # Optuna's `Trial.set_constraint`, without the `Trial`, whose making asks the sampler for a proposal.
            self._storage.set_trial_system_attr(trial_id, f"{CONSTRAINT}{text}", value)
        ended = _now()
        self.note(name, FINISHED, ended.isoformat())
        self._storage.set_trial_state_values(trial_id, state, values)
        return ended

    def _open_study(self, name: str, objectives: Sequence[Objective]) -> int:
        study = optuna.create_study(
            storage=self._storage,
            study_name=name,
            directions=[objective.direction for objective in objectives],
            load_if_exists=True,
        )
        names = [objective.name for objective in objectives]
        if study.metric_names != names:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(names)
        return int(self._storage.get_study_id_from_name(name))


def _now() -> datetime:
    return datetime.now(UTC)


def _stored(trial: FrozenTrial) -> StoredTrial:
    noted = json.loads(trial.user_attrs[SAMPLER]) if SAMPLER in trial.user_attrs else {}
    attributes = {key: value for key, value in trial.system_attrs.items() if not key.startswith(CONSTRAINT)}
    return StoredTrial(trial._trial_id, attributes, noted, dict(trial.intermediate_values))
