"""The database connection manager: an engine with its pool, limits and transactions.

May import: `domain`, `ports`, `clock`, `connections`, `faults`, `health`, `queries`, SQLAlchemy.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar, overload

from sqlalchemy import URL, Connection, Engine, create_engine, exc, make_url, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, PoolProxiedConnection, QueuePool

from integration_hub.database.clock import DatabaseClock
from integration_hub.database.connections import (
    LAZY,
    close_what_comes_back,
    keep_to_utc,
    leave_standbys,
    ping_after_rest,
    prepare_sqlite,
    refuse_to_commit_in_part,
    require_unfailed,
)
from integration_hub.database.faults import faults_named
from integration_hub.database.health import Health, PoolFigures
from integration_hub.database.queries import QueryResult, answered, checked_parameters, mapped
from integration_hub.domain.errors import HubError, StoreClosed, ValidationError, unpicklable
from integration_hub.domain.values import (
    checked_count,
    checked_duration,
    checked_kind,
    milliseconds,
)
from integration_hub.ports.clock import Clock, SystemClock

T = TypeVar("T")
_CLOSED = "this connection manager is closed; make another"

#: What is asked for is nearly always in memory, or on a disk without moving parts, where a page
#: costs the same wherever it lies. By the default of 4, made for disks that turn, small tables are
#: read whole for each row that is wanted. Source: PostgreSQL manual, 19.7.2.
RANDOM_PAGE_COST = 1.1
#: After so long a server that says nothing is taken for gone; by default Linux waits for a quarter
#: of an hour where it has sent something, and for two hours where it waits for an answer. All but
#: the first are in seconds. Source: PostgreSQL manual, 32.1.2; tcp(7).
_SILENCE = {
    "tcp_user_timeout": 30_000,  # ms
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}
#: What the code relies on, whatever the server, the database and the role have; behind one's own
#: options. Moments are taken as they come, in UTC, and arrays are written as text, with nulls.
_RELIED_ON = (
    "-c timezone=UTC -c datestyle=ISO -c array_nulls=on"
    r" -c default_transaction_isolation=read\ committed"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """How many connections are kept, and how they are lent out.

    `size` are kept open, `max_overflow` more are opened when all are lent out; `timeout` is how
    long a caller waits for one before `PoolExhausted`; `recycle` is the age at which a connection
    is replaced; `pre_ping` tries one that has rested for over a second before it is lent out, so
    that a restart of the server is not noticed by callers. Durations in seconds or `timedelta`.
    """

    size: int = 5
    max_overflow: int = 10
    timeout: timedelta | float = 30.0
    recycle: timedelta | float = 1800.0
    pre_ping: bool = True

    def __post_init__(self) -> None:
        checked_count("pool.size", self.size, least=1)
        checked_count("pool.max_overflow", self.max_overflow)
        for name in ("timeout", "recycle"):
            checked_duration(f"pool.{name}", getattr(self, name))


def checked_database_url(url: str | URL) -> URL:
    """A URL for one of the supported databases.

    Raises `ValidationError` for any other; it names the dialect and never repeats the URL, which
    may hold a password.
    """
    supported = "postgresql+psycopg://…, sqlite:///file.db, sqlite:// or memory://"
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):  # they repeat parts of it
        problem = f"must be a database URL such as {supported}"
        raise ValidationError("url", "<not shown>", problem) from None
    if parsed.drivername in ("postgres", "postgresql"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("postgresql+psycopg", "sqlite", "sqlite+pysqlite"):
        raise ValidationError("url", parsed.drivername, f"must be one of {supported}")
    return parsed


class DatabaseConnectionManager:
    """An engine for one database, with its pool and its limits.

    `connect_timeout`, `statement_timeout` and `lock_timeout` are durations (seconds or
    `timedelta`); the last two are set on the server, so that they hold whatever the client does.
    Sessions also say ``random_page_cost = 1.1``; `options` in the URL come after, and win. A server
    that can't be heard any more is given up after a minute (libpq's ``tcp_user_timeout`` and
    ``keepalives_…``, which the URL may have too), and one that takes no writes at once.
    On SQLite the lock limit is the busy timeout. `prepared_statements` must be off behind PgBouncer
    in transaction mode before its version 1.21. ``sqlite://`` is a file of its own that goes with
    `close()`: SQLite's real in-memory databases can't be shared by connections that lock properly.
    A process that is forked opens connections of its own; those of its parent it leaves alone.
    """

    def __init__(
        self,
        url: str | URL,
        *,
        pool: PoolSettings | None = None,
        connect_timeout: timedelta | float = 5.0,
        statement_timeout: timedelta | float = 30.0,
        lock_timeout: timedelta | float = 10.0,
        application_name: str = "integration_hub",
        prepared_statements: bool = True,
    ) -> None:
        self.url = checked_database_url(url)
        chosen = PoolSettings() if pool is None else pool
        problem = "must be such as PoolSettings(size=5)"
        self.pool = checked_kind("pool", chosen, PoolSettings, problem)
        self._connect_timeout = checked_duration("connect_timeout", connect_timeout)
        self._statement_timeout = checked_duration("statement_timeout", statement_timeout)
        self._lock_timeout = checked_duration("lock_timeout", lock_timeout)
        self._application_name = application_name
        self._prepares = prepared_statements
        self._closed = threading.Event()
        self._remove_file = self._use_private_file()
        plain = self._make_engine(**self._pool_arguments())
        if self.pool.pre_ping:
            ping_after_rest(plain)
        close_what_comes_back(plain, self._closed)
        self.engine: Engine = plain.execution_options(**self._begins())
        self._parents: list[object] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=partial(_forked, weakref.ref(self)))
        #: For units of work: a transaction begins with the first write, by `begin_lazily`.
        self.lazy_engine: Engine = plain.execution_options(**{LAZY: True})
        self._unpooled = self._make_engine(poolclass=NullPool).execution_options(**{LAZY: True})
        #: What time it is for all that work on this database. A file is used on one machine alone.
        self.clock: Clock = DatabaseClock(self.reading) if self.is_postgres else SystemClock()

    def __reduce__(self) -> NoReturn:
        """Raises `TypeError`: it belongs to its process."""
        raise unpicklable("a DatabaseConnectionManager", "hand over its URL, and make one there")

    def __repr__(self) -> str:
        return f"DatabaseConnectionManager({self.url.render_as_string(hide_password=True)!r})"

    @property
    def is_postgres(self) -> bool:
        return self.url.get_backend_name() == "postgresql"

    @property
    def is_connected(self) -> bool:
        """Whether the database answers now, and this was not closed."""
        if self._closed.is_set():
            return False
        try:
            with self.reading() as connection:
                connection.execute(text("SELECT 1"))
        except HubError:
            return False
        return True

    # --- using it -----------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A connection in a transaction, committed at the end, rolled back by an exception.

        Faults of the database come as `StorageError` and its children. One that you catch within
        has ended the transaction: its commit is a `StorageError` then, and nothing is stored. Try
        things in ``connection.begin_nested()``, a savepoint.
        """
        self._check_open()
        with faults_named(), self.engine.begin() as connection:
            yield connection
            require_unfailed(connection)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection whose statements each stand for themselves: nothing is begun or locked.

        On SQLite `transaction` takes the write lock; this one answers while another writes. It is
        for short questions, and waits for nobody: where all of the pool's are lent out, it is one
        beside the pool.
        """
        self._check_open()
        pool = self.engine.pool
        assert isinstance(pool, QueuePool)
        is_used_up = not pool.checkedin() and pool.overflow() >= self.pool.max_overflow
        engine = self._unpooled if is_used_up else self.lazy_engine
        with faults_named(), engine.connect() as connection:
            yield connection

    def unpooled(self) -> PoolProxiedConnection:
        """A connection beside the pool, for who keeps it for long; it ends when it is closed."""
        return self._unpooled.raw_connection()

    def session(self) -> Session:
        """A new ORM Session on the engine; its faults are SQLAlchemy's own, but for `StorageError`
        where it would commit what has failed.
        """
        self._check_open()
        session = Session(self.engine)
        refuse_to_commit_in_part(session)
        return session

    @overload
    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> QueryResult: ...
    @overload
    def query(
        self, sql: str, params: Mapping[str, Any] | None = None, *, into: type[T]
    ) -> list[T]: ...
    def query(
        self,
        sql: str,
        params: Mapping[str, Any] | None = None,
        *,
        into: type[T] | None = None,
    ) -> QueryResult | list[T]:
        """Run one statement with ``:name`` parameters in a transaction of its own.

        A mapping is written as JSON, an enum as its value, and a list that stands behind ``IN`` as
        its elements (``WHERE id IN :ids``); on SQLite moments and UUIDs as in the hub's own tables,
        and decimals as text.

        Gives a `QueryResult`, or with `into` (a dataclass, a pydantic model, a TypedDict: before
        Python 3.12 that of typing_extensions) a list of these. Raises `ValidationError` where a
        parameter is missing, where a row does not fit `into`, where `into` is nothing that rows
        could fit, or where two columns have one name, so that a row could hold only one of them;
        then nothing is done.
        """
        given = checked_parameters(sql, params)
        with self.transaction() as connection:
            found = answered(connection, sql, given)
        return found if into is None else mapped(found.rows, into)

    def health(self) -> Health:
        """Whether the database answers, how fast, its version and the pool's figures; at once, also
        where all connections are lent out.
        """
        if self._closed.is_set():
            return Health(ok=False, latency=timedelta(0), error=_CLOSED)
        version = "SHOW server_version" if self.is_postgres else "SELECT sqlite_version()"
        name = "PostgreSQL" if self.is_postgres else "SQLite"
        start = time.perf_counter()
        try:
            with self.reading() as connection:
                found = connection.execute(text(version)).scalar_one()
            latency = timedelta(seconds=time.perf_counter() - start)
            skew = self._clock_skew()
        except HubError as error:
            latency = timedelta(seconds=time.perf_counter() - start)
            return Health(ok=False, latency=latency, pool=self.pool_figures(), error=error.message)
        return Health(
            ok=True,
            latency=latency,
            database_version=f"{name} {found}",
            pool=self.pool_figures(),
            clock_skew=skew,
        )

    def _clock_skew(self) -> timedelta | None:
        if not isinstance(self.clock, DatabaseClock):
            return None
        self.clock.keep()
        return self.clock.skew

    def pool_figures(self) -> PoolFigures:
        pool = self.engine.pool
        assert isinstance(pool, QueuePool)
        return PoolFigures(pool.size(), pool.checkedout(), max(0, pool.overflow()))

    def close(self) -> None:
        """Close every connection that is not lent out; those that are, when they come back.

        Afterwards whatever would need a connection raises `StoreClosed`.
        """
        if not self._closed.is_set():
            self._closed.set()
            self.engine.dispose()
            self._remove_file()

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise StoreClosed(_CLOSED)

    def leave_to_parent(self) -> None:
        """Forget the connections without closing them, which would tell the server to end them:
        they are the parent's. Processes that use one connection get each other's answers.
        """
        self._parents.append(self.engine.pool)
        self.engine.dispose(close=False)

    # --- making it ----------------------------------------------------------------------------

    def _use_private_file(self) -> weakref.finalize[..., Any]:
        if self.is_postgres or self.url.database not in (None, "", ":memory:"):
            return weakref.finalize(self, _nothing)
        folder = tempfile.mkdtemp(prefix="integration-hub-")
        self.url = self.url.set(database=str(Path(folder) / "hub.db"))
        return weakref.finalize(self, _remove, folder, os.getpid())

    def _pool_arguments(self) -> dict[str, Any]:
        timeout, recycle = (
            checked_duration(f"pool.{name}", getattr(self.pool, name)).total_seconds()
            for name in ("timeout", "recycle")
        )
        return {
            "poolclass": QueuePool,
            "pool_size": self.pool.size,
            "max_overflow": self.pool.max_overflow,
            "pool_timeout": timeout,
            "pool_recycle": int(recycle),
        }

    def _make_engine(self, **pool: Any) -> Engine:
        engine = create_engine(
            self.url,
            connect_args=self._postgres_arguments() if self.is_postgres else {"timeout": 0},
            **({"isolation_level": "AUTOCOMMIT"} if self.is_postgres else {}),
            hide_parameters=True,  # they may hold what is not for logs
            **pool,
        )
        if self.is_postgres:
            keep_to_utc(engine)
            leave_standbys(engine)
        else:
            prepare_sqlite(engine, self._lock_timeout)
        return engine

    def _postgres_arguments(self) -> dict[str, Any]:
        own = str(self.url.query.get("options", ""))
        limits = (
            f"-c statement_timeout={milliseconds(self._statement_timeout)}"
            f" -c lock_timeout={milliseconds(self._lock_timeout)}"
            f" -c random_page_cost={RANDOM_PAGE_COST}"
        )
        arguments: dict[str, Any] = {
            "options": f"{limits} {own} {_RELIED_ON}",
            "client_encoding": "utf8",
        }
        if "connect_timeout" not in self.url.query:
            # libpq counts in whole seconds, and takes 0 for "for ever".
            arguments["connect_timeout"] = max(1, round(self._connect_timeout.total_seconds()))
        if "application_name" not in self.url.query:
            arguments["application_name"] = self._application_name
        arguments |= {n: each for n, each in _SILENCE.items() if n not in self.url.query}
        if not self._prepares:
            arguments["prepare_threshold"] = None
        return arguments

    def _begins(self) -> dict[str, Any]:
        """What makes a connection of a pool that begins nothing by itself begin transactions."""
        return {"isolation_level": "READ COMMITTED"} if self.is_postgres else {}


def _nothing() -> None:
    """There is no file to remove."""


def _remove(folder: str, owner: int) -> None:
    """Remove a private file, unless this is a child of the process that has it."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _forked(reference: weakref.ref[DatabaseConnectionManager]) -> None:
    manager = reference()
    if manager is not None:
        manager.leave_to_parent()
