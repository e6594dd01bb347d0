"""One experiment, or one of its trials, on a terminal or as JSON."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from langsearch.experiment.lock import is_held
from langsearch.experiment.printable import Unpadded, printable, printable_lines
from langsearch.report import verdicts, wording
from langsearch.report.choices import Choices, choice_sentences, read_choices
from langsearch.report.cuts import cut_sentences
from langsearch.report.experiment_reader import read_details, trial_folder
from langsearch.report.experiment_values import (
    SPLITS,
    STATES,
    CurvePoint,
    Experiment,
    Score,
    Split,
    Trial,
    TrialDetails,
)
from langsearch.report.lenient import parse_object, read_json, read_rows
from langsearch.report.summary import Summary, gain, summarise
from langsearch.report.terminal import print_front
from langsearch.space.architecture import Architecture
from langsearch.space.plan import plan_rows, show_layers, show_modules, show_ranks
from langsearch.space.problems import InputError, near_names

_COMPARED = {"to pre": "pretrained", "to full": "full_finetuning"}
"""The baselines that a trial's scores are compared with where they were run, by their headings."""

_OBJECTS = ("params", "violations")
"""Columns of results.parquet that hold JSON."""


def experiment_data(experiment: Experiment) -> dict[str, Any]:
    """Returns experiment.json and the rows of results.parquet, as they are, as JSON data."""
    return {
        "folder": str(experiment.folder),
        "is_running": is_held(experiment.folder),
        "experiment": dict(read_json(experiment.folder / "experiment.json", [])),
        "trials": _rows(experiment),
    }


def trial_data(experiment: Experiment, trial: Trial) -> dict[str, Any]:
    """Returns a trial's row of results.parquet, as it is, and what its files say, as JSON data."""
    row = next(row for row in _rows(experiment) if row["name"] == trial.name)
    folder = trial_folder(experiment, _place(trial))
    if folder is None:
        return {"trial": row, "architecture": None, "curve": [], "scores": [], "choices": None, "failure": None}
    return {
        "trial": row,
        "architecture": dict(read_json(folder / "architecture.json", [])) or None,
        "curve": read_rows(folder / "curve.parquet", []),
        "scores": read_rows(folder / "scores.parquet", []),
        "choices": dict(read_json(folder / "choices.json", [])) or None,
        "failure": dict(read_json(folder / "failure.json", [])) or None,
    }


def find_trial(experiment: Experiment, name: str) -> Trial:
    """Returns the trial of a name: "12", "00012" or a baseline's.

    Raises:
        InputError: If there is none.
    """
    full = f"{int(name):05d}" if name.isdecimal() else name
    by_name = {trial.name: trial for trial in (*experiment.trials, *experiment.beside)}
    if full not in by_name:
        raise InputError(
            f"TRIAL must name a trial of {experiment.name}, but {name!r} is none.{near_names(full, by_name)}"
        )
    return by_name[full]


def print_experiment(console: Console, experiment: Experiment) -> None:
    """Prints what an experiment is, how far it is, its front and its failures."""
    summary = summarise(experiment)
    is_running = is_held(experiment.folder)
    state = "running" if is_running else "done" if experiment.finished else "stopped: --resume goes on"
    objectives = ", ".join(f"{name} {direction}" for name, direction in experiment.objectives.items())
    started = experiment.started or wording.MISSING
    lines = {
        "experiment": f"{experiment.name}, {state}",
        "base": f"{experiment.base or wording.MISSING}, {wording.parameters(experiment.base_parameters)} parameters",
        "directions": f"{len(experiment.directions):,}{wording.of_zero_shot(experiment, len(experiment.directions))}",
        "objectives": objectives or wording.MISSING,
        "trials": _count_trials(experiment, summary, is_running=is_running),
        **({"seeds": seeds} if (seeds := _count_seeds(experiment)) else {}),
        "started": f"{started}, {_so_far(experiment, is_running=is_running)}",
        "commit": experiment.git_commit or wording.MISSING,
    }
    _print_lines(console, lines)
    _print_lines(console, {f"class {name}": ", ".join(members) for name, members in experiment.classes.items()})
    for note in experiment.notes:
        _print(console, f"note: {note}")
    print_front(console, experiment)
    for sentence in cut_sentences(experiment):
        _print(console, sentence)
    causes = Counter(trial.cause or "unknown" for trial in experiment.trials if trial.state == "failed")
    for cause, count in causes.most_common(5):
        _print(console, f"failed {count:,} x: {cause}")


