"""What must hold between the keys of a space, and between a space and its base. Types and ranges are in `sections`.

Every check yields (key path, text) and goes on, so that all problems are told at once.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from langsearch.space.architecture import BaseShape, Stack
from langsearch.space.build import PUBLISHED_PRUNING_DURATION, PUBLISHED_PRUNING_START
from langsearch.space.data_checks import check_data
from langsearch.space.document import KeyPath, show
from langsearch.space.languages import find_language
from langsearch.space.problems import InputError, near_names
from langsearch.space.run_sections import (
    BaselineSection,
    DataSection,
    EvaluationSection,
    ResourcesSection,
    SearchSection,
)
from langsearch.space.sections import ALL, ArchitectureSection, DecoderSection, EncoderSection, PerClass, TrainerSection
from langsearch.space.settings import Baseline
from langsearch.space.values import SEARCH_KEYS, Searched, Value, extremes, options

Problem = tuple[KeyPath, str]
Languages = Mapping[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """The sections of a space; None for one that is wrong by itself."""

    name: str | None
    base: str | None
    languages: Languages | None
    data: DataSection | None
    architecture: ArchitectureSection | None
    trainer: TrainerSection | None
    evaluation: EvaluationSection | None
    baselines: list[BaselineSection] | None
    search: SearchSection | None
    resources: ResourcesSection | None


def check_space(parsed: Parsed) -> list[Problem]:
    """Returns the problems between the keys of a space, as far as its sections are right by themselves."""
    problems: list[Problem] = []
    if parsed.languages is not None:
        problems += _check_languages(parsed.languages)
    if parsed.data is not None:
        problems += check_data(parsed.data, parsed.languages)
    if parsed.architecture is not None:
        problems += _check_architecture(parsed.architecture, parsed.languages, parsed.trainer)
    if parsed.baselines is not None:
        problems += _check_baselines(parsed.baselines, parsed.trainer)
    if parsed.search is not None and parsed.trainer is not None:
        grace, epochs = parsed.search.grace_epochs, parsed.trainer.epochs
        if parsed.search.scheduler == "asha" and grace > epochs:
            text = f"must be at most trainer.epochs, but got {grace} with {epochs} epochs"
            problems.append((("search", "grace_epochs"), text))
    if parsed.resources is not None and parsed.resources.trials_per_gpu > 1 and parsed.resources.gpu == 0:
        text = f"needs resources.gpu above 0, but got {parsed.resources.trials_per_gpu} with no GPU"
        problems.append((("resources", "trials_per_gpu"), text))
    return problems


def _check_languages(classes: Languages) -> Iterator[Problem]:
    if not classes or sum(len(members) for members in classes.values()) < 2:
        yield ("languages",), "must have at least two languages, such as {high: [en, fr], low: [wo]}."
    seen: dict[str, str] = {}
    for name, members in classes.items():
        if name in (*SEARCH_KEYS, "languages") or not re.fullmatch(r"[\w-]+", name):
            yield (
                ("languages", name),
                "is no name for a class: use letters, digits, _ and -, and no word of the schema.",
            )
        if any(name in others for others in classes.values()):
            yield ("languages", name), f"must not be named as a language is, but got {show(name)}"
        if not members:
            yield ("languages", name), "must have at least one language; leave the class out otherwise."
        for index, language in enumerate(members):
            path: KeyPath = ("languages", name, index)
            if not re.fullmatch(r"[A-Za-z0-9_]+", language):
                yield path, f"must be a language code of letters, digits and _, but got {show(language)}"
                continue
            meaning = _meaning(language)
            if meaning in seen:
                yield path, f"must name each language once, but {show(seen[meaning])} is the same as {show(language)}"
            seen.setdefault(meaning, language)


def _meaning(language: str) -> str:
    try:
        return find_language(language).flores101
    except InputError:
        return language


def _check_architecture(
    section: ArchitectureSection, classes: Languages | None, trainer: TrainerSection | None
) -> Iterator[Problem]:
    path: KeyPath = ("architecture",)
    stacks: tuple[EncoderSection | DecoderSection, ...] = section.encoder, section.decoder
    if classes is not None:
        yield from _check_per_class(section.rank, (*path, "rank"), classes)
    if not any(_has_modules(stack) for stack in stacks):
        yield path, "must adapt at least one module of one layer, but encoder and decoder name none."
    if all(extremes(value)[1] == 0 for _, value in section.rank.entries("rank")):
        yield (*path, "rank"), "must be above 0 somewhere, but it is 0 everywhere."
    for name, stack in (("encoder", section.encoder), ("decoder", section.decoder)):
        yield from _check_stack(stack, (*path, name), section)
    yield from _check_sharing(section, path)
    if "alpha" in section.model_fields_set and options(section.scaling) == ("none",):
        yield (*path, "alpha"), "is read by scaling alpha/r and alpha/sqrt_r only, but scaling is none."
    ffn = any({"fc1", "fc2"} & {*stack.modules.fixed, *stack.modules.subset} for stack in stacks)
    if section.ffn_slice is not None and not ffn:
        yield (*path, "ffn_slice"), "touches nothing: no stack adapts fc1 or fc2."
    yield from _check_pruning(section, path, classes, trainer)


def _has_modules(stack: EncoderSection | DecoderSection) -> bool:
    layers, modules = stack.layers, stack.modules
    has_layers = {"list": bool(layers.listed), "first": layers.count != 0, "last": layers.count != 0}
    return has_layers.get(layers.kind, True) and bool(modules.fixed or modules.subset)


def _check_stack(
    stack: EncoderSection | DecoderSection, path: KeyPath, section: ArchitectureSection
) -> Iterator[Problem]:
    if not _has_modules(stack):
        for key in sorted(stack.model_fields_set - {"modules", "layers"}):
            yield (*path, key), f"touches nothing: the {path[-1]} has no adapted module."
    if isinstance(stack.source_layers, Searched) and options(section.sharing) == ("all",):
        yield (*path, "source_layers"), "touches nothing: with sharing all both sides have one adapter. Leave it out."


def _check_per_class(section: PerClass, path: KeyPath, classes: Languages) -> Iterator[Problem]:
    names = {language: name for name, members in classes.items() for language in members}
    for name in section.by_class:
        if name != ALL and name not in classes:
            yield (
                (*path, name),
                f"must name a class, but {show(name)} is none.{near_names(name, [*classes, 'languages'])}",
            )
    for language in section.by_language:
        if language not in names:
            hint = near_names(language, names)
            yield (*path, "languages", language), f"must name one of the languages, but {show(language)} is none.{hint}"
    if ALL in section.by_class:
        return
    for name, members in classes.items():
        if name not in section.by_class:
            yield (*path, name), "must be given for every class, but is missing. Write 0 for none."
        elif members and set(members) <= set(section.by_language):
            yield (*path, name), "touches nothing: each of its languages has a value of its own. Write 0."


def _check_sharing(section: ArchitectureSection, path: KeyPath) -> Iterator[Problem]:
    per_class: list[tuple[KeyPath, PerClass]] = [((*path, "rank"), section.rank)]
    if section.pruning is not None:
        per_class.append(((*path, "pruning", "target"), section.pruning.target))
    sharing = set(options(section.sharing))
    for inner, values in per_class:
        if values.by_language and sharing - {"language"}:
            yield (*inner, "languages"), "needs sharing language: a language that shares cannot differ from the others."
        if ALL not in values.by_class and "all" in sharing:
            yield inner, "must be one value for all where sharing can be all."


def _check_pruning(
    section: ArchitectureSection, path: KeyPath, classes: Languages | None, trainer: TrainerSection | None
) -> Iterator[Problem]:
    pruning = section.pruning
    if pruning is None:
        return
    inner: KeyPath = (*path, "pruning")
    target = pruning.target
    if classes is not None:
        yield from _check_per_class(target, (*inner, "target"), classes)
    values: set[Value] = set((target.by_class | target.by_language).values())
    if "layer" in options(pruning.scope) and (len(values) > 1 or (ALL not in target.by_class and _searched(values))):
        yield (*inner, "target"), "must be one value for all with scope layer, where languages are ranked together."
    last = int(extremes(pruning.start)[1] + extremes(pruning.duration)[1])
    if trainer is not None and last > trainer.epochs:
        text = f"must reach its target in training: start + duration at most trainer.epochs ({trainer.epochs})"
        yield inner, f"{text}, but got up to {last}. Train longer or prune faster."


def _searched(values: set[Any]) -> bool:
    return any(isinstance(value, Searched) for value in values)


def _check_baselines(items: list[BaselineSection], trainer: TrainerSection | None) -> Iterator[Problem]:
    seen = set()
    for index, item in enumerate(items):
        path: KeyPath = ("baselines", index)
        if len(item.names) != 1:
            yield path, f"must name one baseline, but got {item.names}"
            continue
        (name,) = item.names
        if name in seen:
            yield path, f"must list each baseline once, but {name} stands twice."
        seen.add(name)
        section = getattr(item, name)
        for key in sorted(section.model_fields_set):
            if isinstance(getattr(section, key), Searched):
                yield (*path, name, key), "must be a plain value: a baseline is not searched."
        baseline = item.settings()
        epochs = dict(baseline.trainer).get("epochs", trainer.epochs if trainer is not None else None)
        last = PUBLISHED_PRUNING_START + PUBLISHED_PRUNING_DURATION
        if baseline.is_pruned and isinstance(epochs, int) and epochs < last:
            yield (
                (*path, name, "pruning"),
                f"needs at least {last} epochs, but got {epochs}. Give it epochs of its own.",
            )


def check_shape(section: ArchitectureSection, shape: BaseShape) -> list[Problem]:
    """Returns the problems of a space's architectures with a base's sizes."""
    problems: list[Problem] = []
    stacks: tuple[tuple[Stack, EncoderSection | DecoderSection], ...]
    stacks = ("encoder", section.encoder), ("decoder", section.decoder)
    width = 0
    smallest_slice = min((int(value) for value in options(section.ffn_slice) if value), default=None)
    largest_slice = extremes(section.ffn_slice)[1]
    for stack, part in stacks:
        path: KeyPath = ("architecture", stack)
        num_layers = shape.num_layers(stack)
        problems += _check_layers(part, path, num_layers)
        modules = [*part.modules.fixed, *part.modules.subset] if _has_modules(part) else []
        widths = [min(shape.features(stack, module, smallest_slice)) for module in modules]
        width = min([width or shape.d_model, *widths])
    rank: KeyPath = ("architecture", "rank")
    values = {(*rank, name) if name != ALL else rank: value for name, value in section.rank.by_class.items()}
    values |= {(*rank, "languages", name): value for name, value in section.rank.by_language.items()}
    for key, value in values.items():
        if (largest := extremes(value)[1]) > width:
            problems.append((key, f"must be at most the narrowest adapted layer's width, {width}, but got {largest:g}"))
    hidden = min(shape.encoder_ffn_dim, shape.decoder_ffn_dim)
    if largest_slice > hidden:
        text = f"must be at most the feed-forward block's hidden width, {hidden}, but got {largest_slice:g}"
        problems.append((("architecture", "ffn_slice"), text))
    return problems


def _check_layers(part: EncoderSection | DecoderSection, path: KeyPath, num_layers: int) -> Iterator[Problem]:
    layers = part.layers
    rule = f"must lie within the base's {num_layers} layers"
    inner = (*path, "layers")
    if outside := [layer for layer in layers.listed if layer >= num_layers]:
        yield inner, f"{rule}, 0 to {num_layers - 1}, but got {outside}"
    if (count := extremes(layers.count)[1]) > num_layers:
        yield (*inner, layers.kind), f"{rule}, but got {count:g}"
    if layers.high > num_layers:
        yield (*inner, "window"), f"{rule}, [0, {num_layers}], but got {[layers.low, layers.high]}"
    if (count := extremes(part.source_layers)[1]) > num_layers:
        yield (*path, "source_layers"), f"{rule}, but got {count:g}"


def check_baseline_shape(baselines: tuple[Baseline, ...], shape: BaseShape) -> list[Problem]:
    """Returns the problems of the baselines with a base's sizes."""
    return [
        (("baselines", index, "shared_lora", "rank"), f"must be at most the width {shape.d_model}, but got {item.rank}")
        for index, item in enumerate(baselines)
        if item.name == "shared_lora" and item.rank > shape.d_model
    ]
