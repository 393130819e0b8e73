"""The unit of work on a SQLAlchemy Session.

May import: `ports`, `domain`, `database`, and its neighbours. The Session holds the connection,
the transaction and the savepoints; statements go straight to its connection, since the objects
are frozen values and an identity map would only cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import psycopg
from sqlalchemy import Connection, CursorResult, Executable
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from integration_hub.database.engine import DatabaseConnectionManager, begin_lazily
from integration_hub.database.faults import driver_fault, fault, violated_constraint
from integration_hub.database.json_operators import register_functions
from integration_hub.domain.errors import StorageError
from integration_hub.ports.clock import Clock, SystemClock
from integration_hub.ports.unit_of_work import Tenant, UnitOfWorkLifecycle
from integration_hub.sql.aggregates import (
    PostgresIntegrationRepository,
    PostgresSyncJobRepository,
    PostgresWebhookRepository,
    SqlIntegrationRepository,
    SqliteIntegrationRepository,
    SqliteSyncJobRepository,
    SqliteWebhookRepository,
    SqlSyncJobRepository,
    SqlWebhookRepository,
)


class SqlUnitOfWork(UnitOfWorkLifecycle):
    """A unit of work on a database; see `ports.unit_of_work.UnitOfWork`.

    With `session` (a Session, or a Connection, of the same kind of database) it joins that
    transaction: `commit()` then releases a savepoint, and the owner of the Session commits or
    rolls back the whole.
    """

    INTEGRATIONS: ClassVar[type[SqlIntegrationRepository]]
    WEBHOOKS: ClassVar[type[SqlWebhookRepository]]
    SYNC_JOBS: ClassVar[type[SqlSyncJobRepository]]

    def __init__(
        self,
        manager: DatabaseConnectionManager,
        *,
        tenant: Tenant = "default",
        actor: str = "system",
        clock: Clock | None = None,
        session: Session | Connection | None = None,
    ) -> None:
        super().__init__(tenant=tenant, actor=actor, clock=clock or SystemClock())
        self._manager = manager
        self._joined = session
        self._session: Session | None = None
        self._connection: Connection | None = None
        self._has_begun = False
        self.integrations = self.INTEGRATIONS(self)
        self.webhooks = self.WEBHOOKS(self)
        self.sync_jobs = self.SYNC_JOBS(self)

    def __enter__(self) -> Self:
        self._enter()
        return self

    # --- statements ---------------------------------------------------------------------------

    def read(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> CursorResult[Any]:
        """Run a statement that changes nothing."""
        connection = self.connected()
        try:
            return connection.execute(statement, parameters)
        except SQLAlchemyError as error:
            raise fault(error) from error

    def write(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> CursorResult[Any]:
        """Run a statement within the transaction, which begins if it has not."""
        connection = self.begun()
        try:
            return connection.execute(statement, parameters)
        except SQLAlchemyError as error:
            raise fault(error) from error

    def connected(self) -> Connection:
        """The connection, taken from the pool at the first use."""
        self.require_active()
        return self._connection or self._connect()

    def begun(self) -> Connection:
        """The connection, with its transaction begun."""
        connection = self.connected()
        if not self._has_begun:
            with self.faults():
                begin_lazily(connection)
            self._has_begun = True
        return connection

    @contextmanager
    def faults(self) -> Iterator[None]:
        """A block in which the database's and the driver's faults become errors of the package."""
        try:
            yield
        except SQLAlchemyError as error:
            raise fault(error) from error
        except psycopg.Error as error:
            raise driver_fault(error) from error

    @staticmethod
    def constraint_of(error: StorageError) -> str | None:
        """The name of the constraint that was broken, if that was the fault."""
        return violated_constraint(error.__cause__)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A block whose changes are undone if it is left by an exception."""
        connection = self.begun()
        with self.faults():
            nested = connection.begin_nested()
        try:
            yield
        except BaseException:
            if self.state == "active":
                with self.faults():
                    nested.rollback()
            raise
        if self.state == "active":
            with self.faults():
                nested.commit()

    # --- the Session --------------------------------------------------------------------------

    def _connect(self) -> Connection:
        with self.faults():
            if self._joined is None:
                self._session = Session(self._manager.lazy_engine)
            else:
                self._session = Session(
                    self._connection_of(self._joined), join_transaction_mode="create_savepoint"
                )
                self._has_begun = True
            self._connection = self._session.connection()
        return self._connection

    def _connection_of(self, joined: Session | Connection) -> Connection:
        if isinstance(joined, Connection):
            connection = joined
        else:
            joined.flush()  # what our rows may refer to
            connection = joined.connection()
        if connection.dialect.name != self._manager.engine.dialect.name:
            message = f"can't join a transaction on {connection.dialect.name}"
            raise StorageError(f"{message}; this hub is on {self._manager.engine.dialect.name}")
        if connection.dialect.name == "sqlite":
            self._prepare_sqlite(connection)
        return connection

    @staticmethod
    def _prepare_sqlite(connection: Connection) -> None:
        """A foreign connection lacks what our own engine gives each of its connections."""
        driver: Any = connection.connection.driver_connection
        register_functions(driver)
        if not connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one():
            message = (
                "foreign keys are off on the joined SQLite connection, so nothing would cascade"
            )
            raise StorageError(f"{message}; run PRAGMA foreign_keys = ON when it connects")
        if not driver.in_transaction:
            # sqlite3 begins with the first write; a savepoint before it would be the transaction.
            connection.exec_driver_sql("BEGIN")

    def _commit(self) -> None:
        if self._session is None:
            return
        try:
            with self.faults():
                self._session.commit()
        finally:
            self._leave()

    def _rollback(self) -> None:
        self._leave()

    def _leave(self) -> None:
        """Give the connection back, rolled back if it was not committed."""
        session, self._session, self._connection = self._session, None, None
        if session is None:
            return
        try:
            session.close()
        except DBAPIError as error:
            # The server rolls back what a lost connection had begun.
            if not error.connection_invalidated:
                raise fault(error) from error


class PostgresUnitOfWork(SqlUnitOfWork):
    """A unit of work on Postgres, at READ COMMITTED."""

    INTEGRATIONS = PostgresIntegrationRepository
    WEBHOOKS = PostgresWebhookRepository
    SYNC_JOBS = PostgresSyncJobRepository


class SqliteUnitOfWork(SqlUnitOfWork):
    """A unit of work on SQLite: one writes at a time, and the others wait for it."""

    INTEGRATIONS = SqliteIntegrationRepository
    WEBHOOKS = SqliteWebhookRepository
    SYNC_JOBS = SqliteSyncJobRepository
