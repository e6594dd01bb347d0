"""The command line: parse, build, call. Exit codes: 0 done, 1 failed, 2 the input is wrong."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from langsearch import __version__
from langsearch.space.problems import InputError

if TYPE_CHECKING:
    from langsearch.cluster.jobs import Jobs
    from langsearch.experiment.environment import CheckedSpace
    from langsearch.search.runner import Outcome
    from langsearch.space.schema import Space

app = typer.Typer(
    help="Find, for each language of a translation model, the smallest adapters that translate best.\n\n"
    "Start with: langsearch run search_spaces/quickstart.yaml",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
_out, _err = Console(highlight=False), Console(stderr=True, highlight=False)

SpaceFile = Annotated[Path, typer.Argument(metavar="SPACE", help="The space's YAML file.")]


def _here(text: str) -> Path:
    """Returns a folder of this machine; a remote experiment is brought here first."""
    if "://" not in text:
        return Path(text)
    from langsearch.experiment.working_copy import fetch_experiment

    return fetch_experiment(text)


ExperimentFolderArgument = Annotated[
    Path, typer.Argument(metavar="EXPERIMENT", help="An experiment's folder, or its URL.", parser=_here)
]
ExperimentOrAdapters = Annotated[
    Path,
    typer.Argument(
        metavar="EXPERIMENT|ADAPTERS", help="An experiment, or its URL, or exported adapters.", parser=_here
    ),
]
Experiments = Annotated[
    str,
    typer.Option(
        "--experiments", metavar="DIR", help="The folder that holds all experiments, or its URL: s3://…, gs://…"
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a value of the space, e.g. trainer.epochs=3. Repeatable."),
]
TrialName = Annotated[str | None, typer.Option("--trial", help="A trial's number or a baseline's name. [best]")]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="A Ray cluster that this machine is a node of: auto, or its head's HOST:PORT. [this machine alone]",
    ),
]
RunAddress = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="A Ray cluster: auto, or its head's HOST:PORT, where this machine is a node of it; from elsewhere "
        "ray://HOST:10001, which has the head run the search. [this machine alone]",
    ),
]
EXPERIMENTS = "experiments"


def main() -> None:
    """Runs the command line and exits with its code."""
    try:
        app(prog_name="langsearch")
    except InputError as error:
        for problem in error.problems:
            _err.print(f"error: {problem}", markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        _err.print("Interrupted.")
        sys.exit(130)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
) -> None:
    if version:
        _out.print(__version__)
        raise typer.Exit


@app.command()
def check(
    space: SpaceFile,
    overrides: Overrides = None,
    is_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Validate a space: languages, directions, sentences, dimensions, sizes, plan. Starts and writes nothing."""
    from langsearch.experiment.environment import check_space
    from langsearch.search.checking import check_constraints, describe_check, print_check
    from langsearch.search.trackers import check_tracking
    from langsearch.space.schema import load_space

    checked = check_space(load_space(space, overrides or ()))
    check_constraints(checked)
    check_tracking(checked.space)
    if is_json:
        typer.echo(json.dumps(describe_check(checked), ensure_ascii=False, indent=2))
    else:
        print_check(_out, checked)


