"""The section `tracking`: whose tools a search writes its trials for, beside its own files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainValidator

from langsearch.space.document import show
from langsearch.space.problems import near_names
from langsearch.space.run_sections import NoOptions
from langsearch.space.search_sections import parse_url
from langsearch.space.sections import Section, fixed

TRACKERS = ("tensorboard", "mlflow", "wandb")


@dataclass(frozen=True, kw_only=True)
class MlflowSettings:
    """Where MLflow's runs go."""

    uri: str | None = None
    """A server, a database or a folder, as MLflow takes it. None: MLFLOW_TRACKING_URI, or else a file in the
    experiment's folder."""

    experiment: str | None = None
    """MLflow's experiment. None: the space's name."""


@dataclass(frozen=True, kw_only=True)
class WandbSettings:
    """Where the runs of Weights & Biases go."""

    project: str = "langsearch"
    entity: str | None = None
    """A user or a team. None: the account's own."""

    mode: str | None = None
    """online: sent to the server. offline: kept in the experiment's folder. None: WANDB_MODE, or else online."""


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """The trackers that are written for; None for one that is not."""

    tensorboard: bool = True
    """Event files in the experiment's folder; nothing is sent."""

    mlflow: MlflowSettings | None = None
    wandb: WandbSettings | None = None


def _none_as_empty(raw: object) -> object:
    return {} if raw is None else raw


def _parse_uri(raw: object) -> str | None:
    return parse_url(raw, "a server's or a database's URL", "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")


class MlflowSection(Section):
    """Options of `mlflow`: `MlflowSettings`."""

    uri: Annotated[str | None, PlainValidator(_parse_uri)] = None
    experiment: Annotated[str | None, fixed("text")] = None


class WandbSection(Section):
    """Options of `wandb`: `WandbSettings`. A key is no option: the space is kept in the experiment's folder."""

    project: Annotated[str, fixed("text")] = WandbSettings.project
    entity: Annotated[str | None, fixed("text")] = None
    mode: Annotated[str | None, fixed("text", names=("online", "offline"))] = None


class TrackerSection(Section):
    """An item of `tracking`: a name, or {name: options}."""

    tensorboard: Annotated[NoOptions, BeforeValidator(_none_as_empty)] = NoOptions()
    mlflow: Annotated[MlflowSection, BeforeValidator(_none_as_empty)] = MlflowSection()
    wandb: Annotated[WandbSection, BeforeValidator(_none_as_empty)] = WandbSection()

    @property
    def names(self) -> list[str]:
        """The trackers that it names; one if it is right."""
        return [name for name in TRACKERS if name in self.model_fields_set]


def _as_mapping(raw: object) -> object:
    if isinstance(raw, str):
        if raw not in TRACKERS:
            raise ValueError(f"must be a tracker, but {show(raw)} is none.{near_names(raw, TRACKERS)}")
        return {raw: None}
    if isinstance(raw, dict) and len(raw) != 1:
        raise ValueError(f"must name one tracker, but got {show(raw)}. Write an item for each.")
    return raw


def _as_list(raw: object) -> object:
    return [raw] if isinstance(raw, str | dict) else raw


def _each_once(items: list[TrackerSection]) -> list[TrackerSection]:
    names = [name for item in items for name in item.names]
    if len(set(names)) < len(names):
        raise ValueError(f"must name each tracker once, but got {', '.join(names)}")
    return items


Trackers = Annotated[
    list[Annotated[TrackerSection, BeforeValidator(_as_mapping)]], BeforeValidator(_as_list), AfterValidator(_each_once)
]


def tracking_settings(items: Sequence[TrackerSection]) -> TrackingSettings:
    """Returns the plain settings of `tracking`."""
    given: dict[str, Any] = {name: getattr(item, name).model_dump() for item in items for name in item.names}
    return TrackingSettings(
        tensorboard="tensorboard" in given,
        mlflow=MlflowSettings(**given["mlflow"]) if "mlflow" in given else None,
        wandb=WandbSettings(**given["wandb"]) if "wandb" in given else None,
    )