def _so_far(experiment: Experiment, *, is_running: bool) -> str:
    """Returns how long a search has run; what is written down is that of the runs that have ended."""
    if not is_running:
        return f"{wording.duration(experiment.seconds)} in all"
    if experiment.seconds:
        return f"{wording.duration(experiment.seconds)} before this run"
    try:
        began = datetime.fromisoformat(experiment.started or "")
    except ValueError:
        return "running"
    return f"{wording.duration((datetime.now(UTC) - began).total_seconds())} so far"


def print_trial(console: Console, experiment: Experiment, trial: Trial) -> None:
    """Prints a trial: its scores, its point, its plan, its curve, and why it failed."""
    details = read_details(experiment, _place(trial))
    _print_lines(console, dict(_facts(experiment, trial)))
    console.print(Unpadded(_score_table(experiment, trial)))
    for name, text in _comparisons(experiment, trial):
        _print(console, f"{name}: {text}")
    if trial.params:
        table = _table("point", "value")
        for name in trial.params:
            table.add_row(Text(printable(name)), Text(printable(_value(trial, name, details.architecture))))
        console.print(Unpadded(table))
    if details.architecture is not None and details.architecture.adapters:
        console.print(Unpadded(_plan_table(experiment, details)))
    choices = read_choices(experiment, trial)
    for sentence in choice_sentences(choices):
        _print(console, sentence)
    if choices.gates:
        console.print(Unpadded(_gate_table(choices)))
    if choices.retrieval:
        console.print(Unpadded(_retrieval_table(choices)))
    if details.curve:
        console.print(Unpadded(_curve_table(details.curve)))
    if details.failure is not None:
        _print(console, f"failed: {details.failure.cause}: {details.failure.message}")
        console.print(Text(printable_lines(details.failure.traceback), style="dim"), soft_wrap=True)


def _count_seeds(experiment: Experiment) -> str:
    """Returns "4 of 6 ended (4 complete, 2 running)" of the further trainings, "" where there are none."""
    states = Counter(trial.state for trial in experiment.beside if trial.kind == "seed")
    ended = sum(states.values()) - states["running"]
    words = ", ".join(f"{states[state]:,} {state}" for state in STATES if states[state])
    return f"{ended:,} of {sum(states.values()):,} ended ({words})" if states else ""


def _count_trials(experiment: Experiment, summary: Summary, *, is_running: bool) -> str:
    """Returns "3 of 4 have ended (2 complete, 1 failed), 1 is to go on; beside them 20 never trained …"."""
    counts = Counter(trial.state for trial in experiment.trials if trial.counts)
    ended = ", ".join(f"{counts[state]:,} {state}" for state in STATES if state != "running" and counts[state])
    planned = "" if experiment.num_trials is None else f" of {experiment.num_trials:,}"
    text = f"{summary.num_ended:,}{planned} ended" + (f" ({ended})" if ended else "")
    if num := counts["running"]:
        text += f", {num:,} running" if is_running else f", {num:,} to go on"
    searched = [trial for trial in experiment.trials if trial.kind == "searched"]
    others = {
        "never trained: too large for the constraints": summary.num_rejected,
        "with another's result": sum(trial.same_as is not None for trial in searched),
        "tried again": sum(trial.same_as is None and trial.retried_as is not None for trial in searched),
    }
    beside = ", ".join(f"{num:,} {words}" for words, num in others.items() if num)
    return f"{text}; beside them {beside}" if beside else text


