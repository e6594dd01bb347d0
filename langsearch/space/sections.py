"""The sections `architecture` and `trainer` as pydantic models: type, range and default of every key, one by one.

What concerns several keys is in `checks`.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Discriminator, PlainValidator, Tag, model_validator

from langsearch.space.kinds import BESIDE, SITE_KINDS, Gate, Pool, kind_words
from langsearch.space.loss_section import LossSection
from langsearch.space.modular_section import ModularSection
from langsearch.space.placement import (
    SIDE,
    SIDES,
    Layers,
    Modules,
    Sides,
    SourceLayers,
    decoder_modules,
    encoder_modules,
    parse_layers,
    parse_sides,
    parse_source_layers,
    published_modules,
)
from langsearch.space.settings import TrainerSettings
from langsearch.space.sites import Side
from langsearch.space.values import SEARCH_KEYS, Rule, Value

ALL = "<all>"
"""Stands for every class where one value is given for all of them."""

_KINDS = kind_words()
ADAPTER = Rule(
    kind="text",
    names=tuple(dict.fromkeys(_KINDS.values())),
    words={word: usual for word, usual in _KINDS.items() if word != usual},
    form=f"{', '.join(SITE_KINDS)}, {' or '.join(BESIDE)}, or one of the first four and others joined by +",
)
"""What `architecture.adapter` accepts: parts in any order."""

_DEFAULT = TrainerSettings()
_POOL = Pool(size=4)
_GATE = Gate()
_WHOLE = Rule(kind="int", low=1)
_COUNT = Rule(kind="int", low=0)
_SHARE = Rule(kind="float", low=0, high=1)
_ZERO_OR_MORE = Rule(kind="float", low=0)
_POSITIVE = Rule(kind="float", low=0, is_low_open=True)


def fixed(kind: Literal["int", "float", "text"], **settings: Any) -> PlainValidator:
    """Returns the validator of a key that cannot be searched; `settings` are those of `Rule`."""
    return PlainValidator(Rule(kind=kind, is_searchable=False, **settings))


def _words(*names: str) -> PlainValidator:
    return PlainValidator(Rule(kind="text", names=names))


class Section(BaseModel):
    """A mapping of the YAML. Keys that it does not have are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Rank = Annotated[Value, PlainValidator(_COUNT)]
Target = Annotated[Value, PlainValidator(_SHARE)]


class BySide(Section):
    """A rank at the sites indexed by source and another at those indexed by target; one of them may be left out."""

    src: Rank = 0
    tgt: Rank = 0

    @property
    def given(self) -> dict[Side, Value]:
        """The sides that are written."""
        return {side: getattr(self, side) for side in SIDES if side in self.model_fields_set}


def _rank_form(raw: object) -> str:
    is_by_side = isinstance(raw, BySide) or (isinstance(raw, dict) and any(side in raw for side in SIDES))
    return "<by side>" if is_by_side else "<rank>"


RankItem = Annotated[
    Annotated[Rank, Tag("<rank>")] | Annotated[BySide, Tag("<by side>")],
    Discriminator(_rank_form),
]


class Entry(NamedTuple):
    """One value of a `PerClass`."""

    name: str
    """Its dimension: rank, rank.low, rank.low.src, rank.wo."""

    value: Value
    keys: tuple[str, ...]
    """Where it stands below the section: (), (low,), (low, src), (languages, wo)."""

    side: Side | None
    """The side that it holds for; None for both."""


