"""The sections `architecture` and `trainer` as pydantic models: type, range and default of every key, one by one.

What concerns several keys is in `checks`.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, PlainValidator, model_validator

from langsearch.space.placement import (
    Layers,
    Modules,
    decoder_modules,
    encoder_modules,
    parse_layers,
    published_modules,
)
from langsearch.space.settings import TrainerSettings
from langsearch.space.values import SEARCH_KEYS, Rule, Value

ALL = "<all>"
"""Stands for every class where one value is given for all of them."""

_DEFAULT = TrainerSettings()
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


class PerClass(Section):
    """A value for each class, or one for all, and values for single languages apart from their class.

    Class names are keys beside `languages`; one value for all stands under `ALL`.
    """

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _one_for_all(cls, raw: Any) -> Any:
        is_value = not isinstance(raw, dict) or any(key in SEARCH_KEYS for key in raw)
        return {ALL: raw} if is_value else raw

    @property
    def by_class(self) -> dict[str, Value]:
        """The value of each class, or {ALL: value}."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def by_language(self) -> dict[str, Value]:
        """The values of single languages."""
        languages: dict[str, Value] = getattr(self, "languages", {})
        return languages

    def entries(self, prefix: str) -> Iterator[tuple[str, Value]]:
        """Yields the dimension name and the value of each entry: rank.high, rank.wo, or rank for all."""
        for name, value in (self.by_class | self.by_language).items():
            yield (prefix if name == ALL else f"{prefix}.{name}"), value

    def entry(self, prefix: str, language: str, class_name: str) -> tuple[str, Value]:
        """Returns the dimension name and the value that hold for a language."""
        if language in self.by_language:
            return f"{prefix}.{language}", self.by_language[language]
        if ALL in self.by_class:
            return prefix, self.by_class[ALL]
        return f"{prefix}.{class_name}", self.by_class[class_name]


Rank = Annotated[Value, PlainValidator(_COUNT)]
Target = Annotated[Value, PlainValidator(_SHARE)]


class RankSection(PerClass):
    """`rank`: of a class's adapters, or of one language's; 0 is no adapter."""

    __pydantic_extra__: dict[str, Rank]
    languages: dict[str, Rank] = {}


class TargetSection(PerClass):
    """`pruning.target`: the share of B's entries pruned in the end."""

    __pydantic_extra__: dict[str, Target]
    languages: dict[str, Target] = {}


_SourceLayers = Annotated[Value, PlainValidator(Rule(kind="int", low=0, words={"all": None}))]


class EncoderSection(Section):
    """`architecture.encoder`."""

    layers: Annotated[Layers, PlainValidator(parse_layers)] = Layers("all")
    source_layers: _SourceLayers = None
    """The lowest so many layers of the base are indexed by source, the others by target. None: all by source."""

    modules: Annotated[Modules, PlainValidator(encoder_modules)] = Modules(published_modules("encoder"))


class DecoderSection(Section):
    """`architecture.decoder`. As the encoder, but indexed by target unless `source_layers` says otherwise."""

    layers: Annotated[Layers, PlainValidator(parse_layers)] = Layers("all")
    source_layers: _SourceLayers = 0
    modules: Annotated[Modules, PlainValidator(decoder_modules)] = Modules(published_modules("decoder"))


class PruningSection(Section):
    """`architecture.pruning`; see `architecture.Pruning`."""

    target: TargetSection
    start: Annotated[Value, PlainValidator(_WHOLE)] = 2
    duration: Annotated[Value, PlainValidator(_WHOLE)] = 10
    scope: Annotated[Value, _words("language", "layer")] = "language"


class ArchitectureSection(Section):
    """`architecture`."""

    rank: RankSection
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
    sharing: Annotated[Value, _words("language", "class", "all")] = "language"


class TrainerSection(Section):
    """`trainer`: `settings.TrainerSettings`, of which everything that changes what is learned can be searched."""

    epochs: Annotated[int, fixed("int", low=1)] = _DEFAULT.epochs
    pairs_per_epoch: Annotated[int | None, fixed("int", low=1, words={"all": None})] = _DEFAULT.pairs_per_epoch
    tokens_per_batch: Annotated[Value, PlainValidator(_WHOLE)] = _DEFAULT.tokens_per_batch
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
