"""The experiments of a folder, one a line or as JSON."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.table import Table
from rich.text import Text

from langsearch.experiment.lock import is_held
from langsearch.experiment.printable import printable
from langsearch.report import wording
from langsearch.report.experiment_reader import read_experiment
from langsearch.report.experiment_values import Experiment, Split
from langsearch.report.summary import gain, summarise
from langsearch.space.problems import InputError

_LOSING = "!"
"""Marks an experiment without a gain."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One experiment in short. None: its folder does not say."""

    name: str
    folder: str
    state: Literal["running", "done", "stopped"]
    """running: a run holds it. done: all trials have ended and the front is tested. stopped: --resume goes on."""

    num_ended: int
    """Of the trials that were planned: those that are complete, pruned or failed. Proposals that were too large to be
    trained, trials that share a result and failed ones that were tried again are none of them."""

    num_failed: int
    num_trials: int | None
    """Searched trials that were planned."""

    split: Split
    """What the scores are of."""

    best: str | None
    """The front's member with the best validation score."""

    spbleu: float | None
    """Of the best one."""

    to_pretrained: float | None
    to_full_finetuning: float | None
    trainable_parameters: int | None
    started: str | None
    seconds: float | None


def list_experiments(paths: Iterable[Path]) -> tuple[Listed, ...]:
    """Returns the experiments among folders; what is none is left out."""
    found = []
    for path in paths:
        try:
            found.append(_listed(read_experiment(path)))
        except InputError:
            continue
    return tuple(found)


def listing_data(listed: tuple[Listed, ...]) -> list[dict[str, Any]]:
    """Returns the experiments as JSON data."""
    return [asdict(experiment) for experiment in listed]


def listing_table(listed: tuple[Listed, ...]) -> Table:
    """Returns a table of the experiments; readable at 80 columns."""
    is_losing = [experiment.to_pretrained is not None and experiment.to_pretrained <= 0 for experiment in listed]
    caption = f"{_LOSING} its best adapters are no better than the pretrained base" if any(is_losing) else None
    table = Table(box=box.SIMPLE_HEAD, padding=0, caption=caption, caption_justify="left")
    table.add_column("experiment", overflow="fold")
    table.add_column("state", no_wrap=True)
    # One that is empty in all of them is left out.
    has_full = any(experiment.to_full_finetuning is not None for experiment in listed)
    for name in ("trials", "spBLEU", "to pre", *(["to full"] if has_full else []), "params", "started"):
        table.add_column(name, justify="right", no_wrap=True)
    for experiment, loses in zip(listed, is_losing, strict=True):
        planned = "?" if experiment.num_trials is None else f"{experiment.num_trials:,}"
        cells = (
            experiment.name,
            experiment.state,
            f"{experiment.num_ended:,}/{planned}",
            wording.spbleu(experiment.spbleu) + ("" if experiment.split == "test" or experiment.best is None else "v"),
            wording.difference(experiment.to_pretrained) + (_LOSING if loses else ""),
            *([wording.difference(experiment.to_full_finetuning)] if has_full else []),
            wording.parameters(experiment.trainable_parameters),
            (experiment.started or wording.MISSING)[:10],
        )
        table.add_row(*[Text(printable(cell)) for cell in cells])
    return table


def _listed(experiment: Experiment) -> Listed:
    summary = summarise(experiment)
    best = summary.best
    split: Split = "validation" if best is None else summary.split
    score = None if best is None else best.score(split)
    return Listed(
        name=experiment.name,
        folder=str(experiment.folder),
        state="running" if is_held(experiment.folder) else "done" if experiment.finished else "stopped",
        num_ended=summary.num_ended,
        num_failed=sum(trial.state == "failed" and trial.counts for trial in experiment.trials),
        num_trials=experiment.num_trials,
        split=split,
        best=None if best is None else best.name,
        spbleu=None if score is None else score.spbleu,
        to_pretrained=gain(best, summary.pretrained, split),
        to_full_finetuning=gain(best, summary.full_finetuning, split),
        trainable_parameters=None if best is None else best.trainable_parameters,
        started=experiment.started,
        seconds=experiment.seconds,
    )
