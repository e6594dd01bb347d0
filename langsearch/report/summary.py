"""What an experiment found, in numbers and sentences: the front, its best member, and the baselines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from langsearch.report import wording
from langsearch.report.experiment_values import STATES, Experiment, Score, Split, State, Trial

DirectionScores = Mapping[tuple[str, str], float]
"""spBLEU by (src, tgt)."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The findings. A trial is None where there is none, or it has no score."""

    split: Split
    """What systems are compared on: test as soon as the best one was scored on it, else validation."""

    front: tuple[Trial, ...]
    baselines: tuple[Trial, ...]
    best: Trial | None
    smallest: Trial | None
    """The smallest member of the front that beats full fine-tuning on validation."""

    pretrained: Trial | None
    full_finetuning: Trial | None
    num_by_state: Mapping[State, int]
    """Searched trials that were trained, or share the result of one that was."""

    num_ended: int = 0
    """Of the trials that the search was asked for, which neither repeat others nor were tried again."""

    num_rejected: int = 0
    """Searched trials that were never trained, since their size violates a constraint."""

    is_tested: bool = False
    """Whether any system was scored on the test set, though perhaps not the best one of by now."""

    num_infeasible: int = 0
    """Searched trials that were trained and violate a constraint."""


def summarise(experiment: Experiment) -> Summary:
    """Finds the best and the smallest member by validation alone: the test set only tells how good they are.

    The best one by the scores of `evaluation.final`, where all members have them.
    """
    front = front_members(experiment)
    baselines = tuple(trial for trial in experiment.trials if trial.kind == "baseline")
    by_name = {trial.name: trial for trial in baselines if _selection(trial) is not None}
    full = by_name.get("full_finetuning")
    scored = [trial for trial in front if _selection(trial) is not None]
    searched = [trial for trial in experiment.trials if trial.kind == "searched"]
    best = max(scored, key=_selecting(scored), default=None)
    tested = [trial for trial in (*front, *baselines) if trial.test is not None]
    return Summary(
        # Of an experiment that goes on, the baselines and older members were tested before the best one is.
        split="test" if tested and (best is None or best in tested) else "validation",
        front=front,
        baselines=baselines,
        best=best,
        smallest=next((trial for trial in scored if full is not None and _beats(trial, full)), None),
        pretrained=by_name.get("pretrained"),
        full_finetuning=full,
        num_by_state={
            state: sum(trial.state == state for trial in searched if not trial.is_rejected) for state in STATES
        },
        num_ended=sum(trial.counts and trial.state != "running" for trial in searched),
        num_rejected=sum(trial.is_rejected for trial in searched),
        is_tested=bool(tested),
        num_infeasible=sum(
            not trial.is_rejected and (trial.is_feasible is False or (not front and trial.final is not None))
            for trial in searched
        ),
    )


def front_members(experiment: Experiment) -> tuple[Trial, ...]:
    """Returns the searched trials on the front, the smallest first.

    Where no trial is marked (an experiment that still runs), the front of the complete trials is found here; but not
    once candidates were scored again: then none of them was left.
    """
    searched = [trial for trial in experiment.trials if trial.kind == "searched"]
    marked = [trial for trial in searched if trial.is_front]
    is_known = bool(marked) or any(trial.final is not None for trial in searched)
    return tuple(sorted(marked if is_known else _non_dominated(searched), key=_size))


def gain(trial: Trial | None, other: Trial | None, split: Split) -> float | None:
    """Returns the difference of two trials' spBLEU on a split, None where one was not measured."""
    if trial is None or other is None:
        return None
    mine, theirs = trial.score(split), other.score(split)
    return None if mine is None or theirs is None else mine.spbleu - theirs.spbleu


