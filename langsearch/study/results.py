"""What is known of a trial: where it stands after an epoch, and its scores on whole parts. Needs no torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

VIOLATES = "violates "
"""How the cause of a trial begins that was too large to be trained."""


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """Where a trial stands after an epoch."""

    epoch: int
    """Epochs trained: the trial's fidelity."""
    finished: bool
    """Whether that was the last epoch."""
    spbleu: float
    """Validation score of the weights that are kept, mean over directions."""
    spbleu_low: float
    spbleu_high: float
    kept_epoch: int
    """The epoch whose weights are kept: the best on validation, or the last where there is pruning. Epochs that were
    evaluated differently are not compared: the first one with more sentences, directions or beams is kept."""
    num_sentences: int
    num_directions: int
    """With `num_sentences`, `beams` and `epoch`: the fidelity of the scores."""
    signature: str
    worst_class_spbleu: float
    """The lowest, over the classes, of the mean spBLEU of the directions from or into a language of the class."""
    trainable_parameters: int
    nonzero_parameters: int
    train_loss: float | None
    updates: int
    train_seconds: float
    seconds: float
    """Seconds in updates and evaluation, over all resumes."""
    peak_memory_bytes: int
    """Of the worker's process on a CPU, of the device's allocations on a GPU."""
    chrf: float | None = None
    """chrF2, mean over directions. None where the search does not ask for it."""
    direction_spbleu: tuple[tuple[str, float], ...] | None = None
    """("en-fr", spBLEU) of each direction. None where no constraint asks for it."""
    beams: int = 1
    cut_share: float | None = None
    """The share of translations that ended by their longest length. None: not known, of an older version."""
    num_cut_sources: int = 0
    """Sources that were longer than the base or the space allows, and were cut."""
    note: str = ""
    """What was changed to get it through: "out of memory in epoch 2: accumulation 2 instead of 1 from there"."""
    epoch_spbleu: float | None = None
    """The score of the last epoch, which may be another than the kept one. None: not known, of an older version."""
    worker: str = ""
    """HOSTNAME/PID."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "direction_spbleu", _as_pairs(self.direction_spbleu))

    def is_scored_as(self, other: "TrialResult") -> bool:
        """Returns whether another one's scores are of the same sentences, and made in the same way."""
        same = ("num_sentences", "num_directions", "beams", "signature")
        return all(getattr(self, name) == getattr(other, name) for name in same)


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """A trial's scores on the test set."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    test_spbleu: float
    test_spbleu_low: float
    test_spbleu_high: float
    test_num_sentences: int
    test_num_directions: int
    test_num_zero_shot: int = 0
    """How many of the directions are not trained on."""
    test_zero_shot_spbleu: float | None = None
    """Mean over those directions. None: there are none."""
    test_cut_share: float | None = None
    test_num_cut_sources: int = 0
    test_note: str = ""
    """What was changed to get it through."""


@dataclass(frozen=True, kw_only=True)
class FinalResult:
    """A trial's scores on the validation part, as much of it and as `evaluation.final` says: by default all of it.

    The fields are called as the columns of results.parquet and the keys of the study are.
    """

    full_spbleu: float
    full_spbleu_low: float
    full_spbleu_high: float
    full_worst_class_spbleu: float
    full_chrf: float | None
    full_num_sentences: int
    full_num_directions: int
    full_direction_spbleu: tuple[tuple[str, float], ...] | None = None
    """As `TrialResult.direction_spbleu`."""
    full_cut_share: float | None = None
    full_num_cut_sources: int = 0
    full_note: str = ""
    """What was changed to get it through."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "full_direction_spbleu", _as_pairs(self.full_direction_spbleu))

    @classmethod
    def of(cls, result: TrialResult) -> "FinalResult":
        """Returns a trial's own scores, where they are those of `evaluation.final` too."""
        return cls(**{field.name: getattr(result, field.name.removeprefix("full_")) for field in fields(cls)})

    def instead_of(self, result: TrialResult) -> TrialResult:
        """Returns a result with these scores in the place of those while searching; its costs stay."""
        return replace(
            result,
            spbleu=self.full_spbleu,
            worst_class_spbleu=self.full_worst_class_spbleu,
            chrf=result.chrf if self.full_chrf is None else self.full_chrf,
            direction_spbleu=self.full_direction_spbleu,
        )