class PerClass(Section):
    """A value for each class, or one for all, and values for single languages apart from their class.

    Class names are keys beside `languages`; one value for all stands under `ALL`.
    """

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _one_for_all(cls, raw: Any) -> Any:
        is_value = not isinstance(raw, dict) or any(key in (*SEARCH_KEYS, *SIDES) for key in raw)
        return {ALL: raw} if is_value else raw

    @property
    def by_class(self) -> dict[str, Value | BySide]:
        """The value of each class, or {ALL: value}."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def by_language(self) -> dict[str, Value | BySide]:
        """The values of single languages."""
        languages: dict[str, Value | BySide] = getattr(self, "languages", {})
        return languages

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yields every value, its name beginning with `prefix`."""
        for name, value in self.by_class.items():
            yield from _entries(prefix, () if name == ALL else (name,), value)
        for language, value in self.by_language.items():
            yield from _entries(prefix, ("languages", language), value)

    def entry(self, prefix: str, language: str, class_name: str, side: Side | None = None) -> Entry | None:
        """Returns the value that holds for a language at the sites of a side; None if nothing is said of it."""
        found: Iterator[Entry] = iter(())
        if language in self.by_language:
            found = _entries(prefix, ("languages", language), self.by_language[language])
        elif class_name in self.by_class:
            found = _entries(prefix, (class_name,), self.by_class[class_name])
        elif ALL in self.by_class:
            found = _entries(prefix, (), self.by_class[ALL])
        return next((entry for entry in found if entry.side in (None, side)), None)


def _entries(prefix: str, keys: tuple[str, ...], value: Value | BySide) -> Iterator[Entry]:
    name = ".".join((prefix, *keys[-1:]))
    if isinstance(value, BySide):
        for side, rank in value.given.items():
            yield Entry(f"{name}.{side}", rank, (*keys, side), side)
    else:
        yield Entry(name, value, keys, None)


class RankSection(PerClass):
    """`rank`: of a class's adapters, or of one language's, at all sites or by their side; 0 is no adapter."""

    __pydantic_extra__: dict[str, RankItem]
    languages: dict[str, RankItem] = {}

    @property
    def is_by_side(self) -> bool:
        """Whether a rank depends on the side."""
        return any(entry.side is not None for entry in self.entries(""))


class TargetSection(PerClass):
    """`pruning.target`: the share of B's entries pruned in the end."""

    __pydantic_extra__: dict[str, Target]
    languages: dict[str, Target] = {}


class OverrideSection(Section):
    """An item of `overrides`: what holds at some of the stack's adapted layers and modules instead."""

    layers: Annotated[Layers, PlainValidator(parse_layers)] = Layers("all")
    modules: Modules | None = None
    """None: all that the stack adapts."""

    rank: RankSection | None = None
    """Classes, languages and sides that it does not name keep what held before."""

    side: Annotated[Value, PlainValidator(SIDE)] = None
    """None: what held before."""

    @model_validator(mode="after")
    def _says_something(self) -> "OverrideSection":
        if self.rank is None and self.side is None:
            raise ValueError("must say `rank` or `side`, but says neither.")
        return self


class EncoderOverride(OverrideSection):
    """An item of `architecture.encoder.overrides`."""

    modules: Annotated[Modules | None, PlainValidator(encoder_modules)] = None


class DecoderOverride(OverrideSection):
    """An item of `architecture.decoder.overrides`."""

    modules: Annotated[Modules | None, PlainValidator(decoder_modules)] = None


class StackSection(Section):
    """What `architecture.encoder` and `architecture.decoder` have in common."""

    layers: Annotated[Layers, PlainValidator(parse_layers)] = Layers("all")
    modules: Modules
    rank: RankSection | None = None
    """The ranks of this stack; classes, languages and sides that it does not name have those of the architecture."""

    source_layers: Annotated[SourceLayers, PlainValidator(parse_source_layers)] = None
    """The lowest so many layers of the base, or those listed, are indexed by source, the others by target.
    None: all by source."""

    sides: Annotated[Sides, PlainValidator(parse_sides)] = None
    """One side for all layers or a list with one for each layer of the base, instead of `source_layers`."""

    overrides: Sequence[OverrideSection] = []
    """In order: a later one wins over an earlier one, and all win over `rank`, `source_layers` and `sides`."""


