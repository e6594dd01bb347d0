"""Looking at a space, and searching it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langsearch.cli.console import err, out, print_text, write
from langsearch.cli.options import (
    AcceptChangedSpace,
    ExperimentName,
    Experiments,
    Hours,
    Overrides,
    Quiet,
    Resume,
    ResumeIfBegun,
    Retry,
    RunAddress,
    SpaceFile,
    Trials,
    load_with_options,
    resumption,
)
from langsearch.space.problems import InputError, LeaseLostError
from langsearch.space.settings import EXPERIMENTS

if TYPE_CHECKING:
    from langsearch.experiment.dirt import FoundDirt
    from langsearch.experiment.environment import CheckedSpace


def check(
    space: SpaceFile,
    overrides: Overrides = None,
    is_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a page of the data too: sizes, lengths, unknown pieces, scripts, rows in common.",
        ),
    ] = None,
    is_measured: Annotated[
        bool | None,
        typer.Option(
            "--measure/--no-measure",
            help="Measure for some seconds how long updates and translations take here, or don't. Without either that "
            "is done once for a space, and kept in the cache.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Validate a space, and show what a search of it would be: languages, sizes, plan, updates, time. Writes nothing.

    Of the data it shows what was read of every source, how many rows each direction has to train on, to select by and
    to be tested on, and what is wrong with the sentences; with --report it writes a page of that. Sources are {files:
    FOLDER}, {tsv: FILE}, {jsonl: FILE}, {parquet: FILE}, {moses: PREFIX}, {tmx: FILE}, {datasets: FOLDER}, {flores200:
    dev, folder: FOLDER}, one or a list of them; with * or a list for many files, max_rows: N for at most so many rows
    of each pair, weight: W to draw them more often.
    """
    loaded = load_with_options(space, overrides)

    from langsearch.model.collecting import without_collecting

    with without_collecting(is_start=True):
        from langsearch.search.checking import check_search, describe_check, print_check
        from langsearch.search.forecast import forecast
        from langsearch.search.sentence_lines import find_dirt_of

    checked = check_search(loaded)
    dirt = find_dirt_of(checked)
    found = forecast(checked, is_measured=is_measured)
    if is_json:
        typer.echo(json.dumps(describe_check(checked, dirt, found), ensure_ascii=False, indent=2))
    else:
        print_check(out, checked, dirt, found)
    if report is not None:
        _write_data_page(checked, dirt, report, is_told=not is_json)


def _write_data_page(checked: "CheckedSpace", dirt: "FoundDirt", path: Path, *, is_told: bool) -> None:
    from langsearch.report.data_page import write_data_page
    from langsearch.search.looking import look_at_data

    try:
        write_data_page(look_at_data(checked, dirt), path)
    except OSError as error:
        raise InputError(f"--report must name a file that can be written, but got {path}: {error.strerror}") from error
    if is_told:
        out.print(f"Page: {path}", soft_wrap=True, markup=False)


def run(
    space: SpaceFile,
    experiments: Experiments = EXPERIMENTS,
    name: ExperimentName = None,
    trials: Trials = None,
    hours: Hours = None,
    resume: Resume = False,
    resume_if_begun: ResumeIfBegun = False,
    retry: Retry = None,
    accept_changed_space: AcceptChangedSpace = False,
    address: RunAddress = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Search: run the trials, test the front and the baselines, write the report.

    The baselines are the pretrained base and one LoRA that all languages share, unless the space lists its own:
    full_finetuning and published are two more, and `baselines: []` has none. `{shared_lora: {tune: 6}}` searches a
    baseline's learning rate in six tries, so that it gets as much care as the search.

    Ctrl+C once: the trials stop behind a checkpoint. Twice: they stop now, and lose at most the epoch in progress.

    SIGTERM is as one Ctrl+C.

    Exit codes: 0 done, or the time was up. 1 no trial could finish, the space's `failures` stopped the run, or another
    run has taken over the experiment. 2 wrong input. 130 interrupted, 143 by SIGTERM.
    """
    options = resumption(
        resume=resume, resume_if_begun=resume_if_begun, retry=retry, accept_changed_space=accept_changed_space
    )
    is_sent = address is not None and address.startswith("ray://")
    loaded = load_with_options(space, overrides, name=name, trials=trials, hours=hours, is_here=not is_sent)
    if address is not None and is_sent:
        from langsearch.cluster.client import run_on_head

        options += ["--quiet"] if quiet else []
        raise typer.Exit(run_on_head(loaded, address, experiments, options, write))
    from langsearch.api.conducting import conduct_search
    from langsearch.experiment.object_store import StorageError

    try:
        _, ending = conduct_search(
            loaded,
            experiments,
            out,
            _print_failure,
            resume=resume,
            resume_if_begun=resume_if_begun,
            accept_changed_space=accept_changed_space,
            retry=retry,
            address=address,
            is_quiet=quiet,
        )
    except LeaseLostError as error:
        _print_failure(f"Stopped: {error}")
        raise typer.Exit(1) from None
    except StorageError as error:
        _print_failure(f"Stopped: {error}. Go on with the same command and --resume.")
        raise typer.Exit(1) from None
    for sentence in ending.told:
        print_text(sentence)
    if ending.error is not None:
        _print_failure(ending.error)
    raise typer.Exit(ending.code)


def _print_failure(sentence: str) -> None:
    err.print(sentence, markup=False, soft_wrap=True)