@app.command()
def run(
    space: SpaceFile,
    experiments: Experiments = EXPERIMENTS,
    name: Annotated[str | None, typer.Option(help="The experiment's name. [the space's name]")] = None,
    trials: Annotated[
        int | None,
        typer.Option(help="Searched trials, baselines not counted; with --resume, in all: more adds to them.", min=1),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(help="Stop after so many hours of this run, trials behind a checkpoint; --resume goes on."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with an experiment after any end. Complete trials stay, running ones go on from their last "
            "checkpoint.",
        ),
    ] = False,
    retry: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="With --resume: try failed trials again. failed: all; 12,17: these; or how their cause begins, "
            "e.g. 'out of memory'.",
        ),
    ] = None,
    accept_changed_space: Annotated[
        bool,
        typer.Option(
            "--accept-changed-space",
            help="With --resume: go on with a changed space in the same study; the old one is kept beside it. Base, "
            "languages, data, evaluation and objectives must stay.",
        ),
    ] = False,
    address: RunAddress = None,
    overrides: Overrides = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show only the result.")] = False,
) -> None:
    """Search: run the trials, test the front and the baselines, write the report.

    Ctrl+C once: the trials stop behind a checkpoint. Twice: they stop now, and lose at most the epoch in progress.

    Exit codes: 0 done, or the time was up. 1 no trial could finish, or the space's `failures` stopped the run.
    2 wrong input. 130 interrupted.
    """
    if not resume and (retry is not None or accept_changed_space):
        option = "--retry" if retry is not None else "--accept-changed-space"
        raise InputError(f"{option} goes on with an experiment, but --resume is not given. Add it.")
    from langsearch.experiment.environment import check_space
    from langsearch.search.checking import check_constraints
    from langsearch.search.display import Display
    from langsearch.search.runner import run_search
    from langsearch.search.trackers import check_tracking

    loaded = _load_space(space, overrides, name=name, trials=trials, hours=hours)
    if address is not None and address.startswith("ray://"):
        from langsearch.cluster.client import run_on_head

        flags = {"--resume": resume, "--accept-changed-space": accept_changed_space, "--quiet": quiet}
        options = [flag for flag, is_given in flags.items() if is_given] + (["--retry", retry] if retry else [])
        raise typer.Exit(run_on_head(loaded, address, experiments, options, _write))
    checked = check_space(loaded)
    check_constraints(checked)
    check_tracking(loaded)
    display = Display(_out, loaded.name, loaded.search.trials, len(loaded.baselines), is_quiet=quiet)
    try:
        outcome = run_search(
            checked,
            experiments,
            display,
            resume=resume,
            accept_changed_space=accept_changed_space,
            retry=retry,
            address=address,
        )
    except KeyboardInterrupt:
        _err.print("Interrupted. Go on with the same command and --resume.")
        raise typer.Exit(130) from None
    is_written = _write_results(checked, outcome)
    code = _tell_end(outcome, is_idle=resume and display.num_started == 0)
    raise typer.Exit(code if is_written else max(code, 1))


def _load_space(
    path: Path,
    overrides: list[str] | None,
    *,
    name: str | None = None,
    trials: int | None = None,
    hours: float | None = None,
) -> "Space":
    """Loads a space with what options set in it; problems with these name the options as they were typed."""
    from langsearch.space.schema import load_space

    options = {}
    if name is not None:
        # In quotes, so that --name 7 is a text too.
        options[f"name={json.dumps(name, ensure_ascii=False)}"] = f"--name {shlex.quote(name)}"
    if trials is not None:
        options[f"search.trials={trials}"] = f"--trials {trials}"
    if hours is not None:
        options[f"search.max_hours={hours}"] = f"--hours {hours:g}"
    try:
        return load_space(path, [*(overrides or ()), *options])
    except InputError as error:
        problems = error.problems
        for setting, option in options.items():
            begin = f"--set {setting}: "
            problems = tuple(
                f"{option}: {problem.removeprefix(begin)}" if problem.startswith(begin) else problem
                for problem in problems
            )
        raise InputError(problems) from error


def _write_results(checked: "CheckedSpace", outcome: "Outcome") -> bool:
    """Writes the front's adapters and the report; returns whether they could be, which a full disk prevents."""
    from langsearch.report.page import write_report
    from langsearch.trial.export import export_front

    path = outcome.folder.path
    try:
        if outcome.is_complete:
            export_front(checked, outcome.folder)
        report = write_report(path)
        _print_front(path)
        if outcome.copy is not None:
            outcome.copy.push()
            _out.print(f"Experiment: {outcome.copy.remote.url}", soft_wrap=True)
    except OSError as error:
        what = "front and report" if outcome.is_complete else "report"
        _err.print(
            f"The {what} could not be written: {error}. --resume writes what is missing.",
            markup=False,
            soft_wrap=True,
        )
        return False
    _out.print(f"Report: {report}", soft_wrap=True)
    return True


