"""What plain PEFT can hold of an architecture, and by which names; known before anything is trained."""

from langsearch.space.architecture import Architecture, Side

_WAY_OUT = "Merge it for one direction: --format merged --direction SRC-TGT."


def is_plain(architecture: Architecture) -> bool:
    """Returns whether an architecture is of LoRA alone, so that PEFT's files say all of it."""
    beside = architecture.layer_norm or architecture.bridge or architecture.shared_rank
    return architecture.kind == "lora" and not beside


def why_no_peft(architecture: Architecture) -> str | None:
    """Returns a sentence on why PEFT cannot hold an architecture; None if it can."""
    if architecture.kind == "factorized":
        return (
            "PEFT cannot hold factorized adapters: LoRA has no scales, and IA3 scales the input or the output of a "
            f"layer, not both. {_WAY_OUT}"
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
    return None


def adapter_slots(architecture: Architecture) -> set[tuple[Side, str]]:
    """Returns the side and slot of every adapter that an architecture has in PEFT's form."""
    found: set[tuple[Side, str]] = {(entry.side, slot) for entry in architecture.adapters for slot, _ in entry.ranks}
    if architecture.shared_rank:
        found |= {(entry.side, slot) for entry in architecture.adapters for _, slot in architecture.slots}
    if norms := architecture.layer_norm:
        found |= {(norms.side, slot) for slot in norms.slots}
    if bridge := architecture.bridge:
        found |= {("tgt", slot) for slot in bridge.slots}
    return found
