"""What to run next, in sentences, from what a search has found."""

from collections.abc import Mapping, Sequence

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from langsearch.report import verdicts, wording
from langsearch.report.experiment_values import CurvePoint, Experiment, Trial
from langsearch.report.importance import Importance
from langsearch.report.quoted_commands import resume_command
from langsearch.report.sentences import untested
from langsearch.report.summary import Summary, is_losing

NUM_SETTINGS = 3

MAX_EDGES = 4

_MOST = 0.8
"""The share of the importance that leaves little for the other settings."""

_OPEN_ENDED = ("rank", "trainer.")

_LEAST_RISE = 0.05
"""spBLEU that are worth another epoch."""

_LATE = 0.8
"""A trial that joined the front after this share of all trials came late."""


_LOSING = (
    "Nothing beat the pretrained base, so that a wider range of ranks is not what is missing. Likely causes, the "
    "likeliest first: `trainer.lr` is too high (search it from a tenth of its low end), `trainer.epochs` too few or "
    "`trainer.pairs_per_epoch` too small, or there is too little text in `data.train`.",
    "A base that has seen the text of `data.train` or of the test set cannot gain by it: try text that is newer than "
    "the base. `trainer.label_smoothing` changes what is learned where a base was trained without it: try 0.",
)
"""What to look at where no adapters gained anything."""


def next_sentences(
    experiment: Experiment,
    summary: Summary,
    dimensions: Mapping[str, BaseDistribution],
    found: Sequence[Importance],
    curves: Mapping[str, Sequence[CurvePoint]],
) -> tuple[str, ...]:
    """Returns what the results speak for running next; every sentence gives its reason."""
    lines = []
    best = summary.best
    if num := summary.num_by_state["running"]:
        lines.append(f"{wording.counted(num, 'trial')} had not ended: `{resume_command(experiment)}` goes on.")
    if num := sum(trial.state == "failed" and trial.retried_as is None for trial in experiment.trials):
        command = resume_command(experiment, "--retry", "failed")
        lines.append(f"{wording.counted(num, 'trial')} failed: once the cause is mended, `{command}`.")
    if best is None:
        return tuple(lines)
    lines += _LOSING if is_losing(summary) else _edges(best, dimensions)
    if (late := _rise(best, curves.get(best.name, ()))) is not None:
        lines.append(f"Trial {best.name} still gained {late:.2f} spBLEU in its last epoch: raise `trainer.epochs`.")
    searched = [trial.name for trial in experiment.trials if trial.kind == "searched" and not trial.is_rejected]
    joined = max((searched.index(trial.name) for trial in summary.front), default=0) + 1
    if len(searched) >= 10 and joined > _LATE * len(searched):
        more = resume_command(experiment, num_trials=summary.num_ended * 3 // 2)
        lines.append(f"The front was still moving: trial {joined} of {len(searched)} joined it. More trials: `{more}`.")
    elif len(searched) >= 10:
        lines.append(
            f"The last trial to join the front was number {joined} of {len(searched)}: more trials of this space "
            "promise little."
        )
    lines += [_importance_sentence(entry) for entry in found if entry.values]
    paired = best.differences.get("full_finetuning")
    full = summary.full_finetuning
    if paired is not None and (missing := verdicts.caution(paired, best.test, None if full is None else full.test)):
        may = "is more than chance on these sentences, but" if verdicts.is_sure(paired) else "may be chance:"
        lines.append(f"The difference to full fine-tuning ({verdicts.evidence(paired)}) {may} {missing}.")
    if summary.split != "test":
        chosen = wording.chosen(experiment)
        lines.append(f"{untested(summary)}: the scores here chose {chosen}, so they flatter it.")
    return tuple(lines)


def _importance_sentence(entry: Importance) -> str:
    first = entry.values[:NUM_SETTINGS]
    names = ", ".join(f"`{name}` {100 * share:.0f} %" for name, share in first)
    objective = entry.objective.replace("_", " ")
    text = f"Of the importance for {objective}, these settings have most: {names}."
    if len(entry.values) > NUM_SETTINGS and sum(share for _, share in first) >= _MOST:
        text += " The others matter little there: fixing them would make the space smaller."
    return text


def _edges(best: Trial, dimensions: Mapping[str, BaseDistribution]) -> list[str]:
    lines = []
    for name, distribution in dimensions.items():
        value = best.params.get(name)
        # Layers and modules end where the base does.
        if not name.startswith(_OPEN_ENDED) or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        bounds = _bounds(distribution)
        if bounds is None or bounds[0] == bounds[1] or value not in bounds or value == 0:
            continue
        which = "largest" if value == bounds[1] else "smallest"
        lines.append(f"`{name}` of trial {best.name} is {value:g}, the {which} that was searched: widen its range.")
    if len(lines) > MAX_EDGES:
        names = ", ".join(line.split(" of trial", 1)[0] for line in lines)
        return [f"The best trial lies at an end of these ranges, which could be widened: {names}."]
    return lines


def _bounds(distribution: BaseDistribution) -> tuple[float, float] | None:
    """Returns the ends of a range that could be widened."""
    if isinstance(distribution, IntDistribution | FloatDistribution):
        return distribution.low, distribution.high
    if isinstance(distribution, CategoricalDistribution):
        numbers = [value for value in distribution.choices if isinstance(value, int | float)]
        if len(numbers) == len(distribution.choices) > 1 and not any(isinstance(value, bool) for value in numbers):
            return min(numbers), max(numbers)
    return None


def _rise(best: Trial, curve: Sequence[CurvePoint]) -> float | None:
    """Returns what the last epoch brought, None where it was not the best one, or noise may have brought it.

    The half-width of the interval of a difference is sqrt(2 (1 - r)) of that of a score, where r is how far two scores
    go along when sentences are drawn anew. Half of it is that of r = 7/8: two trained systems on the same sentences
    have about 0.9 (the README's quickstart: 0.92), and two epochs of one trial no less.
    """
    scores = [point.spbleu for point in curve if point.spbleu is not None]
    if len(scores) < 2 or best.epochs != best.max_epochs or scores[-1] < max(scores):
        return None
    change = scores[-1] - scores[-2]
    score = best.validation
    noise = 0.0 if score is None or score.low is None or score.high is None else (score.high - score.low) / 4
    return change if change >= max(_LEAST_RISE, noise) else None
