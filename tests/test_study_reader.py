"""The trial table as another process reads it, against the driver's own."""

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError

from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.study_reader import StudyReader, UnreadableError
from langsearch.study.results import FinalResult
from langsearch.study.table import TrialTable
from tests.dashboard_fixtures import LiveSearch
from tests.space_fixtures import ODD_SIGNS


@pytest.fixture
def search(tmp_path: Path) -> LiveSearch:
    search = LiveSearch(tmp_path / ODD_SIGNS / "small")
    search.run_baselines()
    return search


@pytest.fixture
def reader(search: LiveSearch) -> StudyReader:
    return StudyReader(search.folder, search.space, search.shape.num_parameters)


def same(reader: StudyReader, table: TrialTable) -> bool:
    state = reader.read()
    return list(state.rows) == table.rows() and state.front == {row.name for row in table.front()}


def test_rows_and_front_are_the_drivers_at_every_step(search: LiveSearch, reader: StudyReader) -> None:
    table = search.table
    assert same(reader, table)
    names = [search.run(spbleu) for spbleu in (8.0, 9.0, 11.0)]
    assert same(reader, table)
    running = search.begin()
    search.epoch(running, 1, 3.0)
    table.record_rung(running, 1, [3.0, 100.0], goes_on=False)
    assert same(reader, table)
    table.end_on_request(running)
    table.fail(search.begin(), "out of memory: no")
    assert same(reader, table)
    failed = table.rows()[-1]
    table.add(table.num_searched, dict(failed.params), fingerprint=failed.fingerprint, retry_of=failed.name)
    table.add(table.num_searched, dict(failed.params), fingerprint=failed.fingerprint, same_as=names[0])
    assert same(reader, table)
    search.test(names[0], 7.0)
    for name, spbleu in zip(names, (9.0, 10.0, 8.0), strict=True):
        values: dict[str, Any] = {
            "full_spbleu_low": spbleu,
            "full_spbleu_high": spbleu,
            "full_worst_class_spbleu": spbleu,
        }
        final = FinalResult(full_spbleu=spbleu, **values, full_chrf=None, full_num_sentences=52, full_num_directions=6)
        table.record_final(name, final)
    assert same(reader, table), "the front is then by the final scores"


def test_constraints_are_measured_as_the_driver_measures_them(tmp_path: Path) -> None:
    text = "search.constraints=[spbleu >= 8.5, trainable_parameters <= 1 %]"
    search = LiveSearch(tmp_path / "small", overrides=[text])
    reader = StudyReader(search.folder, search.space, search.shape.num_parameters)
    for spbleu in (8.0, 9.0, 11.0):
        search.run(spbleu)
    assert same(reader, search.table)
    assert {row.is_feasible for row in reader.read().rows} == {True, False}


def test_the_version_changes_with_every_commit_and_only_then(search: LiveSearch, reader: StudyReader) -> None:
    before = reader.version()
    reader.read()
    assert reader.version() == before
    name = search.begin()
    begun = reader.version()
    search.epoch(name, 1, 3.0)
    assert len({before, begun, reader.version()}) == 3


def test_what_has_not_changed_is_the_same_object_again(search: LiveSearch, reader: StudyReader) -> None:
    search.run(8.0)
    running = search.begin()
    before = reader.read().rows
    search.epoch(running, 1, 3.0)
    after = reader.read().rows
    assert [old is new for old, new in zip(before, after, strict=True)] == [True, True, True, False]


def test_nothing_can_be_written_through_it(search: LiveSearch, reader: StudyReader) -> None:
    content = search.folder.study.read_bytes()
    reader.read()
    with pytest.raises(StorageInternalError):
        reader.storage.set_study_user_attr(1, "a", "b")
    assert search.folder.study.read_bytes() == content
    assert [path.name for path in search.folder.path.glob("study.db*")] == ["study.db"]


def test_the_driver_writes_while_it_is_read(search: LiveSearch, reader: StudyReader) -> None:
    is_over, errors = threading.Event(), []

    def read() -> None:
        other = StudyReader(search.folder, search.space, search.shape.num_parameters)
        while not is_over.is_set():
            try:
                other.read()
            except UnreadableError as error:
                errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(10):
        search.run(5.0 + number)
    is_over.set()
    thread.join()
    assert same(reader, search.table)
    assert len(errors) <= 1


@pytest.mark.parametrize("content", [None, b"", b"SQLite format 3\0torn", b"not a database at all" * 100])
def test_a_missing_or_torn_table_is_not_readable_now(content: bytes | None, tmp_path: Path) -> None:
    search = LiveSearch(tmp_path / "small")
    search.folder.study.unlink()
    if content is not None:
        search.folder.study.write_bytes(content)
    with pytest.raises(UnreadableError, match="The trial table"):
        StudyReader(search.folder, search.space, 1)


def test_a_locked_table_is_not_readable_now_and_is_a_moment_later(search: LiveSearch, reader: StudyReader) -> None:
    reader.read()
    with sqlite3.connect(search.folder.study) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UnreadableError, match="locked"):
            reader.read()
        connection.rollback()
    assert same(reader, search.table)


def test_another_experiments_study_is_not_taken_for_ours(search: LiveSearch, tmp_path: Path) -> None:
    other = LiveSearch(tmp_path / "other")
    search.folder.study.replace(other.folder.study)
    reader = StudyReader(ExperimentFolder(other.folder.path), other.space, 1)
    with pytest.raises(UnreadableError):
        reader.read()
