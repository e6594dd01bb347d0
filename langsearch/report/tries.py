"""What the tries of tuned baselines came to, as rows and in sentences."""

from dataclasses import dataclass

from langsearch.report import wording
from langsearch.report.costs import budgets
from langsearch.report.experiment_values import Experiment, Score, Trial
from langsearch.report.lenient import as_integer, as_number
from langsearch.study.beside_names import try_of


@dataclass(frozen=True, kw_only=True)
class TryRow:
    """One try of a tuned baseline."""

    trial: Trial
    label: str
    """The baseline's."""

    number: int
    lr: float | None
    """None: not recorded."""

    epochs: int | None
    """Trained, or planned as long as none is."""

    score: Score | None
    """On validation."""

    is_chosen: bool
    """Whether the baseline has its result."""


def try_rows(experiment: Experiment) -> tuple[TryRow, ...]:
    """Returns the tries, baseline after baseline, by number."""
    chosen = {trial.tuned_from for trial in experiment.trials if trial.kind == "baseline"}
    rows = []
    for trial in experiment.beside:
        if trial.kind == "try" and (found := try_of(trial.name)) is not None:
            baseline, number = found
            rows.append(
                TryRow(
                    trial=trial,
                    label=wording.baseline_label(baseline),
                    number=number,
                    lr=as_number(trial.params.get("trainer.lr")),
                    epochs=as_integer(trial.max_epochs if trial.epochs is None else trial.epochs),
                    score=trial.validation,
                    is_chosen=trial.name in chosen,
                )
            )
    order = {label: place for place, label in enumerate(dict.fromkeys(row.label for row in rows))}
    return tuple(sorted(rows, key=lambda row: (order[row.label], row.number)))


def try_sentences(experiment: Experiment) -> tuple[str, ...]:
    """Returns a sentence on each tuned baseline, and one on what it had beside the search; none where none is tuned."""
    rows = try_rows(experiment)
    found = [_sentence(label, [row for row in rows if row.label == label]) for label in _labels(rows)]
    spent = "; ".join(f"{budget.label} {budget.words}" for budget in budgets(experiment))
    return (*found, f"Budgets, training and validation: {spent}.") if found else ()


def _labels(rows: tuple[TryRow, ...]) -> list[str]:
    return list(dict.fromkeys(row.label for row in rows))


def _sentence(label: str, rows: list[TryRow]) -> str:
    rates = sorted(row.lr for row in rows if row.lr is not None)
    tried = f"{label[:1].upper()}{label[1:]} was tuned: {wording.counted(len(rows), 'try', 'tries')}"
    if rates:
        tried += f" at rates from {rates[0]:.2g} to {rates[-1]:.2g}"
    num_failed = sum(row.trial.state == "failed" for row in rows)
    tried += f", {num_failed} of them failed" if num_failed else ""
    best = next((row for row in rows if row.is_chosen), None)
    if best is None:
        num_running = sum(row.trial.state == "running" for row in rows)
        return f"{tried}; {num_running} of them not ended yet." if num_running else f"{tried}; none was taken yet."
    epochs = "" if best.epochs is None else f" and {wording.counted(best.epochs, 'epoch')}"
    rate = "" if best.lr is None else f", at {best.lr:.2g}{epochs}"
    untuned = next((row for row in rows if row.number == 1), None)
    scores = [wording.spbleu(row.score.spbleu) for row in (best, untuned) if row is not None and row.score is not None]
    score = f": spBLEU {scores[0]} on validation" if best.score is not None else ""
    if best.number != 1 and len(scores) > 1:
        score += f", the first one {scores[1]}"
    return f"{tried}. It is try {best.number}{rate}{score}."
