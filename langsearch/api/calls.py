"""The functions of `import langsearch as ls`: what each command does, for programs and notebooks.

Wrong input raises InputError with every problem that there is, in the words of the command line.
"""

from __future__ import annotations  # `help` shows annotations as they are written here

import io
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from langsearch.api.checked import Checked
from langsearch.api.experiment import Experiment
from langsearch.api.words import in_python, speaking_python
from langsearch.experiment.places import (
    brought_here,
    check_adapters,
    check_experiment_or_adapters,
    check_target,
)
from langsearch.space import schema
from langsearch.space.draft import WrongSpaceError
from langsearch.space.problems import InputError, SearchStoppedError
from langsearch.space.schema import Space
from langsearch.space.settings import EXPERIMENTS

if TYPE_CHECKING:
    from langsearch.evaluate.spbleu import Scores

# What takes seconds to load is imported where it is needed: a mistake is told at once.

SpaceLike = Space | str | Path | Mapping[str, Any]
"""A space, its YAML file, or what that file would say as a dictionary."""

Overrides = Mapping[str, Any] | Sequence[str]
"""{"trainer.epochs": 3}, or as `--set` has it: ["trainer.epochs=3"]."""


def load_space(space: SpaceLike, overrides: Overrides = ()) -> Space:
    """Reads and checks a space: what is searched, with what data, and how.

    >>> space = ls.load_space("search_spaces/quickstart.yaml", {"search.trials": 4})
    >>> space = ls.load_space({"base": "tiny-m2m", "languages": {"all": ["en", "fr"]}, ...})

    Args:
        space: Its YAML file, or what that would say as a dictionary; its `name` is the experiment's. Or a space that
            was loaded before.
        overrides: Values to set on top, by their paths: {"trainer.epochs": 3, "architecture.rank.low": 8}.

    Raises:
        InputError: With every problem: where it is, the rule, the value and the way out.
    """
    given = [overrides] if isinstance(overrides, str) else overrides
    with speaking_python():
        return schema.with_overrides(space, given) if isinstance(space, Space) else schema.load_space(space, given)


def _load(space: SpaceLike, overrides: Overrides) -> Space:
    """Loads a space to run it. One that is wrong tells also what its base and its files say of the rest of it."""
    try:
        return load_space(space, overrides)
    except InputError as error:
        wrong = error.__cause__
        if not isinstance(wrong, WrongSpaceError) or not wrong.draft.has_more_to_check:
            raise
    from langsearch.search.checking import all_problems

    raise InputError(map(in_python, all_problems(wrong)))


def check(space: SpaceLike, overrides: Overrides = (), *, measure: bool | None = None) -> Checked:
    """Says what a search would be: languages, sentences, dimensions, sizes, plan, updates, time. Starts nothing.

    Prints nothing: a notebook shows what the last line of a cell returns, which is the page here, and
    `print(ls.check(space))` shows it elsewhere.

    >>> ls.check("my.yaml")
    >>> ls.check("my.yaml")["forecast"]["trial_s"]

    Args:
        space: As `load_space` takes it.
        overrides: Likewise.
        measure: Measure for some seconds how long updates and translations take here. None: unless the same was
            measured here before.

    Returns:
        A dictionary of the same data, as `langsearch check --json` prints it, which shows itself as the page.

    Raises:
        InputError: With all that is wrong with the space, its base and its sentences.
    """
    loaded = _load(space, overrides)
    from langsearch.search.checking import check_search, describe_check, print_check
    from langsearch.search.forecast import forecast
    from langsearch.search.sentence_lines import find_dirt_of

    with speaking_python():
        checked = check_search(loaded)
        dirt = find_dirt_of(checked)
        found = forecast(checked, is_measured=measure)
        page = io.StringIO()
        print_check(Console(file=page, highlight=False, width=_console().width), checked, dirt, found)
        return Checked(describe_check(checked, dirt, found), page.getvalue())


