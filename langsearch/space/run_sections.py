"""The sections `data`, `evaluation`, `baselines` and `resources` as pydantic models and plain settings."""

from dataclasses import replace
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, PlainValidator

from langsearch.space.architecture import Init
from langsearch.space.baseline_settings import Baseline, BaselineName, Tuning
from langsearch.space.document import show
from langsearch.space.filter_section import FilterSection
from langsearch.space.problems import near_names
from langsearch.space.sections import Section, TrainerSection, fixed
from langsearch.space.settings import (
    FINAL_DECODING,
    NORMAL_FORMS,
    DataSettings,
    DecodingSettings,
    EvaluationSettings,
    NormalForm,
    Source,
    SourceKind,
)
from langsearch.space.values import Rule, Searched, Value

Split = Annotated[str | None, fixed("text", names=("dev", "devtest"))]
_Path = Annotated[str | None, fixed("text")]

SOURCE_KINDS: tuple[SourceKind, ...] = (
    "flores101",
    "flores200",
    "files",
    "moses",
    "tsv",
    "jsonl",
    "parquet",
    "datasets",
    "tmx",
    "embedded",
)

_WHOLE_KINDS = ("flores101", "flores200", "files", "tsv", "parquet", "embedded")
"""One path of these is one text, whose last rows are held out; the others may hold many sets of languages."""


def _parse_paths(raw: object) -> tuple[str, ...]:
    items = raw if isinstance(raw, list) else [raw]
    if not items or not all(isinstance(item, str) and item for item in items):
        raise ValueError(f"must be a path, a pattern such as data/*.tsv, or a list of them, but got {show(raw)}")
    if len(set(items)) < len(items):
        raise ValueError(f"must list each path once, but got {show(raw)}")
    return tuple(items)


_Paths = Annotated[tuple[str, ...] | None, PlainValidator(_parse_paths)]
_Names = Annotated[dict[str, Annotated[str, fixed("text")]], Field(min_length=1)]


class SourceSection(Section):
    """One source of `data.train`, `data.validation` or `data.test`; names exactly one kind."""

    flores101: Split = None
    flores200: Split = None
    files: _Paths = None
    moses: _Paths = None
    tsv: _Paths = None
    jsonl: _Paths = None
    parquet: _Paths = None
    datasets: _Paths = None
    tmx: _Paths = None
    embedded: Annotated[str | None, fixed("text", names=("quickstart",))] = None
    holdout: Annotated[int | None, fixed("int", low=1)] = None
    rows: Annotated[Literal["spread", "last"] | None, fixed("text", names=("spread", "last"))] = None
    """Of a holdout: which rows it takes; `settings.DataSettings.holdout_rows`."""

    folder: _Path = None
    part: Annotated[str | None, fixed("text", names=("train", "validation", "test"))] = None
    split: Annotated[str | None, fixed("text")] = None
    columns: _Names | None = None
    header: Annotated[list[str], Field(min_length=2)] | None = None
    quotes: Annotated[Literal["plain", "excel"] | None, fixed("text", names=("plain", "excel"))] = None
    max_rows: Annotated[int | None, fixed("int", low=1)] = None
    weight: Annotated[float, fixed("float", low=0, is_low_open=True)] = 1.0

    @property
    def kinds(self) -> list[SourceKind]:
        """The kinds that it names; one if it is right and no holdout."""
        return [kind for kind in SOURCE_KINDS if kind in self.model_fields_set]

    def source(self, folder: str | None) -> Source:
        """Returns the plain source.

        Args:
            folder: For FLORES without a folder of its own.
        """
        (kind,) = self.kinds
        value = getattr(self, kind)
        if kind in ("flores101", "flores200"):
            found = Source(kind, self.folder or folder, value)
        elif kind == "embedded":
            found = Source(kind, value, self.part)
        else:
            found = Source(kind, value[0], self.split, tuple(value[1:]))
        return replace(
            found,
            columns=tuple((self.columns or {}).items()),
            header=tuple(self.header or ()),
            quotes=self.quotes,
            max_rows=self.max_rows,
            weight=self.weight,
        )

    @property
    def is_whole(self) -> bool:
        """Whether it is one text of which the last rows are as good as any."""
        if not set(self.kinds) <= set(_WHOLE_KINDS):
            return False
        paths = [path for kind in self.kinds for path in getattr(self, kind)] if not self._is_named else []
        return len(paths) < 2 and not any(mark in path for path in paths for mark in "*?[") and self.max_rows is None

    @property
    def _is_named(self) -> bool:
        return bool({"flores101", "flores200", "embedded"} & set(self.kinds))


def _as_list(raw: object) -> object:
    return raw if isinstance(raw, list) else [raw]


