"""What must hold between the keys of `architecture`, and between them and a base; as `checks` does the other keys."""

from collections.abc import Iterator, Mapping
from typing import Any

from langsearch.space.architecture import BaseShape
from langsearch.space.document import KeyPath, show
from langsearch.space.kinds import BESIDE, site_kind
from langsearch.space.placement import SIDES, Layers, layer_bounds
from langsearch.space.problems import InputError, near_names
from langsearch.space.reach import check_reach
from langsearch.space.rules import STACKS, Classes, SiteRule, slots_of_languages, stack_rules, stack_section
from langsearch.space.sections import (
    ALL,
    ArchitectureSection,
    BridgeSection,
    BySide,
    LayerNormSection,
    PerClass,
    StackSection,
    TrainerSection,
)
from langsearch.space.values import Searched, Value, extremes, options

_OF_SITES = {"rank", "shared_rank", "gate", "encoder", "decoder", "pruning", "ffn_slice", "init", "scaling", "alpha"}
"""The keys that speak of adapted linear layers alone."""

Problem = tuple[KeyPath, str]
Languages = Mapping[str, list[str]]


def check_architecture(
    section: ArchitectureSection, classes: Languages | None, trainer: TrainerSection | None
) -> Iterator[Problem]:
    """Yields the problems of the adapters, as far as they can be seen without the base."""
    path: KeyPath = ("architecture",)
    yield from _check_beside(section, path, classes)
    if not has_sites(section):
        for name in sorted(section.model_fields_set & _OF_SITES):
            yield (*path, name), f"touches nothing: `adapter` is {show(section.adapter)}, which adapts no linear layer."
        return
    has_more = extremes(section.shared_rank)[1] > 0 or "pool" in options(section.sharing)
    is_lora = set(options(section.adapter)) == {"lora"} and not has_more
    if trainer is not None and trainer.init_from is not None and not is_lora:
        yield ("trainer", "init_from"), "must start LoRA alone, but `architecture` can have other adapters."
    if extremes(section.shared_rank)[1] > 0:
        if not any(site_kind(str(word)) == "lora" for word in options(section.adapter)):
            yield (*path, "shared_rank"), "touches nothing: no `adapter` has lora. Leave it out."
        if {"all", "pool"} & set(options(section.sharing)):
            yield (*path, "shared_rank"), "must be left out where sharing can be all or pool: pairs are shared already."
    if "gate" in section.model_fields_set and "gated" not in map(site_kind, map(str, options(section.adapter))):
        yield (*path, "gate"), "touches nothing: no `adapter` has gates. Write `adapter: gated`, or leave it out."
    yield from _check_pool(section, path)
    yield from _check_two_sided(section, path)
    if "rank" not in section.model_fields_set:
        yield (*path, "rank"), "must be given, but is missing."
        return
    stacks: tuple[StackSection, ...] = section.encoder, section.decoder
    rules = _rules(section)
    if classes is not None:
        for rule in rules:
            yield from _check_rank(rule, classes)
    if not any(_has_modules(stack) for stack in stacks):
        yield path, "must adapt at least one module of one layer, but encoder and decoder name none."
    if all(extremes(entry.value)[1] == 0 for rule in rules for entry in rule.entries()):
        yield (*path, "rank"), "must be above 0 somewhere, but it is 0 everywhere."
    for name, stack in (("encoder", section.encoder), ("decoder", section.decoder)):
        yield from _check_stack(stack, (*path, name), section)
    yield from _check_sharing(section, path, classes)
    if "alpha" in section.model_fields_set and options(section.scaling) == ("none",):
        yield (*path, "alpha"), "is read by scaling alpha/r and alpha/sqrt_r only, but scaling is none."
    ffn = any({"fc1", "fc2"} & set(stack.modules.named) for stack in stacks)
    if section.ffn_slice is not None and not ffn:
        yield (*path, "ffn_slice"), "touches nothing: no stack adapts fc1 or fc2."
    yield from _check_pruning(section, path, classes, trainer)


def check_names(section: ArchitectureSection, classes: Languages) -> Iterator[Problem]:
    """Yields the names in ranks that are no class or language, of what is right in a section that is wrong."""
    for rule in _rules(section):
        if rule.rank is not None:
            yield from _check_rank_names(rule.rank, (*rule.path, "rank"), classes)


