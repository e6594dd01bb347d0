"""The front against the baselines as a table for the terminal; plain lines where the output is no terminal."""

from collections.abc import Iterator
from textwrap import shorten

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from langsearch.experiment.printable import Unpadded, printable, printable_lines
from langsearch.report import verdicts, wording
from langsearch.report.empty_front import empty_front_sentences
from langsearch.report.experiment_values import Experiment, Score, Trial
from langsearch.report.sentences import headline, untested
from langsearch.report.summary import Summary, gain, has_seeds, is_losing, summarise
from langsearch.report.tries import try_sentences
from langsearch.study.results import CUT, CUT_WAY_OUT

MAX_SUMMARY_CHARS = 60
"""At 80 columns the last column has 20 left: three or four lines a trial at most."""


def print_front(console: Console, experiment: Experiment) -> None:
    """Prints the front against the baselines, why nothing is on it or what is gained nothing, and what was tuned."""
    console.print(Unpadded(front_table(experiment)))
    summary = summarise(experiment)
    losing = (headline(summary),) if is_losing(summary) else ()
    for sentence in (*empty_front_sentences(experiment, summary), *losing, *try_sentences(experiment)):
        # In one line, however long, so that its command can be copied.
        console.print(Text(printable(sentence)), soft_wrap=True)


def front_table(experiment: Experiment) -> Table:
    """Returns the members of the front, the best first, and below them the baselines; readable at 80 columns.

    The scores are those on test where there are any, else on validation; the title says which. Names and
    summaries come from files, so they are shown as text, never as markup.
    """
    summary = summarise(experiment)
    table = Table(
        title=Text(printable(_title(experiment, summary))),
        caption=Text(printable_lines(_caption(experiment, summary))),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,  # the box keeps one space between columns already
    )
    table.add_column("front", no_wrap=True)
    table.add_column("spBLEU", justify="right", no_wrap=True)
    table.add_column("95 %", justify="right", no_wrap=True)
    if has_seeds(summary):
        table.add_column("seeds", justify="right", no_wrap=True)
    other, words = _compared(summary)
    if other is not None:
        table.add_column(words, justify="right", no_wrap=True)
    table.add_column("params", justify="right", no_wrap=True)
    table.add_column("%", justify="right", no_wrap=True)
    # The caption is as wide as the table; of one that is wider than 80 columns letters would be cut off.
    table.add_column("architecture", min_width=12 if has_seeds(summary) else 16, overflow="fold")
    for trial in reversed(summary.front):
        _add_row(table, trial, summary, other, "bold" if trial is summary.best else "")
    if not summary.front:
        num = 4 + has_seeds(summary) + (other is not None)
        table.add_row(Text("none"), *[wording.MISSING] * num, Text("no trial on the front"))
    table.add_section()
    for trial in summary.baselines:
        _add_row(table, trial, summary, other, "dim" if trial.score(summary.split) is None else "")
    return table


def _compared(summary: Summary) -> tuple[Trial | None, str]:
    """Returns the baseline that a column compares all with, and its heading: full fine-tuning, where there is one."""
    has_full = any(trial.name == "full_finetuning" for trial in summary.baselines)
    if not has_full and summary.pretrained is not None:
        return summary.pretrained, "to pre"
    return summary.full_finetuning, "to full"


def _add_row(table: Table, trial: Trial, summary: Summary, other: Trial | None, style: str) -> None:
    score = trial.score(summary.split)
    is_itself = other is not None and trial.name == other.name
    name = wording.trial_label(trial)
    if trial.kind == "baseline":
        name = f"= {name}"
    elif trial is summary.best:
        name = f"* {name}"
    else:
        name = f"  {name}"
    text = trial.summary if trial.state == "complete" or not trial.cause else f"{trial.state}: {trial.cause}"
    table.add_row(
        Text(printable(name)),
        wording.spbleu(None if score is None else score.spbleu),
        wording.interval(score),
        *([_seeds_cell(score)] if has_seeds(summary) else []),
        *([wording.MISSING if is_itself else wording.difference(gain(trial, other, summary.split))] if other else []),
        wording.parameters(trial.trainable_parameters),
        wording.percent(trial.trainable_percent),
        Text(shorten(printable(text), MAX_SUMMARY_CHARS, placeholder=" …")),
        style=style,
    )


def _seeds_cell(score: Score | None) -> str:
    """Returns "3 ±0.12", the number of seeds and the standard deviation over them."""
    if score is None:
        return wording.MISSING
    return str(score.num_seeds) if score.seeds_sd is None else f"{score.num_seeds} ±{score.seeds_sd:.2f}"


def _title(experiment: Experiment, summary: Summary) -> str:
    scores = [trial.score(summary.split) for trial in (*summary.front, *summary.baselines)]
    size = wording.sample_size(experiment, next((score for score in scores if score is not None), None), summary.split)
    return f"{experiment.name}: {wording.metric_label(experiment)} on {size}"


def _differences(summary: Summary) -> Iterator[str]:
    """Yields how the best member compares with each baseline on test, and what that rests on."""
    if summary.best is None or summary.split != "test":
        return
    differences = summary.best.differences
    known = [(trial, differences[trial.name]) for trial in summary.baselines if trial.name in differences]
    for trial, paired in known:
        words = "the pretrained base" if trial.name == "pretrained" else wording.trial_label(trial)
        yield f"* against {words}: {wording.difference(paired.value)}, {verdicts.short_evidence(paired)}"
    with_p = [paired for _, paired in known if paired.p is not None]
    notes = {
        "p: by Holm's rule over members": any(paired.holm_p is not None for paired in with_p),
        "1 seed: other trainings may differ": not all(map(verdicts.is_over_seeds, with_p)),
    }
    if said := [text for text, is_said in notes.items() if is_said]:
        yield "; ".join(said)


def _caption(experiment: Experiment, summary: Summary) -> str:
    lines = ["* best by validation   = baseline   params: trainable, and in % of the base"]
    if has_seeds(summary):
        lines.append("seeds: trainings, ± standard deviation over them; spBLEU is their mean, 95 % over both")
    lines += _differences(summary)
    num_before = len(lines)
    for trial in (*summary.front, *summary.baselines):
        lines += [f"{wording.trial_label(trial)}: {words}" for words in (trial.note or "").split("; ") if CUT in words]
    if len(lines) > num_before:
        lines.append(CUT_WAY_OUT)
    if experiment.signature:
        lines.append(experiment.signature)
    if summary.split == "validation" and summary.front:
        chosen = wording.chosen(experiment)
        lines.append(f"{untested(summary)}: these scores chose {chosen}, so they flatter it.")
    return "\n".join(lines)