def _tell_end(outcome: "Outcome", *, is_idle: bool) -> int:
    """Says how a search ended and what can be done next; returns the exit code.

    Args:
        outcome: The run's.
        is_idle: Whether the run went on with an experiment and started no trial.
    """
    if outcome.num_failed:
        trials = "1 trial" if outcome.num_failed == 1 else f"{outcome.num_failed} trials"
        _print_text(f"{trials} failed; the causes are in the report. To try again: --resume --retry failed")
    reasons = {"time": "The time is up", "interrupted": "Interrupted", "requested": "Stopped on request"}
    if outcome.stopped_by in reasons:
        why = reasons[outcome.stopped_by]
        _print_text(f"{why}: not all trials have ended. Go on with the same command and --resume.")
        return 130 if outcome.stopped_by == "interrupted" else 0
    if outcome.stopped_by is not None:
        way_out = "Remove the cause, or change `failures`"
        if outcome.stopped_by.startswith("disk full"):
            way_out = "Make room on the disk, or lower `checkpoints.max_gigabytes`"
        _err.print(
            f"Stopped: {outcome.stopped_by.rstrip('.')}. {way_out}; "
            "then go on with the same command and --resume: no finished epoch is lost.",
            markup=False,
            soft_wrap=True,
        )
        return 1
    if not outcome.is_complete:
        _err.print("The front could not be scored or tested; --resume tries it again.")
        return 1
    if outcome.num_complete == 0:
        _err.print("No searched trial could finish; the causes are in the report.")
        return 1
    if is_idle and outcome.ended_by != "exhausted":
        more = " For more: --resume --trials N" if outcome.ended_by == "trials" else ""
        _print_text(f"No trial was left to run: the search had ended before.{more}")
    ends = {
        "plateau": "Ended before all trials: the last ones gained too little (`search.plateau`).",
        "exhausted": "Ended before all trials: every point of the space was tried.",
    }
    if outcome.ended_by in ends:
        _print_text(ends[outcome.ended_by])
    return 0


@app.command()
def train(
    target: Annotated[Path, typer.Argument(metavar="SPACE|ARCHITECTURE", help="A space, or an architecture.json.")],
    to: Annotated[Path | None, typer.Option("--to", help="Where to write. [experiments/NAME-train]")] = None,
    space: Annotated[Path | None, typer.Option(help="The space whose data and trainer an architecture uses.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier training stopped.")] = False,
    overrides: Overrides = None,
) -> None:
    """Train one architecture, without a search, and export its adapters."""
    from langsearch.trial.single import train_single

    train_single(_out, target, space, to, overrides or (), resume=resume)


learn_app = typer.Typer(help="Learn about a space before searching it: sides, or the demand for rank.")
app.add_typer(learn_app, name="learn", no_args_is_help=True)
LearnTo = Annotated[Path | None, typer.Option("--to", help="Where to write. [experiments/NAME-sides or -subspace]")]
LearnResume = Annotated[bool, typer.Option("--resume", help="Go on where an earlier learning stopped.")]
LearnRank = Annotated[int | None, typer.Option(help="Every language's rank. [as in the space's prior]", min=1)]


@learn_app.command("sides")
def learn_sides(
    space: SpaceFile,
    steps: Annotated[int | None, typer.Option(help="Updates. [as in the space's prior, or 200]", min=1)] = None,
    rank: LearnRank = None,
    by: Annotated[str | None, typer.Option(help="layer or module: what shares a side. [layer]")] = None,
    to: LearnTo = None,
    resume: LearnResume = False,
    overrides: Overrides = None,
) -> None:
    """Learn which layers should be indexed by the source language and which by the target's."""
    from langsearch.prior.learn_command import learn_and_print

    _show_learned(
        learn_and_print(_out, "sides", space, to, overrides or (), resume=resume, steps=steps, rank=rank, by=by)
    )