def _check_pool(section: ArchitectureSection, path: KeyPath) -> Iterator[Problem]:
    if "pool" not in options(section.sharing):
        if "pool" in section.model_fields_set:
            yield (*path, "pool"), "touches nothing: `sharing` is never pool. Write `sharing: pool`, or leave it out."
        return
    if not all(site_kind(str(word)) == "lora" for word in options(section.adapter)):
        yield (*path, "sharing"), "can be pool only with LoRA, but `adapter` can be without it."
    if section.pruning is not None:
        yield (*path, "pruning"), "must be left out where sharing can be pool: a pool's pairs are not pruned."


def _check_two_sided(section: ArchitectureSection, path: KeyPath) -> Iterator[Problem]:
    kinds = [site_kind(str(word)) for word in options(section.adapter)]
    if "two_sided" not in kinds:
        return
    rule = "where adapter can be two_sided"
    if {"all", "pool"} & set(options(section.sharing)):
        yield (*path, "sharing"), f"must not be all or pool {rule}: both sides would have the same languages' pair."
    if section.pruning is not None:
        yield (*path, "pruning"), f"must be left out {rule}: pairs of both sides are not pruned."
    if any(rank.is_by_side for rank in (section.rank, section.encoder.rank, section.decoder.rank) if rank is not None):
        yield (*path, "rank"), f"must be one value for both sides {rule}."
    if set(kinds) != {"two_sided"}:
        return
    text = "touches nothing: with adapter two_sided a site has both sides. Leave it out."
    for name, stack in (("encoder", section.encoder), ("decoder", section.decoder)):
        for key in sorted({"sides", "source_layers"} & stack.model_fields_set):
            yield (*path, name, key), text
        for index, override in enumerate(stack.overrides):
            if override.side is not None:
                yield (*path, name, "overrides", index, "side"), text


def has_sites(section: ArchitectureSection) -> bool:
    """Returns whether linear layers are adapted at some point of a space."""
    return any(site_kind(str(word)) for word in options(section.adapter))


def _check_beside(section: ArchitectureSection, path: KeyPath, classes: Languages | None) -> Iterator[Problem]:
    """Yields the problems of what stands beside the adapters at sites."""
    words = [str(word).split("+") for word in options(section.adapter)]
    for name in BESIDE:
        own: LayerNormSection | BridgeSection = getattr(section, name)
        if name in section.model_fields_set and not any(name in word for word in words):
            yield (
                (*path, name),
                f"touches nothing: no `adapter` has {name}. Write `adapter: lora+{name}`, or leave it out.",
            )
        for index, class_name in enumerate(own.classes or ()):
            if classes is not None and class_name not in classes:
                hint = near_names(class_name, classes)
                yield (*path, name, "classes", index), f"must name a class, but {show(class_name)} is none.{hint}"
        if own.classes == []:
            yield (*path, name, "classes"), "must name a class, but is empty. Leave it out for all."
    if section.encoder_znorm is not None and classes is not None:
        pivot, known = section.encoder_znorm.pivot, [code for members in classes.values() for code in members]
        if pivot is not None and pivot not in known:
            text = f"must be mean or one of the languages, but got {show(pivot)}.{near_names(pivot, known)}"
            yield (*path, "encoder_znorm", "pivot"), text
    sharing = options(section.sharing)
    norms = section.layer_norm
    if set(sharing) <= {"all", "pool"} and isinstance(norms.side, Searched):
        yield (
            (*path, "layer_norm", "side"),
            "touches nothing: all languages share one, as source and as target. Leave it out.",
        )
    if {"all", "family", "pool"} & set(sharing):
        for name in BESIDE:
            if getattr(section, name).classes is not None:
                yield (*path, name, "classes"), "must be left out where languages of several classes share an adapter."


def _rules(section: ArchitectureSection) -> list[SiteRule]:
    """Returns every rule on ranks and sides: the architecture's, then each stack's."""
    encoder, decoder = (stack_rules(section, stack) for stack in STACKS)
    return [*encoder, *decoder[1:]]


