"""Writing trials for other people's tools, by Ray's own callbacks: TensorBoard, MLflow, Weights & Biases."""

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import tune

from langsearch.experiment.folder import ExperimentFolder, read_json
from langsearch.experiment.opening import sqlite_url
from langsearch.experiment.task import TrialTask
from langsearch.search.trackers import PRIVACY, mlflow_uri, wandb_logger
from langsearch.space.problems import InputError
from langsearch.space.schema import Space
from langsearch.space.tracking import MlflowSettings
from langsearch.study.results import TrialResult, parse_result
from langsearch.study.table import TrialTable
from langsearch.trial.failures import FAILED

logger = logging.getLogger(__name__)

METRICS = (
    *("spbleu", "spbleu_low", "spbleu_high", "worst_class_spbleu", "chrf", "train_loss", "updates"),
    *("trainable_parameters", "nonzero_parameters", "train_seconds", "seconds", "peak_memory_bytes"),
    *("num_sentences", "num_directions"),
)
"""What a tracker gets of each epoch: columns of `TrialResult`, where there is a value."""

_RUN_TAG = "langsearch_run"


def tracking_callbacks(
    space: Space, folder: ExperimentFolder, table: TrialTable, tell: Callable[[str], None]
) -> list["SpaceTracker"]:
    """Returns the callbacks that write a search's trials for the trackers that its space names.

    Args:
        space: The space; `check_tracking` has passed.
        folder: The experiment, with its description.
        table: The trial table, for the points.
        tell: Shows a sentence to the user.

    Raises:
        InputError: If a tracker cannot be opened, such as a server that does not answer.
    """
    tracking, path = space.tracking, folder.path.resolve()
    run = _run_id(folder)
    found: list[SpaceTracker] = []

    def add(
        name: str, log: Any, place: Callable[[str], Path], is_known: Callable[[Any], None] = lambda _: None
    ) -> None:
        found.append(SpaceTracker(name, log, _Views(space.name, run, folder, table, place), tell, is_known))

    for name, value in PRIVACY.items():
        os.environ.setdefault(name, value)
    if tracking.tensorboard:
        from ray.tune.logger import TBXLoggerCallback

        add("TensorBoard", TBXLoggerCallback(), lambda trial: path / "tensorboard" / trial)
    if tracking.mlflow is not None:
        log = _mlflow_logger(tracking.mlflow, space.name, path, run)
        add("MLflow", log, lambda trial: path, lambda view: _adopt_mlflow_run(log, view, run))
    if tracking.wandb is not None:
        add("Weights & Biases", wandb_logger(tracking.wandb, space.name, path), lambda trial: path)
    return found


def training_trackers(
    space: Space, folder: ExperimentFolder, table: TrialTable, tell: Callable[[str], None]
) -> "list[SpaceTracker]":
    """Returns what writes a single training for the trackers that its space names; as `tracking_callbacks`."""
    trackers = tracking_callbacks(space, folder, table, tell)
    for tracker in trackers:
        tracker.setup()
    return trackers


def _run_id(folder: ExperimentFolder) -> str:
    """Returns eight hexadecimal digits that an experiment keeps over all its resumes and no other has."""
    started = read_json(folder.description)["started"] if folder.description.exists() else ""
    return hashlib.sha256(f"{folder.path.name} {started}".encode()).hexdigest()[:8]


def _mlflow_logger(settings: MlflowSettings, name: str, path: Path, run: str) -> Any:
    """Returns Ray's callback for MLflow, connected; its experiment is there."""
    import mlflow
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    own = sqlite_url(path / "mlflow.db")
    uri = mlflow_uri(settings) or own
    experiment = settings.experiment or name
    log = MLflowLoggerCallback(tracking_uri=uri, experiment_name=experiment, tags={_RUN_TAG: run})
    try:
        mlflow.set_tracking_uri(uri)
        if uri == own and mlflow.get_experiment_by_name(experiment) is None:
            # Else MLflow would put artifacts below the folder that one happens to be in.
            mlflow.create_experiment(experiment, artifact_location=(path / "mlartifacts").as_uri())
        log.setup()
    except (mlflow.exceptions.MlflowException, OSError) as error:
        cause = str(error).strip().splitlines()[0]
        raise InputError(
            f"`tracking` asks for MLflow, but {uri} cannot be opened ({cause}). Start its server, or change the URI."
        ) from error
    return log