def headline(summary: Summary) -> str:
    """Returns the finding in one sentence."""
    best, full = summary.best, summary.full_finetuning
    if best is None:
        num_failed, num = summary.num_by_state["failed"], sum(summary.num_by_state.values())
        if num and num_failed == num:
            return f"No trial finished: all {num} failed." if num > 1 else "The one trial failed."
        if summary.num_by_state["complete"] and summary.num_infeasible:
            return "No trial keeps all constraints, so nothing is on the front."
        if not num and summary.num_rejected:
            return "No trial was trained: all proposals so far are too large for the constraints."
        return "No trial has finished yet." if num else "No trial has started yet."
    reach = f"{wording.spbleu(_value(best.score(summary.split)))} spBLEU"
    share = f"{wording.percent(best.trainable_percent)} % of the parameters"
    size = "adapters alone" if best.trainable_percent is None else share
    change = gain(best, full, summary.split)
    if change is None:
        return f"The best adapters reach {reach}, training {size}."
    paired = best.test_to_full if summary.split == "test" else None
    if paired is not None and paired.low <= 0 <= paired.high:
        interval = wording.paired_interval(paired.low, paired.high)
        return (
            f"The best adapters cannot be told from full fine-tuning ({wording.difference(change)} spBLEU, 95 % "
            f"{interval}), training {size}."
        )
    if change > 0:
        return f"The best adapters beat full fine-tuning by {change:.2f} spBLEU, training {size}."
    return f"The best adapters come within {-change:.2f} spBLEU of full fine-tuning, training {size}."


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
        return (*infeasible, states)
    split = summary.split
    lines = [
        f"The best member of the front is trial {best.name}: {_scored(best.score(split))} on {split}, with "
        f"{_size_phrase(best)}. {_chosen(experiment, best)}"
        if split == "test"
        else f"The best member of the front is trial {best.name}: {_scored(best.score(split))} on validation, "
        f"with {_size_phrase(best)}. {untested(summary)}."
    ]
    for other, words in ((full, "full fine-tuning"), (summary.pretrained, "the pretrained base")):
        if other is None:
            lines.append(f"There is no score of {words} to compare with.")
        else:
            lines.append(_comparison(best, other, words, split, scores))
    if full is not None:
        lines.append(_smallest_sentence(summary.smallest, full, split))
    return (*lines, *infeasible, states)


def untested(summary: Summary) -> str:
    """Returns what of the test set is missing where the scores are not of it."""
    if summary.is_tested and summary.best is not None:
        return f"Trial {summary.best.name} has not been scored on the test set yet, others have"
    return "Nothing has been scored on a test set"


def _chosen(experiment: Experiment, best: Trial) -> str:
    if best.final is None:
        return f"It was chosen by its validation score, {_scored(best.validation)}."
    return (
        f"It was chosen by its score on {wording.split_words('full', experiment, best.final)}, {_scored(best.final)}; "
        f"while searching it had {_scored(best.validation)}."
    )


def _comparison(best: Trial, other: Trial, words: str, split: Split, scores: Mapping[str, DirectionScores]) -> str:
    mine, theirs = best.score(split), other.score(split)
    if mine is None or theirs is None:
        missing = [f"trial {best.name}"] * (mine is None) + [words] * (theirs is None)
        return f"There is no {split} score of {' and of '.join(missing)} to compare with."
    text = f"Against {words}, {_scored(theirs)}, that is {wording.difference(mine.spbleu - theirs.spbleu)} spBLEU"
    paired = {"pretrained": best.test_to_pretrained, "full_finetuning": best.test_to_full}.get(other.name)
    if split == "test" and paired is not None:
        text += f" (95 % interval {wording.paired_interval(paired.low, paired.high)}, paired bootstrap)"
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
    if score.low is None or score.high is None:
        return f"{wording.spbleu(score.spbleu)} spBLEU (no interval)"
    return f"{wording.spbleu(score.spbleu)} spBLEU (95 % interval {wording.interval(score)})"


def _size_phrase(trial: Trial) -> str:
    if trial.trainable_parameters is None:
        return "an unknown number of trainable parameters"
    text = f"{wording.parameters(trial.trainable_parameters)} trainable parameters"
    if trial.trainable_percent is not None:
        text += f" ({wording.percent(trial.trainable_percent)} % of the base)"
    return text


def _selection(trial: Trial) -> float | None:
    """The score that may choose: validation; test only for rows that have nothing else (written by other tools)."""
    return _value(trial.validation or trial.test)


def _selecting(members: Sequence[Trial]) -> Callable[[Trial], float]:
    if members and all(trial.final is not None for trial in members):
        return lambda trial: _value(trial.final) or 0.0
    return lambda trial: _selection(trial) or 0.0


def _beats(trial: Trial, other: Trial) -> bool:
    mine, theirs = (trial.validation, other.validation) if other.validation else (trial.test, other.test)
    return mine is not None and theirs is not None and mine.spbleu > theirs.spbleu


def _non_dominated(trials: list[Trial]) -> list[Trial]:
    complete = [trial for trial in trials if _may_be_member(trial)]
    members: list[Trial] = []
    for trial in sorted(complete, key=lambda trial: (_size(trial), -(_value(trial.validation) or 0.0))):
        if not members or (_value(trial.validation) or 0.0) > (_value(members[-1].validation) or 0.0):
            members.append(trial)
    return members


def _may_be_member(trial: Trial) -> bool:
    return trial.state == "complete" and trial.validation is not None and trial.is_feasible is not False


def _size(trial: Trial) -> float:
    return float("inf") if trial.trainable_parameters is None else trial.trainable_parameters


def _value(score: Score | None) -> float | None:
    return None if score is None else score.spbleu
