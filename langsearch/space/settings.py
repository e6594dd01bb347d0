"""Plain settings with their defaults: the one place where a default of the trainer or the evaluation lives."""

from dataclasses import dataclass
from typing import Literal

from langsearch.space.data_filter import NO_FILTER, DataFilter
from langsearch.space.loss_settings import NO_TERMS, LossSettings
from langsearch.space.nesting import Nesting

EXPERIMENTS = "experiments"
"""The folder that holds all experiments, unless another is given."""

FAMILY_NAMES = ("m2m100", "small100", "nllb", "mbart50")
"""The families of bases. An M2M-124 is of M2M-100's."""


@dataclass(frozen=True)
class BaseSource:
    """Where a base comes from."""

    id: str
    """A hub id, a folder, or the name of a base that travels with the package."""

    revision: str | None = None
    """Of the hub: a branch, a tag, a commit, or a pull request as refs/pr/N. None: the main branch."""

    family: str | None = None
    """One of `FAMILY_NAMES`, where the base's own files do not say it. None: as they say."""

    def __str__(self) -> str:
        return self.id if self.revision is None else f"{self.id} at {self.revision}"


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """How one architecture is trained. The defaults follow the public release of Cao et al. 2024 (arXiv 2409.05224)."""

    epochs: int = 15
    """Passes over the training pairs; also the highest rung of early stopping."""

    pairs_per_epoch: int | None = None
    """Sentence pairs drawn an epoch. None: all over all directions, those of weight w counted w times."""

    tokens_per_batch: int | None = 16_000
    """Padded tokens an update, counted on the longer of the two sides (fairseq's `--max-tokens` times accumulation).
    None: the most that the device has room for, up to 16,000; `train.fitting`."""

    accumulation: int = 4
    """Microbatches an update is split into. Changes memory and time, not the expected gradient."""

    lr: float = 3e-3
    """Peak learning rate, reached after the warmup."""

    optimizer: Literal["adam", "adamw"] = "adam"
    """Adam with betas (0.9, 0.98) and eps 1e-8; adamw decouples the weight decay."""

    weight_decay: float = 0.0
    """Decay of the trained parameters an update (adam: as an L2 gradient; adamw: decoupled)."""

    schedule: Literal["inverse_sqrt", "constant"] = "inverse_sqrt"
    """inverse_sqrt: lr * sqrt(warmup / update) after the warmup (Vaswani et al. 2017, section 5.3, as in fairseq)."""

    warmup_updates: int = 1
    """Updates of linear warmup, at least 1."""

    label_smoothing: float = 0.2
    """Share of the probability spread evenly over the vocabulary."""

    dropout: float = 0.1
    """Dropout of the base's residual and embedding positions while training; its attention and activations keep their
    own rate, but not above this one. 0: none anywhere, so that nothing is left to chance."""

    clip_norm: float = 0.0
    """Largest gradient norm. 0: no clipping, as published."""

    temperature: float = 5.0
    """Directions are drawn with probability proportional to size ** (1 / temperature)."""

    max_length: int = 256
    """Longest side in tokens, language and end tokens included, but at most the base's positions. Longer pairs are left
    out and counted, not cut: what is cut would teach to stop in the middle of a sentence."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: fp32 on the CPU; on a GPU bf16 where the chip has it, else fp16 with loss scaling."""

    seed: int = 0
    """Seed of the adapters' start, the order of the data and the dropout."""

    init_from: str | None = None
    """A folder of PEFT LoRA adapters that the adapters start from, cut by SVD where they are wider. None: anew.
    Baselines start anew."""

    first_stage: tuple[str, ...] = ()
    """The languages whose pairs alone are trained first (HLT-MT, arXiv 2207.04906). Empty: all from the start. Between
    the stages the optimizer starts anew."""

    first_share: float = 0.4
    """Of the epochs, how many are the first stage; at least one is, and one is not."""

    freeze_first: bool = False
    """Whether what is the first languages' own stays as the first stage left it."""

    modular_bridge: str | None = None
    """The language that every trained pair has on one side, so that each language's adapters learn alone (Cao et al.,
    Findings of EACL 2026). It has no adapters. None: all are trained together. Then what counts pairs and tokens,
    `pairs_per_epoch` and `tokens_per_batch`, is of one language into or out of the bridge."""

    merge_src: tuple[float, ...] = ()
    """Of modular training, where a site has pairs of both sides: what the source's may count beside the target's, of
    which the best by validation is found after the last epoch, by evaluation alone. Empty: 1."""

    merge_tgt: tuple[float, ...] = ()
    """The same of the target's."""

    train_only: tuple[str, ...] = ()
    """The languages that are trained; what none of them has stays as it is, to the bit (`extend`). Empty: all."""

    back_translation_every: int = 0
    """Every so many updates also train on the model's own translations of their targets (arXiv 2004.11867). 0: never.
    """

    back_translation_from_epoch: int = 1
    """The first epoch of it."""

    back_translation_pivots: tuple[str, ...] = ()
    """The languages that targets are translated into. Empty: all."""

    encode_once: bool = False
    """Whether a sentence with several targets goes through the encoder once for all of them, up to the first layer that
    is indexed by target. Then these pairs are drawn together, and those of like length stand in one microbatch, so that
    an update has fewer different sources; and they share what dropout drops of the source."""

    nesting: Nesting | None = None
    """What is drawn for each update of adapters that others are to be cut out of. None: all of them is trained."""

    start_cut: str = ""
    """The cut of the same experiment that the adapters start from."""

    def __post_init__(self) -> None:
        # A task's file has a list.
        for name in ("first_stage", "merge_src", "merge_tgt", "train_only", "back_translation_pivots"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    loss: LossSettings = NO_TERMS
    """The loss terms beside the cross-entropy. Baselines have none."""


@dataclass(frozen=True, kw_only=True)
class DecodingSettings:
    """What is decoded, and how, for one score."""

    directions: int | None = None
    """How many directions, spread evenly over the class pairs. None: all."""

    sentences: int | None = None
    """How many sentences of the set, evenly spaced over it. None: all."""

    beams: int = 1
    """1: greedy."""

    max_length: int | None = None
    """Longest source in tokens, language and end tokens included; a longer one is cut there, and counted. None: none is
    cut, and one that is longer than the base's positions is an error."""

    max_length_factor: float | None = None
    """A hypothesis has at most this many times the source's tokens, plus 10. None: as the direction's training
    references need it, but at least 2; `evaluate.limits`."""

    tokens_per_batch: int = 12_000
    """Tokens in memory at once: sources and longest hypotheses of all rows that are decoded together, beams counted. Of
    sentences as long as those of FLORES these are about 128 hypotheses; with more, beams wait longer for the last."""

    rows_per_batch: int | None = None
    """Hypotheses decoded together, beams counted, however long they are. None: as many as `tokens_per_batch` holds."""


FINAL_DECODING = DecodingSettings(beams=5)
"""How the final score is decoded unless the space says otherwise (the public release: beam 5, every direction)."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How scores are computed, while searching and in the end."""

    spbleu: str = "flores101"
    """The pieces that BLEU counts: flores101, flores200, spm:FILE, or base (the base's own SentencePiece model)."""

    search: DecodingSettings = DecodingSettings()
    """For the scores that select, on the validation part."""

    final: DecodingSettings = FINAL_DECODING
    """For the front once the search has ended, on validation; for what is left of it and the baselines, on test."""

    num_seeds: int = 1
    """How often what is tested is trained in all, each time with the next seed; `evaluation.final.seeds`."""

    rungs: tuple[DecodingSettings, ...] = ()
    """For the epochs up to each rung in turn, where those are cheaper than `search`, which later epochs have."""


SourceKind = Literal[
    "flores101", "flores200", "files", "moses", "tsv", "jsonl", "parquet", "datasets", "tmx", "embedded"
]


@dataclass(frozen=True)
class Source:
    """Where parallel text comes from."""

    kind: SourceKind

    path: str | None
    """Folder (flores101, flores200, files, datasets), file (tsv, jsonl, parquet, tmx), what the names of the files have
    in common (moses) or the embedded set's name; a pattern with * for several. Relative to the current folder."""

    split: str | None
    """dev or devtest (flores101, flores200); train, validation or test (embedded); any of a DatasetDict (datasets);
    None for the others."""

    further: tuple[str, ...] = ()
    """More paths of the same kind, where the space lists several."""

    columns: tuple[tuple[str, str], ...] = ()
    """Language and column, field or ending, where names are no codes. Empty: by their codes."""

    header: tuple[str, ...] = ()
    """The names of the columns of a TSV file that has no header row."""

    quotes: Literal["plain", "excel"] | None = None
    """Whether quotes in a TSV file are text, or as Excel writes them. None: as the file shows."""

    max_rows: int | None = None
    """At most so many rows of each set of languages that has rows, evenly spaced: of a bitext, of its pair. None: all.
    """

    weight: float = 1.0
    """How often a row of it is drawn, against those of other sources in the same direction."""

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths; none for a source that has no path."""
        return () if self.path is None else (self.path, *self.further)

    def __str__(self) -> str:
        split = f" {self.split}" if self.split else ""
        return f"{self.kind}{split} in {', '.join(self.paths) or None}"


NormalForm = Literal["nfc", "nfkc", "none"]
NORMAL_FORMS: tuple[NormalForm, ...] = ("nfc", "nfkc", "none")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The text of an experiment. Several sources of a part are read one after the other."""

    train: tuple[Source, ...]

    validation: tuple[Source, ...]
    """What selects. Empty if it is held out of train."""

    holdout: int | None
    """So many rows of train select and are not trained on. None: validation has its own sources."""

    holdout_rows: Literal["spread", "last"] = "last"
    """spread: of every source in proportion, and so that each direction keeps rows in both parts. last: the last rows,
    as of a single source, and as of several sources in experiments from before there was `spread`."""

    test: tuple[Source, ...]

    directions: Literal["all", "english"] | tuple[str, ...] = "all"
    """all ordered pairs, those with English on one side, or a list of SRC-TGT."""

    normalize: NormalForm = "nfc"
    """The Unicode form that all sentences are brought into. Bases make NFKC of what they read; references of scores and
    what is compared are as this says."""

    filter: DataFilter = NO_FILTER

    allow_overlap: bool = False
    """Go on though parts have more rows in common than `data.overlap.MAX_SHARE` of the smaller one."""


ObjectiveName = Literal[
    "spbleu",
    "worst_class_spbleu",
    "chrf",
    "trainable_parameters",
    "nonzero_parameters",
    "train_seconds",
    "peak_memory",
]

OBJECTIVE_DIRECTIONS: dict[ObjectiveName, Literal["max", "min"]] = {
    "spbleu": "max",
    "worst_class_spbleu": "max",
    "chrf": "max",
    "trainable_parameters": "min",
    "nonzero_parameters": "min",
    "train_seconds": "min",
    "peak_memory": "min",
}
"""What a search can optimise, and the direction that makes sense."""

MAX_OBJECTIVES = 4


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """What a trial must keep to be a member of the front."""

    metric: str
    """An objective's name, or worst_loss.CLASS: the most spBLEU that any direction between languages of the class
    loses against the pretrained base, on the validation part; worst_loss.all: any direction at all."""

    is_upper: bool
    """Whether the metric must be at most the bound, not at least."""

    bound: float
    """In the metric's unit; of a percentage: 2 for 2 % of the base's parameters."""

    is_percent: bool = False

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if self.is_upper else '>='} {self.bound:.15g}{' %' if self.is_percent else ''}"


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """When a search ends early."""

    trials: int
    """How many trials in a row must gain too little."""

    min_gain: float = 0.01
    """The least growth over them, as a share of the dominated hypervolume; of a single objective, of its best value."""