class EncoderSection(StackSection):
    """`architecture.encoder`. Indexed by source unless `source_layers` or `sides` says otherwise."""

    modules: Annotated[Modules, PlainValidator(encoder_modules)] = Modules(published_modules("encoder"))
    overrides: list[EncoderOverride] = []


class DecoderSection(StackSection):
    """`architecture.decoder`. Indexed by target unless `source_layers` or `sides` says otherwise."""

    source_layers: Annotated[SourceLayers, PlainValidator(parse_source_layers)] = 0
    modules: Annotated[Modules, PlainValidator(decoder_modules)] = Modules(published_modules("decoder"))
    overrides: list[DecoderOverride] = []


class PruningSection(Section):
    """`architecture.pruning`; see `architecture.Pruning`."""

    target: TargetSection
    start: Annotated[Value, PlainValidator(_WHOLE)] = 2
    duration: Annotated[Value, PlainValidator(_WHOLE)] = 10
    scope: Annotated[Value, _words("language", "layer")] = "language"
    over: Annotated[Value, _words("b", "product")] = "b"


class GateSection(Section):
    """`architecture.gate`, of `adapter: gated`; see `kinds.Gate`."""

    hidden: Annotated[Value, PlainValidator(_COUNT)] = _GATE.hidden
    budget: Annotated[Value, PlainValidator(_SHARE)] = _GATE.budget
    one_sided: bool = _GATE.is_one_sided
    skip: Annotated[Value, PlainValidator(Rule(kind="float", low=0, high=0.99))] = _GATE.skip
    noise: Annotated[Value, PlainValidator(_ZERO_OR_MORE)] = _GATE.noise


class PoolSection(Section):
    """`architecture.pool`, of `sharing: pool`; see `kinds.Pool`."""

    size: Annotated[Value, PlainValidator(Rule(kind="int", low=2))] = 4
    soft_share: Annotated[Value, PlainValidator(_SHARE)] = _POOL.soft_share
    disparity: Annotated[Value, PlainValidator(_ZERO_OR_MORE)] = _POOL.disparity


class ZNormSection(Section):
    """`architecture.encoder_znorm`; see `kinds.ZNorm`."""

    strength: Annotated[Value, PlainValidator(_SHARE)] = 1.0
    parts: Annotated[Value, _words("both", "mean")] = "both"
    pivot: Annotated[str | None, fixed("text", words={"mean": None})] = None


class LayerNormSection(Section):
    """`architecture.layer_norm`; see `kinds.LayerNorms`."""

    stacks: Annotated[Value, _words("both", "encoder", "decoder")] = "both"
    side: Annotated[Value, _words(*SIDES)] = "tgt"
    classes: list[str] | None = None
    """Whose languages have norms of their own. None: all."""


class BridgeSection(Section):
    """`architecture.bridge`; see `kinds.Bridge`."""

    rank: Annotated[Value, PlainValidator(Rule(kind="int", low=1, words={"full": None}))] = None
    classes: list[str] | None = None
    """Whose languages, as targets, have a bridge. None: all."""


class ArchitectureSection(Section):
    """`architecture`."""

    rank: RankSection = RankSection.model_validate(0)
    adapter: Annotated[Value, PlainValidator(ADAPTER)] = "lora"
    """What there is: one kind at the sites, and what stands beside it, joined by +."""

    gate: GateSection = GateSection()
    shared_rank: Annotated[Value, PlainValidator(_COUNT)] = 0
    """lora: the rank of a pair that all languages have at every site, under their own."""

    encoder_znorm: ZNormSection | None = None
    layer_norm: LayerNormSection = LayerNormSection()
    bridge: BridgeSection = BridgeSection()
    encoder: EncoderSection = EncoderSection()
    decoder: DecoderSection = DecoderSection()
    pruning: PruningSection | None = None
    init: Annotated[Value, _words("published", "peft")] = "published"
    scaling: Annotated[
        Value,
        PlainValidator(
            Rule(
                kind="text",
                names=("none", "alpha/r", "alpha/sqrt_r"),
                words={"alpha/sqrt r": "alpha/sqrt_r", "alpha / sqrt r": "alpha/sqrt_r"},
            )
        ),
    ] = "none"
    alpha: Annotated[Value, PlainValidator(_POSITIVE)] = 1.0
    ffn_slice: Annotated[Value, PlainValidator(Rule(kind="int", low=1, words={"none": None}))] = None
    sharing: Annotated[Value, _words("language", "class", "family", "all", "pool")] = "language"
    """Who shares a slot, and with it an adapter: nobody, the languages of a class, those of a family, or all; or whom a
    learned map gives the same pair of a pool."""

    pool: PoolSection = PoolSection()


