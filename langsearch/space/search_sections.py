"""The sections `search`, `failures` and `checkpoints`: what a search optimises, when it ends, what it survives."""

import difflib
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from langsearch.space.document import show
from langsearch.space.one_shot_section import OneShotSection
from langsearch.space.problems import near_names
from langsearch.space.sections import Section, fixed
from langsearch.space.settings import (
    MAX_OBJECTIVES,
    OBJECTIVE_DIRECTIONS,
    CheckpointSettings,
    Constraint,
    FailureSettings,
    Plateau,
)
from langsearch.space.values import Rule

SCORES = ("spbleu", "worst_class_spbleu", "chrf")
"""The objectives that say how well a trial translates; a search has at least one of them."""

DEFAULT_OBJECTIVES: Mapping[str, str] = {"spbleu": "max", "trainable_parameters": "min"}
WORST_LOSS = "worst_loss."
"""Begins the constraints against the pretrained base; a class or `all` follows."""

_MAX_OBJECTIVES_OF_GP = 3
"""Of four, gp takes 9 to 27 seconds to propose a trial behind 100 and 200 others, of three at most 3."""

_IN_PERCENT = ("trainable_parameters", "nonzero_parameters")
_CONSTRAINT = re.compile(r"(?P<metric>[\w.-]+)\s*(?P<sign>[<>]?=?)\s*(?P<bound>[^\s%]+)\s*(?P<percent>%?)")
_PASSWORD = re.compile(r"://[^:/@]*:[^@]*@|[?&]password=", flags=re.IGNORECASE)
"""As SQLAlchemy's `make_url` parts a user from the password; drivers also read it from the query."""


def parse_objectives(raw: object) -> dict[str, str]:
    """Returns objectives and their directions, in the order in which they are written.

    Args:
        raw: {name: max|min, ...}, or a list of names.

    Raises:
        ValueError: If a name or a direction is wrong, there are none or too many, or none is a score.
    """
    if isinstance(raw, list) and all(isinstance(name, str) for name in raw):
        if len(set(raw)) < len(raw):
            raise ValueError(f"must list each objective once, but got {show(raw)}")
        given: dict[Any, Any] = {name: OBJECTIVE_DIRECTIONS.get(name) for name in raw}
    elif isinstance(raw, dict):
        given = raw
    else:
        raise ValueError(
            f"must be {{spbleu: max, trainable_parameters: min}} or a list of objectives, but got {show(raw)}"
        )
    problems = []
    for name, direction in given.items():
        if name not in OBJECTIVE_DIRECTIONS:
            problems.append(
                f"must name objectives, but {show(name)} is none.{near_names(str(name), OBJECTIVE_DIRECTIONS)}"
            )
        elif direction != OBJECTIVE_DIRECTIONS[name]:
            problems.append(f"must be {{{name}: {OBJECTIVE_DIRECTIONS[name]}}}, but got {show(direction)}")
    if not problems and not any(name in SCORES for name in given):
        problems.append(f"must have a score among them ({', '.join(SCORES)}), but got {show(raw)}")
    if len(given) > MAX_OBJECTIVES:
        problems.append(f"must be at most {MAX_OBJECTIVES}, but got {len(given)}. Make a limit of one: constraints.")
    if problems:
        raise ValueError("; ".join(problems))
    return dict(given)