@learn_app.command("subspace")
def learn_subspace(
    space: SpaceFile,
    rank: LearnRank = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs. [as in the space's prior, or 4]", min=2)] = None,
    target: Annotated[float | None, typer.Option(help="Share of B to prune. [as in the prior, or 0.9]")] = None,
    to: LearnTo = None,
    resume: LearnResume = False,
    overrides: Overrides = None,
) -> None:
    """Learn how much rank each language demands, and propose a narrowed space."""
    from langsearch.prior.learn_command import learn_and_print

    given = {"rank": rank, "epochs": epochs, "target": target}
    _show_learned(learn_and_print(_out, "subspace", space, to, overrides or (), resume=resume, **given))


@app.command()
def evaluate(
    target: ExperimentOrAdapters,
    split: Annotated[str, typer.Option(help="validation, or test (devtest means test).")] = "test",
    trial: TrialName = None,
    space: Annotated[Path | None, typer.Option(help="The space whose data adapters outside an experiment use.")] = None,
    beams: Annotated[int | None, typer.Option(help="Beams. [as in the space's evaluation.final]", min=1)] = None,
) -> None:
    """Score a trial or exported adapters: spBLEU by direction and class pair, with its signature."""
    from langsearch.trial.rescoring import print_evaluation

    print_evaluation(_out, target, split, trial, space, beams)


@app.command()
def translate(
    adapters: Annotated[Path, typer.Argument(metavar="ADAPTERS", help="A folder written by export, or front/NAME.")],
    src: Annotated[str, typer.Option("--from", help="The source language.")],
    tgt: Annotated[str, typer.Option("--to", help="The target language.")],
    beams: Annotated[int, typer.Option(help="1: greedy.", min=1)] = 5,
    base: Annotated[str | None, typer.Option(help="The base, if it is not where the adapters say.")] = None,
) -> None:
    """Translate: reads lines, writes lines."""
    from langsearch.trial.translating import translate_lines

    for line in translate_lines(adapters, sys.stdin.buffer, src, tgt, beams, base):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


@app.command()
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
    from langsearch.trial.export import export_one

    names = export_one(
        source, trial, to, format_, direction=direction, is_compact=compact, energy=energy, note=_print_text
    )
    what = f"a model for {direction}" if format_ == "merged" else f"{len(names)} adapters"
    _out.print(f"Wrote {what} and a card to {to}", soft_wrap=True)


@app.command()
def report(
    experiment: ExperimentFolderArgument,
    price: Annotated[
        float | None,
        typer.Option(
            "--price-per-gpu-hour", metavar="PRICE", help="State what the GPU hours cost, in any currency.", min=0
        ),
    ] = None,
) -> None:
    """Write report.html and show the front against the baselines."""
    from langsearch.report.page import write_report

    path = write_report(experiment, price)
    _print_front(experiment)
    _out.print(f"Report: {path}", soft_wrap=True)


@app.command()
def dashboard(
    experiments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXPERIMENT...",
            help="Experiments, or folders of them; they need not be there yet. Or URLs. [experiments]",
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Listen here, for others too; with --token. [this machine]")
    ] = None,
    token: Annotated[
        str | None, typer.Option(metavar="SECRET", help="What every request must bring; with --host.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="The port. [8266, or the next free one]", min=0, max=65535)] = None,
) -> None:
    """Show experiments live in a browser: the report's views, a second after a trial ends; compare; stop trials.

    One experiment opens its own page; several, or a folder, open a list of them, from which some can be compared.

    Nothing is written but requests to stop: a trial ends at the epoch it has reached and counts as stopped early; a
    search stops behind checkpoints, and --resume goes on. It can be started before, during and after a search, and
    ended by Ctrl+C at any time.

    Only this machine is served, without a login. From another one: ssh -L 8266:127.0.0.1:8266 HOST, then open
    http://127.0.0.1:8266. Or give --host and --token together; the token then goes over the network as it is.

    Experiments on remote storage are live on the machine that runs their search; elsewhere they are fetched once and
    shown as they were then.

    Example: langsearch dashboard experiments/quickstart
    """
    from langsearch.dashboard.serving import open_dashboard

    paths = [path for text in experiments or [EXPERIMENTS] for path in _to_watch(text)]
    opened = open_dashboard(paths, host=host, token=token, port=port, tell=_print_text)
    _print_text(f"Dashboard: {opened.url}  (Ctrl+C ends it; searches go on)")
    opened.run()


ClusterUrl = Annotated[str, typer.Option("--address", metavar="URL", help="The cluster's dashboard, http://HOST:8265.")]


@app.command()
def submit(
    space: SpaceFile,
    address: ClusterUrl,
    experiments: Annotated[
        str,
        typer.Option(metavar="DIR", help="Where the cluster keeps experiments: an absolute path there, or a URL."),
    ],
    name: Annotated[str | None, typer.Option(help="The experiment's name. [the space's name]")] = None,
    trials: Annotated[int | None, typer.Option(help="Searched trials, baselines not counted.", min=1)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an experiment after any end.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the job, nor show its log.")] = False,
    overrides: Overrides = None,
) -> None:
    """Send a space and its local data to a cluster, and follow the search, which goes on without us."""
    from langsearch.cluster.jobs import Jobs

    loaded = _load_space(space, overrides, name=name, trials=trials)
    jobs = Jobs(address)
    job = jobs.submit(loaded, experiments, ["--resume"] if resume else [])
    _print_text(f"Job {job}. Follow it: langsearch status {job} --address {address} --follow")
    _print_text(f"Fetch the results: langsearch fetch {job} --address {address} --to {EXPERIMENTS}/{loaded.name}")
    if not detach:
        raise typer.Exit(_follow(jobs, job))


@app.command()
def status(
    address: ClusterUrl,
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="A job's name. [all]")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show the job's log until it ends.")] = False,
) -> None:
    """Show the searches that were submitted to a cluster, or one of them."""
    from langsearch.cluster.jobs import Jobs

    if follow and job is None:
        raise InputError("--follow shows one job's log, but no JOB is given.")
    jobs = Jobs(address)
    found = jobs.all() if job is None else [jobs.find(job)]
    for one in found:
        started = "" if one.started is None else f"{one.started:%Y-%m-%d %H:%M} UTC"
        _print_text(f"{one.id}  {one.status}  {started}  {one.experiment or ''}  {one.message}".rstrip())
    if not found:
        _print_text(f"No search was submitted to {address}.")
    if follow and job is not None:
        raise typer.Exit(_follow(jobs, job))


@app.command()
def fetch(
    what: Annotated[
        str, typer.Argument(metavar="JOB|EXPERIMENT", help="A job, or an experiment: its URL, or its path there.")
    ],
    to: Annotated[Path, typer.Option("--to", help="The folder to write.")],
    address: Annotated[
        str | None, typer.Option(metavar="URL", help="The cluster's dashboard; not needed for an experiment's URL.")
    ] = None,
) -> None:
    """Bring an experiment here: from its URL, or, up to 400 MB, from a path that the cluster's head sees."""
    from langsearch.cluster.jobs import Jobs, fetch_remote

    if address is None and "://" not in what:
        raise InputError(f"--address must say which cluster has {what!r}, but is not given.")
    path = fetch_remote(what, to) if address is None or "://" in what else Jobs(address).fetch(what, to)
    _print_text(f"Experiment: {path}")


def _follow(jobs: "Jobs", job: str) -> int:
    try:
        return jobs.follow(job, _write)
    except KeyboardInterrupt:
        _err.print(f"Not followed any more; the job goes on. To stop it: ray job stop {job} --address {jobs.address}")
        return 0


@app.command()
def doctor(
    space: Annotated[
        Path | None, typer.Argument(metavar="[SPACE]", help="Also whether this space can run: base, data, room.")
    ] = None,
    address: Address = None,
    experiments: Experiments = EXPERIMENTS,
    overrides: Overrides = None,
    is_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Examine every node: versions, GPUs, memory, disk, storage, clock. Exit code 1 if a run would break there."""
    from langsearch.cluster.doctor import diagnose, diagnosis_data, print_diagnoses, room_problems
    from langsearch.cluster.ray_session import check_local_resources, connect
    from langsearch.experiment.environment import check_space
    from langsearch.experiment.printable import json_text
    from langsearch.space.schema import load_space

    loaded = None if space is None else load_space(space, overrides or ())
    problems: list[str] = []
    try:
        if loaded is not None:
            check_local_resources(loaded, address)
            check_space(loaded)
    except InputError as error:
        problems += error.problems
    if address is not None:
        connect(address)
    found = diagnose(experiments, loaded, address)
    problems += room_problems(found, loaded, address)
    if is_json:
        typer.echo(json_text(diagnosis_data(found, problems)))
    else:
        print_diagnoses(_out, found, problems)
    raise typer.Exit(1 if problems or any(one.problems for one in found) else 0)


@app.command("list")
def list_(
    experiments: Annotated[
        str, typer.Argument(metavar="EXPERIMENTS", help="The folder that holds all experiments, or its URL.")
    ] = EXPERIMENTS,
    is_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List experiments: state, trials, and the best one's spBLEU (v: on validation) against the baselines."""
    from langsearch.experiment.printable import json_text
    from langsearch.experiment.working_copy import fetch_experiments
    from langsearch.report.listing import list_experiments, listing_data, listing_table

    listed = list_experiments(fetch_experiments(experiments, with_trials=False))
    if is_json:
        typer.echo(json_text(listing_data(listed)))
    elif listed:
        _out.print(listing_table(listed))
    else:
        _print_text(f"No experiment in {experiments}.")


@app.command()
def show(
    experiment: ExperimentFolderArgument,
    trial: Annotated[
        str | None, typer.Argument(metavar="TRIAL", help="A trial's number or a baseline's name. [the experiment]")
    ] = None,
    is_json: Annotated[bool, typer.Option("--json", help="Print all that is known as one JSON object.")] = False,
) -> None:
    """Show an experiment and its front, or one trial: scores, point, plan, curve, failure."""
    from langsearch.experiment.printable import json_text
    from langsearch.report.experiment_reader import read_experiment
    from langsearch.report.showing import experiment_data, find_trial, print_experiment, print_trial, trial_data

    found = read_experiment(experiment)
    one = None if trial is None else find_trial(found, trial)
    if is_json:
        typer.echo(json_text(experiment_data(found) if one is None else trial_data(found, one)))
    elif one is None:
        print_experiment(_out, found)
    else:
        print_trial(_out, found, one)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _print_text(text: str) -> None:
    _out.print(text, markup=False, soft_wrap=True)


def _to_watch(text: str) -> list[Path]:
    """Returns the experiments that a dashboard shows; remote ones are brought here first."""
    if "://" not in text:
        return [Path(text)]
    from langsearch.experiment.lock import is_held
    from langsearch.experiment.working_copy import fetch_experiments

    paths = fetch_experiments(text, with_trials=True)
    if not paths:
        raise InputError(f"A URL must be an experiment's, or of a folder of experiments, but {text} holds none.")
    for path in paths:
        if not is_held(path):
            _print_text(
                f"{text}: {path.name} was fetched as it is now. Start the dashboard again for what comes later."
            )
    return paths


def _show_learned(folder: Path) -> None:
    from langsearch.report.learned_page import write_learned_page

    _out.print(f"Figures: {write_learned_page(folder)}", soft_wrap=True)


def _print_front(experiment: Path) -> None:
    from langsearch.report.experiment_reader import read_experiment
    from langsearch.report.terminal import front_table

    _out.print(front_table(read_experiment(experiment)))


if __name__ == "__main__":
    main()
