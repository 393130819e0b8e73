"""The unit of work on a SQLAlchemy Session.

May import: `ports`, `domain`, `database`, and its neighbours. A unit of work is one transaction of
one connection: that of a Session which it joins, or one of its own, to which `session` opens a
Session for whoever wants to use models too. Our own statements go straight to the connection, since
the objects are frozen values and an identity map would only cost.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any, ClassVar, Self

import psycopg
from sqlalchemy import Connection, CursorResult, Executable, NestedTransaction
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session, SessionTransaction

from integration_hub.database.clock import DatabaseClock
from integration_hub.database.connections import begin_lazily, has_failed
from integration_hub.database.engine import DatabaseConnectionManager
from integration_hub.database.faults import (
    ABORTED,
    LOST,
    driver_fault,
    fault,
    is_of_no_use,
    violated_constraint,
)
from integration_hub.database.notifications import tell
from integration_hub.domain.errors import DatabaseUnavailable, HubError, StorageError
from integration_hub.ports.clock import Clock
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
from integration_hub.sql.joining import Joined, checked_session, joined_connection
from integration_hub.sql.messages import (
    PostgresMessageRepository,
    SqliteMessageRepository,
    SqlMessageRepository,
)
from integration_hub.sql.news import tell_with
from integration_hub.sql.prepared import OwnCursor, Prepared
from integration_hub.sql.secrets import (
    PostgresInboxRepository,
    PostgresSecretRepository,
    SqlInboxRepository,
    SqliteInboxRepository,
    SqliteSecretRepository,
    SqlSecretRepository,
)
from integration_hub.sql.session import HandedOut
from integration_hub.sql.sync_runs import (
    PostgresSyncRunRepository,
    SqliteSyncRunRepository,
    SqlSyncRunRepository,
)

_CURSOR = "integration_hub_cursor"
MANY_ROWS = 1_000
"""A cursor that has had so many at once is not kept: its answer would lie there until the next."""
_FAILED_WITHIN = "an earlier statement within this savepoint failed; what it had done is undone"
_OVER = "the transaction that this unit of work joined was committed, or rolled back, meanwhile"
_LOG = logging.getLogger("integration_hub.database")
_STATEMENTS = logging.getLogger("sqlalchemy.engine.Engine")


class SqlUnitOfWork(UnitOfWorkLifecycle):
    """A unit of work on a database; see `ports.unit_of_work.UnitOfWork`.

    With `session` (a Session, or a Connection, of the same kind of database) it joins that
    transaction: `commit()` then releases a savepoint, and the owner of the Session commits or
    rolls back the whole. Where it need not be `atomic`, a call that takes one statement is sent
    without a transaction around it.
    """

    INTEGRATIONS: ClassVar[type[SqlIntegrationRepository]]
    WEBHOOKS: ClassVar[type[SqlWebhookRepository]]
    SYNC_JOBS: ClassVar[type[SqlSyncJobRepository]]
    SYNC_RUNS: ClassVar[type[SqlSyncRunRepository]]
    MESSAGES: ClassVar[type[SqlMessageRepository]]
    SECRETS: ClassVar[type[SqlSecretRepository]]
    INBOX: ClassVar[type[SqlInboxRepository]]

    def __init__(
        self,
        manager: DatabaseConnectionManager,
        *,
        tenant: Tenant = "default",
        actor: str = "system",
        clock: Clock | None = None,
        session: Joined | None = None,
        atomic: bool = True,
    ) -> None:
        super().__init__(tenant=tenant, actor=actor, clock=clock or manager.clock)
        self._is_atomic = atomic
        self._manager = manager
        self._joined = checked_session(session)
        self._session: HandedOut | None = None
        self._connection: Connection | None = None
        self._cursor: OwnCursor | None = None
        self._turn = RLock()  # so that threads that share this don't get each other's answers
        self.has_begun = False  # whether there is a transaction, so that it may yet be undone
        self._is_broken = False
        self._news: set[str] = set()
        self.integrations = self.INTEGRATIONS(self)
        self.webhooks = self.WEBHOOKS(self)
        self.sync_jobs = self.SYNC_JOBS(self)
        self.sync_runs = self.SYNC_RUNS(self)
        self.messages = self.MESSAGES(self)
        self.secrets = self.SECRETS(self)
        self.inbox = self.INBOX(self)

    def __enter__(self) -> Self:
        self._enter()
        return self

    @property
    def is_scoped(self) -> bool:
        return self.scope is not None

    def scoped(self, **values: Any) -> dict[str, Any]:
        """The parameters, with the tenant where the statement asks for it."""
        return {"tenant_id": self.scope, **values} if self.is_scoped else values

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

    def rows(self, statement: Prepared, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """All rows of a statement that changes nothing, or locks at most."""
        with self._turn:
            connection = self._connection or self.connected()
            if self._cursor is None:
                return self.read(statement.statement, parameters).all()
            try:
                rows = statement.run(self._cursor, parameters).fetchall()
            except psycopg.Error as error:
                raise self._broken_by(error) from error
            if len(rows) > MANY_ROWS:
                self._cursor = connection.info[_CURSOR] = OwnCursor(self._cursor.connection)
            return rows

    def touch(
        self, statement: Prepared, parameters: Mapping[str, Any], *, is_whole: bool = False
    ) -> int:
        """Run a statement that changes rows, within the transaction; gives their number.

        One that `is_whole` is all that a call needs; see `ready`.
        """
        with self._turn:
            connection = self.ready() if is_whole else self.begun()
            try:
                if self._cursor is None:
                    return connection.execute(statement.statement, parameters).rowcount
                return statement.run(self._cursor, parameters).rowcount
            except SQLAlchemyError as error:
                raise fault(error) from error
            except psycopg.Error as error:
                raise self._broken_by(error) from error

    def _broken_by(self, error: psycopg.Error) -> HubError:
        """What a fault means that came past SQLAlchemy, which must know of a lost connection."""
        is_lost = self._cursor is not None and bool(self._cursor.connection.closed)
        if self._connection is not None and (is_lost or is_of_no_use(error)):
            self._connection.invalidate(error)
        return driver_fault(error, is_lost=is_lost)

    def announce(self, channel: str) -> None:
        self._news.add(channel)

    @property
    def session(self) -> Session:
        """A Session in this very transaction, for a service's own models.

        The transaction begins. `commit()` flushes the Session, and ends it; its own `commit` and
        `rollback` are refused, since they would end the unit of work behind its back. Within a
        savepoint it can be used, but not asked for the first time.
        """
        connection = self.begun()
        if self._session is None:
            if connection.in_nested_transaction():
                message = "a savepoint would end the Session of a unit of work with it"
                raise StorageError(f"{message}; ask for `uow.session` before the savepoint")
            self._session = HandedOut(connection, "control_fully")
            self._cursor = None
        return self._session

    def connected(self) -> Connection:
        """The connection, taken from the pool at the first use."""
        self.require_active()
        connection = self._connection or self._connect()
        self._require_whole(connection)
        return connection

    def _require_whole(self, connection: Connection) -> None:
        """What was done can still be committed; or else what comes next would be without it."""
        if connection.invalidated:
            raise DatabaseUnavailable(LOST)
        if self._is_undone(connection):
            raise StorageError(ABORTED if self._joined is None else _OVER)

    def _is_undone(self, connection: Connection) -> bool:
        """Whether the transaction was rolled back, though the unit of work is not over."""
        return self._is_broken or (self._session is not None and self._session.is_over)

    def _require_unfailed(self, connection: Connection, problem: str = ABORTED) -> None:
        """And no statement has failed. Asked at the end: what comes next is refused anyway."""
        self._require_whole(connection)
        if self.has_begun and has_failed(connection):
            raise StorageError(problem)

    def ready(self) -> Connection:
        """The connection, for a statement that is all that a call needs: it is stored by itself
        where what the calls do need not be stored together, and no transaction has begun.
        """
        return self.begun() if self._is_atomic else self.connected()

    def begun(self) -> Connection:
        """The connection, with its transaction begun."""
        connection = self.connected()
        if not self.has_begun:
            with self._turn, self.faults():
                if not self.has_begun:
                    self._begin(connection)
                    self.has_begun = True
        return connection

    def _begin(self, connection: Connection) -> None:
        if self._cursor is None:
            begin_lazily(connection)
        else:
            self._cursor.begin()

    @contextmanager
    def faults(self) -> Iterator[None]:
        """A block in which the database's and the driver's faults become errors of the package."""
        try:
            yield
        except SQLAlchemyError as error:
            raise fault(error) from error
        except psycopg.Error as error:
            raise self._broken_by(error) from error

    @staticmethod
    def constraint_of(error: StorageError) -> str | None:
        """The name of the constraint that was broken, if that was the fault."""
        return violated_constraint(error.__cause__)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A block whose changes are undone if it is left by an exception."""
        connection = self.begun()
        with self.faults():  # a Session has to know of it, so as to forget what is undone
            nested = (self._session or connection).begin_nested()
        try:
            yield
            if self.state == "active":
                self._require_unfailed(connection, _FAILED_WITHIN)
        except BaseException:
            if self.state == "active" and not self._is_undone(connection):
                self._undo(nested)
            raise
        if self.state == "active":
            self._release(connection, nested)

    def _release(
        self, connection: Connection, nested: NestedTransaction | SessionTransaction
    ) -> None:
        """End a savepoint. Where that can't be done, it can't be rolled back to either."""
        try:
            with self.faults():
                nested.commit()
        except StorageError:
            self._is_broken = has_failed(connection)
            raise

    def _undo(self, nested: NestedTransaction | SessionTransaction) -> None:
        """Roll back to a savepoint. Where that can't be done, as when a signal's handler has broken
        off a statement, the unit of work is done for, and what led to it is raised.
        """
        try:
            with self.faults():
                nested.rollback()
        except StorageError as error:
            self._is_broken = True
            _LOG.warning("a savepoint could not be rolled back: %s", error.message)

    # --- the Session --------------------------------------------------------------------------

    def _connect(self) -> Connection:
        with self._turn, self.faults():
            if self._connection is not None:
                return self._connection
            if self._joined is None:
                self._connection = self._manager.lazy_engine.connect()
                self._cursor = self._cursor_of(self._connection)
            else:
                connection = joined_connection(self._joined, self._manager.engine)
                self._session = HandedOut(connection, "create_savepoint")
                self._connection = self._session.connection()
                self.has_begun = True
        return self._connection

    @staticmethod
    def _cursor_of(connection: Connection) -> OwnCursor | None:
        """One of psycopg's own, unless somebody traces or logs what SQLAlchemy executes."""
        listeners = connection.dispatch
        if listeners.before_cursor_execute or listeners.after_cursor_execute:
            return None
        if _STATEMENTS.isEnabledFor(logging.INFO):
            return None
        kept: OwnCursor | None = connection.info.get(_CURSOR)
        driver = connection.connection.driver_connection
        if kept is None and isinstance(driver, psycopg.Connection):
            kept = connection.info[_CURSOR] = OwnCursor(driver)
        return kept

    def _commit(self) -> None:
        try:
            if self._connection is not None:
                self._require_unfailed(self._connection)
            self._store()
        finally:
            self._leave()

    def _store(self) -> None:
        try:
            with self.faults():
                if self._session is not None:
                    self._session.commit_all()
                elif self._connection is not None:
                    self._commit_own(self._connection)
        except DatabaseUnavailable as error:
            is_lost = self._connection is not None and self._connection.invalidated
            if self._joined is not None or not is_lost:
                raise
            message = f"{error.message}; whether this was stored is not known"
            raise DatabaseUnavailable(message, sqlstate=error.sqlstate) from error.__cause__

    def _commit_own(self, connection: Connection) -> None:
        if self._cursor is None or connection.in_transaction():
            connection.commit()
        elif self.has_begun:
            self._cursor.connection.commit()

    def _rollback(self) -> None:
        self._leave()

    def _leave(self) -> None:
        """Give the connection back, rolled back if it was not committed."""
        session, self._session = self._session, None
        connection, self._connection, self._cursor = self._connection, None, None
        try:
            if session is not None:
                session.close()
            if connection is not None and self._joined is None:
                connection.close()
        except DBAPIError as error:
            if self._joined is not None and not error.connection_invalidated:
                is_over = connection is not None and self._is_undone(connection)
                raise (StorageError(_OVER) if is_over else fault(error)) from error
            # What a connection of our own had begun, the server rolls back when that is given up.
            if self._joined is None and connection is not None and not connection.closed:
                connection.invalidate(error)
                connection.close()


