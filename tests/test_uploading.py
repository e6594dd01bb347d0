"""A driver of a remote experiment that is killed between two uploads, and each time goes on elsewhere."""

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from langsearch.experiment import remote as copying
from langsearch.experiment.folder import ExperimentFolder, write_text
from langsearch.experiment.opening import open_table, start_experiment
from langsearch.experiment.remote import Remote
from langsearch.experiment.study_pieces import StudyUpload
from langsearch.experiment.task import TrialTask, searched_task
from langsearch.experiment.working_copy import WorkingCopy
from langsearch.model.finding import find_base
from langsearch.model.shape import read_shape
from langsearch.search.pushing import PushingSearcher
from langsearch.search.uploading import PROPOSALS, Uploads, add_missing
from langsearch.space.schema import Space, load_space
from langsearch.study.early_stopping import AsyncHalving
from langsearch.study.results import TrialResult
from langsearch.study.rows import State
from langsearch.study.table import TrialTable
from tests.benchmarks.simulated_tune import run_simulated
from tests.test_kills import EPOCHS, SPACE, scripted

pytest_plugins = ["table_fixtures"]
pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")

NUM_TRIALS, NUM_KILLS = 8, 4


class KilledError(Exception):
    """Stands for kill -9."""


class Machine:
    """One run of the search on a machine of its own, up to a number of events."""

    def __init__(self, cache: Path, store: Remote, space: Space, trained: Counter[tuple[str, int]], seed: int) -> None:
        os.environ["LANGSEARCH_CACHE"] = str(cache)
        self.seed = seed
        self.copy = WorkingCopy(store, "small")
        self.folder = ExperimentFolder(self.copy.path)
        self.space, self.trained = space, trained
        self.clock, self.num_events = 0.0, 0

    def run(self, num_events: int | None) -> TrialTable:
        """Begins the search, or goes on with it; raises KilledError at an event."""
        self.copy.take_over()
        self.shape = read_shape(find_base(self.space.base))
        start_experiment(self.folder.path, self.space, resume=self.folder.space.exists())
        # Another history gives other proposals: of trials that the study does not have, another seed does so, too.
        seeded = load_space(self.folder.space, [f"search.seed={self.seed}"])
        table = open_table(self.folder, seeded, base_parameters=self.shape.num_parameters)
        self.num_missing = add_missing(self.folder, table)
        uploads = Uploads(self.copy, self.folder, table, lambda: self.clock)
        uploads.push()
        searcher = PushingSearcher(
            table,
            self.folder,
            lambda number, point: searched_task(self.space, self.shape, number, point),
            self.space.dimensions(),
            [
                searched_task(self.space, self.shape, int(row.name), dict(row.params))
                for row in table.rows()
                if not row.state.is_finished and row.same_as is None
            ],
            NUM_TRIALS,
        )
        searcher.uploads = uploads

        def after_event(clock: float) -> None:
            self.clock = 2.0 * clock
            self.num_events += 1
            if self.num_events == num_events:
                raise KilledError
            uploads.look()

        scheduler = AsyncHalving(table, max_epochs=EPOCHS, grace_epochs=1, reduction_factor=2)
        run_simulated(searcher, scheduler, self.script, num_slots=2, on_event=after_event)
        assert searcher.is_done
        uploads.push()
        return table

    def script(self, task: TrialTask) -> Iterator[tuple[float, TrialResult]]:
        """What a worker does: it trains an epoch, sends it, and reports it."""
        for seconds, result in scripted(task, self.folder, self.shape):
            if seconds:
                self.trained[task.fingerprint, result.epoch] += 1
            self.copy.push(task.name)
            yield seconds, result


@pytest.fixture
def space(tmp_path: Path) -> Space:
    (tmp_path / "small.yaml").write_text(SPACE.replace("SAMPLER", "random").replace("[pretrained]", "[]"))
    return load_space(tmp_path / "small.yaml")


