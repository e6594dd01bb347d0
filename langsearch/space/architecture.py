"""An architecture as a value: which adapters a base gets, and nothing about how they are trained.

Two settings that mean the same adapters are equal, have one fingerprint, and train once.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, get_args

from langsearch.space.canonical import (
    Over,
    Pruning,
    Scope,
    SiteAdapters,
    canonical_pruning,
    canonical_slots,
    checked_adapters,
)
from langsearch.space.kinds import (
    BESIDE,
    SITE_KINDS,
    Bridge,
    Gate,
    LayerNorms,
    Pool,
    SiteKind,
    ZNorm,
    canonical_bridge,
    canonical_gate,
    canonical_norms,
    canonical_pool,
    canonical_znorm,
    plain,
    read_plain,
)
from langsearch.space.sites import MODULES, BaseShape, Side, Site, Stack

__all__ = [
    "FORMAT_VERSION",
    "MODULES",
    "Architecture",
    "BaseShape",
    "Bridge",
    "Gate",
    "Init",
    "LayerNorms",
    "Over",
    "Pool",
    "Pruning",
    "Scaling",
    "Scope",
    "Side",
    "Site",
    "SiteAdapters",
    "SiteKind",
    "Stack",
    "ZNorm",
    "uniform_ranks",
]

Init = Literal["published", "peft"]
Scaling = Literal["none", "alpha/r", "alpha/sqrt_r"]

FORMAT_VERSION = 1

_PARTS: Mapping[str, Any] = {
    "gate": Gate,
    "pool": Pool,
    "encoder_znorm": ZNorm,
    "layer_norm": LayerNorms,
    "bridge": Bridge,
}
"""What an architecture may have beside its pairs, by field."""

_OPTIONAL: Mapping[str, Any] = {"new_languages": {}, "kind": "lora", "shared_rank": 0, **dict.fromkeys(_PARTS)}
"""What the JSON form leaves out where it is this, so that older fingerprints hold."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Which adapters a base gets. Canonical on construction: what changes nothing is dropped, the rest is sorted.

    Slots are renamed after who shares them: a language's own slot after the language, one for all languages
    "all", any other "en+fr". A slot without an adapter shares nothing, so its languages stand alone.

    Raises:
        ValueError: On a negative rank, a site or a language named twice, a slot that no language uses, an unknown
            word, a pruning target outside [0, 1], or different targets for slots ranked together (scope "layer").
    """

    slots: tuple[tuple[str, str], ...]
    """(language, slot) for every language."""

    adapters: tuple[SiteAdapters, ...]
    """The adapted sites; one that is absent, or a slot that is absent there, has no adapter (rank 0)."""

    pruning: Pruning | None = None
    init: Init = "published"
    scaling: Scaling = "none"
    alpha: float = 1.0
    ffn_slice: int | None = None

    new_languages: tuple[tuple[str, str], ...] = ()
    """(language, like) for every language that the base has no token for: it gets one of its own, which starts as that
    of the language `like` and whose embedding row is trained with the adapters."""

    kind: SiteKind = "lora"
    """What stands at the sites."""

    gate: Gate | None = None
    """gated: of what form the gates are, and how they are kept closed. None there: as `Gate` has it."""

    shared_rank: int = 0
    """lora: the rank of a pair that all languages have at every site, under their own. 0: there is none."""

    pool: Pool | None = None
    """lora, in one slot for all: how many pairs a site has, and how languages learn which of them are theirs."""

    encoder_znorm: ZNorm | None = None
    layer_norm: LayerNorms | None = None
    bridge: Bridge | None = None

    def __post_init__(self) -> None:
        if len(dict(self.slots)) < len(self.slots):
            raise ValueError(f"A language must be named once, but got {[language for language, _ in self.slots]}")
        words = {"init": get_args(Init), "scaling": get_args(Scaling), "kind": SITE_KINDS}
        for name, valid in words.items():
            if (value := getattr(self, name)) not in valid:
                raise ValueError(f"`{name}` must be one of {', '.join(valid)}, but got {value!r}")
        if not self.alpha > 0:
            raise ValueError(f"`alpha` must be above 0, but got {self.alpha}")
        if self.ffn_slice is not None and self.ffn_slice < 1:
            raise ValueError(f"`ffn_slice` must be 1 or more, or None, but got {self.ffn_slice}")
        if unknown := sorted(set(dict(self.new_languages)) - set(dict(self.slots))):
            raise ValueError(f"A new language must have a slot, but got {', '.join(unknown)}")
        checked = checked_adapters(self.adapters, set(dict(self.slots).values()))
        used = {slot for entry in checked for slot, _ in entry.ranks}
        pruned = set(used)
        for beside in (self.layer_norm, self.bridge):
            used |= set(beside.slots) if beside else set()
        names = canonical_slots(dict(self.slots), used)
        # With one slot for all languages both sides pick the same adapter, so the side means nothing.
        one_slot = len(set(names.values())) == 1
        renamed = {old: names[language] for language, old in self.slots}
        adapters = [
            SiteAdapters(
                entry.site,
                "tgt" if (one_slot and not self.pool) or self.kind == "two_sided" else entry.side,
                tuple(sorted((renamed[slot], rank) for slot, rank in entry.ranks)),
            )
            for entry in sorted(checked, key=lambda entry: entry.site.order)
        ]
        has_ffn = any(entry.site.module in ("fc1", "fc2") for entry in adapters)
        set_field = object.__setattr__
        set_field(self, "slots", tuple(sorted(names.items())))
        set_field(self, "adapters", tuple(adapters))
        set_field(self, "pruning", canonical_pruning(self.pruning, renamed, pruned))
        set_field(self, "new_languages", tuple(sorted(dict(self.new_languages).items())))
        set_field(self, "alpha", 1.0 if self.scaling == "none" else float(self.alpha))
        set_field(self, "ffn_slice", self.ffn_slice if has_ffn else None)
        if not isinstance(self.shared_rank, int) or self.shared_rank < 0:
            raise ValueError(f"`shared_rank` must be a whole number, 0 or more, but got {self.shared_rank}")
        if self.shared_rank and (one_slot or self.kind != "lora"):
            raise ValueError("A shared rank needs LoRA that languages do not share already, but got `shared_rank`")
        set_field(self, "kind", self.kind if adapters else "lora")
        if self.kind == "two_sided" and (one_slot or self.pruning):
            raise ValueError("Pairs of both sides need unpruned LoRA that not all languages share")
        set_field(self, "gate", canonical_gate(self.gate, self.kind))
        set_field(self, "pool", canonical_pool(self.pool) if adapters else None)
        if self.pool and (not one_slot or self.kind != "lora" or self.shared_rank or self.pruning):
            raise ValueError("A pool needs unpruned LoRA in one slot for all languages, and no shared rank")
        set_field(self, "shared_rank", self.shared_rank if adapters else 0)
        set_field(self, "encoder_znorm", canonical_znorm(self.encoder_znorm, names))
        set_field(self, "layer_norm", canonical_norms(self.layer_norm, renamed, one_slot))
        set_field(self, "bridge", canonical_bridge(self.bridge, renamed))
        if not self.has_pairs:
            set_field(self, "pruning", None)
            set_field(self, "init", "published")
            set_field(self, "scaling", "none")
            set_field(self, "alpha", 1.0)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages, sorted."""
        return tuple(language for language, _ in self.slots)

    def rank(self, site: Site, language: str) -> int:
        """Returns the rank of a language's adapter at a site, 0 where it has none."""
        slot = dict(self.slots)[language]
        return next((dict(entry.ranks).get(slot, 0) for entry in self.adapters if entry.site == site), 0)

    def num_parameters_by_slot(self, shape: BaseShape) -> dict[str, int]:
        """Returns the stored parameters of each slot: over its sites rank * (in + out), and what it has beside them.

        Those of pairs that all languages have under their own stand under "all".
        """
        slots = dict(self.slots)
        counts = dict.fromkeys(slots.values(), 0)
        for language, _ in self.new_languages:
            counts[slots[language]] += shape.d_model
        if self.shared_rank:
            counts["all"] = self.num_shared_parameters(shape)
        for beside in (self.layer_norm, self.bridge):
            if beside is not None:
                for slot in beside.slots:
                    counts[slot] += beside.num_parameters(shape)
        if self.pool:
            counts["all"] += self.num_site_parameters(shape)
            return counts
        for entry in self.adapters:
            num_in, num_out = self._features(entry, shape)
            for slot, rank in entry.ranks:
                counts[slot] += self._num_pairs * rank * (num_in + num_out) + (
                    self.gate.num_parameters(num_in) if self.gate else 0
                )
        return counts

    def num_parameters(self, shape: BaseShape) -> int:
        """Returns the stored parameters over all slots (before pruning)."""
        return sum(self.num_parameters_by_slot(shape).values())

    def num_row_parameters(self, shape: BaseShape) -> int:
        """Returns those of them that are embedding rows of new languages, which are never pruned."""
        return len(self.new_languages) * shape.d_model

    def num_gate_parameters(self, shape: BaseShape) -> int:
        """Returns those of them that are gates."""
        if self.gate is None:
            return 0
        return sum(
            len(entry.ranks) * self.gate.num_parameters(self._features(entry, shape)[0]) for entry in self.adapters
        )

    def num_shared_parameters(self, shape: BaseShape) -> int:
        """Returns those of them that are the pairs of all languages under their own."""
        return self.shared_rank * sum(sum(self._features(entry, shape)) for entry in self.adapters)

    def num_site_parameters(self, shape: BaseShape) -> int:
        """Returns those of them that stand at sites, the languages' own."""
        ranks = [(sum(self._features(entry, shape)), rank) for entry in self.adapters for _, rank in entry.ranks]
        pairs = self._num_pairs * sum(features * rank for features, rank in ranks)
        if self.pool is None:
            return pairs
        return self.pool.size * (pairs + len(self.slots) * len({entry.side for entry in self.adapters}))

    def shown_side(self, entry: SiteAdapters) -> Side | Literal["both"]:
        """Returns the side that indexes a site, in words."""
        return "both" if self.kind == "two_sided" else entry.side

    @property
    def _num_pairs(self) -> int:
        """How many pairs a language has at a site."""
        return 2 if self.kind == "two_sided" else 1

    def _features(self, entry: SiteAdapters, shape: BaseShape) -> tuple[int, int]:
        """Returns the inputs and outputs that are adapted at a site."""
        return shape.features(entry.site.stack, entry.site.module, self.ffn_slice)

    @property
    def word(self) -> str:
        """What it has, as `architecture.adapter` says it: "lora+bridge"."""
        site = (self.kind,) if self.adapters or not self.has_any else ()
        return "+".join((*site, *(name for name in BESIDE if getattr(self, name))))

    @property
    def has_any(self) -> bool:
        """Whether there is anything to train but rows of new languages."""
        return bool(self.adapters or self.layer_norm or self.bridge)

    @property
    def has_pairs(self) -> bool:
        """Whether there is a low-rank pair at any site."""
        return any(self.pair_rank(rank) for entry in self.adapters for _, rank in entry.ranks)

    def pair_rank(self, rank: int) -> int:
        """Returns the rank of the pair that an adapter of a rank has: the scales of `factorized` count as one."""
        return rank - 1 if self.kind == "factorized" else rank

    def scale(self, rank: int) -> float:
        """Returns the factor on B A x: 1 as published, or alpha / r, or alpha / sqrt(r) (rsLoRA, arXiv 2312.03732)."""
        if self.scaling == "none":
            return 1.0
        return self.alpha / (rank if self.scaling == "alpha/r" else rank**0.5)

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON form. Sites with equal side and ranks stand together, so that it stays readable."""

        def alike(entry: SiteAdapters) -> tuple[Side, tuple[tuple[str, int], ...]]:
            return entry.side, entry.ranks

        groups = [
            {"side": side, "ranks": dict(ranks), "sites": [str(entry.site) for entry in entries]}
            for (side, ranks), entries in groupby(sorted(self.adapters, key=alike), key=alike)
        ]
        value: dict[str, Any] = {"format": FORMAT_VERSION, "slots": dict(self.slots), "adapters": groups}
        value |= {"init": self.init, "scaling": self.scaling, "alpha": self.alpha, "ffn_slice": self.ffn_slice}
        # Left out where there is none, so that older fingerprints hold.
        value |= {"new_languages": dict(self.new_languages)} if self.new_languages else {}
        value |= {"kind": self.kind} if self.kind != "lora" else {}
        value |= {"shared_rank": self.shared_rank} if self.shared_rank else {}
        value |= {name: plain(part) for name in _PARTS if (part := getattr(self, name)) is not None}
        value["pruning"] = None
        if self.pruning is not None:
            pruning = self.pruning
            value["pruning"] = {"targets": dict(pruning.targets), "start": pruning.start}
            value["pruning"] |= {"duration": pruning.duration, "scope": pruning.scope}
            # Left out where it is the default, so that older fingerprints hold.
            value["pruning"] |= {"over": pruning.over} if pruning.over != "b" else {}
        return value

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Architecture":
        """Reads the JSON form.

        Raises:
            ValueError: If a key is missing or unknown, the format is newer than this version, or a value is wrong.
        """
        keys = ("format", "slots", "adapters", "init", "scaling", "alpha", "ffn_slice", "pruning")
        if isinstance(value, Mapping):
            value = {**_OPTIONAL, **value}
        _check_keys("An architecture", value, (*keys, *_OPTIONAL))
        if value["format"] != FORMAT_VERSION:
            raise ValueError(f"The architecture's format must be {FORMAT_VERSION}, but got {value['format']}")
        adapters = []
        for group in value["adapters"]:
            _check_keys("A group of adapters", group, ("side", "ranks", "sites"))
            ranks = tuple(group["ranks"].items())
            adapters += [SiteAdapters(Site.parse(site), group["side"], ranks) for site in group["sites"]]
        pruning = value["pruning"]
        if pruning is not None:
            pruning = {"over": "b", **pruning} if isinstance(pruning, Mapping) else pruning
            _check_keys("A pruning", pruning, ("targets", "start", "duration", "scope", "over"))
            pruning = Pruning(**{**pruning, "targets": tuple(pruning["targets"].items())})
        return cls(
            slots=tuple(value["slots"].items()),
            adapters=tuple(adapters),
            pruning=pruning,
            init=value["init"],
            scaling=value["scaling"],
            alpha=value["alpha"],
            ffn_slice=value["ffn_slice"],
            new_languages=tuple(value["new_languages"].items()),
            kind=value["kind"],
            shared_rank=value["shared_rank"],
            **{name: read_plain(part, value[name]) for name, part in _PARTS.items() if value[name]},
        )

    def to_json(self) -> str:
        """Returns the canonical JSON text."""
        return json.dumps(self.to_dict(), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Architecture":
        """Reads what `to_json` wrote. Raises ValueError as `from_dict` does, or if the text is not JSON."""
        return cls.from_dict(json.loads(text))

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that name these adapters: equal for equal architectures, on every machine."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def _check_keys(what: str, value: object, keys: tuple[str, ...]) -> None:
    if not isinstance(value, Mapping) or set(value) != set(keys):
        got = sorted(value) if isinstance(value, Mapping) else repr(value)
        raise ValueError(f"{what} has the keys {', '.join(keys)}, but got {got}")


def uniform_ranks(sites: Iterable[tuple[Site, Side]], ranks: Mapping[str, int]) -> tuple[SiteAdapters, ...]:
    """Returns the same ranks at every given site.

    Args:
        sites: The sites, each with the side that indexes it.
        ranks: Rank of each slot.
    """
    return tuple(SiteAdapters(site, side, tuple(ranks.items())) for site, side in sites)