class PostgresUnitOfWork(SqlUnitOfWork):
    """A unit of work on Postgres, at READ COMMITTED."""

    INTEGRATIONS = PostgresIntegrationRepository
    WEBHOOKS = PostgresWebhookRepository
    SYNC_JOBS = PostgresSyncJobRepository
    SYNC_RUNS = PostgresSyncRunRepository
    MESSAGES = PostgresMessageRepository
    SECRETS = PostgresSecretRepository
    INBOX = PostgresInboxRepository

    def __enter__(self) -> Self:
        if isinstance(self.clock, DatabaseClock) and self._joined is None:
            self.clock.keep()  # before this holds a connection, since it takes one
        return super().__enter__()

    def _store(self) -> None:
        """And tell workers of it: what was joined, when its owner commits it."""
        connection = self._connection
        if connection is None or not self._news:
            super()._store()
        elif self._joined is not None:
            with self.faults():
                tell_with(self._joined, connection, self._news)
            super()._store()
        else:
            super()._store()
            driver = connection.connection.driver_connection
            assert isinstance(driver, psycopg.Connection)
            with self._turn:
                tell(driver, self._news)


class SqliteUnitOfWork(SqlUnitOfWork):
    """A unit of work on SQLite: one writes at a time, and the others wait for it."""

    INTEGRATIONS = SqliteIntegrationRepository
    WEBHOOKS = SqliteWebhookRepository
    SYNC_JOBS = SqliteSyncJobRepository
    SYNC_RUNS = SqliteSyncRunRepository
    MESSAGES = SqliteMessageRepository
    SECRETS = SqliteSecretRepository
    INBOX = SqliteInboxRepository

    def _is_undone(self, connection: Connection) -> bool:
        """SQLite rolls back all where it can't undo one statement alone, as on a full disk; see
        https://sqlite.org/lang_transaction.html, section 3.
        """
        return super()._is_undone(connection) or (self.has_begun and has_failed(connection))
