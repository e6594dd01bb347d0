"""What the trainings of a one-shot search are to do: the wide ones, what is cut out of them, and the best of that."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from langsearch.experiment.task import TrialTask
from langsearch.space.architecture import BaseShape
from langsearch.space.one_shot import DONOR as DONOR_DIMENSION
from langsearch.space.one_shot import donor_architecture, donor_points, donor_trainer
from langsearch.space.schema import Space
from langsearch.study.cut_rows import cut_name
from langsearch.study.rows import DONOR


def donor_name(number: int) -> str:
    """Returns the name of a donor, numbered from 1."""
    return f"{DONOR}{number}"


def donor_names(space: Space) -> list[str]:
    """Returns the names of all donors of a space."""
    return [donor_name(number) for number in range(1, len(donor_points(space)) + 1)]


def donor_task(space: Space, shape: BaseShape, name: str) -> TrialTask:
    """Returns the task of one of the wide trainings, by its name."""
    point = donor_points(space)[int(name.removeprefix(DONOR)) - 1]
    architecture, nesting = donor_architecture(space, shape, point)
    return TrialTask(
        name=name,
        kind="donor",
        method="adapters",
        trainer=donor_trainer(space, point, nesting),
        architecture=architecture,
        classes=space.classes,
    )


def donor_of(params: Mapping[str, Any]) -> int:
    """Returns the number of the donor that a cut's point names."""
    return int(params.get(DONOR_DIMENSION, 1))


def whole_point(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the point of the space that a cut stands for: its own values and its donor's."""
    cut = {name: value for name, value in params.items() if name != DONOR_DIMENSION}
    found = {**donor_points(space)[donor_of(params) - 1], **cut}
    return {name: found[name] for name in space.dimensions()}


def cut_task(space: Space, shape: BaseShape, number: int, params: Mapping[str, Any]) -> TrialTask:
    """Returns the task that a cut would be if it were trained: its architecture, and how its donor was trained."""
    point = whole_point(space, params)
    return TrialTask(
        name=cut_name(number),
        kind="cut",
        method="adapters",
        trainer=space.trainer(point),
        architecture=space.architecture(point, shape),
        classes=space.classes,
    )


def going_on(task: TrialTask, space: Space, cut: str) -> TrialTask:
    """Returns the task of training a cut on, from the task of its point."""
    return replace(task, trainer=replace(task.trainer, start_cut=cut, epochs=space.search.one_shot.epochs))
