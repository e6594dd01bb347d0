"""Connections to PostgreSQL that a server, or a pool in front of it, treats as it likes."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.opening import open_table, start_experiment
from langsearch.experiment.study_reader import StudyReader
from langsearch.space.schema import load_space
from langsearch.study.front import Objective
from langsearch.study.rows import State
from langsearch.study.table import TrialTable
from tests.postgres_fixtures import free_port, wait_for_database
from tests.table_fixtures import DIMENSIONS

if TYPE_CHECKING:
    from tests.search_fixtures import ResultMaker

pytest_plugins = ["search_fixtures", "postgres_fixtures"]

OBJECTIVES = (Objective("spbleu", True), Objective("trainable_parameters", False))


def open_small(url: str, name: str) -> TrialTable:
    return TrialTable(url, name, OBJECTIVES, sampler="random", seed=3, num_trials=12)


def end_all_connections(server: str) -> int:
    """Has the server end all connections but this one, as it does at a restart or after a while without use."""
    import psycopg

    query = """select count(pg_terminate_backend(pid)) from pg_stat_activity
        where pid <> pg_backend_pid() and usename is not null"""
    with psycopg.connect(server.replace("+psycopg", "")) as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return int(row[0])


def test_connections_that_were_closed_while_idle_are_opened_again(server: str, make_result: "ResultMaker") -> None:
    table = open_small(server, "idle")
    table.take_over()
    table.propose(DIMENSIONS)
    for spbleu in (1.0, 2.0, 3.0):
        assert end_all_connections(server) >= 1
        name = f"{table.num_searched - 1:05d}"
        table.complete(name, make_result(spbleu=spbleu))
        assert end_all_connections(server) >= 1
        table.propose(DIMENSIONS)
    states = [row.state for row in open_small(server, "idle").rows()]
    assert states == [State.COMPLETE] * 3 + [State.RUNNING]


def test_who_reads_a_study_goes_on_after_its_connections_were_closed_and_cannot_write(
    server: str, tmp_path: Path, make_result: "ResultMaker"
) -> None:
    reader, table = make_reader(server, tmp_path)
    assert [row.state for row in reader.read().rows] == [State.RUNNING]
    end_all_connections(server)
    table.complete("00000", make_result())
    assert end_all_connections(server) >= 1
    assert [row.state for row in reader.read().rows] == [State.COMPLETE]
    assert_read_only(reader)
    reader.close()


def make_reader(url: str, tmp_path: Path) -> tuple[StudyReader, TrialTable]:
    """An experiment with one trial whose table is in a database, as a driver and as a dashboard opens it."""
    file = Path(__file__).parents[1] / "search_spaces" / "quickstart.yaml"
    name = f"read-{tmp_path.name}"
    space = load_space(file, [f"search.storage={url.replace('+psycopg', '')}", f"name={name}"])
    folder: ExperimentFolder = start_experiment(tmp_path / name, space, resume=False)
    table = open_table(folder, space)
    table.take_over()
    table.propose(space.dimensions())
    return StudyReader(folder, space, 1), table


def assert_read_only(reader: StudyReader) -> None:
    import sqlalchemy

    with pytest.raises(sqlalchemy.exc.InternalError, match="read-only transaction"), reader._engine.begin() as begun:
        begun.execute(sqlalchemy.text("delete from trials"))


@pytest.fixture
def pooled(server: str, tmp_path: Path) -> Iterator[str]:
    """The URL of the database behind PgBouncer in transaction mode, with two connections for all."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin:/usr/local/sbin")
    if program is None:
        pytest.skip("needs PgBouncer, such as Debian's package pgbouncer")
    port, address = free_port(), server.rpartition("@")[2].partition("/")[0]
    host, _, of_server = address.partition(":")
    folder = tmp_path / "pool"
    folder.mkdir(mode=0o777)
    (folder / "users.txt").write_text('"langsearch" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\npostgres = host={host} port={of_server} dbname=postgres user=langsearch\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n"
        f"auth_file = {folder}/users.txt\npool_mode = transaction\ndefault_pool_size = 2\nserver_idle_timeout = 1\n"
    )
    for path in (tmp_path, *folder.iterdir()):
        path.chmod(0o755)
    user = ["-u", "nobody"] if Path("/root").owner() == "root" else []
    with subprocess.Popen([program, *user, str(folder / "pgbouncer.ini")], stderr=subprocess.DEVNULL) as running:
        try:
            url = f"postgresql+psycopg://langsearch@127.0.0.1:{port}/postgres"
            wait_for_database(url, running)
            yield url
        finally:
            running.terminate()


def test_a_pool_in_transaction_mode_may_stand_before_the_database(
    pooled: str, server: str, tmp_path: Path, make_result: "ResultMaker"
) -> None:
    first, second = open_small(pooled, "pooled"), open_small(pooled, "pooled too")
    for table in (first, second):
        table.take_over()
        table.add_baseline("pretrained")
        table.complete("pretrained", make_result(spbleu=1.0))
    for number in range(8):  # more than the five times after which psycopg would prepare a statement
        for table in (first, second):
            table.propose(DIMENSIONS)
            table.report(f"{number:05d}", make_result(epoch=1))
            table.complete(f"{number:05d}", make_result(spbleu=float(number)))
        if number == 4:
            time.sleep(1.2)  # the pool closes its own connections
    assert open_small(server, "pooled").rows() == first.rows()
    assert [row.state for row in second.rows()] == [State.COMPLETE] * 9
    reader, table = make_reader(pooled, tmp_path)
    assert len(reader.read().rows) == 1
    assert_read_only(reader)
    reader.close()
    with pytest.raises(Exception, match="taken over"):  # fenced behind the pool, too
        open_small(pooled, "pooled").take_over()
        first.propose(DIMENSIONS)
    assert len(open_small(server, "pooled").rows()) == 9
