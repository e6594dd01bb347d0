"""The sentences of the report: the finding, comparisons, which languages need how much and where, what to run next.

How a number or an interval is written is in `wording`.
"""

from collections.abc import Mapping

from langsearch.report import verdicts, wording
from langsearch.report.empty_front import empty_front_sentences
from langsearch.report.experiment_values import Experiment, PairedDifference, Score, Split, Trial
from langsearch.report.matrices import ordered_languages
from langsearch.report.summary import DirectionScores, Summary, gain, is_losing
from langsearch.space.architecture import Architecture
from langsearch.study.results import beam_words

NUM_LANGUAGES = 3


def headline(summary: Summary) -> str:
    """Returns the finding in one sentence."""
    best, full = summary.best, summary.full_finetuning
    best_score = None if best is None else best.score(summary.split)
    if best is None:
        num_failed, num = summary.num_by_state["failed"], sum(summary.num_by_state.values())
        if num and num_failed == num:
            return f"No trial finished: all {num} failed." if num > 1 else "The one trial failed."
        if summary.num_by_state["complete"] and summary.num_infeasible:
            return "No trial keeps all constraints, so nothing is on the front."
        if not num and summary.num_rejected:
            return "No trial was trained: all proposals so far are too large for the constraints."
        return "No trial has finished yet." if num else "No trial has started yet."
    reach = f"{wording.spbleu(best_score.spbleu if best_score else None)} spBLEU"
    share = f"{wording.percent(best.trainable_percent)} % of the parameters"
    size = "adapters alone" if best.trainable_percent is None else share
    change = gain(best, full, summary.split)
    over_base = gain(best, summary.pretrained, summary.split)
    if over_base is not None and is_losing(summary):
        less = f"{wording.difference(over_base)} to it" if over_base else "as much as it"
        return f"No adapters beat the pretrained base: the best reach {reach}, {less}, training {size}."
    if change is None:
        return f"The best adapters reach {reach}, training {size}."
    paired = best.differences.get("full_finetuning") if summary.split == "test" else None
    return f"The best adapters {_against_full(change, paired, best_score, full, size)}."


def _against_full(
    change: float, paired: PairedDifference | None, mine: Score | None, full: Trial | None, size: str
) -> str:
    """Returns what the best adapters do against full fine-tuning, no more than is known of it."""
    theirs = None if full is None else full.test
    more = f"score {change:.2f} spBLEU more than" if change > 0 else f"come within {-change:.2f} spBLEU of"
    if paired is None:
        return f"{more} full fine-tuning, training {size}"
    if not verdicts.is_sure(paired):
        found = f"{wording.difference(change)} spBLEU, {verdicts.evidence(paired)}"
        return f"cannot be told from full fine-tuning ({found}), training {size}"
    if verdicts.beats(paired):
        return f"beat full fine-tuning by {change:.2f} spBLEU ({verdicts.evidence(paired)}), training {size}"
    text = f"{more} full fine-tuning ({verdicts.evidence(paired)}), training {size}"
    if verdicts.is_over_seeds(paired):
        return text
    return f"{text}; that is of these trainings alone: {verdicts.caution(paired, mine, theirs)}"


def sentences(experiment: Experiment, summary: Summary, scores: Mapping[str, DirectionScores]) -> tuple[str, ...]:
    """Returns the findings as sentences, every number with its interval.

    Args:
        experiment: The experiment.
        summary: What `summarise` found.
        scores: Direction scores on `summary.split` by trial name, where they are known.
    """
    states = _states_sentence(summary)
    best, full = summary.best, summary.full_finetuning
    infeasible = []
    if summary.num_infeasible:
        num = wording.counted(summary.num_infeasible, "trial")
        infeasible = [f"{num} violated a constraint, and so cannot be on the front."]
    if best is None:
        return (*(empty_front_sentences(experiment, summary) or infeasible), states)
    split = summary.split
    lines = [
        f"The best member of the front is trial {best.name}: {_scored(best.score(split))} on {split}, with "
        f"{_size_phrase(best)}. {_chosen(experiment, best)}"
        if split == "test"
        else f"{_what(experiment, best)}: {_scored(best.score(split))} on validation, with {_size_phrase(best)}. "
        f"{untested(summary)}."
    ]
    for other, words in ((full, "full fine-tuning"), (summary.pretrained, "the pretrained base")):
        if other is None:
            lines.append(f"There is no score of {words} to compare with.")
        else:
            lines.append(_comparison(best, other, words, split, scores))
    others = [trial for trial in summary.baselines if trial.name not in ("full_finetuning", "pretrained")]
    lines += [
        _comparison(best, other, wording.trial_label(other), split, scores)
        for other in others
        if split == "test" and other.name in best.differences
    ]
    if full is not None:
        lines.append(_smallest_sentence(summary.smallest, full, split))
    return (*lines, *infeasible, states)


def _what(experiment: Experiment, best: Trial) -> str:
    return "The training" if experiment.is_training else f"The best member of the front is trial {best.name}"