def parse_constraint(raw: object) -> Constraint:
    """Returns the constraint that a text such as "nonzero_parameters <= 2 %" says.

    Raises:
        ValueError: If it does not read METRIC <= NUMBER or METRIC >= NUMBER, has no such metric, bounds it on the
            side on which more of it is better, or has a percentage of what has none.
    """
    found = _CONSTRAINT.fullmatch(raw.strip()) if isinstance(raw, str) else None
    bound = _number(found["bound"]) if found else None
    if found is None or bound is None or found["sign"] not in ("<=", ">="):
        example = "nonzero_parameters <= 2 %"
        raise ValueError(f"must read METRIC <= NUMBER or METRIC >= NUMBER, but got {show(raw)}. Example: {example}")
    metric, is_upper = found["metric"], found["sign"] == "<="
    # What means a loss is looked at with the classes, which it may name.
    if metric not in OBJECTIVE_DIRECTIONS and not means_loss(metric):
        names = [*OBJECTIVE_DIRECTIONS, f"{WORST_LOSS}all"]
        raise ValueError(f"must bound a metric, but {metric!r} is none.{near_names(metric, names)}")
    is_gain = metric in SCORES
    if is_upper == is_gain:
        sign = ">=" if is_gain else "<="
        raise ValueError(f"must read {metric} {sign} NUMBER, but got {show(raw)}: it would refuse what is better.")
    if found["percent"] and metric not in _IN_PERCENT:
        raise ValueError(f"takes % for {' and '.join(_IN_PERCENT)} only, but got {show(raw)}")
    if bound < 0 and not means_loss(metric):
        raise ValueError(f"must have a bound of at least 0, but got {show(raw)}")
    return Constraint(metric=metric, is_upper=is_upper, bound=bound, is_percent=bool(found["percent"]))


def means_loss(metric: str) -> bool:
    """Returns whether a metric is one against the pretrained base, or was meant to be."""
    begin = metric.partition(".")[0]
    known = [*OBJECTIVE_DIRECTIONS, WORST_LOSS.removesuffix(".")]
    return metric.startswith(WORST_LOSS) or difflib.get_close_matches(begin, known, n=1, cutoff=0.7) == known[-1:]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _constraint_list(raw: object) -> object:
    if not isinstance(raw, list):
        raise ValueError(f"must be a list of texts such as [nonzero_parameters <= 2 %], but got {show(raw)}")  # noqa: TRY004
    return tuple(raw)


def parse_plateau(raw: object) -> Plateau | None:
    """Returns the plateau rule of {trials: N, min_gain: SHARE}, None for none.

    Raises:
        ValueError: If it does not read so.
    """
    if raw is None or raw == "none":
        return None
    if not isinstance(raw, dict) or "trials" not in raw or not set(raw) <= {"trials", "min_gain"}:
        raise ValueError(f"must read {{trials: N, min_gain: SHARE}} or none, but got {show(raw)}")
    rules = {
        "trials": Rule(kind="int", low=1, is_searchable=False),
        "min_gain": Rule(kind="float", low=0, is_low_open=True, is_searchable=False),
    }
    values: dict[str, Any] = {}
    for name, value in raw.items():
        try:
            values[name] = rules[name](value)
        except ValueError as e:
            raise ValueError(f"has a {name} that {e}") from e
    return Plateau(**values)


def parse_url(raw: object, what: str, instead: str) -> str | None:
    """Returns a URL, None for none.

    Args:
        raw: What the space has.
        what: What it is the URL of, for the message.
        instead: Where a password may be given.

    Raises:
        ValueError: If it is no text, or holds a password: the space is kept in the experiment's folder.
    """
    if raw is None:
        return None
    if not isinstance(raw, str) or not raw:
        raise ValueError(f"must be {what} or nothing, but got {show(raw)}")
    if _PASSWORD.search(raw):
        raise ValueError(
            "must hold no password, since the space is kept in the experiment's folder, but it does. "
            f"Take it out and give it by {instead}."
        )
    return raw


def parse_storage(raw: object) -> str | None:
    """Returns the URL of a database, None for none. Raises ValueError as `parse_url`."""
    return parse_url(raw, "a database's URL", "PGPASSWORD or ~/.pgpass")