Reaction = Literal["fail", "retry", "stop"]
"""fail: the trial ends with its cause. retry: it goes on from its checkpoint, at most `resources.max_failures` times,
then it ends. stop: the trial stays unfinished and the run stops, to be resumed."""


@dataclass(frozen=True, kw_only=True)
class FailureSettings:
    """What happens when a trial fails; lost workers and nodes are always tried again."""

    stall_minutes: float | None = 30.0
    """A trial that makes no progress for so long (no update, no decoded batch) is stopped. None: never."""

    stalled: Reaction = "retry"
    non_finite_loss: Reaction = "fail"
    """It would come again: training is deterministic."""

    out_of_memory: Literal["halve", "fail", "stop"] = "halve"
    """halve: tried again from its checkpoint with twice the accumulation, so half the tokens in memory, as often as
    needed, down to a single pair."""

    disk_full: Reaction = "stop"
    error: Reaction = "fail"
    """Any other exception."""

    in_a_row: int | None = 5
    """So many trials that failed one after another, while none ended an epoch, in all or on one node, stop the run:
    the cause is a machine, not the trials. Memory and non-finite losses do not count. None: they never do."""


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """What stays on the disk. What resuming and the front need is never deleted."""

    keep: Literal["front", "all"] = "front"
    """front: the weights of trials that another one dominates are deleted. all: those of every trial stay."""

    max_gigabytes: float | None = None
    """Over this (10 ** 9 bytes) older checkpoints and, with keep: all, the worst trials' weights are deleted too."""