def search(
    space: SpaceLike,
    experiments: str | Path = EXPERIMENTS,
    *,
    name: str | None = None,
    trials: int | None = None,
    hours: float | None = None,
    resume: bool = False,
    resume_if_begun: bool = False,
    accept_changed_space: bool = False,
    retry: str | None = None,
    address: str | None = None,
    overrides: Overrides = (),
    quiet: bool = False,
) -> Experiment:
    """Searches a space, as `langsearch run` does: runs the trials, tests the front and the baselines, writes a report.

    >>> experiment = ls.search("search_spaces/quickstart.yaml", trials=4)
    >>> experiment.front()

    A table shows the trials while they run, in a notebook too. Ctrl+C, or "interrupt the kernel", once: the trials stop
    behind a checkpoint; twice: they stop now, and lose at most the epoch in progress. Then, and after any other end,
    the same call with resume=True goes on.

    Args:
        space: As `load_space` takes it.
        experiments: The folder that holds all experiments, or its URL: s3://…, gs://…
        name: The experiment's name. None: the space's.
        trials: Searched trials, baselines not counted; with resume in all. None: as the space says.
        hours: Stop after so many hours of this call, trials behind a checkpoint. None: as the space says.
        resume: Go on with an experiment after any end.
        resume_if_begun: Begin where there is no experiment yet, and go on where one has begun.
        accept_changed_space: Go on though the space has changed; `langsearch run --help` says how far.
        retry: With resume: try failed trials again. "failed": all; "12,17": these; or how their cause begins.
        address: A Ray cluster that this machine is a node of: "auto", or HOST:PORT. None: this machine alone.
        overrides: Values to set in the space, as `load_space` takes them.
        quiet: Print nothing.

    Returns:
        The experiment; its `state` is "stopped" where the hours were up before all trials had ended.

    Raises:
        InputError: If anything is wrong that can be seen before the first trial.
        KeyboardInterrupt: If it was interrupted.
        SearchStoppedError: If no trial could finish, or a disk, a storage or a database failed.
        LeaseLostError: If another run took over the experiment.
    """
    options = {"name": name, "search.trials": trials, "search.max_hours": hours}
    loaded = load_space(_load(space, overrides), {key: value for key, value in options.items() if value is not None})
    from langsearch.api.conducting import conduct_search

    failures: list[str] = []
    console = _console(is_quiet=quiet)
    with speaking_python():
        folder, ending = conduct_search(
            loaded,
            str(experiments),
            console,
            failures.append,
            resume=resume,
            resume_if_begun=resume_if_begun,
            accept_changed_space=accept_changed_space,
            retry=retry,
            address=address,
            is_quiet=quiet,
        )
    told = [in_python(sentence) for sentence in ending.told]
    if ending.code in _INTERRUPTED:
        raise KeyboardInterrupt(" ".join(told))
    for sentence in told:
        console.print(sentence, markup=False, soft_wrap=True)
    if ending.code:
        failures += [] if ending.error is None else [ending.error]
        raise SearchStoppedError(" ".join(map(in_python, failures)))
    return Experiment(folder)


_INTERRUPTED = (130, 143)
"""Exit codes of a search that was interrupted: by Ctrl+C, by SIGTERM."""


def open_experiment(folder: str | Path) -> Experiment:
    """Opens an experiment to look at, also one that runs elsewhere at the moment.

    >>> ls.open_experiment("experiments/quickstart").results()

    Args:
        folder: Its folder, or its URL, which is fetched once as it is now.

    Raises:
        InputError: If there is none.
    """
    with speaking_python():
        return Experiment(brought_here(str(folder)))


def train(
    target: SpaceLike,
    to: str | Path | None = None,
    *,
    space: str | Path | None = None,
    resume: bool = False,
    overrides: Overrides = (),
    quiet: bool = False,
) -> Experiment:
    """Trains one architecture, without a search, beside the pretrained base, as `langsearch train` does.

    >>> experiment = ls.train("my.yaml", overrides={"architecture.rank": 8})
    >>> ls.translate(experiment, ["Good morning."], "en", "fr")

    Args:
        target: A space without searched values, as `load_space` takes it, or the file of a trial's architecture.json.
        to: The folder to write. None: experiments/NAME-train.
        space: The file of the space whose data and trainer an architecture uses. None: its experiment's.
        resume: Go on where an earlier training stopped.
        overrides: Values to set in the space.
        quiet: Print nothing.

    Returns:
        An experiment with that one trial; its `state` is "stopped" if somebody asked it to stop.

    Raises:
        InputError: If the input is wrong, or the folder is there and not to be resumed.
        SearchStoppedError: If the loss or a score became NaN, or memory ran out.
        LeaseLostError: If another run took over the folder.
    """
    folder, console = None if to is None else Path(to), _console(is_quiet=quiet)
    with speaking_python():
        is_architecture = isinstance(target, str | Path) and Path(target).suffix == ".json"
        given = Path(target) if is_architecture else _load(target, overrides)  # type: ignore[arg-type]
        from langsearch.api.conducting import conduct_training

        file, typed = None if space is None else Path(space), _typed(overrides) if is_architecture else ()
        try:
            trained, told = conduct_training(console, given, file, folder, typed, resume=resume)
        except SearchStoppedError as error:
            raise SearchStoppedError(in_python(str(error))) from error
    for sentence in told:
        console.print(in_python(sentence), markup=False, soft_wrap=True)
    return Experiment(trained)