def _adopt_mlflow_run(log: Any, view: "_View", run: str) -> None:
    """Has a trial that an earlier run of the search began go on in its MLflow run; Ray's callback starts a new one."""
    import mlflow

    if view in log._trial_runs:
        return
    query = f"tags.{_RUN_TAG} = '{run}' and tags.trial_name = '{view.name}'"
    known = mlflow.MlflowClient().search_runs([log.mlflow_util.experiment_id], query, max_results=1)
    if known:
        log._trial_runs[view] = known[0].info.run_id


@dataclass(frozen=True)
class _View:
    """A trial as Ray's callbacks ask for it: Tune's own knows nothing but our trial's name."""

    name: str
    trial_id: str
    """Of a run of Weights & Biases."""

    local_path: str
    experiment_dir_name: str
    config: Mapping[str, Any] = field(compare=False)
    evaluated_params: Mapping[str, Any] = field(compare=False)

    def __str__(self) -> str:
        return self.name

    def init_local_path(self) -> None:
        """Makes the folder that files are written to."""
        Path(self.local_path).mkdir(parents=True, exist_ok=True)


@dataclass
class _Views:
    """Makes the views of an experiment's trials."""

    experiment: str
    run: str
    folder: ExperimentFolder
    table: TrialTable
    place: Callable[[str], Path]
    """Where a trial's files go."""

    known: dict[str, _View] = field(default_factory=dict)

    def view(self, name: str) -> _View:
        """Returns a trial's view."""
        if name not in self.known:
            task, params = TrialTask.read(self.folder.trial(name)), dict(self.table.row(name).params)
            config = {"kind": task.kind, "architecture": task.summary, "epochs": task.num_epochs} | params
            place = str(self.place(name))
            self.known[name] = _View(name, f"{self.run}-{name}", place, self.experiment, config, params)
        return self.known[name]


class SpaceTracker(tune.Callback):  # type: ignore[misc]  # Ray has no types
    """Passes trials on to one of Ray's logger callbacks. A tracker that fails is left out; the search goes on.

    Args:
        name: The tracker's, for messages.
        log: Ray's callback, set up.
        views: Gives the trials as it takes them.
        tell: Shows a sentence to the user.
        before: Called with a trial's view before it is started.
    """

    def __init__(
        self,
        name: str,
        log: Any,
        views: _Views,
        tell: Callable[[str], None],
        before: Callable[[_View], None],
    ) -> None:
        self._name, self._log, self._views, self._tell, self._before = name, log, views, tell, before
        self._is_open = True

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks into its own folder; nobody reads that, so nothing goes in."""
        return {}

    def start(self, name: str) -> None:
        """Begins a trial, or goes on with it."""

        def start() -> None:
            view = self._views.view(name)
            self._before(view)
            self._log.log_trial_start(view)

        self._try(start)

    def log(self, name: str, result: TrialResult) -> None:
        """Writes an epoch."""
        self._try(lambda: self._log.log_trial_result(result.epoch, self._views.view(name), tracked_values(result)))

    def end(self, name: str, *, is_failed: bool) -> None:
        """Ends a trial."""
        self._try(lambda: self._log.log_trial_end(self._views.view(name), failed=is_failed))

    def close(self) -> None:
        """Waits for what is still being sent."""
        self._try(lambda: self._log.on_experiment_end([]))

    def setup(self, **info: Any) -> None:
        """Called by Tune before the first trial."""
        self._try(self._log.setup)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune when a trial starts, or goes on."""
        self.start(trial.config["name"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Called by Tune after each epoch."""
        parsed = parse_result(result)
        if parsed is not None:
            self.log(trial.config["name"], parsed)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune when a trial ends."""
        self.end(trial.config["name"], is_failed=FAILED in (trial.last_result or {}))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune when a worker is lost for good."""
        self.end(trial.config["name"], is_failed=True)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Called by Tune in the end."""
        self.close()

    def _try(self, call: Callable[[], Any]) -> None:
        if not self._is_open:
            return
        try:
            call()
        except Exception as error:  # other people's code, and often a network's; no reason to end a search
            self._is_open = False
            logger.debug("%s failed", self._name, exc_info=True)
            self._tell(f"{self._name} failed and is left out from here: {type(error).__name__}: {error}")


def tracked_values(result: TrialResult) -> dict[str, float]:
    """Returns what a tracker gets of an epoch: numbers by name, and the epoch as Ray's `training_iteration`."""
    values = {name: getattr(result, name) for name in METRICS}
    return {name: value for name, value in values.items() if value is not None} | {"training_iteration": result.epoch}