Sources = Annotated[list[SourceSection], BeforeValidator(_as_list), Field(min_length=1)]


def _parse_directions(raw: object) -> Literal["all", "english"] | tuple[str, ...]:
    if raw == "all" or raw == "english":
        return raw
    if isinstance(raw, list) and raw and all(isinstance(item, str) for item in raw):
        if len(set(raw)) < len(raw):
            raise ValueError(f"must list each direction once, but got {show(raw)}")
        return tuple(raw)
    raise ValueError(f"must be all, english, or a list of SRC-TGT, but got {show(raw)}")


class DataSection(Section):
    """`data`."""

    train: Sources
    validation: Sources
    test: Sources
    directions: Annotated[Literal["all", "english"] | tuple[str, ...], PlainValidator(_parse_directions)] = "all"
    folder: _Path = None
    """The folder of the FLORES sources that have none of their own."""
    normalize: Annotated[NormalForm, fixed("text", names=NORMAL_FORMS)] = "nfc"
    filter: FilterSection = FilterSection()
    allow_overlap: bool = False

    def settings(self) -> DataSettings:
        """Returns the plain settings; the section must have passed the checks."""
        holdouts = [source.holdout for source in self.validation if source.holdout is not None]
        is_whole = len(self.train) == 1 and self.train[0].is_whole
        return DataSettings(
            train=tuple(source.source(self.folder) for source in self.train),
            validation=() if holdouts else tuple(source.source(self.folder) for source in self.validation),
            holdout=holdouts[0] if holdouts else None,
            holdout_rows=self.validation[0].rows or ("last" if is_whole else "spread"),
            test=tuple(source.source(self.folder) for source in self.test),
            directions=self.directions,
            normalize=self.normalize,
            filter=self.filter.settings(),
            allow_overlap=self.allow_overlap,
        )


_Many = Annotated[int | None, fixed("int", low=1, words={"all": None})]


class DecodingSection(Section):
    """`evaluation.search`, `.final`, an item of `.rungs`: `settings.DecodingSettings`; the keys that are set count."""

    directions: _Many = None
    sentences: _Many = None
    beams: Annotated[int, fixed("int", low=1)] = 1
    max_length: Annotated[int | None, fixed("int", low=4, words={"none": None})] = None
    max_length_factor: Annotated[float | None, fixed("float", low=0, is_low_open=True, words={"auto": None})] = None
    tokens_per_batch: Annotated[int, fixed("int", low=1)] = 1
    rows_per_batch: Annotated[int | None, fixed("int", low=1, words={"auto": None})] = None

    def over(self, settings: DecodingSettings) -> DecodingSettings:
        """Returns the settings with those keys replaced that the section sets."""
        names = self.model_fields_set & DecodingSection.model_fields.keys()
        return replace(settings, **{name: getattr(self, name) for name in names})


class FinalSection(DecodingSection):
    """`evaluation.final`: how the last scores are decoded, and how often what is tested is trained."""

    seeds: Annotated[int, fixed("int", low=1)] = EvaluationSettings.num_seeds


def _parse_spbleu(raw: object) -> str:
    if isinstance(raw, str) and (raw in ("flores101", "flores200", "base") or raw.startswith("spm:")):
        return raw
    raise ValueError(f"must be flores101, flores200, base or spm:FILE, but got {show(raw)}")


class EvaluationSection(Section):
    """`evaluation`."""

    spbleu: Annotated[str, PlainValidator(_parse_spbleu)] = EvaluationSettings().spbleu
    search: DecodingSection = DecodingSection()
    final: FinalSection = FinalSection()
    rungs: list[DecodingSection] = Field(default_factory=list)
    """What is cheaper than `search` up to the first rung, the second and so on."""

    def settings(self) -> EvaluationSettings:
        """Returns the plain settings; what a rung leaves out is as in `search`."""
        search, final = self.search.over(DecodingSettings()), self.final.over(FINAL_DECODING)
        rungs = tuple(rung.over(search) for rung in self.rungs)
        return EvaluationSettings(
            spbleu=self.spbleu, search=search, final=final, num_seeds=self.final.seeds, rungs=rungs
        )


BASELINES: tuple[BaselineName, ...] = ("pretrained", "full_finetuning", "shared_lora", "published")


def _none_as_empty(raw: object) -> object:
    return {} if raw is None else raw


class NoOptions(Section):
    """A baseline without options."""


def _no_options(raw: object) -> object:
    if raw:
        raise ValueError(f"must have no options, since the base is scored as it is, but got {show(raw)}")
    return {}


def _searched(key: str, example: str, rule: Rule) -> PlainValidator:
    """Returns the validator of what `tune` searches."""

    def check(raw: object) -> Value:
        value = rule(raw)
        if isinstance(value, Searched):
            return value
        way_out = f"A fixed one is `{key}` beside `tune`."
        raise ValueError(f"must be values to search, such as {example}, but got {show(raw)}. {way_out}")

    return PlainValidator(check)


