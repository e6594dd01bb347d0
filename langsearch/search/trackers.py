"""The trackers that a space names: where their data go, and whether they are installed. Needs no Ray until asked."""

import importlib.util
import os
from pathlib import Path
from typing import Any

from langsearch.space.draft import Draft
from langsearch.space.problems import InputError
from langsearch.space.schema import Space
from langsearch.space.tracking import MlflowSettings, TrackingSettings, WandbSettings

PRIVACY = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
}
"""Keeps usage statistics and crash reports from the trackers' own makers: nobody asked for these."""


def describe_tracking(tracking: TrackingSettings) -> dict[str, str]:
    """Returns where each tracker's data go, by its name."""
    places = {}
    if tracking.tensorboard:
        places["TensorBoard"] = "event files in the experiment's folder"
    if tracking.mlflow is not None:
        places["MLflow"] = mlflow_uri(tracking.mlflow) or "mlflow.db in the experiment's folder"
    if tracking.wandb is not None:
        settings = tracking.wandb
        project = f"{settings.entity}/{settings.project}" if settings.entity else settings.project
        is_sent = _wandb_mode(settings) == "online"
        where = "sent to the server" if is_sent else f"{_wandb_mode(settings)}, in the experiment's folder"
        places["Weights & Biases"] = f"project {project}, {where}"
    return places


def check_tracking(space: Space) -> None:
    """Checks the trackers that a space names; see `tracking_problems`. Raises InputError if one is missing."""
    if problems := tracking_problems(space.draft):
        raise InputError(problems)


def tracking_problems(draft: Draft) -> list[str]:
    """Returns which trackers are not installed, and whether Weights & Biases has no key to send with."""
    tracking, problems = draft.tracking, list[str]()
    if tracking is None:
        return problems
    for name, module, is_asked in (
        ("MLflow", "mlflow", tracking.mlflow is not None),
        ("Weights & Biases", "wandb", tracking.wandb is not None),
    ):
        if is_asked and importlib.util.find_spec(module) is None:
            text = f"asks for {name}, but it is not installed. In langsearch's checkout: pip install -e '.[{module}]'"
            problems.append(draft.document.problem(("tracking",), text))
    if not problems and tracking.wandb is not None:
        try:
            wandb_logger(tracking.wandb, draft.name, Path()).setup()
        except ValueError as error:
            text = f"asks for Weights & Biases, but there is no key to send with ({error})."
            way_out = "Log in with `wandb login`, set WANDB_API_KEY, or write {wandb: {mode: offline}}"
            problems.append(draft.document.problem(("tracking",), f"{text} {way_out}"))
    return problems


def mlflow_uri(settings: MlflowSettings) -> str | None:
    """Returns where MLflow's runs go, None for the experiment's folder."""
    return settings.uri or os.environ.get("MLFLOW_TRACKING_URI") or None


def wandb_logger(settings: WandbSettings, name: str, path: Path) -> Any:
    """Returns Ray's callback for Weights & Biases; every trial is a run of the experiment's group."""
    from ray.air.integrations.wandb import WandbLoggerCallback

    mode = _wandb_mode(settings)
    if mode != "online":
        os.environ["WANDB_MODE"] = mode  # else Ray's callback asks for a key
    given = {"entity": settings.entity} if settings.entity else {}
    return WandbLoggerCallback(project=settings.project, group=name, mode=mode, dir=str(path), resume="allow", **given)


def _wandb_mode(settings: WandbSettings) -> str:
    return settings.mode or os.environ.get("WANDB_MODE") or "online"
