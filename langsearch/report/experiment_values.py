"""An experiment as the report shows it: what a folder tells, as frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from langsearch.space.architecture import Architecture
from langsearch.study.results import VIOLATES

Kind = Literal["searched", "baseline", "donor", "cut", "try", "seed"]
State = Literal["running", "complete", "pruned", "failed"]
Split = Literal["validation", "full", "test"]
"""validation: what the search selected by. full: the front once more on validation, by `evaluation.final`."""

SPLITS: tuple[Split, ...] = ("validation", "full", "test")

STATES: tuple[State, ...] = ("complete", "pruned", "failed", "running")

METRICS = (
    *("spbleu", "worst_class_spbleu", "chrf", "train_loss", "trainable_parameters", "nonzero_parameters"),
    *("train_seconds", "seconds", "peak_memory_bytes"),
)
"""Columns of numbers that an objective may be, or a trial be told by."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """spBLEU of one trial on one split: the macro average over directions, with its 95 % bootstrap interval.

    On test, of a trial that was trained with several seeds: the mean over these, with an interval over both.
    """

    spbleu: float
    low: float | None
    high: float | None
    num_sentences: int | None
    num_directions: int | None
    num_seeds: int = 1
    seeds_sd: float | None = None
    """Standard deviation over the seeds; None of one."""


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """How much better a trial is than a baseline on the test set; the fields are those of `spbleu.Difference`."""

    value: float
    low: float
    high: float
    p: float | None = None
    holm_p: float | None = None
    num_seeds: int = 1
    sentences_sd: float | None = None

    @property
    def final_p(self) -> float | None:
        """The p that counts: Holm's, where it is one of several."""
        return self.p if self.holm_p is None else self.holm_p


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One row of the results. None: the experiment does not say."""

    name: str
    kind: Kind
    state: State
    cause: str | None
    epochs: int | None
    max_epochs: int | None
    validation: Score | None
    test: Score | None
    trainable_parameters: int | None
    trainable_percent: float | None
    nonzero_parameters: int | None
    train_seconds: float | None
    seconds: float | None
    peak_memory_bytes: int | None
    is_front: bool
    fingerprint: str | None
    signature: str | None
    started: str | None
    finished: str | None
    worker: str | None
    params: Mapping[str, Any]
    summary: str
    differences: Mapping[str, PairedDifference] = field(default_factory=dict)
    """To the baselines by name, on test, where they were measured."""

    tuned_from: str | None = None
    """Of a tuned baseline: the try whose result it has."""

    final: Score | None = None
    """On validation once more, by `evaluation.final`: the whole part unless it says less."""

    kept_epoch: int | None = None
    beams: int | None = None
    note: str | None = None
    seed_of: str | None = None
    same_as: str | None = None
    retry_of: str | None = None
    retried_as: str | None = None
    cut: str | None = None
    is_from_cut: bool = False
    """Whether that cut is trained on in it; else it is its architecture trained alone."""

    space_version: int | None = None
    is_feasible: bool | None = None
    violations: Mapping[str, float] = field(default_factory=dict)
    """How far each constraint is violated, by its text; at most 0 where it is kept."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    """The columns of `METRICS` that have a value."""

    @property
    def is_rejected(self) -> bool:
        """Whether its size violates a constraint, so that it was never trained."""
        return self.state == "pruned" and self.validation is None and (self.cause or "").startswith(VIOLATES)

    @property
    def counts(self) -> bool:
        """Whether it is one of the trials that a search was asked for; as `TrialRow.counts`."""
        is_other = self.same_as is not None or self.retried_as is not None
        return self.kind == "searched" and not is_other and not self.is_rejected

    def score(self, split: Split) -> Score | None:
        """Returns the score on a split, None where it was not measured."""
        return {"validation": self.validation, "full": self.final, "test": self.test}[split]


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """What one trial had reached after one epoch."""

    epoch: int
    updates: int | None
    train_loss: float | None
    spbleu: float | None
    lr: float | None
    seconds: float | None
    nonzero_parameters: int | None
    num_sentences: int | None = None
    num_directions: int | None = None
    beams: int | None = None


@dataclass(frozen=True, kw_only=True)
class DirectionScore:
    """spBLEU of one trial in one direction."""

    split: Split
    src: str
    tgt: str
    spbleu: float
    num_sentences: int | None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a trial failed."""

    cause: str
    message: str
    traceback: str


@dataclass(frozen=True, kw_only=True)
class TrialDetails:
    """The files of one trial's folder."""

    architecture: Architecture | None
    curve: tuple[CurvePoint, ...]
    scores: tuple[DirectionScore, ...]
    failure: Failure | None


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One experiment as its folder tells it."""

    folder: Path
    name: str
    base: str | None
    base_parameters: int | None
    languages: tuple[str, ...]
    classes: Mapping[str, tuple[str, ...]]
    directions: tuple[str, ...]
    zero_shot: tuple[str, ...]
    """The directions that are not trained on."""

    tokenizer: str | None
    is_stand_in: bool
    """Whether the tokenizer stands in for FLORES's own; such scores compare only among themselves."""

    signature: str | None
    versions: Mapping[str, str]
    git_commit: str | None
    seed: int | None
    objectives: Mapping[str, str]
    started: str | None
    finished: str | None
    seconds: float | None
    num_trials: int | None
    resources: Mapping[str, Any]
    constraints: tuple[str, ...]
    space_text: str | None
    trials: tuple[Trial, ...]
    """Searched ones and baselines."""

    num_validation_sentences: int | None
    notes: tuple[str, ...]
    """One sentence for everything that is missing or cannot be read."""

    final_beams: int | None = None
    """Of the scores by `evaluation.final`, on validation and on test."""

    beside: tuple[Trial, ...] = ()
    """What is not compared with trials: the tries of tuned baselines; of a one-shot search the wide trainings, and what
    was cut out of them; further trainings with other seeds, which the scores of their originals hold."""

    is_training: bool = False
    """Whether `langsearch train` wrote it: one trial, without a search."""

    @property
    def beside_trained(self) -> tuple[Trial, ...]:
        """What trained beside the trials, on workers as they do: all that stands beside them but cuts."""
        return tuple(trial for trial in self.beside if trial.kind != "cut")
