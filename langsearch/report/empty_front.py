"""Why nothing is on the front, in sentences: what comes nearest, what it misses, and what would admit it."""

import shlex

from langsearch.report import wording
from langsearch.report.experiment_values import Experiment, Trial
from langsearch.report.quoted_commands import from_here, resume_command
from langsearch.report.summary import Summary
from langsearch.study.constraints import LOSS
from langsearch.study.nearest import Nearest, Standing, find_nearest


def empty_front_sentences(experiment: Experiment, summary: Summary) -> tuple[str, ...]:
    """Returns why there is no trial on the front and what can be done; none where constraints are not the reason."""
    judged = [trial for trial in experiment.trials if _is_judged(trial)]
    nearest = None if summary.front else _find_nearest(judged)
    if nearest is None:
        return ()
    return (nearest.words, _counts(judged), *_ways_out(experiment, nearest, judged))


def _is_judged(trial: Trial) -> bool:
    is_own = trial.kind == "searched" and trial.same_as is None
    return is_own and bool(trial.violations) and (trial.state == "complete" or trial.is_rejected)


def _find_nearest(judged: list[Trial]) -> Nearest | None:
    return find_nearest(
        Standing(
            name=trial.name,
            violations=trial.violations,
            spbleu=None if trial.validation is None else trial.validation.spbleu,
            trainable_parameters=trial.trainable_parameters,
        )
        for trial in judged
    )


def _counts(judged: list[Trial]) -> str:
    texts = dict.fromkeys(text for trial in judged for text in trial.violations)
    missed = {text: sum(trial.violations.get(text, 0) > 0 for trial in judged) for text in texts}
    parts = [f"`{text}` by {num:,}" for text, num in missed.items() if num]
    return f"Of {wording.counted(len(judged), 'trial')}, constraints are violated as follows: {', '.join(parts)}."


def _is_score(metric: str) -> bool:
    """Returns whether a metric is one that `evaluation.final` measures again."""
    return metric in ("spbleu", "worst_class_spbleu", "chrf") or metric.startswith(LOSS)


def _ways_out(experiment: Experiment, nearest: Nearest, judged: list[Trial]) -> list[str]:
    admitting = {str(miss.constraint): miss.admitting for miss in nearest.misses}
    number = int(nearest.name) if nearest.name.isdecimal() else nearest.name
    trial = next(trial for trial in judged if trial.name == nearest.name)
    is_trained = trial.validation is not None
    lines = []
    if None in admitting.values():
        lines.append("More of `evaluation.search.directions` would measure what is unknown.")
    elif not experiment.is_training:
        # Constraints that are kept stay as they are.
        bounds = [admitting.get(text) or text for text in experiment.constraints]
        option = f"search.constraints=[{', '.join(bounds)}]"
        command = resume_command(experiment, "--accept-changed-space", "--set", option)
        named = " and ".join(f"`{text}`" for text in admitting.values())
        what = "admit it" if is_trained else "have it trained"
        again = trial.final is None and any(_is_score(miss.constraint.metric) for miss in nearest.misses)
        room = (
            " By `evaluation.final` it is scored once more, and must keep that too: leave some room." if again else ""
        )
        lines.append(f"{named} would {what}: `{command}`.{room}")
    if is_trained:
        place = shlex.quote(str(from_here(experiment.folder.resolve())))
        lines.append(f"It can be exported all the same: `langsearch export {place} --trial {number} --to DIR`.")
    return lines