class TwoStageSection(Section):
    """`trainer.two_stage`: the pairs of some classes first, then all."""

    first: list[str]
    """The classes of the first stage."""

    share: Annotated[Value, PlainValidator(_SHARE)] = _DEFAULT.first_share
    freeze_first: bool = _DEFAULT.freeze_first
    """Leave what is their own as it is in the second stage."""


class TrainerSection(Section):
    """`trainer`: `settings.TrainerSettings`, of which everything that changes what is learned can be searched."""

    epochs: Annotated[int, fixed("int", low=1)] = _DEFAULT.epochs
    pairs_per_epoch: Annotated[int | None, fixed("int", low=1, words={"all": None})] = _DEFAULT.pairs_per_epoch
    tokens_per_batch: Annotated[Value, PlainValidator(Rule(kind="int", low=1, words={"auto": None}))] = (
        _DEFAULT.tokens_per_batch
    )
    accumulation: Annotated[int, fixed("int", low=1)] = _DEFAULT.accumulation
    lr: Annotated[Value, PlainValidator(_POSITIVE)] = _DEFAULT.lr
    optimizer: Annotated[Value, _words("adam", "adamw")] = _DEFAULT.optimizer
    weight_decay: Annotated[Value, PlainValidator(_ZERO_OR_MORE)] = _DEFAULT.weight_decay
    schedule: Annotated[Value, _words("inverse_sqrt", "constant")] = _DEFAULT.schedule
    warmup_updates: Annotated[Value, PlainValidator(_WHOLE)] = _DEFAULT.warmup_updates
    label_smoothing: Annotated[Value, PlainValidator(Rule(kind="float", low=0, high=0.99))] = _DEFAULT.label_smoothing
    dropout: Annotated[Value, PlainValidator(Rule(kind="float", low=0, high=0.99))] = _DEFAULT.dropout
    clip_norm: Annotated[Value, PlainValidator(_ZERO_OR_MORE)] = _DEFAULT.clip_norm
    temperature: Annotated[Value, PlainValidator(Rule(kind="float", low=0, is_low_open=True))] = _DEFAULT.temperature
    max_length: Annotated[int, fixed("int", low=4)] = _DEFAULT.max_length
    precision: Annotated[str, fixed("text", names=("auto", "fp32", "bf16", "fp16"))] = _DEFAULT.precision
    seed: Annotated[int, fixed("int", low=0)] = _DEFAULT.seed
    init_from: Annotated[str | None, fixed("text", words={"none": None})] = _DEFAULT.init_from
    encode_once: bool = _DEFAULT.encode_once


class BackTranslationSection(Section):
    """`trainer.back_translation`: the model's own translations of targets, as further sources."""

    every: Annotated[Value, PlainValidator(_WHOLE)] = 1
    from_epoch: Annotated[Value, PlainValidator(_WHOLE)] = 1
    languages: list[str] | None = None
    """Into which targets are translated. None: all."""


class SearchTrainerSection(TrainerSection):
    """`trainer`: what a baseline has too, and how searched trials alone are trained."""

    loss: LossSection = LossSection()
    back_translation: BackTranslationSection | None = None
    two_stage: TwoStageSection | None = None
    modular: ModularSection | None = None