def _has_modules(stack: StackSection) -> bool:
    layers, modules = stack.layers, stack.modules
    has_layers = {"list": bool(layers.listed), "first": layers.count != 0, "last": layers.count != 0}
    return has_layers.get(layers.kind, True) and bool(modules.named)


def _check_stack(stack: StackSection, path: KeyPath, section: ArchitectureSection) -> Iterator[Problem]:
    if not _has_modules(stack):
        for key in sorted(stack.model_fields_set - {"modules", "layers"}):
            yield (*path, key), f"touches nothing: the {path[-1]} has no adapted module."
    if {"sides", "source_layers"} <= stack.model_fields_set:
        yield (*path, "sides"), "must stand alone: it says what source_layers says. Give one of the two."
    if options(section.sharing) != ("all",):
        return
    text = "touches nothing: with sharing all both sides have one adapter. Leave it out."
    sides = stack.sides if isinstance(stack.sides, tuple) else (stack.sides,)
    for key, is_idle in (
        ("source_layers", isinstance(stack.source_layers, Searched)),
        ("sides", any(isinstance(side, Searched) for side in sides)),
    ):
        if is_idle:
            yield (*path, key), text
    for index, override in enumerate(stack.overrides):
        if override.side is not None:
            yield (*path, "overrides", index, "side"), text


def _check_rank(rule: SiteRule, classes: Languages) -> Iterator[Problem]:
    """Yields the problems of a rule's ranks by themselves; only the architecture's must speak for every class."""
    if rule.rank is None:
        return
    path: KeyPath = (*rule.path, "rank")
    is_general = not rule.name
    values = [(key, value) for key, value in rule.rank.by_class.items()]
    paths = [((*path, key) if key != ALL else path, value) for key, value in values]
    paths += [((*path, "languages", key), value) for key, value in rule.rank.by_language.items()]
    if not paths:
        yield path, "must give a rank, to all or to some classes or languages, but is empty."
    for inner, value in paths:
        if isinstance(value, BySide) and is_general and len(value.given) < len(SIDES):
            (missing,) = set(SIDES) - set(value.given)
            yield (*inner, missing), "must be given beside the other side, but is missing. Write 0 for none."
    yield from _check_per_class(rule.rank, path, classes, is_whole=is_general)


def _check_per_class(
    section: PerClass, path: KeyPath, classes: Languages, *, is_whole: bool = True
) -> Iterator[Problem]:
    yield from _check_rank_names(section, path, classes)
    if ALL in section.by_class:
        return
    for name, members in classes.items():
        if name not in section.by_class:
            if is_whole:
                yield (*path, name), "must be given for every class, but is missing. Write 0 for none."
        elif members and set(members) <= set(section.by_language) and section.by_class[name] != 0:
            way_out = "Write 0." if is_whole else "Leave it out."
            yield (*path, name), f"touches nothing: each of its languages has a value of its own. {way_out}"


def _check_rank_names(section: PerClass, path: KeyPath, classes: Languages) -> Iterator[Problem]:
    names = [language for members in classes.values() for language in members]
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


def _check_sharing(section: ArchitectureSection, path: KeyPath, classes: Languages | None) -> Iterator[Problem]:
    per_class: list[tuple[KeyPath, PerClass]] = [
        ((*rule.path, "rank"), rule.rank) for rule in _rules(section) if rule.rank is not None
    ]
    if section.pruning is not None:
        per_class.append(((*path, "pruning", "target"), section.pruning.target))
    sharing = set(options(section.sharing))
    for inner, values in per_class:
        if values.by_language and sharing & {"class", "all", "pool"}:
            yield (*inner, "languages"), "needs sharing language: a language that shares cannot differ from the others."
        if ALL not in values.by_class and (whole := [word for word in ("all", "pool") if word in sharing]):
            yield inner, f"must be one value for all where sharing can be {' or '.join(whole)}."
        elif "all" in sharing and any(isinstance(value, BySide) for value in values.by_class.values()):
            yield inner, "must be one value for both sides where sharing can be all: both have one adapter."
    if "family" in sharing and classes is not None:
        yield from _check_families(per_class, path, classes)