class SearchSection(Section):
    """`search`."""

    objectives: Annotated[dict[str, str], PlainValidator(parse_objectives)] = Field(
        default_factory=lambda: dict(DEFAULT_OBJECTIVES)
    )
    """What is optimised, one to four of `settings.OBJECTIVE_DIRECTIONS`: {name: max|min} or a list of names."""

    constraints: Annotated[
        tuple[Annotated[Constraint, PlainValidator(parse_constraint)], ...], BeforeValidator(_constraint_list)
    ] = ()
    """What a trial must keep to be a member of the front, such as nonzero_parameters <= 2 %."""

    sampler: Annotated[str, fixed("text", names=("tpe", "gp", "nsga2", "random", "grid"))] = "gp"
    """What proposes the points: an Optuna sampler. grid: every point once, in an order drawn by the seed."""

    scheduler: Annotated[str, fixed("text", names=("asha", "none"))] = "asha"
    grace_epochs: Annotated[int, fixed("int", low=1)] = 1
    """asha: no trial is stopped before this epoch."""

    reduction_factor: Annotated[int, fixed("int", low=2)] = 3
    """asha: one in so many goes on at each rung; rungs are grace_epochs times its powers."""

    strategy: Annotated[str, fixed("text", names=("trials", "one_shot"))] = "trials"
    """trials: every architecture is trained. one_shot: a few wide ones are, and many are cut out of these."""

    donors: Annotated[int, fixed("int", low=1)] = 2
    """one_shot: how many wide ones, each with its own values of what a cut cannot change."""

    one_shot: OneShotSection = OneShotSection()
    trials: Annotated[int, fixed("int", low=1)] = 64
    max_hours: Annotated[float | None, fixed("float", low=0, is_low_open=True, words={"none": None})] = None
    plateau: Annotated[Plateau | None, PlainValidator(parse_plateau)] = None
    """Ends the search before its trials are used up, once they stop to bring anything. None: never."""

    seed: Annotated[int, fixed("int", low=0)] = 0
    storage: Annotated[str | None, PlainValidator(parse_storage)] = None
    """A database URL for the trial table. None: SQLite in the experiment's folder."""

    @model_validator(mode="before")
    @classmethod
    def _settle_sampler(cls, raw: Any) -> Any:
        """Takes tpe where there are more objectives than gp proposes quickly for, and nobody says which.

        Else it is gp, which found fronts and planted truths at less cost than tpe (search_spaces/README.md).
        """
        if isinstance(raw, dict) and "sampler" not in raw:
            objectives = raw.get("objectives")
            if isinstance(objectives, dict | list) and len(objectives) > _MAX_OBJECTIVES_OF_GP:
                return raw | {"sampler": "tpe"}
        return raw

    @property
    def num_planned(self) -> int:
        """How many searched trials are trained, if cuts can be trusted."""
        return self.trials if self.strategy == "trials" else self.one_shot.sample + self.one_shot.winners

    def rung_epochs(self, epochs: int) -> tuple[int, ...]:
        """Returns the epochs after which trials of so many epochs are compared; none without asha."""
        return rungs(epochs, self.grace_epochs, self.reduction_factor) if self.scheduler == "asha" else ()


def rungs(max_epochs: int, grace_epochs: int, reduction_factor: int) -> tuple[int, ...]:
    """Returns the rungs of successive halving: grace * factor ** k, all before the last epoch."""
    found = []
    rung = grace_epochs
    while rung < max_epochs:
        found.append(rung)
        rung *= reduction_factor
    return tuple(found)


_FAILURES, _CHECKPOINTS = FailureSettings(), CheckpointSettings()
_Reaction = Annotated[Any, fixed("text", names=("fail", "retry", "stop"))]
_Limit = Annotated[float | None, fixed("float", low=0, is_low_open=True, words={"none": None})]


class FailureSection(Section):
    """`failures`: `settings.FailureSettings`."""

    stall_minutes: _Limit = _FAILURES.stall_minutes
    stalled: _Reaction = _FAILURES.stalled
    non_finite_loss: _Reaction = _FAILURES.non_finite_loss
    out_of_memory: Annotated[Any, fixed("text", names=("halve", "fail", "stop"))] = _FAILURES.out_of_memory
    disk_full: _Reaction = _FAILURES.disk_full
    error: _Reaction = _FAILURES.error
    in_a_row: Annotated[int | None, fixed("int", low=1, words={"none": None})] = _FAILURES.in_a_row

    def settings(self) -> FailureSettings:
        """Returns the plain settings."""
        return FailureSettings(**self.model_dump())


class CheckpointSection(Section):
    """`checkpoints`: `settings.CheckpointSettings`."""

    keep: Annotated[Any, fixed("text", names=("front", "all"))] = _CHECKPOINTS.keep
    max_gigabytes: _Limit = _CHECKPOINTS.max_gigabytes

    def settings(self) -> CheckpointSettings:
        """Returns the plain settings."""
        return CheckpointSettings(**self.model_dump())
