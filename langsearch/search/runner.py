"""A search from start to end: what is checked first, the trials, the front's selection, the test set once."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray

from langsearch.cluster.leftovers import clear_nodes
from langsearch.cluster.preflight import check_cluster, check_files, node_check
from langsearch.cluster.ray_session import check_local_resources, connect, start_ray
from langsearch.cluster.resources import amounts, num_threads
from langsearch.evaluate.spbleu import SpBleu
from langsearch.experiment.description import recorded_precision, write_description
from langsearch.experiment.disk import DiskBudget, without_weights
from langsearch.experiment.earlier import with_earlier_defaults
from langsearch.experiment.environment import CheckedSpace, build_environment, check_space, computing_in
from langsearch.experiment.fence import check_fence
from langsearch.experiment.folder import STORE_FOLDER, ExperimentFolder, read_json
from langsearch.experiment.holding import hold_experiment
from langsearch.experiment.lock import clear_leftovers
from langsearch.experiment.opening import (
    check_start,
    is_other_space,
    is_started,
    open_table,
    space_version,
    start_experiment,
)
from langsearch.experiment.recorded_base import check_recorded, record_base, recorded_source
from langsearch.experiment.results_parquet import ResultsFile
from langsearch.experiment.teacher_watch import TeacherWatch
from langsearch.experiment.working_copy import WorkingCopy, find_experiments
from langsearch.model.base import Base, outline_base
from langsearch.model.cpu_precision import MeasuredPrecision, measure_cpu_precision
from langsearch.model.finding import provide_weights
from langsearch.model.new_languages import with_new_languages
from langsearch.search.display import Display
from langsearch.search.late_nodes import LateNodes
from langsearch.search.phases import fault, run_phases
from langsearch.search.placing import place_base
from langsearch.search.search import Search
from langsearch.search.seeds import has_missing_seeds
from langsearch.search.tuning import bring_up_to_date
from langsearch.search.uploading import Uploads, add_missing
from langsearch.space.problems import InputError, LeaseLostError
from langsearch.study.retrying import choose_failed
from langsearch.study.rows import State, TrialRow

logger = logging.getLogger(__name__)

_BYTES_A_PARAMETER = 4
"""Of a base in Ray's object store, which holds it in fp32."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    folder: ExperimentFolder
    rows: Sequence[TrialRow]
    is_complete: bool
    """Whether all planned trials have ended and the front is tested."""

    ended_by: str | None
    """What the search ended by: "trials", a "plateau", or the space is "exhausted"."""

    copy: WorkingCopy | None
    """Of a remote experiment: the copy that was worked on."""

    stopped_by: str | None
    """What stopped the run before: "interrupted", "terminated", "time", "requested", or a failure's cause."""

    @property
    def num_complete(self) -> int:
        """Searched trials with a final score."""
        return sum(row.kind == "searched" and row.state is State.COMPLETE for row in self.rows)

    @property
    def num_failed(self) -> int:
        """Searched trials that failed and were not tried again."""
        return sum(row.kind == "searched" and row.state is State.FAILED and row.counts for row in self.rows)


