"""What a run learns before its search: where it lies, and the points that the search begins with."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution

from langsearch.experiment.environment import Environment
from langsearch.experiment.folder import ExperimentFolder, write_text
from langsearch.model.base import Base
from langsearch.prior.learning import LearningProgress, LearningTask, sides_task, subspace_task, training_data
from langsearch.prior.narrowing import (
    demand_of_dimensions,
    narrowed,
    narrowed_space,
    nearest_rank,
    nearest_sides,
)
from langsearch.prior.sides import SIDES_FILE, LearnedSides, learn_sides, read_sides
from langsearch.prior.subspace import DEMAND_FILE, Demand, learn_subspace, read_demand
from langsearch.space.architecture import BaseShape
from langsearch.space.prior_section import rank_dimensions
from langsearch.space.schema import Space

NARROWED_FILE = "narrowed.yaml"

SEARCH_FACTOR = 4.0
"""With `narrow`, ranks beyond this factor of the demand are not searched."""


@dataclass(frozen=True, kw_only=True)
class Seeding:
    """How a search begins."""

    distributions: dict[str, BaseDistribution]
    """The search dimensions, narrowed if the space asks for it."""

    points: tuple[dict[str, Any], ...]
    """What the first trials have; the sampler draws the dimensions that a point leaves open."""

    narrowed: tuple[str, ...]
    """The dimensions whose range is smaller than the space's."""

    def describe(self) -> dict[str, Any]:
        """Returns what the experiment's description keeps."""
        return {"seeds": list(self.points), "narrowed": list(self.narrowed)}


def learn(
    base: Base,
    environment: Environment,
    task: LearningTask,
    folder: ExperimentFolder,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Learns one of an experiment's priors in its folder; one that is there is not learned again.

    Args:
        base: The base, without adapters.
        environment: Sentences and directions.
        task: What is learned.
        folder: The experiment's.
        after_step: Called after each step or epoch, when its checkpoint, if it has one, is written.
    """
    path = folder.sides if task.kind == "sides" else folder.subspace
    steps: Iterator[LearningProgress] = (learn_sides if task.kind == "sides" else learn_subspace)(
        base, training_data(base, environment), task, path
    )
    for _ in steps:
        after_step()


def next_task(space: Space, shape: BaseShape, folder: ExperimentFolder) -> LearningTask | None:
    """Returns what is to be learned next: the sides, then the demand, which uses them; None if all is there."""
    prior = space.prior
    if prior.sides is not None and not (folder.sides / SIDES_FILE).exists():
        return sides_task(space, shape, prior.sides)
    if prior.subspace is not None and not (folder.subspace / DEMAND_FILE).exists():
        learned, task = _sides(space, folder), subspace_task(space, shape, prior.subspace)
        if learned is None:
            return task
        sides = {
            entry.site: side for entry in task.architecture.adapters if (side := learned.side(entry.site)) is not None
        }
        return subspace_task(space, shape, prior.subspace, sides)
    return None


def seed(space: Space, shape: BaseShape, folder: ExperimentFolder) -> Seeding:
    """Returns how the search begins, from what was learned; without priors it is the space as it is.

    The first point has the nearest sides and ranks to what was learned; with a demand the second and the third have
    half and twice its ranks, where the space has those.
    """
    distributions = space.dimensions()
    learned, demand = _sides(space, folder), _demand(space, folder)
    sides = {} if learned is None else nearest_sides(space, shape, learned)
    if demand is None:
        return Seeding(distributions=distributions, points=(sides,) if sides else (), narrowed=())
    file = folder.subspace / NARROWED_FILE
    if not file.exists():
        write_text(file, narrowed_space(space, shape, demand))
    searched = rank_dimensions(distributions)
    wanted = {name: rank for name, rank in demand_of_dimensions(space, shape, demand).items() if name in searched}
    assert space.prior.subspace is not None
    changed: dict[str, BaseDistribution] = {}
    if space.prior.subspace.narrow:
        changed = {name: narrowed(distributions[name], rank, SEARCH_FACTOR) for name, rank in wanted.items()}
        changed = {name: value for name, value in changed.items() if value != distributions[name]}
    distributions = distributions | changed
    points: list[dict[str, Any]] = []
    for factor in (1.0, 0.5, 2.0):
        point = sides | {name: nearest_rank(distributions[name], factor * rank) for name, rank in wanted.items()}
        if point not in points:
            points.append(point)
    return Seeding(distributions=distributions, points=tuple(points), narrowed=tuple(changed))


def _sides(space: Space, folder: ExperimentFolder) -> LearnedSides | None:
    return None if space.prior.sides is None else read_sides(folder.sides)


def _demand(space: Space, folder: ExperimentFolder) -> Demand | None:
    return None if space.prior.subspace is None else read_demand(folder.subspace)


def describe_task(task: LearningTask, shape: BaseShape) -> str:
    """Returns a sentence on what will be learned."""
    ranks: Mapping[str, int] = {slot: rank for entry in task.architecture.adapters for slot, rank in entry.ranks}
    rank, num = max(ranks.values(), default=0), len(task.architecture.adapters)
    if task.kind == "sides":
        count = 2 * task.architecture.num_parameters(shape) - task.architecture.num_row_parameters(shape)
        return (
            f"sides by {task.by}: {task.steps} steps, rank {rank} of either side at {num} sites, {count:,} parameters"
        )
    count, epochs = task.architecture.num_parameters(shape), task.trainer.epochs
    pruning = task.architecture.pruning
    target = 0.0 if pruning is None else max(value for _, value in pruning.targets)
    return f"subspace: {epochs} epochs, rank {rank} at {num} sites, {target:.0%} of B pruned, {count:,} parameters"