def _as_pairs(scores: Iterable[Sequence[Any]] | None) -> tuple[tuple[str, float], ...] | None:
    """Returns scores by direction as tuples, which JSON does not know."""
    return None if scores is None else tuple((str(direction), float(spbleu)) for direction, spbleu in scores)


_NAMES = tuple(field.name for field in fields(TrialResult))
_REQUIRED = tuple(field.name for field in fields(TrialResult) if field.default is MISSING)


def final_part(
    num_sentences: int | None,
    num_directions: int | None,
    all_sentences: int | None,
    all_directions: int | None,
    searched: tuple[int | None, int | None] = (None, None),
    beams: int | None = None,
) -> str:
    """Returns what final scores are of: "validation", or how much of it `evaluation.final` takes, and the beams.

    Args:
        num_sentences: How many sentences were scored. None: all, or not known.
        num_directions: How many directions, likewise.
        all_sentences: How many sentences the validation part has. None: not known, so that nothing tells them apart.
        all_directions: How many directions the experiment has, likewise.
        searched: How many sentences and directions the scores while searching are of, likewise. Of fewer: final ones
            are of "all of validation".
        beams: Of the final scores, where those while searching have others. None: nothing is said of them.
    """
    decoded = "" if beams is None else f", {beam_words(beams)}"
    sentences, directions = _share(num_sentences, all_sentences), _share(num_directions, all_directions)
    if sentences is None and directions is None:
        is_more = _share(searched[0], all_sentences) or _share(searched[1], all_directions)
        return f"{'all of ' if is_more else ''}validation{decoded}"
    return f"{sentences or 'all'} validation sentences in {directions or 'all'} directions{decoded}"


def _share(count: int | None, whole: int | None) -> str | None:
    """Returns "20 of 52", or None where it is all of them as far as is known."""
    return f"{count:,} of {whole:,}" if count is not None and whole is not None and count < whole else None


def beam_words(beams: int) -> str:
    """Returns how translations were searched: "greedy", or "beam 5"."""
    return "greedy" if beams == 1 else f"beam {beams}"


def kept_words(result: TrialResult) -> str:
    """Returns of which epoch a score is that stands beside the loss of another, later one."""
    if result.kept_epoch == result.epoch:
        return ""
    latest = "" if result.epoch_spbleu is None else f", this one {result.epoch_spbleu:.2f}"
    return f" kept from epoch {result.kept_epoch}{latest}"


CUT = "were cut"
"""In every warning of `cut_words`."""

CUT_WAY_OUT = (
    "Their longest lengths are `max_length_factor` (translations) and `max_length` (sources) of `evaluation.search` "
    "and `evaluation.final`."
)
"""What is said below such warnings."""

MAX_CUT_SHARE = 0.01
"""Above this share of cut translations a score says less about the model than about the limit."""


def cut_words(cut_share: float | None, num_cut_sources: int = 0, what: str = "") -> str:
    """Returns what to warn of where more than 1 % of translations were cut, or a source was; "" where not.

    Args:
        cut_share: The share of translations that ended by their longest length. None: not known.
        num_cut_sources: Sources that were cut.
        what: Which translations, such as "test".
    """
    of = f"{what} " if what else ""
    words = []
    if cut_share is not None and cut_share > MAX_CUT_SHARE:
        words.append(f"{100 * cut_share:.1f} % of the {of}translations {CUT} at their longest length")
    if num_cut_sources:
        words.append(f"{num_cut_sources:,} {of}sources {CUT}")
    return "; ".join(words)


def parse_result(result: Mapping[str, Any]) -> TrialResult | None:
    """Returns the trial's result in what Tune delivers, None if there is none."""
    if not all(name in result for name in _REQUIRED):
        return None
    return TrialResult(**{name: result[name] for name in _NAMES if name in result})