def _typed(overrides: Overrides) -> list[str]:
    """Returns overrides as `--set` has them; JSON is YAML too."""
    if not isinstance(overrides, Mapping):
        return [overrides] if isinstance(overrides, str) else list(overrides)
    return [f"{key}={json.dumps(value)}" for key, value in overrides.items()]


def translate(
    adapters: str | Path | Experiment,
    texts: str | Iterable[str],
    src: str,
    tgt: str,
    *,
    beams: int = 5,
    base: str | None = None,
    max_length: int | None = None,
) -> list[str]:
    """Translates texts through exported adapters; returns one translation for each.

    >>> ls.translate(experiment, ["Good morning."], "en", "sw")

    Args:
        adapters: A folder that `export` wrote, or an experiment, whose best trial translates then.
        texts: A text, or any number of them; a warning says which translations were cut.
        src: The source language, in any code that means one of the adapters' languages.
        tgt: The target language.
        beams: 1: greedy.
        base: The base, if it is not where the adapters say.
        max_length: Cut longer texts to so many tokens. None: none is cut, and one that is too long is an error.

    Raises:
        InputError: If the adapters, a language or a text is wrong.
    """
    folder = adapters.folder if isinstance(adapters, Experiment) else Path(adapters)
    with speaking_python():
        check_adapters(folder)
        from langsearch.trial.export import adapters_of
        from langsearch.trial.translating import CutLines, translate_lines

        cut = CutLines()
        lines = [texts] if isinstance(texts, str) else texts
        encoded = (text.encode("utf-8", "surrogatepass") for text in lines)
        found = list(translate_lines(adapters_of(folder), encoded, src, tgt, beams, base, max_length, cut))
    if cut.words:
        warnings.warn(cut.words, stacklevel=2)
    return found


def evaluate(
    target: str | Path | Experiment,
    split: str = "test",
    trial: str | int | None = None,
    *,
    space: str | Path | None = None,
    beams: int | None = None,
    quiet: bool = False,
) -> Scores:
    """Scores a trial, or exported adapters, again: spBLEU by direction, with its interval and its signature.

    >>> ls.evaluate("experiments/quickstart", "test", 3).spbleu

    Args:
        target: An experiment, or a folder that `export` wrote.
        split: "validation", or "test".
        trial: Which trial of an experiment: 12, "00012" or a baseline's name. None: the best on validation.
        space: The space whose data adapters outside of an experiment use.
        beams: None: as in the space's evaluation.final.
        quiet: Print nothing.

    Raises:
        InputError: If the target, the split, the trial or the space is wrong.
    """
    with speaking_python():
        folder = _found(target)
        from langsearch.trial.rescoring import print_evaluation

        file = None if space is None else Path(space)
        return print_evaluation(_console(is_quiet=quiet), folder, split, _text(trial), file, beams)


def export(
    source: str | Path | Experiment,
    to: str | Path,
    trial: str | int | None = None,
    *,
    format: Literal["peft", "merged"] = "peft",  # as the option of `langsearch export`
    direction: str | None = None,
    compact: bool = False,
    energy: float | None = None,
) -> Path:
    """Exports a trial's adapters so that plain PEFT loads them, or merges one direction's into a plain model.

    Args:
        source: An experiment, or adapters that were exported before.
        to: The folder to write.
        trial: 12, "00012". None: the best on validation.
        format: "peft": an adapter a language and side. "merged": a plain model for a direction.
        direction: "en-fr", with "merged".
        compact: Store no pruned rank; computes the same.
        energy: Compact by SVD to this share of each product, such as 0.99.

    Returns:
        The folder that was written.

    Raises:
        InputError: If the trial has no weights, or the options do not fit each other.
    """
    target = Path(to)
    with speaking_python():
        folder = _found(source)
        check_target(target)
        from langsearch.trial.export import export_one

        console = _console()
        export_one(
            folder,
            _text(trial),
            target,
            format,
            direction=direction,
            is_compact=compact,
            energy=energy,
            note=lambda text: console.print(text, markup=False, soft_wrap=True),
        )
    return target


def _console(*, is_quiet: bool = False) -> Console:
    """Returns a console on what is standard output now, or in the cell of a notebook."""
    return Console(highlight=False, quiet=is_quiet)


def _found(target: str | Path | Experiment) -> Path:
    """Returns the folder of an experiment or of exported adapters. Raises InputError if it is neither."""
    folder = target.folder if isinstance(target, Experiment) else brought_here(str(target))
    check_experiment_or_adapters(folder)
    return folder


def _text(trial: str | int | None) -> str | None:
    return None if trial is None else str(trial)


for _function in (load_space, check, search, open_experiment, train, translate, evaluate, export):
    _function.__module__ = "langsearch"  # where users have it from
