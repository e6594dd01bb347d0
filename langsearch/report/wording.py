"""Numbers and names as people read them, the same in the terminal and on the page."""

import math
from decimal import ROUND_HALF_UP, Decimal

from langsearch.report.experiment_values import Experiment, Score, Split, Trial
from langsearch.study.results import beam_words, final_part

MISSING = "–"

_BASELINES = {
    "pretrained": "pretrained",
    "full_finetuning": "full fine-tuning",
    "shared_lora": "shared LoRA",
    "published": "published",
}


def trial_label(trial: Trial) -> str:
    """Returns a baseline's name in words, or a searched trial's number as its folder has it."""
    return baseline_label(trial.name) if trial.kind == "baseline" else trial.name


def baseline_label(name: str) -> str:
    """Returns a baseline's name in words."""
    return _BASELINES.get(name, name)


def metric_label(experiment: Experiment) -> str:
    """Returns "spBLEU", with the tokenizer where it is a stand-in: such scores compare only among themselves."""
    if experiment.is_stand_in:
        return f"spBLEU (stand-in tokenizer {experiment.tokenizer or 'of unknown name'})"
    return "spBLEU"


def split_words(split: Split, experiment: Experiment, score: Score | None = None) -> str:
    """Returns what scores of a split are of, with the beams where the experiment has scores by several.

    Args:
        split: The split.
        experiment: Its size tells whether final scores are of all of validation.
        score: Of a trial. None: any of the experiment's on the split; all are of one size.
    """
    searched, final = beams_of(experiment)
    if split != "full":
        beams = searched if split == "validation" else final
        return split if beams is None else f"{split}, {beam_words(beams)}"
    if score is None:
        score = next((trial.final for trial in experiment.trials if trial.final is not None), None)
    sizes = (None, None) if score is None else (score.num_sentences, score.num_directions)
    first = next((trial.validation for trial in experiment.trials if trial.validation and trial.final), None)
    before = (None, None) if first is None else (first.num_sentences, first.num_directions)
    whole = experiment.num_validation_sentences, len(experiment.directions) or None
    return final_part(*sizes, *whole, before, final)


def beams_of(experiment: Experiment) -> tuple[int | None, int | None]:
    """Returns the beams while searching and those of the final scores; (None, None) where they are the same.

    Also where they are not known, or earlier rungs' scores have others than later ones.
    """
    found = {trial.beams for trial in experiment.trials if trial.beams is not None and trial.state == "complete"}
    if len(found) != 1 or experiment.final_beams is None or found == {experiment.final_beams}:
        return None, None
    return found.pop(), experiment.final_beams


def is_scored_alike(experiment: Experiment, trial: Trial) -> bool:
    """Returns whether a trial's final score is the one that it has from the search: of as much, by as many beams."""
    return trial.final == trial.validation and beams_of(experiment) == (None, None)


def sample_size(experiment: Experiment, score: Score | None, split: Split) -> str:
    """Returns "test, 104 sentences, 56 directions", as far as it is known."""
    parts = [split_words(split, experiment, score)]
    if score is not None and score.num_sentences is not None:
        parts.append(f"{score.num_sentences:,} sentences")
    if score is not None and score.num_directions is not None:
        parts.append(f"{score.num_directions:,} directions{of_zero_shot(experiment, score.num_directions)}")
    return ", ".join(parts)


def of_zero_shot(experiment: Experiment, num_directions: int) -> str:
    """Returns " (12 zero-shot)" of as many directions as the experiment has, "" where there are none.

    Of a sample of them it says only that some may be: which ones were drawn stands in each trial's scores.
    """
    if not experiment.zero_shot:
        return ""
    if num_directions < len(experiment.directions):
        return f" (of {len(experiment.directions):,}, {len(experiment.zero_shot):,} of those zero-shot)"
    return f" ({len(experiment.zero_shot):,} zero-shot)"


def spbleu(value: float | None) -> str:
    """Returns a score with two digits."""
    return MISSING if value is None else f"{value:.2f}"


def for_script(value: float | None, digits: int = 4) -> float | None:
    """Returns a number in few digits for the page's script, which writes it with one or two as `spbleu` does.

    20.244978 is 20.24, but rounded to 20.2450 first it would read 20.25.
    """
    if value is None or not math.isfinite(value):
        return value
    for short in (round(value, digits), value):
        if all(f"{value:.{shown}f}" == _in_script(short, shown) for shown in (1, 2)):
            return short
    return math.nextafter(value, 0)  # a tie such as 0.125, which Python rounds to even, and JavaScript up


def _in_script(value: float, digits: int) -> str:
    """Returns what JavaScript's `toFixed` gives."""
    return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def interval(score: Score | None) -> str:
    """Returns "13.90–14.75"."""
    if score is None or score.low is None or score.high is None:
        return MISSING
    return f"{score.low:.2f}–{score.high:.2f}"


def over_seeds(score: Score | None, lead: str = "") -> str:
    """Returns "3 seeds, sd 0.12" behind a lead of a score that is a mean over several, else ""."""
    if score is None or score.num_seeds < 2:
        return ""
    deviation = "" if score.seeds_sd is None else f", sd {score.seeds_sd:.2f}"
    return f"{lead}{score.num_seeds} seeds{deviation}"


def paired_interval(low: float, high: float) -> str:
    """Returns the interval of a difference, both ends with their signs."""
    return f"{difference(low)} to {difference(high)}"


def difference(value: float | None) -> str:
    """Returns a difference of scores with its sign."""
    if value is None:
        return MISSING
    return "0.00" if abs(value) < 0.005 else f"{value:+.2f}".replace("-", "−")


def parameters(count: int | None) -> str:
    """Returns a parameter count with three digits: 15.3M."""
    if count is None:
        return MISSING
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        # 999,950 would otherwise read 1000k.
        if count >= size * 0.9995:
            value = count / size
            return (
                f"{value:.0f}{unit}"
                if value >= 99.95
                else f"{value:.1f}{unit}"
                if value >= 9.995
                else f"{value:.2f}{unit}"
            )
    return str(count)


def percent(value: float | None) -> str:
    """Returns a percentage with about three digits, without the sign."""
    if value is None:
        return MISSING
    if value == 0 or value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}" if value >= 0.01 else f"{value:.1g}"


def duration(seconds: float | None) -> str:
    """Returns "2 h 05 min", "3 min 20 s" or "4.2 s"."""
    if seconds is None:
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def memory(num_bytes: int | None) -> str:
    """Returns a size in binary units."""
    if num_bytes is None:
        return MISSING
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"


def chosen(experiment: Experiment) -> str:
    """Returns what validation has chosen, so that its scores flatter that."""
    return "the epoch that is kept" if experiment.is_training else "the front"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Returns "1 trial", "2 trials"; another plural where the noun has one."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {plural or noun + 's'}"
