"""What must hold between the keys of `search`, and between them and the rest of the space."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from langsearch.space.data_checks import has_direction
from langsearch.space.dimensions import search_dimensions
from langsearch.space.document import KeyPath
from langsearch.space.run_sections import BaselineSection, DataSection, EvaluationSection
from langsearch.space.search_sections import WORST_LOSS, SearchSection, means_loss
from langsearch.space.sections import ArchitectureSection, SearchTrainerSection
from langsearch.space.settings import DecodingSettings

Problem = tuple[KeyPath, str]
Classes = Mapping[str, list[str]]

MAX_GRID_POINTS = 100_000
"""More points than this are no grid that anybody trains, and all of them are held in memory."""


def check_search(
    search: SearchSection,
    *,
    classes: Classes | None,
    data: DataSection | None,
    architecture: ArchitectureSection | None,
    trainer: SearchTrainerSection | None,
    evaluation: EvaluationSection | None,
    baselines: list[BaselineSection] | None,
) -> Iterator[Problem]:
    """Yields the problems of `search` and of `evaluation.rungs`. A section that is wrong by itself is None."""
    if trainer is not None:
        yield from _check_rungs(search, trainer, evaluation)
    if search.sampler == "grid" and architecture is not None and trainer is not None:
        yield from _check_grid(search_dimensions(architecture, trainer))
    counted = Counter((constraint.metric, constraint.is_upper) for constraint in search.constraints)
    for index, constraint in enumerate(search.constraints):
        path: KeyPath = ("search", "constraints", index)
        if counted[constraint.metric, constraint.is_upper] > 1:
            yield path, f"must bound each metric once, but {constraint.metric} stands twice."
        if means_loss(constraint.metric):
            yield from _check_worst_loss(path, constraint.metric, classes, data, baselines)


def _check_rungs(
    search: SearchSection, trainer: SearchTrainerSection, evaluation: EvaluationSection | None
) -> Iterator[Problem]:
    grace, epochs = search.grace_epochs, trainer.epochs
    if search.scheduler == "asha" and grace > epochs:
        text = f"must be at most trainer.epochs, but got {grace} with {epochs} epochs"
        yield ("search", "grace_epochs"), text
        return
    if evaluation is None or not evaluation.rungs:
        return
    found = search.rung_epochs(epochs)
    settings = evaluation.settings()
    path: KeyPath = ("evaluation", "rungs")
    if len(settings.rungs) > len(found):
        how = f"after the epochs {list(found)}" if found else "since no trial is stopped early"
        yield (
            path,
            f"must be at most as many as there are rungs, but got {len(settings.rungs)} for {len(found)}, {how}.",
        )
    for index, (rung, following) in enumerate(zip(settings.rungs, (*settings.rungs[1:], settings.search), strict=True)):
        for name in ("directions", "sentences", "beams"):
            here, there = _amount(rung, name), _amount(following, name)
            if here > there:
                which = f"evaluation.rungs[{index + 1}]" if index + 1 < len(settings.rungs) else "evaluation.search"
                text = f"must be at most that of {which}, {_show(there)}, but got {_show(here)}"
                yield (*path, index, name), text


def _amount(settings: DecodingSettings, name: str) -> float:
    value: int | None = getattr(settings, name)
    return math.inf if value is None else value


def _show(amount: float) -> str:
    return "all" if math.isinf(amount) else f"{amount:g}"


def _check_grid(dimensions: Mapping[str, BaseDistribution]) -> Iterator[Problem]:
    path: KeyPath = ("search", "sampler")
    num_points = 1
    for name, distribution in dimensions.items():
        num_values = _num_values(distribution)
        if num_values is None:
            yield path, f"grid needs finitely many values of each dimension, but {name} is a range. Give it a choice."
        num_points *= num_values or 1
    if num_points > MAX_GRID_POINTS:
        yield path, f"grid must have at most {MAX_GRID_POINTS:,} points, but has {num_points:,}. Fix some values."


def _num_values(distribution: BaseDistribution) -> int | None:
    """Returns how many values a dimension has; None if they cannot be counted."""
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return len(range(distribution.low, distribution.high + 1, distribution.step))
    assert isinstance(distribution, FloatDistribution)
    return None if distribution.step is None else round((distribution.high - distribution.low) / distribution.step) + 1


def _check_worst_loss(
    path: KeyPath,
    metric: str,
    classes: Classes | None,
    data: DataSection | None,
    baselines: list[BaselineSection] | None,
) -> Iterator[Problem]:
    if baselines is not None and not any("pretrained" in item.names for item in baselines):
        yield path, "needs the scores of the pretrained base, but it is no baseline. Add it to `baselines`."
    if classes is None:
        return
    possible = [name for name, members in classes.items() if has_direction(data, members)]
    valid = ", ".join(f"{WORST_LOSS}{name}" for name in [*possible, "all"])
    name = metric.removeprefix(WORST_LOSS)
    if metric == name or name not in (*classes, "all"):
        yield path, f"must bound a loss that there is, but {metric!r} is none. Valid: {valid}."
    elif name != "all" and name not in possible:
        yield path, f"needs a direction between two languages of {name}, but there is none. Valid: {valid}."
