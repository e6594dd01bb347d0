"""What an experiment found, in numbers: the front, its best member, and the baselines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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
    """Returns the difference of two trials' spBLEU on a split, None where one was not measured, or on other sentences.

    A trial that was stopped at a rung may have been scored on fewer there than `evaluation.search` says.
    """
    if trial is None or other is None:
        return None
    mine, theirs = trial.score(split), other.score(split)
    if mine is None or theirs is None:
        return None
    are_alike = (mine.num_sentences, mine.num_directions) == (theirs.num_sentences, theirs.num_directions)
    if not are_alike or (split == "validation" and trial.beams != other.beams):
        return None
    return mine.spbleu - theirs.spbleu


def is_losing(summary: Summary) -> bool:
    """Returns whether the best adapters are no better than the pretrained base, as far as both were scored."""
    over_base = gain(summary.best, summary.pretrained, summary.split)
    return over_base is not None and over_base <= 0


def has_seeds(summary: Summary) -> bool:
    """Returns whether any of the scores that are compared is a mean over several seeds."""
    shown = (*summary.front, *summary.baselines)
    return any(score.num_seeds > 1 for trial in shown if (score := trial.score(summary.split)) is not None)


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