def _rows(experiment: Experiment) -> list[dict[str, Any]]:
    rows = read_rows(experiment.folder / "results.parquet", [])
    return [row | {name: parse_object(row[name]) for name in _OBJECTS if row.get(name) is not None} for row in rows]


def _place(trial: Trial) -> str:
    """Returns the name of the trial whose folder has a trial's files: one that repeats another has none."""
    return trial.same_as or trial.name


def _facts(experiment: Experiment, trial: Trial) -> Iterator[tuple[str, str]]:
    is_member = " · on the front" if trial.is_front else ""
    yield "trial", f"{wording.trial_label(trial)} of {experiment.name}{is_member}"
    yield "state", trial.state if trial.cause is None else f"{trial.state}: {trial.cause}"
    if trial.note:
        yield "note", trial.note
    if trial.cut is not None:
        yield "cut", f"goes on from {trial.cut}" if trial.is_from_cut else f"{trial.cut}, trained alone"
    others = {"seed of": trial.seed_of, "same as": trial.same_as, "tuned from": trial.tuned_from}
    for name, other in (others | {"retry of": trial.retry_of, "retried as": trial.retried_as}).items():
        if other:
            yield name, other
    yield "architecture", trial.summary or wording.MISSING
    percent = wording.percent(trial.trainable_percent)
    count = wording.parameters(trial.trainable_parameters)
    yield (
        "parameters",
        f"{count} trainable, {percent} % of the base, {wording.parameters(trial.nonzero_parameters)} not 0",
    )
    kept = "" if trial.kept_epoch is None else f", epoch {trial.kept_epoch} kept"
    yield "epochs", f"{_count(trial.epochs)} of {_count(trial.max_epochs)}{kept}"
    memory = wording.memory(trial.peak_memory_bytes)
    yield "time", f"{wording.duration(trial.seconds)}, of it training {wording.duration(trial.train_seconds)}; {memory}"
    yield "worker", trial.worker or wording.MISSING
    yield "fingerprint", trial.fingerprint or wording.MISSING
    for text, amount in trial.violations.items():
        yield "constraint", f"{text}: {'kept' if amount <= 0 else f'violated by {amount:.3g}'}"


def _score_table(experiment: Experiment, trial: Trial) -> Table:
    baselines = {other.name: other for other in experiment.trials if other.kind == "baseline"}
    compared = {heading: baselines.get(name) for heading, name in _COMPARED.items() if name in baselines}
    has_seeds = trial.test is not None and trial.test.num_seeds > 1
    seeds = ["seeds", "sd"] if has_seeds else []
    table = _table("spBLEU on", "score", "95 %", *seeds, *compared, "sentences", "directions")
    for split in SPLITS:
        score = trial.score(split)
        if score is not None and not (split == "full" and wording.is_scored_alike(experiment, trial)):
            table.add_row(
                _split_label(experiment, split, score),
                wording.spbleu(score.spbleu),
                wording.interval(score),
                *([_count(score.num_seeds), wording.spbleu(score.seeds_sd)] if has_seeds else []),
                *(wording.difference(gain(trial, other, split)) for other in compared.values()),
                _count(score.num_sentences),
                _directions(experiment, score),
            )
    if not table.row_count:
        table.add_row("no score yet")
    return table


def _comparisons(experiment: Experiment, trial: Trial) -> Iterator[tuple[str, str]]:
    """Yields each baseline that a tested trial was compared with, and what is known of the difference."""
    for other in experiment.trials:
        if other.kind == "baseline" and (paired := trial.differences.get(other.name)) is not None:
            text = f"{wording.difference(paired.value)} on test, {verdicts.evidence(paired)}"
            missing = verdicts.caution(paired, trial.test, other.test)
            yield f"to {wording.trial_label(other)}", f"{text}; {missing}" if missing else text


