"""The realised plan of an architecture: layer by module by language, with equal rows told once."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from langsearch.space.architecture import Architecture, BaseShape, Side, SiteAdapters, Stack

Classes = Mapping[str, Sequence[str]]
"""The languages of each class."""

ShownSide = Side | Literal["both"]
"""What indexes a site."""


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """Adapted layers of a stack in which the same modules have the same side and the same ranks."""

    stack: Stack
    layers: tuple[int, ...]
    modules: tuple[str, ...]
    side: ShownSide
    ranks: Mapping[str, int]
    """The rank of each language; 0 is no adapter."""


def plan_rows(architecture: Architecture) -> tuple[PlanRow, ...]:
    """Returns the plan, in the order of the forward pass. Together the rows name every adapted site once."""
    alike: dict[tuple[Stack, int, ShownSide, tuple[tuple[str, int], ...]], list[SiteAdapters]] = {}
    for entry in architecture.adapters:
        place = (entry.site.stack, entry.site.layer, architecture.shown_side(entry), entry.ranks)
        alike.setdefault(place, []).append(entry)
    layers: dict[tuple[Stack, tuple[str, ...], ShownSide, tuple[tuple[str, int], ...]], list[int]] = {}
    for (stack, layer, side, ranks), entries in alike.items():
        modules = tuple(entry.site.module for entry in entries)
        layers.setdefault((stack, modules, side, ranks), []).append(layer)
    return tuple(
        PlanRow(
            stack=stack,
            layers=tuple(numbers),
            modules=modules,
            side=side,
            ranks={language: dict(ranks).get(slot, 0) for language, slot in architecture.slots},
        )
        for (stack, modules, side, ranks), numbers in layers.items()
    )


def show_ranks(ranks: Mapping[str, int], classes: Classes) -> str:
    """Returns ranks as "2;2;8, wo 16": the commonest of each class in their order, then the languages that differ."""
    usual = {}
    differing = []
    for name, languages in classes.items():
        counted = Counter(ranks[language] for language in languages)
        usual[name] = max(counted, key=lambda rank: (counted[rank], -rank))
        differing += [(language, ranks[language]) for language in languages if ranks[language] != usual[name]]
    # Languages of one rank stand together: "oc wo 16".
    by_rank: dict[int, list[str]] = {}
    for language, rank in differing:
        by_rank.setdefault(rank, []).append(language)
    apart = [f"{' '.join(languages)} {rank}" for rank, languages in by_rank.items()]
    return ", ".join([";".join(str(rank) for rank in usual.values()), *apart])


def show_new(new_languages: Mapping[str, str]) -> str:
    """Returns the languages that are new to a base as a space has them: "{tyv: {like: kaz}}"."""
    return f"{{{', '.join(f'{language}: {{like: {new_languages[language]}}}' for language in sorted(new_languages))}}}"


def show_modules(modules: Iterable[str]) -> str:
    """Returns modules in short: "q k v fc1 fc2"."""
    return " ".join(module.removesuffix("_proj") for module in modules)


def show_layers(layers: Iterable[int]) -> str:
    """Returns layers as "0-2,5", or "-" for none."""
    parts: list[list[int]] = []
    for layer in sorted(layers):
        if parts and parts[-1][-1] == layer - 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts) or "-"


def show_kind(architecture: Architecture) -> str:
    """Returns the kind of the adapters at sites; nothing where it is LoRA, as everywhere that none is named."""
    if pool := architecture.pool:
        return f"pool of {pool.size}"
    shared = f"over a shared rank {architecture.shared_rank}" if architecture.shared_rank else ""
    return shared if architecture.kind == "lora" else architecture.kind


def show_beside(architecture: Architecture) -> tuple[str, ...]:
    """Returns what an architecture has beside the adapters at sites: "layer norms tgt", "bridge 8"."""
    found = []
    if znorm := architecture.encoder_znorm:
        found.append(f"encoder_znorm {znorm.strength:g} of {znorm.parts} to {znorm.pivot or 'the mean'}")
    if norms := architecture.layer_norm:
        stacks = "" if len(norms.stacks) > 1 else f" {norms.stacks[0]}"
        found.append(f"layer norms{stacks} {norms.side}")
    if bridge := architecture.bridge:
        found.append(f"bridge {bridge.rank or 'full'}")
    return tuple(found)


def shared_slots(architecture: Architecture) -> dict[str, tuple[str, ...]]:
    """Returns the languages of each slot that several languages share."""
    members: dict[str, list[str]] = {}
    for language, slot in architecture.slots:
        members.setdefault(slot, []).append(language)
    return {slot: tuple(languages) for slot, languages in members.items() if len(languages) > 1}


def num_parameters_by_class(
    architecture: Architecture, classes: Classes, shape: BaseShape
) -> tuple[dict[str, int], int]:
    """Returns the stored adapter parameters of each class, and those that languages of several classes share."""
    class_of = {language: name for name, languages in classes.items() for language in languages}
    owners: dict[str, set[str]] = {}
    for language, slot in architecture.slots:
        owners.setdefault(slot, set()).add(class_of[language])
    counts, shared = dict.fromkeys(classes, 0), 0
    for slot, count in architecture.num_parameters_by_slot(shape).items():
        if slot in owners and len(owners[slot]) == 1:
            counts[next(iter(owners[slot]))] += count
        else:
            shared += count
    return counts, shared
