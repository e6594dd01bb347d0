"""One point of a space as an architecture, and the architectures of the baselines."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from langsearch.space.architecture import (
    Architecture,
    BaseShape,
    Pruning,
    Side,
    Site,
    SiteAdapters,
    Stack,
    uniform_ranks,
)
from langsearch.space.baseline_settings import Baseline
from langsearch.space.kinds import Bridge, Gate, LayerNorms, Pool, ZNorm, site_kind
from langsearch.space.placement import published_modules
from langsearch.space.problems import InputError
from langsearch.space.rules import STACKS, Classes, StackAtPoint, slots_of_languages
from langsearch.space.sections import ArchitectureSection, PoolSection, PruningSection
from langsearch.space.values import pick

PUBLISHED_RANKS = {"high": 2, "medium": 2, "low": 8}
"""Ranks 2;2;8 of the public release of Cao et al. 2024 (arXiv 2409.05224)."""

PUBLISHED_PRUNING_TARGET = 0.9
PUBLISHED_PRUNING_START = 2
PUBLISHED_PRUNING_DURATION = 10


def build_architecture(
    section: ArchitectureSection, classes: Classes, point: Mapping[str, Any], shape: BaseShape
) -> Architecture:
    """Returns the architecture at a point.

    Args:
        section: The space's `architecture`.
        classes: The languages of each class.
        point: The value of each dimension; others than the architecture's are not read.
        shape: The base's sizes.

    Raises:
        ValueError: If the point lacks a dimension.
        InputError: If a layer lies outside the base, or the family of a language is asked for and not known.
    """
    sharing = pick(section.sharing, "sharing", point)
    slots = slots_of_languages(sharing, classes)
    targets = {}
    if section.pruning is not None:
        for class_name, languages in classes.items():
            for language in languages:
                entry = section.pruning.target.entry("pruning.target", language, class_name)
                assert entry is not None, "every class must have a target"
                targets[slots[language]] = pick(entry.value, entry.name, point)
    word = str(pick(section.adapter, "adapter", point))
    kind = site_kind(word)
    return Architecture(
        slots=tuple(slots.items()),
        adapters=()
        if kind is None
        else (
            *_stack_adapters("encoder", section, classes, slots, point, shape),
            *_stack_adapters("decoder", section, classes, slots, point, shape),
        ),
        kind=kind or "lora",
        gate=_gate(section, point) if kind == "gated" else None,
        pool=_pool(section, point) if kind == "lora" and sharing == "pool" else None,
        shared_rank=pick(section.shared_rank, "shared_rank", point) if kind == "lora" else 0,
        encoder_znorm=_znorm(section, point),
        layer_norm=_layer_norm(section, classes, slots, point) if "layer_norm" in word.split("+") else None,
        bridge=_bridge(section, classes, slots, point) if "bridge" in word.split("+") else None,
        pruning=_pruning(section.pruning, targets, point),
        init=pick(section.init, "init", point),
        scaling=pick(section.scaling, "scaling", point),
        alpha=pick(section.alpha, "alpha", point),
        ffn_slice=_effective_slice(pick(section.ffn_slice, "ffn_slice", point), shape),
    )


def without_language(architecture: Architecture, language: str) -> Architecture:
    """Returns an architecture in which a language, which shares with nobody, has no adapters."""
    slot = dict(architecture.slots)[language]
    norms, bridge, pruning = architecture.layer_norm, architecture.bridge, architecture.pruning

    def others(slots: Sequence[str]) -> tuple[str, ...]:
        return tuple(other for other in slots if other != slot)

    return replace(
        architecture,
        adapters=tuple(
            replace(entry, ranks=tuple(item for item in entry.ranks if item[0] != slot))
            for entry in architecture.adapters
        ),
        layer_norm=replace(norms, slots=others(norms.slots)) if norms else None,
        bridge=replace(bridge, slots=others(bridge.slots)) if bridge else None,
        pruning=replace(pruning, targets=tuple(item for item in pruning.targets if item[0] != slot))
        if pruning
        else None,
    )


def baseline_architecture(baseline: Baseline, classes: Classes, shape: BaseShape) -> Architecture | None:
    """Returns a baseline's architecture; None for full fine-tuning, which trains the base itself.

    pretrained has no adapters. shared_lora has one slot for all languages in every layer and module that
    the release adapts, and no scaling (PEFT's default alpha 8 over its default rank 8 is 1).
    published is the release: ranks 2;2;8, the first 9 of 12 encoder layers by source and the rest by target,
    the first `d_model` hidden units of the feed-forward blocks. Classes other than high, medium and low get
    rank 2, and the last of them 8.
    """
    languages = [language for members in classes.values() for language in members]
    own = tuple((language, language) for language in languages)
    match baseline.name:
        case "full_finetuning":
            return None
        case "pretrained":
            return Architecture(slots=own, adapters=())
        case "shared_lora":
            shared = uniform_ranks(_published_sites(shape), {"all": baseline.rank})
            slots = tuple((language, "all") for language in languages)
            return Architecture(slots=slots, adapters=shared, init=baseline.init)
        case "published":
            ranks = published_ranks(classes)
            by_language = {language: ranks[name] for name, members in classes.items() for language in members}
            return Architecture(
                slots=own,
                adapters=uniform_ranks(_published_sites(shape), by_language),
                pruning=_published_pruning(languages) if baseline.is_pruned else None,
                ffn_slice=_effective_slice(shape.d_model, shape),
            )


def published_ranks(classes: Classes) -> dict[str, int]:
    """Returns the published rank of each class."""
    if set(classes) <= set(PUBLISHED_RANKS):
        return {name: PUBLISHED_RANKS[name] for name in classes}
    last = list(classes)[-1]
    return {name: PUBLISHED_RANKS["low" if name == last else "high"] for name in classes}


def _published_pruning(languages: Sequence[str]) -> Pruning:
    return Pruning(
        targets=tuple((language, PUBLISHED_PRUNING_TARGET) for language in languages),
        start=PUBLISHED_PRUNING_START,
        duration=PUBLISHED_PRUNING_DURATION,
    )


def _published_sites(shape: BaseShape) -> list[tuple[Site, Side]]:
    by_source = shape.encoder_layers * 3 // 4
    sites: list[tuple[Site, Side]] = []
    for layer in range(shape.encoder_layers):
        side: Side = "src" if layer < by_source else "tgt"
        sites += [(Site("encoder", layer, module), side) for module in published_modules("encoder")]
    for layer in range(shape.decoder_layers):
        sites += [(Site("decoder", layer, module), "tgt") for module in published_modules("decoder")]
    return sites


def _stack_adapters(
    stack: Stack,
    section: ArchitectureSection,
    classes: Classes,
    slots: Mapping[str, str],
    point: Mapping[str, Any],
    shape: BaseShape,
) -> Iterator[SiteAdapters]:
    num_layers = shape.num_layers(stack)
    at_point = StackAtPoint(section, stack, classes, point, num_layers)
    outside = [layer for layer in at_point.layers if not 0 <= layer < num_layers]
    if at_point.modules and outside:
        raise InputError(f"`{stack}.layers` must lie in the base's {num_layers} layers, but got {outside}")
    for layer in at_point.layers:
        for module in at_point.modules:
            side, ranks = at_point.adapters(layer, module)
            # The languages of a slot have one rank, which `checks` made sure of.
            by_slot = {slots[language]: rank for language, rank in ranks.items()}
            yield SiteAdapters(Site(stack, layer, module), side, tuple(by_slot.items()))


def _pruning(section: PruningSection | None, targets: Mapping[str, float], point: Mapping[str, Any]) -> Pruning | None:
    if section is None:
        return None
    return Pruning(
        targets=tuple(targets.items()),
        start=pick(section.start, "pruning.start", point),
        duration=pick(section.duration, "pruning.duration", point),
        scope=pick(section.scope, "pruning.scope", point),
        over=pick(section.over, "pruning.over", point),
    )


def _gate(section: ArchitectureSection, point: Mapping[str, Any]) -> Gate:
    own = section.gate
    searched = {name: pick(getattr(own, name), f"gate.{name}", point) for name in ("hidden", "budget", "skip", "noise")}
    return Gate(is_one_sided=own.one_sided, **searched)


def _znorm(section: ArchitectureSection, point: Mapping[str, Any]) -> ZNorm | None:
    own = section.encoder_znorm
    if own is None:
        return None
    strength, parts = (pick(getattr(own, name), f"encoder_znorm.{name}", point) for name in ("strength", "parts"))
    return ZNorm(strength=strength, parts=parts, pivot=own.pivot)


def _pool(section: ArchitectureSection, point: Mapping[str, Any]) -> Pool:
    return Pool(**{name: pick(getattr(section.pool, name), f"pool.{name}", point) for name in PoolSection.model_fields})


def _layer_norm(
    section: ArchitectureSection, classes: Classes, slots: Mapping[str, str], point: Mapping[str, Any]
) -> LayerNorms:
    stacks = pick(section.layer_norm.stacks, "layer_norm.stacks", point)
    return LayerNorms(
        slots=_slots_of(section.layer_norm.classes, classes, slots),
        stacks=STACKS if stacks == "both" else (stacks,),
        side=pick(section.layer_norm.side, "layer_norm.side", point),
    )


def _bridge(
    section: ArchitectureSection, classes: Classes, slots: Mapping[str, str], point: Mapping[str, Any]
) -> Bridge:
    return Bridge(
        slots=_slots_of(section.bridge.classes, classes, slots), rank=pick(section.bridge.rank, "bridge.rank", point)
    )


def _slots_of(names: Sequence[str] | None, classes: Classes, slots: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the slots of the languages of some classes, or of all."""
    chosen = classes if names is None else names
    return tuple(dict.fromkeys(slots[language] for name in chosen for language in classes[name]))


def _effective_slice(ffn_slice: int | None, shape: BaseShape) -> int | None:
    """Returns None for a slice that leaves nothing out, so that it has the fingerprint of no slice."""
    if ffn_slice is None or ffn_slice >= max(shape.encoder_ffn_dim, shape.decoder_ffn_dim):
        return None
    return ffn_slice
