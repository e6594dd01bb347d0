"""Ray clusters: searches sent there, followed and fetched, and nodes examined."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langsearch.cli.console import err, out, print_text, write
from langsearch.cli.options import (
    AcceptChangedSpace,
    Address,
    ExperimentName,
    Experiments,
    Hours,
    Overrides,
    Quiet,
    Resume,
    ResumeIfBegun,
    Retry,
    SpaceFile,
    Trials,
    check_target,
    load_with_options,
    resumption,
)
from langsearch.space.problems import InputError
from langsearch.space.settings import EXPERIMENTS

if TYPE_CHECKING:
    from langsearch.cluster.jobs import Jobs

ClusterUrl = Annotated[str, typer.Option("--address", metavar="URL", help="The cluster's dashboard, http://HOST:8265.")]


def submit(
    space: SpaceFile,
    address: ClusterUrl,
    experiments: Annotated[
        str,
        typer.Option(metavar="DIR", help="Where the cluster keeps experiments: an absolute path there, or a URL."),
    ],
    name: ExperimentName = None,
    trials: Trials = None,
    hours: Hours = None,
    resume: Resume = False,
    resume_if_begun: ResumeIfBegun = False,
    retry: Retry = None,
    accept_changed_space: AcceptChangedSpace = False,
    quiet: Quiet = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the job, nor show its log.")] = False,
    overrides: Overrides = None,
) -> None:
    """Send a space and its local data to a cluster, and follow the search, which goes on without us.

    `ray job stop JOB --address URL` stops it as one Ctrl+C stops `langsearch run`: its trials end behind a checkpoint.
    """
    options = resumption(
        resume=resume, resume_if_begun=resume_if_begun, retry=retry, accept_changed_space=accept_changed_space
    )
    options += ["--quiet"] if quiet else []
    loaded = load_with_options(space, overrides, name=name, trials=trials, hours=hours, is_here=False)
    from langsearch.cluster.jobs import Jobs

    jobs = Jobs(address)
    job = jobs.submit(loaded, experiments, options)
    follow = shlex.join(["langsearch", "status", job, "--address", address, "--follow"])
    print_text(f"Job {job}. Follow it: {follow}")
    to = f"{EXPERIMENTS}/{loaded.name}"
    print_text(f"Fetch the results: {shlex.join(['langsearch', 'fetch', job, '--address', address, '--to', to])}")
    if not detach:
        raise typer.Exit(_follow(jobs, job))


def status(
    address: ClusterUrl,
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="A job's name. [all]")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show the job's log until it ends.")] = False,
) -> None:
    """Show the searches that were submitted to a cluster, or one of them."""
    if follow and job is None:
        raise InputError("--follow shows one job's log, but no JOB is given.")
    from langsearch.cluster.jobs import Jobs

    jobs = Jobs(address)
    found = jobs.all() if job is None else [jobs.find(job)]
    for one in found:
        started = "" if one.started is None else f"{one.started:%Y-%m-%d %H:%M} UTC"
        print_text(f"{one.id}  {one.status}  {started}  {one.experiment or ''}  {one.message}".rstrip())
    if not found:
        print_text(f"No search was submitted to {address}.")
    if follow and job is not None:
        raise typer.Exit(_follow(jobs, job))


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
    if address is None and "://" not in what:
        raise InputError(f"--address must say which cluster has {what!r}, but is not given.")
    check_target(to)
    from langsearch.cluster.jobs import Jobs, fetch_remote

    path = fetch_remote(what, to) if address is None or "://" in what else Jobs(address).fetch(what, to)
    print_text(f"Experiment: {path}")


def _follow(jobs: "Jobs", job: str) -> int:
    try:
        return jobs.follow(job, write)
    except KeyboardInterrupt:
        stop = shlex.join(["ray", "job", "stop", job, "--address", jobs.address])
        err.print(f"Not followed any more; the job goes on. To stop it: {stop}", markup=False, soft_wrap=True)
        return 0


def doctor(
    space: Annotated[
        Path | None,
        typer.Argument(metavar="SPACE", help="Also whether this space can run: base, data, room."),
    ] = None,
    address: Address = None,
    experiments: Experiments = EXPERIMENTS,
    overrides: Overrides = None,
    is_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Examine every node: versions, GPUs, memory, disk, storage, clock. Exit code 1 if a run would break there."""
    loaded = None if space is None else load_with_options(space, overrides)
    from langsearch.cluster.doctor import diagnose, diagnosis_data, print_diagnoses, room_problems
    from langsearch.cluster.ray_session import check_local_resources, connect
    from langsearch.experiment.environment import check_space
    from langsearch.experiment.printable import json_text

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
        print_diagnoses(out, found, problems)
    raise typer.Exit(1 if problems or any(one.problems for one in found) else 0)