def untested(summary: Summary) -> str:
    """Returns what of the test set is missing where the scores are not of it."""
    if summary.is_tested and summary.best is not None:
        return f"Trial {summary.best.name} has not been scored on the test set yet, others have"
    return "Nothing has been scored on a test set"


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
                by_side.setdefault(architecture.shown_side(entry), set()).add(entry.site.layer)
        words = [
            f"{'layer' if len(by_side[side]) == 1 else 'layers'} {_spans(by_side[side])} by the {name}"
            for side, name in (
                ("src", "source language"),
                ("tgt", "target language"),
                ("both", "source and the target"),
            )
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
    gaining = [code for code in order[:num] if gains[code] > 0]
    most, least = (
        ", ".join(f"{code} {wording.difference(gains[code])}" for code in codes)
        for codes in (gaining or order[:num], order[::-1][:num])
    )
    gain_or_lose = "gain most" if gaining else "lose least"
    worse = "lose most" if any(gains[code] < 0 for code in order[::-1][:num]) else "gain least"
    return (
        f"Against {words}, these languages {gain_or_lose} (mean over the directions from and into each): {most}; "
        f"these {worse}: {least}."
    )


def _chosen(experiment: Experiment, best: Trial) -> str:
    if best.final is None:
        return f"It was chosen by its validation score, {_scored(best.validation)}."
    return (
        f"It was chosen by its score on {wording.split_words('full', experiment, best.final)}, {_scored(best.final)}; "
        f"while searching{_beams(experiment)} it had {_scored(best.validation)}."
    )


def _beams(experiment: Experiment) -> str:
    """Returns ", greedy," where final scores have other beams than those while searching."""
    searched, _ = wording.beams_of(experiment)
    return "" if searched is None else f", {beam_words(searched)},"


def _comparison(best: Trial, other: Trial, words: str, split: Split, scores: Mapping[str, DirectionScores]) -> str:
    mine, theirs = best.score(split), other.score(split)
    if mine is None or theirs is None:
        missing = [f"trial {best.name}"] * (mine is None) + [words] * (theirs is None)
        return f"There is no {split} score of {' and of '.join(missing)} to compare with."
    text = f"Against {words}, {_scored(theirs)}, that is {wording.difference(mine.spbleu - theirs.spbleu)} spBLEU"
    paired = best.differences.get(other.name)
    if split == "test" and paired is not None:
        text += f" ({verdicts.evidence(paired)})"
    elif mine.low is not None and mine.high is not None and theirs.low is not None and theirs.high is not None:
        overlap = mine.low <= theirs.high and theirs.low <= mine.high
        text += f"; the two intervals {'overlap' if overlap else 'do not overlap'}"
    ours, others = scores.get(best.name, {}), scores.get(other.name, {})
    if common := [direction for direction in ours if direction in others]:
        better = sum(ours[direction] > others[direction] for direction in common)
        text += f". It is better in {better:,} of {wording.counted(len(common), 'direction')}"
    return f"{text}."


def _smallest_sentence(smallest: Trial | None, full: Trial, split: Split) -> str:
    if smallest is None:
        return "No member of the front beats full fine-tuning on validation."
    size = _size_phrase(smallest)
    text = f"The smallest member that beats full fine-tuning on validation is trial {smallest.name}, with {size}"
    change = gain(smallest, full, split)
    if split == "test" and change is not None:
        text += f"; on test it has {_scored(smallest.score(split))}, {wording.difference(change)}"
    return f"{text}."


def _states_sentence(summary: Summary) -> str:
    num_by_state = summary.num_by_state
    num, rejected = sum(num_by_state.values()), ""
    if summary.num_rejected:
        were = "1 proposal was" if summary.num_rejected == 1 else f"{summary.num_rejected:,} proposals were"
        rejected = f" {were} never trained: too large for the constraints."
    if not num:
        return f"There are no searched trials.{rejected}"
    parts = [f"{num_by_state['complete']:,} complete", f"{num_by_state['pruned']:,} stopped early (pruned)"]
    parts.append(f"{num_by_state['failed']:,} failed")
    if num_by_state["running"]:
        parts.append(f"{num_by_state['running']:,} still running")
    return f"{wording.counted(num, 'trial')}: {', '.join(parts[:-1])} and {parts[-1]}.{rejected}"


def _scored(score: Score | None) -> str:
    if score is None:
        return "not known"
    over = wording.over_seeds(score, ", mean over ")
    if score.low is None or score.high is None:
        return f"{wording.spbleu(score.spbleu)} spBLEU (no interval{over})"
    return f"{wording.spbleu(score.spbleu)} spBLEU (95 % interval {wording.interval(score)}{over})"


def _size_phrase(trial: Trial) -> str:
    if trial.trainable_parameters is None:
        return "an unknown number of trainable parameters"
    text = f"{wording.parameters(trial.trainable_parameters)} trainable parameters"
    if trial.trainable_percent is not None:
        text += f" ({wording.percent(trial.trainable_percent)} % of the base)"
    return text
