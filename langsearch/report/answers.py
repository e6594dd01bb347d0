"""Which languages need how much and where, and what to run next, in sentences."""

from collections.abc import Mapping, Sequence

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from langsearch.report import wording
from langsearch.report.commands import resume_command
from langsearch.report.experiment_values import CurvePoint, Experiment, Trial
from langsearch.report.importance import Importance
from langsearch.report.matrices import ordered_languages
from langsearch.report.summary import DirectionScores, Summary, untested
from langsearch.space.architecture import Architecture

NUM_LANGUAGES = 3
NUM_SETTINGS = 3
MAX_EDGES = 4
_MOST = 0.8
"""The share of the importance that leaves little for the other settings."""

_OPEN_ENDED = ("rank", "trainer.")
_LEAST_RISE = 0.05
"""spBLEU that are worth another epoch."""

_LATE = 0.8
"""A trial that joined the front after this share of all trials came late."""


def demand_sentences(
    experiment: Experiment, summary: Summary, architecture: Architecture | None, scores: Mapping[str, DirectionScores]
) -> tuple[str, ...]:
    """Returns what the best member's adapters look like by class and place, and which languages gain most."""
    if summary.best is None:
        return ()
    lines = []
    if architecture is not None and architecture.adapters:
        lines.append(_rank_sentence(experiment, summary.best, architecture))
        lines.append(_place_sentence(architecture))
    for other, words in ((summary.full_finetuning, "full fine-tuning"), (summary.pretrained, "the pretrained base")):
        gains = {} if other is None else language_gains(scores.get(summary.best.name, {}), scores.get(other.name, {}))
        if len(gains) > 1:
            lines.append(_gain_sentence(gains, words))
    return tuple(lines)


def language_gains(mine: DirectionScores, theirs: DirectionScores) -> dict[str, float]:
    """Returns the mean difference over the directions from or into each language that both were scored on."""
    sums: dict[str, list[float]] = {}
    for direction, score in mine.items():
        if direction in theirs:
            for language in direction:
                sums.setdefault(language, []).append(score - theirs[direction])
    return {language: sum(values) / len(values) for language, values in sums.items()}


def _rank_sentence(experiment: Experiment, best: Trial, architecture: Architecture) -> str:
    ranks = mean_ranks(architecture)
    parts = []
    for name, members in experiment.classes.items():
        if known := [ranks[code] for code in members if code in ranks]:
            parts.append(f"{name} {sum(known) / len(known):.3g}")
    if not parts:
        order = [code for code in ordered_languages(experiment) if code in ranks][: 2 * NUM_LANGUAGES]
        parts = [f"{code} {ranks[code]:.3g}" for code in order]
    return f"Ranks of trial {best.name}, mean over its adapted places: {', '.join(parts)}."


def mean_ranks(architecture: Architecture) -> dict[str, float]:
    """Returns the mean rank of each language over all adapted sites; 0 counts where it has none."""
    num = len(architecture.adapters)
    sums = dict.fromkeys((language for language, _ in architecture.slots), 0)
    for entry in architecture.adapters:
        ranks = dict(entry.ranks)
        for language, slot in architecture.slots:
            sums[language] += ranks.get(slot, 0)
    return {language: total / num for language, total in sums.items()}


def _place_sentence(architecture: Architecture) -> str:
    parts = []
    for stack in ("encoder", "decoder"):
        by_side: dict[str, set[int]] = {}
        for entry in architecture.adapters:
            if entry.site.stack == stack:
                by_side.setdefault(entry.side, set()).add(entry.site.layer)
        words = [
            f"layers {_spans(by_side[side])} by the {name} language"
            for side, name in (("src", "source"), ("tgt", "target"))
            if side in by_side
        ]
        parts.append(f"{stack} {' and '.join(words)}" if words else f"nothing in the {stack}")
    return f"Where: {'; '.join(parts)}."


def _spans(layers: set[int]) -> str:
    """Returns "0–3, 5"."""
    spans: list[list[int]] = []
    for layer in sorted(layers):
        if spans and spans[-1][1] == layer - 1:
            spans[-1][1] = layer
        else:
            spans.append([layer, layer])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in spans)


def _gain_sentence(gains: Mapping[str, float], words: str) -> str:
    order = sorted(gains, key=lambda language: -gains[language])
    num = min(NUM_LANGUAGES, len(order) // 2)
    most, least = (
        ", ".join(f"{code} {wording.difference(gains[code])}" for code in codes)
        for codes in (order[:num], order[::-1][:num])
    )
    return (
        f"Against {words}, these languages gain most (mean over the directions from and into each): {most}; "
        f"these least: {least}."
    )


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
    lines += _edges(best, dimensions)
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
    paired = best.test_to_full
    if paired is not None and paired.low <= 0 <= paired.high:
        interval = wording.paired_interval(paired.low, paired.high)
        lines.append(
            f"The difference to full fine-tuning may be chance (95 % interval {interval}): score more test sentences, "
            "or train both with other seeds."
        )
    if summary.split != "test":
        lines.append(f"{untested(summary)}: the scores here chose the front, so they flatter it.")
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
