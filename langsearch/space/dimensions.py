"""The dimensions of a space as Optuna distributions, and the trainer's settings at a point."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from langsearch.space.baseline_settings import FULL_FINETUNING_LR, TUNED_FACTOR, Baseline
from langsearch.space.placement import Layers, Modules
from langsearch.space.sections import (
    ArchitectureSection,
    OverrideSection,
    PerClass,
    PoolSection,
    PruningSection,
    SearchTrainerSection,
    StackSection,
    TrainerSection,
)
from langsearch.space.settings import TrainerSettings
from langsearch.space.values import Choice, FloatRange, IntRange, Searched, Value, pick

BRIDGE = "trainer.modular.bridge"
"""The dimension of the language without adapters."""


def search_dimensions(architecture: ArchitectureSection, trainer: SearchTrainerSection) -> dict[str, BaseDistribution]:
    """Returns the distribution of every searched value, by its flat name, in a fixed order.

    Names: rank, rank.CLASS, rank.LANGUAGE; encoder.layers.first, .last, or .start and .length of a window;
    encoder.source_layers; encoder.modules.MODULE; pruning.target as rank; pruning.start, .duration, .scope, .over;
    init, scaling, alpha, ffn_slice, sharing, adapter, shared_rank; gate.hidden, .budget, .skip, .noise;
    pool.size, .soft_share, .disparity; encoder_znorm.strength, .parts; layer_norm.stacks, .side; bridge.rank;
    trainer.FIELD; trainer.loss.TERM.FIELD. The decoder as the encoder.
    """
    values = [*_architecture_values(architecture), *_trainer_values(trainer)]
    return {name: _distribution(value) for name, value in values if isinstance(value, Searched)}


def trainer_settings(
    trainer: SearchTrainerSection, point: Mapping[str, Any], classes: Mapping[str, tuple[str, ...]]
) -> TrainerSettings:
    """Returns the trainer's settings at a point; a relative `init_from` is one of the current folder.

    Raises:
        ValueError: If the point lacks a searched setting.
    """
    picked = {name: pick(getattr(trainer, name), f"trainer.{name}", point) for name in TrainerSection.model_fields}
    if picked["init_from"] is not None:
        # Workers have other current folders than the driver.
        picked["init_from"] = str(Path(picked["init_from"]).absolute())
    if (stages := trainer.two_stage) is not None:
        picked["first_stage"] = tuple(language for name in stages.first for language in classes[name])
        picked["first_share"] = pick(stages.share, "trainer.two_stage.share", point)
        picked["freeze_first"] = stages.freeze_first
    if trainer.modular is not None:
        picked["modular_bridge"] = pick(trainer.modular.bridge, BRIDGE, point)
        if (merge := trainer.modular.merge_ratio) is not None and picked["modular_bridge"] is not None:
            picked["merge_src"], picked["merge_tgt"] = merge.src, merge.tgt
    if (back := trainer.back_translation) is not None:
        picked["back_translation_every"] = pick(back.every, "trainer.back_translation.every", point)
        picked["back_translation_from_epoch"] = pick(back.from_epoch, "trainer.back_translation.from_epoch", point)
        picked["back_translation_pivots"] = tuple(back.languages or ())
    return TrainerSettings(**picked, loss=trainer.loss.settings(point))


def baseline_trainer_settings(trainer: TrainerSection, baseline: Baseline) -> TrainerSettings:
    """Returns the trainer's settings of a baseline.

    The baseline's own settings win over those that the space fixes. What the space searches is at its default in
    `TrainerSettings`. A baseline starts anew, whatever the space starts from, and learns by cross-entropy alone. Full
    fine-tuning has a learning rate of its own, never that of the adapters.
    """
    values = {name: getattr(trainer, name) for name in TrainerSection.model_fields}
    settings: dict[str, Any] = {name: value for name, value in values.items() if not isinstance(value, Searched)}
    del settings["init_from"]
    if baseline.name == "full_finetuning":
        settings["lr"] = FULL_FINETUNING_LR
    return replace(TrainerSettings(), **(settings | dict(baseline.trainer)))


def baseline_dimensions(trainer: TrainerSection, baseline: Baseline) -> dict[str, BaseDistribution]:
    """Returns the distributions that a baseline's tries are searched in, named as the space's; none where it is not."""
    if baseline.tune is None:
        return {}
    own = baseline_trainer_settings(trainer, baseline).lr
    rates = baseline.tune.lr or FloatRange(own / TUNED_FACTOR, own * TUNED_FACTOR, log=True)
    values = {"trainer.lr": rates, "trainer.epochs": baseline.tune.epochs}
    return {name: _distribution(value) for name, value in values.items() if value is not None}


def num_points(dimensions: Mapping[str, BaseDistribution]) -> int | None:
    """Returns how many points dimensions have; None where they are not countable."""
    num = 1
    for distribution in dimensions.values():
        if isinstance(distribution, CategoricalDistribution):
            num *= len(distribution.choices)
        elif isinstance(distribution, IntDistribution):
            num *= (distribution.high - distribution.low) // distribution.step + 1
        else:
            return None
    return num


def _layers_values(name: str, layers: Layers) -> Iterator[tuple[str, Value]]:
    if layers.kind in ("first", "last"):
        yield f"{name}.{layers.kind}", layers.count
    if layers.kind == "window" and layers.high - layers.low > 1:
        yield f"{name}.start", IntRange(layers.low, layers.high - 1)
        yield f"{name}.length", IntRange(1, layers.high - layers.low)


def _modules_values(name: str, modules: Modules) -> Iterator[tuple[str, Value]]:
    for module in modules.subset:
        yield f"{name}.{module}", Choice((False, True))


def _stack_values(name: str, stack: StackSection) -> Iterator[tuple[str, Value]]:
    """Yields the values of the encoder or the decoder by name."""
    yield from _layers_values(f"{name}.layers", stack.layers)
    if isinstance(stack.sides, tuple):
        for layer, side in enumerate(stack.sides):
            yield f"{name}.sides.{layer}", side
    else:
        yield f"{name}.sides", stack.sides
    if not isinstance(stack.source_layers, tuple):
        yield f"{name}.source_layers", stack.source_layers
    yield from _modules_values(f"{name}.modules", stack.modules)
    if stack.rank is not None:
        yield from _entries(stack.rank, f"{name}.rank")
    for index, override in enumerate(stack.overrides):
        yield from _override_values(f"{name}.overrides.{index}", override)


def _override_values(name: str, override: OverrideSection) -> Iterator[tuple[str, Value]]:
    yield from _layers_values(f"{name}.layers", override.layers)
    if override.modules is not None:
        yield from _modules_values(f"{name}.modules", override.modules)
    yield f"{name}.side", override.side
    if override.rank is not None:
        yield from _entries(override.rank, f"{name}.rank")


def _entries(section: PerClass, name: str) -> Iterator[tuple[str, Value]]:
    for entry in section.entries(name):
        yield entry.name, entry.value


def _architecture_values(section: ArchitectureSection) -> Iterator[tuple[str, Value]]:
    yield from _entries(section.rank, "rank")
    yield from _stack_values("encoder", section.encoder)
    yield from _stack_values("decoder", section.decoder)
    if section.pruning is not None:
        yield from _entries(section.pruning.target, "pruning.target")
        for name in PruningSection.model_fields:
            if name != "target":
                yield f"pruning.{name}", getattr(section.pruning, name)
    for name in ("init", "scaling", "alpha", "ffn_slice", "sharing", "adapter", "shared_rank"):
        yield name, getattr(section, name)
    for name in ("hidden", "budget", "skip", "noise"):
        yield f"gate.{name}", getattr(section.gate, name)
    for name in PoolSection.model_fields:
        yield f"pool.{name}", getattr(section.pool, name)
    if section.encoder_znorm is not None:
        yield "encoder_znorm.strength", section.encoder_znorm.strength
        yield "encoder_znorm.parts", section.encoder_znorm.parts
    yield "layer_norm.stacks", section.layer_norm.stacks
    yield "layer_norm.side", section.layer_norm.side
    yield "bridge.rank", section.bridge.rank


def _trainer_values(section: SearchTrainerSection) -> Iterator[tuple[str, Value]]:
    for name in TrainerSection.model_fields:
        yield f"trainer.{name}", getattr(section, name)
    for name, value in section.loss.values():
        yield f"trainer.loss.{name}", value
    if section.back_translation is not None:
        yield "trainer.back_translation.every", section.back_translation.every
        yield "trainer.back_translation.from_epoch", section.back_translation.from_epoch
    if section.two_stage is not None:
        yield "trainer.two_stage.share", section.two_stage.share
    if section.modular is not None:
        yield BRIDGE, section.modular.bridge


def _distribution(value: Searched) -> BaseDistribution:
    if isinstance(value, Choice):
        return CategoricalDistribution(value.options)
    if isinstance(value, IntRange):
        return IntDistribution(value.low, value.high, log=value.log, step=value.step)
    return FloatDistribution(value.low, value.high, log=value.log)
