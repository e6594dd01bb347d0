"""The section `prior`: what a run learns before its search, and which dimensions that can inform."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from pydantic import BeforeValidator

from langsearch.space.architecture import BaseShape, Stack
from langsearch.space.dimensions import search_dimensions
from langsearch.space.document import KeyPath
from langsearch.space.prior_settings import PriorSettings, SidesPrior, SubspacePrior
from langsearch.space.rules import possible_sites
from langsearch.space.sections import ArchitectureSection, SearchTrainerSection, Section, fixed

MIN_SUBSPACE_EPOCHS = 2
"""The pruning of the first epoch takes nothing yet."""


def _none_as_empty(raw: object) -> object:
    return {} if raw is None else raw


class SidesPriorSection(Section):
    """`prior.sides`: `settings.SidesPrior`."""

    steps: Annotated[int, fixed("int", low=1)] = SidesPrior.steps
    rank: Annotated[int, fixed("int", low=1)] = SidesPrior.rank
    by: Annotated[Any, fixed("text", names=("layer", "module"))] = SidesPrior.by


class SubspacePriorSection(Section):
    """`prior.subspace`: `settings.SubspacePrior`."""

    epochs: Annotated[int, fixed("int", low=MIN_SUBSPACE_EPOCHS)] = SubspacePrior.epochs
    rank: Annotated[int, fixed("int", low=1)] = SubspacePrior.rank
    target: Annotated[float, fixed("float", low=0, high=0.999, is_low_open=True)] = SubspacePrior.target
    narrow: bool = SubspacePrior.narrow


class PriorSection(Section):
    """`prior`."""

    sides: Annotated[SidesPriorSection, BeforeValidator(_none_as_empty)] = SidesPriorSection()
    subspace: Annotated[SubspacePriorSection, BeforeValidator(_none_as_empty)] = SubspacePriorSection()

    def settings(self) -> PriorSettings:
        """Returns the plain settings; what is not written is not learned."""
        given = self.model_fields_set
        return PriorSettings(
            sides=SidesPrior(**self.sides.model_dump()) if "sides" in given else None,
            subspace=SubspacePrior(**self.subspace.model_dump()) if "subspace" in given else None,
        )


def side_dimensions(names: Iterable[str]) -> list[str]:
    """Returns the dimensions that say a side: encoder.source_layers, .sides, .sides.3, .overrides.0.side."""
    found = []
    for name in names:
        first, *rest = name.split(".")
        is_side = rest[:1] in (["source_layers"], ["sides"]) or (rest[:1] == ["overrides"] and rest[-1] == "side")
        if first in ("encoder", "decoder") and is_side and "rank" not in rest:
            found.append(name)
    return found


def rank_dimensions(names: Iterable[str]) -> list[str]:
    """Returns the dimensions that are ranks: rank.low, encoder.rank.low, decoder.overrides.0.rank."""
    found = []
    for name in names:
        first, *rest = name.split(".")
        if first == "rank" or (first in ("encoder", "decoder") and (rest[:1] == ["rank"] or rest[2:3] == ["rank"])):
            found.append(name)
    return found


def check_prior(
    section: PriorSection, architecture: ArchitectureSection | None, trainer: SearchTrainerSection | None
) -> Iterator[tuple[KeyPath, str]]:
    """Yields the problems of `prior` with what the space searches."""
    given = section.model_fields_set
    if not given:
        yield ("prior",), "must name sides, subspace or both, but names neither."
    if architecture is None or trainer is None:
        return
    names = list(search_dimensions(architecture, trainer))
    if "sides" in given and not side_dimensions(names):
        text = "informs nothing: the space searches neither source_layers nor sides. Search one of them, or leave it"
        yield ("prior", "sides"), f"{text} out."
    if "subspace" in given and not rank_dimensions(names):
        yield ("prior", "subspace"), "informs nothing: the space searches no rank. Search one, or leave it out."


def check_prior_shape(
    prior: PriorSettings, architecture: ArchitectureSection, shape: BaseShape
) -> list[tuple[KeyPath, str]]:
    """Returns the problems of `prior` with a base's sizes."""
    width = narrowest_width(architecture, shape)
    return [
        (("prior", name, "rank"), f"must be at most the narrowest adapted layer's width, {width}, but got {part.rank}")
        for name, part in (("sides", prior.sides), ("subspace", prior.subspace))
        if part is not None and part.rank > width
    ]


def narrowest_width(architecture: ArchitectureSection, shape: BaseShape) -> int:
    """Returns the smallest number of features of a layer that some point of the space adapts."""
    stacks: tuple[Stack, Stack] = ("encoder", "decoder")
    widths = [
        min(shape.features(stack, site.module))
        for stack in stacks
        for site in possible_sites(architecture, stack, shape.num_layers(stack))
    ]
    return min(widths, default=shape.d_model)
