"""optuna-dashboard over the studies of all experiments, read only."""

from collections.abc import Callable, Container, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from langsearch.dashboard.live import LiveExperiment
from langsearch.experiment.study_reader import UnreadableError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PREFIXES = ("/dashboard", "/api/", "/static/", "/csv/", "/favicon.ico")
"""The paths of optuna-dashboard: absolute ones, so that it cannot be put below another."""

_STUDIES_EACH = 1_000_000
"""Each experiment has a database of its own; its studies' numbers become ours by this."""


class Studies(BaseStorage):  # type: ignore[misc]  # Optuna is not checked
    """The studies of some experiments as one storage of Optuna's; whatever would write raises."""

    def __init__(self, experiments: Callable[[], Sequence[LiveExperiment]]) -> None:
        self._experiments = experiments

    def get_all_studies(self) -> list[FrozenStudy]:
        """Returns our studies: a database may have others."""
        found = []
        for index, experiment in enumerate(self._experiments()):
            snapshot, reader = experiment.snapshot(), experiment.reader
            if reader is None:
                continue
            for study in reader.storage.get_all_studies():
                if study.study_name in snapshot.study:
                    study._study_id += index * _STUDIES_EACH
                    found.append(study)
        return found

    def get_study_id_from_name(self, study_name: str) -> int:
        """Returns our number of a study."""
        return int(next(study._study_id for study in self.get_all_studies() if study.study_name == study_name))

    def get_study_name_from_id(self, study_id: int) -> str:
        """Returns a study's name."""
        storage, number = self._place(study_id)
        return str(storage.get_study_name_from_id(number))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Returns what a study's objectives are to become."""
        storage, number = self._place(study_id)
        return list(storage.get_study_directions(number))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Returns what our driver noted on a study."""
        storage, number = self._place(study_id)
        return dict(storage.get_study_user_attrs(number))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Returns what Optuna noted on a study."""
        storage, number = self._place(study_id)
        return dict(storage.get_study_system_attrs(number))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Returns a study's trials."""
        storage, number = self._place(study_id)
        return list(storage.get_all_trials(number, deepcopy=deepcopy, states=states))

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Never asked for by what only reads."""
        self._refuse()

    def _place(self, study_id: int) -> tuple[BaseStorage, int]:
        index, number = divmod(study_id, _STUDIES_EACH)
        experiments = self._experiments()
        reader = experiments[index].reader if index < len(experiments) else None
        if reader is None:
            raise KeyError("There is no such study.")
        return reader.storage, number

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise UnreadableError("The dashboard only reads studies.")

    create_new_study = delete_study = create_new_trial = _refuse
    set_study_user_attr = set_study_system_attr = _refuse
    set_trial_param = set_trial_state_values = set_trial_intermediate_value = _refuse
    set_trial_user_attr = set_trial_system_attr = _refuse


def study_path(experiments: Sequence[LiveExperiment], index: int) -> str | None:
    """Returns where optuna-dashboard shows an experiment's search; None while it cannot be read."""
    snapshot, reader = experiments[index].snapshot(), experiments[index].reader
    if reader is None or not snapshot.study:
        return None
    try:
        number = reader.storage.get_study_id_from_name(snapshot.study[-1])
    except Exception:  # whatever the database says: the page does without the link
        return None
    return f"/dashboard/studies/{index * _STUDIES_EACH + number}"


class WithOptuna:
    """Serves optuna-dashboard's paths by it, made when it is first asked for, and all others by our application."""

    def __init__(self, application: "WSGIApplication", studies: Studies) -> None:
        self._application, self._studies = application, studies
        self._optuna: WSGIApplication | None = None

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answers one request, as WSGI says."""
        if not environ.get("PATH_INFO", "").startswith(PREFIXES):
            return self._application(environ, start_response)
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [("Allow", "GET, HEAD"), ("Content-Type", "text/plain")])
            return [b"The dashboard only reads studies.\n"]
        environ.setdefault("HTTP_ACCEPT_ENCODING", "")  # it takes for granted that there is one
        if self._optuna is None:
            from optuna_dashboard import wsgi

            self._optuna = wsgi(self._studies)
        return self._optuna(environ, start_response)
