"""The database of a trial table: how it is opened, and that only the driver that took it over last may write to it."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import optuna
import sqlalchemy
from optuna.storages._rdb.models import StudySystemAttributeModel

from langsearch.space.problems import LeaseLostError

_DRIVER = "langsearch:driver"
"""The system attribute of a study that names the driver that may write to it."""

_WRITING = ("INSERT", "UPDATE", "DELETE")


def open_storage(url: str, *, seconds_to_wait: float | None = None, is_read_only: bool = False) -> Any:
    """Returns Optuna's storage on a database.

    Connections to a server that were closed while nobody used them are opened again, and none of them leaves anything
    behind that another one of the server's would lack, so that a pool of PgBouncer's in transaction mode may stand in
    between.

    Args:
        url: As SQLAlchemy writes it.
        seconds_to_wait: For SQLite's lock. None: as long as it does by itself.
        is_read_only: Nothing can be written; the tables must be there.

    Raises:
        SQLAlchemyError: If it cannot be opened.
        ImportError: If its driver is not installed.
    """
    options: dict[str, Any] = {}
    if url.startswith("sqlite"):
        if seconds_to_wait is not None:
            options["connect_args"] = {"timeout": seconds_to_wait}
    else:
        options["pool_pre_ping"] = True  # one small request for each transaction
    if url.startswith("postgresql+psycopg:"):
        # A statement that is prepared on one connection of a pool's is not known on the next.
        options["connect_args"] = {"prepare_threshold": None}
        if is_read_only:
            options["execution_options"] = {"postgresql_readonly": True}
    return optuna.storages.RDBStorage(url, engine_kwargs=options, skip_table_creation=is_read_only)


def take_over(storage: Any, study_id: int, check: Callable[[], None]) -> None:
    """Makes this process the only one that writes through its storage; one that did so before writes nothing more.

    Every transaction that has written looks, before it is committed, whether the study still names this driver, and
    locks that against change: a transaction of the driver before is committed before this call, or never.

    Args:
        storage: What `open_storage` returned.
        study_id: Of one study in it, for all of this driver's.
        check: Called before every transaction, and before one that has written is committed; raises LeaseLostError
            where another run may have the experiment by now.
    """
    token = uuid4().hex
    storage.set_study_system_attr(study_id, _DRIVER, token)
    named = (
        sqlalchemy.select(StudySystemAttributeModel.value_json)
        .where(StudySystemAttributeModel.study_id == study_id, StudySystemAttributeModel.key == _DRIVER)
        .with_for_update(read=True)
    )

    def before_begin(connection: sqlalchemy.Connection) -> None:
        connection.info.pop(_DRIVER, None)
        check()

    def before_statement(connection: sqlalchemy.Connection, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.lstrip()[:6].upper() in _WRITING:
            connection.info[_DRIVER] = True

    def before_commit(connection: sqlalchemy.Connection) -> None:
        if connection.info.pop(_DRIVER, False):
            check()
            if connection.execute(named).scalar() != f'"{token}"':
                raise LeaseLostError(
                    "Another run has taken over the trial table. Nothing more was written there; go on with the same "
                    "command and --resume when no other run has it."
                )

    sqlalchemy.event.listen(storage.engine, "begin", before_begin)
    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", before_statement)
    sqlalchemy.event.listen(storage.engine, "commit", before_commit)
