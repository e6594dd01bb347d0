"""One architecture or one set of adapters: trained, scored, used, exported."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from langsearch.cli.console import err, out, print_text
from langsearch.cli.options import (
    ExperimentOrAdapters,
    Overrides,
    TrialName,
    brought_here,
    check_target,
    load_with_options,
    stops_told,
)


def train(
    target: Annotated[Path, typer.Argument(metavar="SPACE|ARCHITECTURE", help="A space, or an architecture.json.")],
    to: Annotated[Path | None, typer.Option("--to", help="Where to write. [experiments/NAME-train]")] = None,
    space: Annotated[Path | None, typer.Option(help="The space whose data and trainer an architecture uses.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier training stopped.")] = False,
    overrides: Overrides = None,
) -> None:
    """Train one architecture, without a search, beside the pretrained base, and export its adapters.

    Leaves an experiment with that one trial, which list, show, report, export, translate and evaluate take as they take
    a search's. It is scored on validation alone; the test set is scored by evaluate, when you ask for it. The space's
    `tracking` and `failures` hold as in a search: event files for TensorBoard, halved batches where memory runs out.

    Ctrl+C loses at most the epoch in progress; --resume goes on, also with what earlier versions wrote.
    """
    if target.suffix != ".json":
        load_with_options(target, overrides)
    from langsearch.api.conducting import conduct_training

    with stops_told():
        _, told = conduct_training(out, target, space, to, overrides or (), resume=resume)
    for sentence in told:
        print_text(sentence)


def evaluate(
    target: ExperimentOrAdapters,
    split: Annotated[str, typer.Option(help="validation, or test (devtest means test).")] = "test",
    trial: TrialName = None,
    space: Annotated[Path | None, typer.Option(help="The space whose data adapters outside an experiment use.")] = None,
    beams: Annotated[int | None, typer.Option(help="Beams. [as in the space's evaluation.final]", min=1)] = None,
) -> None:
    """Score a trial or exported adapters: spBLEU by direction and class pair, with its signature."""
    from langsearch.experiment.places import check_experiment_or_adapters

    folder = brought_here(target)
    check_experiment_or_adapters(folder)
    from langsearch.model.collecting import without_collecting

    with without_collecting(is_start=True):
        from langsearch.trial.rescoring import print_evaluation

    print_evaluation(out, folder, split, trial, space, beams)


def translate(
    adapters: Annotated[
        Path,
        typer.Argument(
            metavar="ADAPTERS|EXPERIMENT",
            help="A folder written by export, front/NAME, or an experiment, whose best trial translates then.",
        ),
    ],
    src: Annotated[str, typer.Option("--from", help="The source language.")],
    tgt: Annotated[str, typer.Option("--to", help="The target language.")],
    beams: Annotated[int, typer.Option(help="1: greedy.", min=1)] = 5,
    base: Annotated[str | None, typer.Option(help="The base, if it is not where the adapters say.")] = None,
    max_length: Annotated[
        int | None,
        typer.Option(help="Cut longer lines to so many tokens. [none is cut; too long a line is an error]", min=3),
    ] = None,
) -> None:
    """Translate: reads lines, writes lines; what was cut is said on standard error."""
    from langsearch.adapters.export_folder import FORMAT_FILE
    from langsearch.experiment.places import check_adapters

    check_adapters(adapters)
    if not (adapters / FORMAT_FILE).exists():
        from langsearch.model.collecting import without_collecting

        with without_collecting(is_start=True):
            from langsearch.trial.export import adapters_of

        adapters = adapters_of(adapters)
    from langsearch.model.collecting import without_collecting

    with without_collecting(is_start=True):
        from langsearch.trial.translating import CutLines, translate_lines

    cut = CutLines()
    for line in translate_lines(adapters, sys.stdin.buffer, src, tgt, beams, base, max_length, cut):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    if cut.words:
        err.print(cut.words, markup=False, soft_wrap=True)


def export(
    source: ExperimentOrAdapters,
    to: Annotated[Path, typer.Option("--to", help="The folder to write.")],
    trial: TrialName = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format", help="peft: one PEFT LoRA adapter a language and side. merged: a plain model for a direction."
        ),
    ] = "peft",
    direction: Annotated[str | None, typer.Option(metavar="SRC-TGT", help="The direction, with merged.")] = None,
    compact: Annotated[bool, typer.Option("--compact", help="Store no pruned rank; computes the same.")] = False,
    energy: Annotated[
        float | None, typer.Option(help="Compact by SVD to this share of each product, e.g. 0.99.")
    ] = None,
) -> None:
    """Export a trial's adapters so that plain PEFT loads them, or merge one direction's into a plain model."""
    from langsearch.experiment.places import check_experiment_or_adapters

    folder = brought_here(source)
    check_experiment_or_adapters(folder)
    check_target(to)
    from langsearch.model.collecting import without_collecting

    with without_collecting(is_start=True):
        from langsearch.trial.export import export_one

    names = export_one(
        folder,
        trial,
        to,
        format_,
        direction=direction,
        is_compact=compact,
        energy=energy,
        note=print_text,
    )
    what = f"a model for {direction}" if format_ == "merged" else f"{len(names)} adapters"
    print_text(f"Wrote {what} and a card to {to}")
