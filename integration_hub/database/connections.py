"""What the connections of a pool are told when they open, and when they are given up.

May import: `faults`, `json_operators`, SQLAlchemy, psycopg.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from datetime import timedelta
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, event, exc
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.orm import Session

from integration_hub.database.faults import ABORTED, is_of_no_use, name_file
from integration_hub.database.json_operators import register_functions
from integration_hub.domain.errors import StorageError
from integration_hub.domain.values import milliseconds

LAZY: Final = "integration_hub_lazy"
_PING_AFTER = 1.0  # seconds of rest after which a pooled connection is tried before it is lent out


def begin_lazily(connection: Connection) -> None:
    """Begin the transaction of a connection of `lazy_engine`, before its first write.

    Until then each read stands for itself, which is what READ COMMITTED means anyway, and costs
    one round trip instead of three. On SQLite the write lock is taken at once, so that a
    transaction that has read can never be refused its write.
    """
    is_sqlite = connection.dialect.name == "sqlite"
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_sqlite else "BEGIN")


def has_failed(connection: Connection) -> bool:
    """Whether a commit would not store all that was done since the transaction began.

    After a statement that failed, Postgres answers it with "ROLLBACK", which is no error; see
    https://www.postgresql.org/docs/current/sql-commit.html. In SQLite such a statement fails alone,
    or else there is no transaction any more, and what came after was stored by itself; see
    https://sqlite.org/lang_transaction.html, section 3.
    """
    if connection.invalidated:
        return True
    driver: Any = connection.connection.driver_connection
    if isinstance(driver, psycopg.Connection):
        return driver.pgconn.transaction_status == TransactionStatus.INERROR
    return not driver.in_transaction


def require_unfailed(connection: Connection) -> None:
    """Before a commit: somebody may have caught the error of a statement. Raises `StorageError`."""
    if connection.in_transaction() and has_failed(connection):
        raise StorageError(ABORTED)


def refuse_to_commit_in_part(session: Session) -> None:
    """Let a Session look at the connection that it has got, before it commits."""
    begun: list[Connection] = []

    @event.listens_for(session, "after_begin")
    def note(session: Session, transaction: object, connection: Connection) -> None:
        begun[:] = [connection]

    @event.listens_for(session, "before_commit")
    def check(session: Session) -> None:
        for connection in begun:
            require_unfailed(connection)


def prepare_sqlite(engine: Engine, lock_timeout: timedelta) -> None:
    """What SQLite has to be told on each connection, and how transactions begin there."""
    busy = milliseconds(lock_timeout)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: object) -> None:
        connection.isolation_level = None  # sqlite3 begins nothing by itself: we do
        for pragma in (
            f"busy_timeout = {busy}",
            "foreign_keys = ON",
            "journal_mode = WAL",
            "synchronous = NORMAL",
        ):
            connection.execute(f"PRAGMA {pragma}")
        register_functions(connection)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if not connection.get_execution_options().get(LAZY):
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    @event.listens_for(engine, "handle_error")
    def check(context: ExceptionContext) -> None:
        name_file(context.original_exception, engine.url.database)
        connection = context.connection
        if connection is None or connection.get_execution_options().get(LAZY):
            return
        if has_failed(connection):
            # SQLAlchemy refuses what comes next then, which would be stored by itself.
            context.is_disconnect = True


def keep_to_utc(engine: Engine) -> None:
    """Say it again where `options` did not arrive: PgBouncer is told to ignore them, and keeps to
    a time zone, and a style of dates, that are set by a statement.
    """

    @event.listens_for(engine, "connect")
    def check(connection: psycopg.Connection[Any], record: object) -> None:
        if connection.info.parameter_status("TimeZone") != "UTC":
            connection.execute("SET TIME ZONE 'UTC'")
            connection.execute("SET datestyle = 'ISO'")
            connection.commit()


def leave_standbys(engine: Engine) -> None:
    """Give up the pool's connections to a server that takes no writes any more."""

    @event.listens_for(engine, "handle_error")
    def check(context: ExceptionContext) -> None:
        if is_of_no_use(context.original_exception):
            context.is_disconnect = True


def close_what_comes_back(engine: Engine, closed: threading.Event) -> None:
    """Once its pool is closed: a connection that was lent out then has no other end."""

    @event.listens_for(engine, "checkin")
    def end(connection: object, record: Any) -> None:
        if closed.is_set():
            record.invalidate()


def ping_after_rest(engine: Engine) -> None:
    """Try a connection that has rested before it is lent out; one in steady use is not tried."""

    @event.listens_for(engine, "checkin")
    def note(connection: object, record: Any) -> None:
        record.info["rests_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def ping(connection: Any, record: Any, proxy: object) -> None:
        since = record.info.get("rests_since")
        if since is None or time.monotonic() - since < _PING_AFTER:
            return
        try:
            engine.dialect.do_ping(connection)
        except (psycopg.Error, sqlite3.Error) as error:
            raise exc.DisconnectionError from error