def _directions(experiment: Experiment, score: Score) -> str:
    zero_shot = "" if score.num_directions is None else wording.of_zero_shot(experiment, score.num_directions)
    return f"{_count(score.num_directions)}{zero_shot}"


def _split_label(experiment: Experiment, split: Split, score: Score) -> str:
    """Returns what a row's score is of; the row says in how many directions."""
    words = wording.split_words(split, experiment, score)
    sentences, within, rest = words.partition(" in ")
    return f"{sentences}{rest.partition(' directions')[2]}" if within else words


def _value(trial: Trial, name: str, architecture: Architecture | None) -> str:
    """Returns a value of the point; beside the length of a window that was cut off, the last layer that it reached."""
    value = trial.params[name]
    start = trial.params.get(f"{name.removesuffix('.length')}.start") if name.endswith(".layers.length") else None
    if architecture is None or not isinstance(value, int) or not isinstance(start, int):
        return str(value)
    stack = name.partition(".")[0]
    last = max((entry.site.layer for entry in architecture.adapters if entry.site.stack == stack), default=-1)
    return f"{value}, cut off: up to layer {last}" if start <= last < start + value - 1 else str(value)


def _plan_table(experiment: Experiment, details: TrialDetails) -> Table:
    assert details.architecture is not None
    known = {language for language, _ in details.architecture.slots}
    classes = {name: [one for one in members if one in known] for name, members in experiment.classes.items()}
    classes = {name: members for name, members in classes.items() if members} or {"all": sorted(known)}
    table = _table("layers", "modules", "side", f"rank {printable(';'.join(classes))}", num_left=4)
    for row in plan_rows(details.architecture):
        ranks = show_ranks(row.ranks, classes)
        cells = (f"{row.stack} {show_layers(row.layers)}", show_modules(row.modules), row.side, ranks)
        table.add_row(*[Text(printable(cell)) for cell in cells])
    return table


def _gate_table(choices: Choices) -> Table:
    languages = list(dict.fromkeys(language for shares in choices.gates.values() for language in shares))
    table = _table("% of tokens open", *map(printable, languages), num_left=1)
    for (stack, layer), shares in choices.gates.items():
        cells = [f"{100 * shares[language]:.0f}" if language in shares else "" for language in languages]
        table.add_row(f"{stack} {layer}", *cells)
    return table


def _retrieval_table(choices: Choices) -> Table:
    table = _table(f"% of lines found in {printable(choices.pivot or '')}", "before", "after")
    for language, (before, after) in choices.retrieval.items():
        table.add_row(printable(language), f"{100 * before:.0f}", f"{100 * after:.0f}")
    return table


def _curve_table(curve: tuple[CurvePoint, ...]) -> Table:
    table = _table("epoch", "updates", "train loss", "spBLEU", "lr by then", "seconds")
    for point in curve:
        loss = wording.MISSING if point.train_loss is None else f"{point.train_loss:.3f}"
        rate = wording.MISSING if point.lr is None else f"{point.lr:.2e}"
        seconds = wording.MISSING if point.seconds is None else f"{point.seconds:.0f}"
        table.add_row(str(point.epoch), _count(point.updates), loss, wording.spbleu(point.spbleu), rate, seconds)
    return table


def _table(first: str, *others: str, num_left: int = 1) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for index, name in enumerate((first, *others)):
        table.add_column(name, justify="left" if index < num_left else "right", overflow="fold")
    return table


def _count(value: int | None) -> str:
    return wording.MISSING if value is None else f"{value:,}"


def _print_lines(console: Console, lines: dict[str, str]) -> None:
    for name, text in lines.items():
        _print(console, f"{name:<13}{text}")


def _print(console: Console, text: str) -> None:
    console.print(Text(printable(text)), soft_wrap=True)
