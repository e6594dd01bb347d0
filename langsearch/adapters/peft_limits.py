"""What plain PEFT can hold of an architecture, and by which names; known before anything is trained."""

from langsearch.data.directions import Direction
from langsearch.space.architecture import Architecture, Side

_WAY_OUT = "Merge it for one direction: --format merged --direction SRC-TGT."


def is_plain(architecture: Architecture) -> bool:
    """Returns whether an architecture is of LoRA alone, so that PEFT's files say all of it."""
    beside = architecture.layer_norm or architecture.bridge or architecture.encoder_znorm
    return architecture.kind == "lora" and not (beside or architecture.shared_rank or architecture.pool)


def why_no_peft(architecture: Architecture) -> str | None:
    """Returns a sentence on why PEFT cannot hold an architecture; None if it can."""
    if architecture.kind == "factorized":
        return (
            "PEFT cannot hold factorized adapters: LoRA has no scales, and IA3 scales the input or the output of a "
            f"layer, not both. {_WAY_OUT}"
        )
    if architecture.kind == "two_sided":
        return (
            "PEFT cannot hold pairs of both sides at a site: what one counts for depends on whether the other language "
            f"has one too. {_WAY_OUT}"
        )
    if architecture.kind == "gated":
        return "PEFT cannot hold gated adapters, and nothing plain can: a gate opens or not by the token."
    norms = architecture.layer_norm
    if architecture.encoder_znorm and norms is not None and "encoder" in norms.stacks:
        return (
            "PEFT cannot hold layer norms of a language under encoder_znorm: the encoder's last norm would be of both. "
            f"{_WAY_OUT}"
        )
    if architecture.bridge is None:
        return None
    if architecture.bridge.rank is None:
        return (
            "PEFT cannot hold a full bridge: as a LoRA it would have the full rank. Give it one, `bridge: {rank: 16}`, "
            f"or merge it. {_WAY_OUT}"
        )
    readers = [entry for entry in architecture.adapters if entry.site.module in ("cross_k_proj", "cross_v_proj")]
    if any(entry.side == "src" for entry in readers):
        return (
            "PEFT cannot hold a bridge before cross-attention that the source picks: their product belongs to a "
            f"direction, not to a language. {_WAY_OUT}"
        )
    if readers and architecture.pool:
        return f"PEFT cannot hold a bridge before a pool's cross-attention: their product belongs to both. {_WAY_OUT}"
    return None


def active_adapters(architecture: Architecture, direction: Direction) -> list[tuple[Side, str]]:
    """Returns the side and slot of the adapters that a direction activates, in PEFT's form."""
    slots, known = dict(architecture.slots), adapter_slots(architecture)
    sides: tuple[tuple[Side, str], ...] = (("src", direction.src), ("tgt", direction.tgt))
    # What a pool makes of itself is by language, also where everything else is by slot.
    found = [(side, slot) for side, language in sides for slot in dict.fromkeys((language, slots[language]))]
    return [adapter for adapter in found if adapter in known]


def adapter_slots(architecture: Architecture) -> set[tuple[Side, str]]:
    """Returns the side and slot of every adapter that an architecture has in PEFT's form."""
    found: set[tuple[Side, str]] = {(entry.side, slot) for entry in architecture.adapters for slot, _ in entry.ranks}
    if architecture.kind == "two_sided":
        found |= {("src", slot) for _, slot in found}
    if architecture.pool:
        found = {(entry.side, language) for entry in architecture.adapters for language in architecture.languages}
    if architecture.shared_rank:
        found |= {(entry.side, slot) for entry in architecture.adapters for _, slot in architecture.slots}
    if architecture.encoder_znorm:
        found |= {("src", language) for language in architecture.languages}
    if norms := architecture.layer_norm:
        found |= {(norms.side, slot) for slot in norms.slots}
    if bridge := architecture.bridge:
        found |= {("tgt", slot) for slot in bridge.slots}
    return found