def test_no_trial_is_lost_or_doubled_wherever_a_driver_is_killed_between_two_uploads(
    tmp_path: Path, space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "TICK_NS", 0)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path))  # set back in the end
    store, chance, trained = Remote(f"file://{tmp_path}/store"), random.Random(0), Counter[tuple[str, int]]()
    num_missing, num_kills = 0, 0
    while True:
        machine = Machine(tmp_path / f"machine{num_kills}", store, space, trained, num_kills)
        try:
            table = machine.run(chance.randrange(2, 9) if num_kills < NUM_KILLS else None)
            break
        except KilledError:
            num_kills += 1
        finally:
            num_missing += machine.num_missing
    assert num_kills == NUM_KILLS
    assert num_missing >= 2, "the study was older than the trials"
    rows = [row for row in table.rows() if row.same_as is None]
    assert len(rows) == NUM_TRIALS
    assert len({row.fingerprint for row in rows}) == NUM_TRIALS
    assert {row.state for row in table.rows()} <= {State.COMPLETE, State.PRUNED}
    ended = {str(row.fingerprint): row.result.epoch for row in rows if row.result is not None}
    wanted = {(fingerprint, epoch) for fingerprint, last in ended.items() for epoch in range(1, last + 1)}
    assert wanted <= trained.keys()
    assert set(trained.values()) == {1}, "an epoch that was sent is trained once, on whatever machine"


def test_what_the_study_lacks_is_in_the_new_trial_s_folder_and_the_study_goes_from_time_to_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: Space
) -> None:
    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / "cache"))
    copy, now, sent = WorkingCopy(Remote(f"file://{tmp_path}/store"), "small"), [0.0], list[float]()
    folder = start_experiment(copy.path, space, resume=False)
    push = StudyUpload.push

    def note(upload: StudyUpload) -> int:
        sent.append(now[0])
        return push(upload)

    monkeypatch.setattr(StudyUpload, "push", note)
    table = open_table(folder, space)
    uploads = Uploads(copy, folder, table, lambda: now[0])
    uploads.push()
    for number in range(9):
        now[0] = 2.0 * number
        table.propose(space.dimensions())
        write_text(folder.trial(f"{number:05d}").task, "{}")
        uploads.propose(f"{number:05d}", None)
        elsewhere = WorkingCopy(Remote(f"file://{tmp_path}/store"), "small")
        assert (tmp_path / "store" / "small" / "trials" / f"{number:05d}" / PROPOSALS).exists() is (number % 3 != 0)
    assert sent == [0.0, 0.0, 6.0, 12.0]
    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / "elsewhere"))
    elsewhere.take_over()
    there = open_table(ExperimentFolder(elsewhere.path), space)
    assert there.num_searched == 7
    assert add_missing(ExperimentFolder(elsewhere.path), there) == 2
    found = [(row.name, row.params, row.state, row.fingerprint) for row in there.rows()]
    assert found == [(row.name, row.params, row.state, row.fingerprint) for row in table.rows()]
    assert there.next_point(space.dimensions()) == table.next_point(space.dimensions())
    assert add_missing(ExperimentFolder(elsewhere.path), there) == 0


def test_weights_that_are_deleted_here_go_there_behind_the_study_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: Space
) -> None:
    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / "cache"))
    copy, now, order = WorkingCopy(Remote(f"file://{tmp_path}/store"), "small"), [0.0], list[str]()
    folder = start_experiment(copy.path, space, resume=False)
    table = open_table(folder, space)
    table.propose(space.dimensions())
    weights = folder.trial("00000").weights / "000000001" / "state.json"
    write_text(weights, "{}")
    uploads = Uploads(copy, folder, table, lambda: now[0])
    uploads.push()
    copy.push("00000")
    there = tmp_path / "store" / "small" / "trials" / "00000" / "weights" / "000000001" / "state.json"
    uploads.look()
    table.fail("00000", "no")
    weights.unlink()
    uploads.free(["00000"])
    uploads.look()
    assert there.exists()
    now[0] = 6.0
    push = StudyUpload.push

    def note(upload: StudyUpload) -> int:
        order.append(str(there.exists()))
        return push(upload)

    monkeypatch.setattr(StudyUpload, "push", note)
    uploads.look()
    assert order == ["True"]
    assert not there.exists()