_RATES = _searched("lr", "{float: [1e-5, 1e-3], log: true}", Rule(kind="float", low=0, is_low_open=True))
_EPOCHS = _searched("epochs", "{choice: [5, 10]}", Rule(kind="int", low=1))


class TuneSection(Section):
    """`tune` of a baseline: how many tries, and of which values."""

    trials: Annotated[int, fixed("int", low=2)]
    lr: Annotated[Any, _RATES] = None
    epochs: Annotated[Any, _EPOCHS] = None

    def settings(self) -> Tuning:
        """Returns the plain settings."""
        return Tuning(trials=self.trials, lr=self.lr, epochs=self.epochs)


def _as_tuning(raw: object) -> object:
    if isinstance(raw, dict | None):
        return raw
    if isinstance(raw, int) and not isinstance(raw, bool) and raw >= 2:
        return {"trials": raw}
    raise ValueError(
        "must be a number of tries of at least 2, or {trials: …, lr: {…}, epochs: {…}}, but got "
        f"{show(raw)}. One try is the baseline without `tune`."
    )


class TunedSection(TrainerSection):
    """What a baseline that is trained takes: trainer settings of its own, fixed, and how others are searched."""

    tune: Annotated[TuneSection | None, BeforeValidator(_as_tuning)] = None


class FullFinetuningSection(TunedSection):
    """Options of `full_finetuning`: trainer settings of its own, fixed or tuned."""


class SharedLoraSection(TunedSection):
    """Options of `shared_lora`: its rank, how it starts, and trainer settings of its own, fixed."""

    rank: Annotated[int, fixed("int", low=1)] = Baseline.rank
    init: Annotated[Any, fixed("text", names=get_args(Init))] = None
    """None: as the adapters of the space start."""


class PublishedSection(TunedSection):
    """Options of `published`: whether it is pruned as in the release, and trainer settings of its own, fixed."""

    pruning: bool = Baseline.is_pruned


class BaselineSection(Section):
    """An item of `baselines`: a name, or {name: options}."""

    pretrained: Annotated[NoOptions, BeforeValidator(_no_options)] = NoOptions()
    full_finetuning: Annotated[FullFinetuningSection, BeforeValidator(_none_as_empty)] = FullFinetuningSection()
    shared_lora: Annotated[SharedLoraSection, BeforeValidator(_none_as_empty)] = SharedLoraSection()
    published: Annotated[PublishedSection, BeforeValidator(_none_as_empty)] = PublishedSection()

    @property
    def names(self) -> list[BaselineName]:
        """The baselines that it names; one if it is right."""
        return [name for name in BASELINES if name in self.model_fields_set]

    def settings(self, start: Init = Baseline.init) -> Baseline:
        """Returns the plain settings; the section must name one baseline.

        Args:
            start: How the adapters of the space start.
        """
        (name,) = self.names
        options: Section = getattr(self, name)
        trainer = {key: getattr(options, key) for key in TrainerSection.model_fields if key in options.model_fields_set}
        baseline = Baseline(name=name, trainer=tuple(trainer.items()))
        if isinstance(options, TunedSection) and options.tune is not None:
            baseline = replace(baseline, tune=options.tune.settings())
        if isinstance(options, SharedLoraSection):
            return replace(baseline, rank=options.rank, init=options.init or start)
        return replace(baseline, is_pruned=options.pruning) if isinstance(options, PublishedSection) else baseline


def _as_mapping(raw: object) -> object:
    if isinstance(raw, str) and raw not in BASELINES:
        raise ValueError(f"must be a baseline, but {show(raw)} is none.{near_names(raw, BASELINES)}")
    return {raw: None} if isinstance(raw, str) else raw


BaselineItem = Annotated[BaselineSection, BeforeValidator(_as_mapping)]


class ResourcesSection(Section):
    """`resources` of one trial."""

    cpu: Annotated[float, fixed("float", low=0, is_low_open=True)] = 1.0
    gpu: Annotated[float, fixed("float", low=0)] = 0.0
    trials_per_gpu: Annotated[int, fixed("int", low=1)] = 1
    """How many trials share one GPU."""

    custom: dict[str, Annotated[float, fixed("float", low=0, is_low_open=True)]] = Field(default_factory=dict)
    """Resources of a Ray cluster that only some of its nodes have, by name, and how much of each a trial takes."""

    max_failures: Annotated[int, fixed("int", low=0)] = 3
    """How often a trial is started again after its worker or node was lost; also how often it goes on from its
    checkpoint after each other kind of failure that `failures` says `retry` of."""
