"""The kinds of adapters that an architecture can have, as values: what stands at its sites, and what stands beside.

At a site (a linear layer) there is one of `SITE_KINDS`. Beside these, or alone, an architecture can have layer norms of
a language and a bridge between the stacks. A word names a whole: "lora", "factorized+layer_norm", "bridge".
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import permutations
from typing import Any, Literal, TypeVar, get_args

from langsearch.space.sites import BaseShape, Side, Stack

SiteKind = Literal["lora", "gated", "factorized", "two_sided"]
"""lora: a low-rank pair (Hu et al. 2022, arXiv 2106.09685). gated: a pair that a gate opens by the token (Multilingual
DistilWhisper, arXiv 2311.01070). factorized: scales of inputs and outputs and a low-rank
pair (Pham et al. 2021, arXiv 2105.03010); its rank counts the scales as one, so that rank r has as many parameters as a
LoRA of rank r: scales and a pair of rank r - 1. two_sided: a pair by the source and one by the target."""

SITE_KINDS: tuple[SiteKind, ...] = get_args(SiteKind)
BESIDE: tuple[str, ...] = ("layer_norm", "bridge")
"""What can stand beside these, or alone."""

NOT_CUT: Mapping[str, str] = {
    "gated": "a gate has learned for which tokens the pair is worth it that it had, and would be open for them still",
    "pool": "which member is whose was learned of members with all of their columns, and could be another for fewer",
}
"""Why a kind cannot be cut: a cut would be another model than what training the smaller one looks for."""


def kind_words() -> dict[str, str]:
    """Returns every word for what an architecture has, in whatever order its parts are written, and the usual order."""
    found: dict[str, str] = {}
    for site in (*SITE_KINDS, ""):
        for beside in ((), *((name,) for name in BESIDE), BESIDE):
            parts = [site, *beside] if site else [*beside]
            for order in permutations(parts):
                if order:
                    found["+".join(order)] = "+".join(parts)
    return found


def site_kind(word: str) -> SiteKind | None:
    """Returns what a word says of the sites; None: that none is adapted."""
    return next((kind for kind in SITE_KINDS if kind in word.split("+")), None)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The gates of `gated`: one for each language at each site, on the site's own input."""

    hidden: int = 0
    """Hidden units (DistilWhisper 64, CLSR 128). 0: none, G = w . x + c."""

    budget: float = 0.5
    """The share of tokens that may be open for nothing."""

    is_one_sided: bool = True
    """Whether only what is over the budget costs; the papers' |mean - budget| also opens gates that nothing needs."""

    skip: float = 0.2
    """How often all pairs of a layer are skipped in an update (DistilWhisper)."""

    noise: float = 5.0
    """Standard deviation of a gate's noise at the end of training, growing from 0 (both papers)."""

    def num_parameters(self, num_in: int) -> int:
        """Returns those of one gate over so many inputs."""
        return self.hidden * (num_in + 2) if self.hidden else num_in + 1


@dataclass(frozen=True, kw_only=True)
class LayerNorms:
    """Scale and offset of a language in every layer norm (Zhang et al. 2020, arXiv 2004.11867, section 4.2)."""

    slots: tuple[str, ...]
    """The slots that have them."""

    stacks: tuple[Stack, ...] = ("encoder", "decoder")
    side: Side = "tgt"
    """Whose language picks them; the target's as published."""

    def num_parameters(self, shape: BaseShape) -> int:
        """Returns those of one slot: a scale and an offset of d_model entries each, for every norm."""
        return sum(num_norms(stack, shape) for stack in self.stacks) * 2 * shape.d_model


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A few pairs at every site, and a learned map from languages to them (HLT-MT, arXiv 2207.04906, section 3)."""

    size: int
    """Pairs at a site, at least 2."""

    soft_share: float = 0.6
    """The part of the training in which a language's pair is a mixture; then it is the one that it gives most."""

    disparity: float = 0.1
    """Weight of what keeps languages from all having the same pair, in the mean loss of a token."""


@dataclass(frozen=True, kw_only=True)
class ZNorm:
    """Moments of the source language taken out of the encoder's states, and others put in (arXiv 2008.09112)."""

    strength: float = 1.0
    """How far states are moved, from 0, not at all, to 1."""

    parts: Literal["both", "mean"] = "both"
    """Mean and variance, or the mean alone."""

    pivot: str | None = None
    """The language whose moments all get. None: the mean over the languages."""


@dataclass(frozen=True, kw_only=True)
class Bridge:
    """A map of the target language on what the encoder says, I + M (Zhang et al. 2020, arXiv 2004.11867, section 4.3).

    Published is a full matrix that does not start from the identity.
    """

    slots: tuple[str, ...]
    """The slots that have one."""

    rank: int | None = None
    """Of M. None: a full matrix."""

    def num_parameters(self, shape: BaseShape) -> int:
        """Returns those of one slot: d_model squared, or twice rank times d_model."""
        return shape.d_model * (shape.d_model if self.rank is None else 2 * self.rank)