def _check_families(per_class: list[tuple[KeyPath, PerClass]], path: KeyPath, classes: Languages) -> Iterator[Problem]:
    """Yields where the languages of a family, which share an adapter, would have different values."""
    class_of = {language: name for name, members in classes.items() for language in members}
    try:
        slots = slots_of_languages("family", {name: tuple(members) for name, members in classes.items()})
    except InputError as error:
        yield (*path, "sharing"), f"needs the family of every language. {error}"
        return
    for inner, values in per_class:
        for family in dict.fromkeys(slots.values()):
            by_value: dict[object, str] = {}
            for language in (language for language, slot in slots.items() if slot == family):
                found = [values.entry("", language, class_of[language], side) for side in SIDES]
                key = tuple(
                    entry and (entry.name if isinstance(entry.value, Searched) else entry.value) for entry in found
                )
                by_value.setdefault(key, language)
            if len(by_value) > 1:
                one, other, *_ = by_value.values()
                yield (
                    inner,
                    f"must be one value for languages that share an adapter, but {one} and {other} are both "
                    f"{family} and differ. Give one value for all, or share by language.",
                )


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
    values: set[Value] = {entry.value for entry in target.entries("")}
    if "layer" in options(pruning.scope) and (len(values) > 1 or (ALL not in target.by_class and _searched(values))):
        yield (*inner, "target"), "must be one value for all with scope layer, where languages are ranked together."
    last = int(extremes(pruning.start)[1] + extremes(pruning.duration)[1])
    if trainer is not None and last > trainer.epochs:
        text = f"must reach its target in training: start + duration at most trainer.epochs ({trainer.epochs})"
        yield inner, f"{text}, but got up to {last}. Train longer or prune faster."


def _searched(values: set[Any]) -> bool:
    return any(isinstance(value, Searched) for value in values)


def check_shape(section: ArchitectureSection, classes: Classes, shape: BaseShape) -> list[Problem]:
    """Returns the problems of a space's architectures with a base's sizes."""
    problems: list[Problem] = []
    if not has_sites(section):
        return problems
    for stack in STACKS:
        part = stack_section(section, stack)
        problems += _check_stack_shape(part, ("architecture", stack), shape.num_layers(stack))
    problems += check_reach(section, classes, shape)
    hidden = min(shape.encoder_ffn_dim, shape.decoder_ffn_dim)
    if (largest := extremes(section.ffn_slice)[1]) > hidden:
        text = f"must be at most the feed-forward block's hidden width, {hidden}, but got {largest:g}"
        problems.append((("architecture", "ffn_slice"), text))
    return problems


def _check_stack_shape(part: StackSection, path: KeyPath, num_layers: int) -> Iterator[Problem]:
    rule = f"must lie within the base's {num_layers} layers"
    yield from _check_layers(part.layers, (*path, "layers"), num_layers)
    for index, override in enumerate(part.overrides):
        yield from _check_layers(override.layers, (*path, "overrides", index, "layers"), num_layers)
    by_source = part.source_layers
    if isinstance(by_source, tuple):
        if outside := [layer for layer in by_source if layer >= num_layers]:
            yield (*path, "source_layers"), f"{rule}, 0 to {num_layers - 1}, but got {outside}"
        _, adapted = layer_bounds(part.layers, num_layers)
        if idle := [layer for layer in by_source if layer < num_layers and layer not in adapted]:
            yield (*path, "source_layers"), f"must list layers that the {path[-1]} adapts, but got {idle}"
    elif (count := extremes(by_source)[1]) > num_layers:
        yield (*path, "source_layers"), f"{rule}, but got {count:g}"
    if isinstance(part.sides, tuple) and len(part.sides) != num_layers:
        text = f"must have one side for each of the base's {num_layers} layers, but got "
        yield (*path, "sides"), f"{text}{len(part.sides)}"


def _check_layers(layers: Layers, path: KeyPath, num_layers: int) -> Iterator[Problem]:
    rule = f"must lie within the base's {num_layers} layers"
    if outside := [layer for layer in layers.listed if layer >= num_layers]:
        yield path, f"{rule}, 0 to {num_layers - 1}, but got {outside}"
    if (count := extremes(layers.count)[1]) > num_layers:
        yield (*path, layers.kind), f"{rule}, but got {count:g}"
    if layers.high > num_layers:
        yield (*path, "window"), f"{rule}, [0, {num_layers}], but got {[layers.low, layers.high]}"
