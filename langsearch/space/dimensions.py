"""The dimensions of a space as Optuna distributions, and the trainer's settings at a point."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from langsearch.space.placement import Layers, Modules
from langsearch.space.sections import ArchitectureSection, DecoderSection, EncoderSection, TrainerSection
from langsearch.space.settings import FULL_FINETUNING_LR, Baseline, TrainerSettings
from langsearch.space.values import Choice, IntRange, Searched, Value, pick


def search_dimensions(architecture: ArchitectureSection, trainer: TrainerSection) -> dict[str, BaseDistribution]:
    """Returns the distribution of every searched value, by its flat name, in a fixed order.

    Names: rank, rank.CLASS, rank.LANGUAGE; encoder.layers.first, .last, or .start and .length of a window;
    encoder.source_layers; encoder.modules.MODULE; pruning.target as rank; pruning.start, .duration, .scope;
    init, scaling, alpha, ffn_slice, sharing; trainer.FIELD. The decoder as the encoder.
    """
    values = [*_architecture_values(architecture), *_trainer_values(trainer)]
    return {name: _distribution(value) for name, value in values if isinstance(value, Searched)}


def trainer_settings(trainer: TrainerSection, point: Mapping[str, Any]) -> TrainerSettings:
    """Returns the trainer's settings at a point.

    Raises:
        ValueError: If the point lacks a searched setting.
    """
    picked = {name: pick(getattr(trainer, name), f"trainer.{name}", point) for name in TrainerSection.model_fields}
    return TrainerSettings(**picked)


def baseline_trainer_settings(trainer: TrainerSection, baseline: Baseline) -> TrainerSettings:
    """Returns the trainer's settings of a baseline.

    The baseline's own settings win over those that the space fixes. What the space searches is at its default in
    `TrainerSettings`. Full fine-tuning has a learning rate of its own, never that of the adapters.
    """
    values = {name: getattr(trainer, name) for name in TrainerSection.model_fields}
    settings: dict[str, Any] = {name: value for name, value in values.items() if not isinstance(value, Searched)}
    if baseline.name == "full_finetuning":
        settings["lr"] = FULL_FINETUNING_LR
    return replace(TrainerSettings(), **(settings | dict(baseline.trainer)))


def _stack_values(name: str, layers: Layers, source_layers: Value, modules: Modules) -> Iterator[tuple[str, Value]]:
    """Yields the values of one stack by name.

    Args:
        name: encoder or decoder.
        layers: Its layers.
        source_layers: Its lowest layers indexed by source.
        modules: Its modules; each of a subset is in or out by itself.
    """
    if layers.kind in ("first", "last"):
        yield f"{name}.layers.{layers.kind}", layers.count
    if layers.kind == "window" and layers.high - layers.low > 1:
        yield f"{name}.layers.start", IntRange(layers.low, layers.high - 1)
        yield f"{name}.layers.length", IntRange(1, layers.high - layers.low)
    yield f"{name}.source_layers", source_layers
    for module in modules.subset:
        yield f"{name}.modules.{module}", Choice((False, True))


def _architecture_values(section: ArchitectureSection) -> Iterator[tuple[str, Value]]:
    yield from section.rank.entries("rank")
    stacks: tuple[tuple[str, EncoderSection | DecoderSection], ...]
    stacks = ("encoder", section.encoder), ("decoder", section.decoder)
    for name, stack in stacks:
        yield from _stack_values(name, stack.layers, stack.source_layers, stack.modules)
    if section.pruning is not None:
        yield from section.pruning.target.entries("pruning.target")
        for name in ("start", "duration", "scope"):
            yield f"pruning.{name}", getattr(section.pruning, name)
    for name in ("init", "scaling", "alpha", "ffn_slice", "sharing"):
        yield name, getattr(section, name)


def _trainer_values(section: TrainerSection) -> Iterator[tuple[str, Value]]:
    for name in TrainerSection.model_fields:
        yield f"trainer.{name}", getattr(section, name)


def _distribution(value: Searched) -> BaseDistribution:
    if isinstance(value, Choice):
        return CategoricalDistribution(value.options)
    if isinstance(value, IntRange):
        return IntDistribution(value.low, value.high, log=value.log, step=value.step)
    return FloatDistribution(value.low, value.high, log=value.log)
