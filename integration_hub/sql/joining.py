"""Joining the transaction of a service: what of it can be joined, and what has to be refused.

May import: `domain`, `database`, psycopg, SQLAlchemy.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session, scoped_session

from integration_hub.database.json_operators import register_functions
from integration_hub.domain.errors import StorageError, ValidationError

Joined: TypeAlias = Session | scoped_session[Any] | Connection
"""What of a service a unit of work can join."""


def checked_session(session: object) -> Joined | None:
    if not isinstance(session, Session | scoped_session | Connection | None):
        problem = (
            "must be a Session or a Connection, and no async one: its work is to be done in a "
            "thread (asyncio.to_thread), by a Session there"
        )
        raise ValidationError("session", type(session).__name__, problem)
    return session


def joined_connection(joined: Joined, own: Engine) -> Connection:
    """The connection of what is joined, if ours can be used on it, as those of our `own` engine.

    Raises `StorageError`, with the way out, if not.
    """
    if isinstance(joined, Connection):
        connection = joined
    else:
        joined.flush()  # what our rows may refer to
        connection = joined.connection()
    theirs, ours = _driver_of(connection), _driver_of(own)
    if theirs != ours:
        message = f"can't join a transaction on {theirs}"
        raise StorageError(f"{message}; this hub is on {ours}")
    if connection.dialect.name == "sqlite":
        _prepare_sqlite(connection)
    else:
        _require_transaction(connection)
    return connection


def _require_transaction(connection: Connection) -> None:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    if driver.autocommit and driver.info.transaction_status == TransactionStatus.IDLE:
        message = "the joined connection is in AUTOCOMMIT mode, and has no transaction to join"
        raise StorageError(f"{message}; give it another isolation level")


def _prepare_sqlite(connection: Connection) -> None:
    """A foreign connection lacks what our own engine gives each of its connections."""
    driver: Any = connection.connection.driver_connection
    register_functions(driver)
    if not connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one():
        message = "foreign keys are off on the joined SQLite connection, so nothing would cascade"
        raise StorageError(f"{message}; run PRAGMA foreign_keys = ON when it connects")
    if not driver.in_transaction:
        # sqlite3 begins with the first write; a savepoint before it would be the transaction.
        connection.exec_driver_sql("BEGIN")


def _driver_of(of: Connection | Engine) -> str:
    """Which database, by which driver: what is sent, and what comes back, is that driver's."""
    dialect = of.dialect
    return f"{dialect.name}, by {'an async ' if dialect.is_async else ''}{dialect.driver}"