_Part = TypeVar("_Part", Gate, Pool, ZNorm, LayerNorms, Bridge)


def num_norms(stack: Stack, shape: BaseShape) -> int:
    """Returns the layer norms of a stack: 2 a layer of the encoder, 3 of the decoder, and one behind the last."""
    return shape.num_layers(stack) * (2 if stack == "encoder" else 3) + 1


def canonical_norms(norms: LayerNorms | None, renamed: Mapping[str, str], one_slot: bool) -> LayerNorms | None:
    """Returns the same layer norms with their slots renamed and sorted; None where no slot has any.

    Raises:
        ValueError: On an unknown side, stack or slot.
    """
    if norms is None or not norms.slots or not norms.stacks:
        return None
    if norms.side not in get_args(Side):
        raise ValueError(f"A side must be src or tgt, but the layer norms have {norms.side!r}")
    if unknown := sorted(set(norms.stacks) - set(get_args(Stack))):
        raise ValueError(f"A stack must be encoder or decoder, but the layer norms have {', '.join(unknown)}")
    stacks = tuple(stack for stack in get_args(Stack) if stack in norms.stacks)
    return LayerNorms(
        slots=_renamed("layer norms", norms.slots, renamed), stacks=stacks, side="tgt" if one_slot else norms.side
    )


def canonical_bridge(bridge: Bridge | None, renamed: Mapping[str, str]) -> Bridge | None:
    """Returns the same bridge with its slots renamed and sorted; None where no slot has one.

    Raises:
        ValueError: On a rank below 1 or an unknown slot.
    """
    if bridge is None or not bridge.slots:
        return None
    if bridge.rank is not None and (not isinstance(bridge.rank, int) or bridge.rank < 1):
        raise ValueError(f"A bridge's rank must be a whole number, 1 or more, or None, but got {bridge.rank}")
    return replace(bridge, slots=_renamed("bridge", bridge.slots, renamed))


def canonical_znorm(znorm: ZNorm | None, languages: Collection[str]) -> ZNorm | None:
    """Returns what moves states; None where none are moved.

    Raises:
        ValueError: On a strength outside [0, 1], an unknown part or a pivot that is no language of the architecture.
    """
    if znorm is None or znorm.strength == 0:
        return None
    if not 0 <= znorm.strength <= 1 or znorm.parts not in ("both", "mean"):
        raise ValueError(f"`encoder_znorm` needs a strength in [0, 1] and parts both or mean, but got {znorm}")
    if znorm.pivot is not None and znorm.pivot not in languages:
        raise ValueError(f"The pivot of `encoder_znorm` must be one of the languages, but is {znorm.pivot}")
    return replace(znorm, strength=float(znorm.strength))


def canonical_gate(gate: Gate | None, kind: SiteKind) -> Gate | None:
    """Returns the gates of `gated`, None of all other kinds.

    Raises:
        ValueError: On hidden units or noise below 0, or a share outside [0, 1].
    """
    if kind != "gated":
        return None
    gate = gate or Gate()
    if gate.hidden < 0 or gate.noise < 0 or not 0 <= gate.budget <= 1 or not 0 <= gate.skip < 1:
        raise ValueError(f"A gate needs 0 or more hidden units and noise, and shares in [0, 1], but got {gate}")
    return Gate(
        hidden=gate.hidden,
        budget=float(gate.budget),
        is_one_sided=bool(gate.is_one_sided),
        skip=float(gate.skip),
        noise=float(gate.noise),
    )


def canonical_pool(pool: Pool | None) -> Pool | None:
    """Returns a pool that is right; one pair alone is no pool.

    Raises:
        ValueError: On a size below 1, a share outside [0, 1] or a weight below 0.
    """
    if pool is None or pool.size == 1:
        return None
    if not isinstance(pool.size, int) or pool.size < 1 or not 0 <= pool.soft_share <= 1 or pool.disparity < 0:
        raise ValueError(
            f"A pool needs a size of 1 or more, a share in [0, 1] and a weight of 0 or more, but got {pool}"
        )
    return Pool(size=pool.size, soft_share=float(pool.soft_share), disparity=float(pool.disparity))


def plain(value: Gate | Pool | ZNorm | LayerNorms | Bridge) -> dict[str, Any]:
    """Returns the JSON form."""
    return {key: list(part) if isinstance(part, tuple) else part for key, part in asdict(value).items()}


def read_plain(part: type[_Part], value: Mapping[str, Any]) -> _Part:
    """Reads what `plain` made. Raises ValueError on other keys."""
    keys = [field.name for field in fields(part)]
    if not isinstance(value, Mapping) or set(value) != set(keys):
        raise ValueError(f"It has the keys {', '.join(keys)}, but got {value!r}")
    read: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in value.items()}
    return part(**read)


def _renamed(what: str, slots: tuple[str, ...], renamed: Mapping[str, str]) -> tuple[str, ...]:
    if unknown := sorted(set(slots) - set(renamed)):
        raise ValueError(f"A slot must be used by a language, but the {what} name {', '.join(unknown)}")
    return tuple(sorted({renamed[slot] for slot in slots}))
