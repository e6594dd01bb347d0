"""What all phases of a search share, and how one ends."""

import time
from dataclasses import dataclass, field
from typing import Any

from langsearch.cluster.nodes import may_come
from langsearch.cluster.resources import NUM_AHEAD, Capacity, amounts, num_threads
from langsearch.experiment.environment import CheckedSpace, Environment
from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.lease import LeaseMark, RemoteLease
from langsearch.experiment.results_parquet import ResultsFile
from langsearch.experiment.working_copy import WorkingCopy
from langsearch.search.display import Display
from langsearch.search.late_nodes import LateNodes
from langsearch.search.uploading import Uploads
from langsearch.space.schema import Space
from langsearch.study.table import TrialTable


@dataclass(frozen=True)
class Search:
    """What the trials of a search share."""

    checked: CheckedSpace
    folder: ExperimentFolder
    table: TrialTable
    environment: Environment
    display: Display
    results: ResultsFile
    address: str | None
    """The Ray cluster's; None: this machine alone."""

    base: Any = None
    """The base in Ray's object store, once Ray has started: a reference to a `SharedBase`, which workers get."""

    copy: WorkingCopy | None = None
    """The copy of a remote experiment that is worked on; None: the folder is the experiment."""

    late_nodes: LateNodes = field(default_factory=lambda: LateNodes({}, None, lambda text: None))
    """Which nodes run trials and tasks of their size."""

    uploads: Uploads | None = None
    """Of a remote experiment: sends what the driver writes."""

    lease: RemoteLease | None = None
    """Of an experiment that other machines may write to as well."""

    cuts: TrialTable | None = None
    """The table of cuts; None: nothing is cut."""

    def check_held(self) -> None:
        """Raises LeaseLostError if another run holds the experiment by now, or may."""
        if self.lease is not None:
            self.lease.check()

    @property
    def lease_mark(self) -> LeaseMark | None:
        """What workers look at before they write."""
        return None if self.lease is None else self.lease.mark

    @property
    def space(self) -> Space:
        """The space that new trials come from."""
        return self.checked.space

    @property
    def num_threads(self) -> int:
        """Threads of PyTorch in a worker."""
        return num_threads(self.space.resources)


@dataclass(frozen=True)
class Ended:
    """How the trials of a run ended."""

    is_done: bool
    """Whether all that was planned has ended."""
    ended_by: str | None
    stopped_by: str | None


def deadline_of(space: Space) -> float | None:
    """Returns when the time of a search that begins now is up, by the monotonic clock; None: never."""
    hours = space.search.max_hours
    return time.monotonic() + 3600 * hours if hours else None


def capacity_of(search: Search) -> Capacity:
    """Returns how many trials may run at once."""
    wanted = amounts(search.space.resources)
    may_grow = search.address is not None and may_come(wanted) is not False
    return Capacity(wanted, NUM_AHEAD if may_grow else 0, search.late_nodes.resources)