def run_search(
    checked: CheckedSpace,
    experiments: str | Path,
    display: Display,
    *,
    resume: bool = False,
    resume_if_begun: bool = False,
    accept_changed_space: bool = False,
    retry: str | None = None,
    address: str | None = None,
    conclude: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Runs a search, or goes on with one.

    Args:
        checked: The space, checked against its base and data.
        experiments: The folder of all experiments, or its URL; the space's name is the experiment's.
        display: Shows what happens.
        resume: Go on with an experiment that is there.
        resume_if_begun: Go on with an experiment where one has begun, and begin it where none has.
        accept_changed_space: Go on though the space has changed.
        retry: Which failed trials to try again, as `retrying.choose_failed` takes it.
        address: A Ray cluster's address. None: this machine alone.
        conclude: Called in the end, while the experiment is still held, with what is returned then.

    Raises:
        LeaseLostError: If another run took over the experiment; nothing was written to it after that.
        StorageError: If the experiment's object store cannot be reached when the run begins.
        InputError: If the experiment is there already, or not there to resume, or held by another run, its space has
            changed, no machine has the resources, one of them does not see storage or data, or `retry` names no failed
            trial.
    """
    space = checked.space
    root, remote = find_experiments(str(experiments))
    path, copy = root / space.name, WorkingCopy(remote, space.name) if remote is not None else None
    check_local_resources(space, address)
    if copy is not None and space.search.strategy == "one_shot":
        raise InputError(
            "`search.strategy: one_shot` must have an experiment on a disk that all machines see, since workers read "
            f"the donors there, but {experiments} is an object store. Give a folder, or strategy: trials."
        )
    if copy is None:
        space = with_earlier_defaults(ExperimentFolder(path), space)
        # Looked at here, and again behind the lock: another run may begin it in between.
        is_resumed = resume or (resume_if_begun and is_started(ExperimentFolder(path)))
        check_start(path, space, resume=is_resumed, accept_changed_space=accept_changed_space)
    if address is not None:
        connect(address)
        check_cluster(space, root, remote, display.message)
    with ExitStack() as stack:
        lease = stack.enter_context(hold_experiment(path, copy))
        if copy is not None:
            display.message(f"Fetching what there is of {copy.remote.url} …")
            copy.take_over()
            space = with_earlier_defaults(ExperimentFolder(path), space)
        resume = resume or (resume_if_begun and is_started(ExperimentFolder(path)))
        checked = replace(checked, space=space)
        # All that can be refused is refused before anything is written.
        check_start(path, space, resume=resume, accept_changed_space=accept_changed_space)
        checked = _with_recorded_base(checked, path)
        names = _check_resumption(checked, ExperimentFolder(path), retry)
        for found in (*checked.teachers, checked.base):
            if found.to_fetch:
                num_bytes = sum(found.to_fetch.values())
                display.message(f"Fetching {found.source}: {num_bytes / 1e9:.2f} GB …")
            weights = provide_weights(found)
        # This process does not keep the weights: Ray has them, once a node.
        base = with_new_languages(outline_base(checked.base, weights, checked.base_tokenizer), space.new_languages)
        is_new = not is_started(ExperimentFolder(path))
        folder = start_experiment(path, space, resume=resume, accept_changed_space=accept_changed_space)
        clear_leftovers(folder)
        shutil.rmtree(folder.ray, ignore_errors=True)
        table = open_table(folder, space, base_parameters=checked.shape.num_parameters)
        table.take_over(lambda: check_fence(folder.path))
        cuts = None
        if space.search.strategy == "one_shot":
            cuts = open_table(folder, space, base_parameters=checked.shape.num_parameters, cuts_of=table)
            cuts.take_over(lambda: check_fence(folder.path))
        record_base(folder.path, checked.base, checked.family, checked.teachers)
        environment = build_environment(checked, base, root / STORE_FOLDER, display.console)
        if checked.teachers:
            display.watched = TeacherWatch(root / STORE_FOLDER).look
        if address is not None and copy is None:
            check_files(environment, space)
        precision = _cpu_precision(checked, folder, base, is_new=is_new)
        environment = computing_in(environment, precision)
        results = ResultsFile(folder, checked.shape.num_parameters)
        check = stack.enter_context(node_check(space, environment, root, remote)) if address is not None else None
        late_nodes = LateNodes(amounts(space.resources), check, display.message)
        search = Search(
            checked,
            folder,
            table,
            environment,
            display,
            results,
            address,
            copy=copy,
            late_nodes=late_nodes,
            lease=lease,
            cuts=cuts,
        )
        if copy is not None:
            num_missing = add_missing(folder, table)
            if num_missing:
                display.message(f"{num_missing} trials that had begun are added to the study from their folders.")
            search = replace(search, uploads=Uploads(copy, folder, table))
            copy.push_store()
            _push(search)
        if not names and _is_finished(search):
            bring_up_to_date(search, DiskBudget(folder, space.checkpoints))  # what is kept may have been set anew
            outcome = Outcome(folder, table.rows(), True, "trials", copy, None)
            conclude(outcome)
            return outcome
        with _described(search, precision) as described:
            placed = place_base(checked.base, weights, space.new_languages, is_alone=address is None)
            search = replace(search, base=placed)
            ended, is_complete = run_phases(search, names, described)
            described["is_complete"] = is_complete
        stopped_by = ended.stopped_by
        try:
            clear_leftovers(folder)
            _push(search)
            if copy is not None and address is not None:
                clear_nodes(copy)
        except OSError as error:
            stopped_by, is_complete = stopped_by or fault(error), False
        outcome = Outcome(folder, table.rows(), is_complete, ended.ended_by, copy, stopped_by)
        conclude(outcome)
        return outcome


def _push(search: Search) -> None:
    """Sends all of a remote experiment. Raises StorageError."""
    if search.uploads is not None:
        search.uploads.push()


def _cpu_precision(
    checked: CheckedSpace, folder: ExperimentFolder, base: Base, *, is_new: bool
) -> MeasuredPrecision | None:
    """Returns what `trainer.precision: auto` means on the CPU, as it was found when the experiment began.

    None where nothing depends on it. An experiment that began before this was measured goes on in fp32.
    """
    space = checked.space
    if space.resources.gpu > 0 or space.trainer_section.precision != "auto":
        return None
    if (recorded := recorded_precision(folder)) is not None:
        return recorded
    if not is_new:
        return MeasuredPrecision("fp32", None)
    return measure_cpu_precision(base, num_threads(space.resources))


def _with_recorded_base(checked: CheckedSpace, path: Path) -> CheckedSpace:
    """Returns a space with its base at the commit that an experiment has recorded, also where its branch has moved.

    Raises:
        InputError: If the base is another than the experiment began with.
    """
    source = recorded_source(path, checked.space.base_source)
    if source.revision is not None and source.revision != checked.space.base_source.revision:
        checked = check_space(checked.space, source, is_begun=True)
    check_recorded(path, checked.base, checked.family, checked.teachers)
    return checked


def _check_resumption(checked: CheckedSpace, folder: ExperimentFolder, retry: str | None) -> list[str]:
    """Checks a resumed run against the trials that are there; returns the failed ones that it is to try again.

    Raises:
        InputError: If `retry` names no failed trial, or the space as it is now wants trials on the front that have no
            weights any more.
    """
    is_changed = is_other_space(folder, checked.space)
    if not is_started(folder) or (retry is None and not is_changed):
        return []
    table = open_table(folder, checked.space, base_parameters=checked.shape.num_parameters)
    problems: list[str] = []
    names: list[str] = []
    if retry is not None:
        try:
            names = choose_failed(table.rows(), retry)
        except InputError as error:
            problems += error.problems
    if is_changed and (gone := without_weights(folder, table.candidates())):
        problems.append(
            f"A trial on the front must have its weights, but by the constraints as they are now {', '.join(gone)} "
            "would be on it, whose weights were deleted when others dominated them. Leave `search.constraints` as they "
            "were, or start a new experiment with --name NAME."
        )
    if problems:
        raise InputError(problems)
    return names


def _is_finished(search: Search) -> bool:
    """Returns whether an earlier run has done all that is asked for, so that Ray need not be started."""
    folder, table, space = search.folder, search.table, search.space
    about = read_json(folder.description) if folder.description.exists() else {}
    if about.get("finished") is None or about.get("space_version") != space_version(folder):
        return False
    rows = table.rows()
    baselines = {row.name for row in rows if row.kind == "baseline" and row.state is State.COMPLETE}
    num_wanted = space.search.trials
    if folder.one_shot.exists() and read_json(folder.one_shot)["is_complete"]:
        num_wanted = 0
    return (
        all(row.state.is_finished for row in rows)
        and sum(row.counts for row in rows) >= num_wanted
        and baselines == {baseline.name for baseline in space.baselines}
        and not table.unscored()
        and not table.untested()
        and not has_missing_seeds(space, table)
    )


@contextmanager
def _described(search: Search, precision: MeasuredPrecision | None) -> Iterator[dict[str, Any]]:
    """Starts Ray, and leaves results.parquet and experiment.json up to date, however the context ends.

    What the context puts into the dictionary is in the description. Where the lease was lost nothing is written: the
    workers are stopped, and that is all.
    """
    started = time.monotonic()
    signature = SpBleu(search.environment.tokenizer).signature
    found = {} if precision is None else {"cpu_precision": asdict(precision)}
    write_description(search.folder, search.checked, signature, **found)
    before = float(read_json(search.folder.description)["seconds"])
    if precision is not None and precision.name == "bf16":
        search.display.message(
            f"Trials compute in bf16, a step of which takes {precision.ratio:.2f} of fp32's time here."
        )
    search.display.message(
        f"{search.space.name}: {len(search.space.languages)} languages, {len(search.checked.directions)} directions, "
        f"{len(search.checked.corpus.train):,} training sentences. Starting Ray …"
    )
    values: dict[str, Any] = {"is_complete": False}
    try:
        start_ray(_BYTES_A_PARAMETER * search.checked.shape.num_parameters, search.display.message)
        yield values
    except LeaseLostError as error:
        if search.lease is not None:
            search.lease.give_up(str(error))  # a worker may have seen it first
        raise
    finally:
        try:
            search.check_held()
            is_complete = values.pop("is_complete")
            values["seconds"] = before + time.monotonic() - started
            values["finished"] = datetime.now(UTC).isoformat(timespec="seconds") if is_complete else None
            write_description(search.folder, search.checked, signature, **values)
            bring_up_to_date(search, DiskBudget(search.folder, search.space.checkpoints))
            if search.uploads is not None:
                search.uploads.try_push()
            shutil.rmtree(search.folder.ray, ignore_errors=True)
        except OSError as error:
            search.display.message(f"The results could not be written: {error}. They are written anew by --resume.")
        finally:
            if search.address is None:
                ray.shutdown()
