"""The schema manager: migrations from a checkout or from the wheel, and whether they are current.

May import: `domain`, `engine`, `faults`, `health`, `migrations`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, String, column, select, table

from integration_hub.database.engine import DatabaseConnectionManager
from integration_hub.database.faults import UPGRADE, faults_named
from integration_hub.database.health import SchemaRevision
from integration_hub.domain.errors import SchemaOutOfDate

if TYPE_CHECKING:
    from integration_hub.database.migrations import Migrations

HEAD: Final = "hub_0004"
"""The revision that this code needs: the newest migration's."""

VERSION_TABLE: Final = "integration_hub_alembic_version"
"""Our own, so that a service keeps its history beside ours."""

_CURRENT: Final = select(column("version_num", String)).select_from(table(VERSION_TABLE))


def migrations_path() -> Path:
    """The folder of the migrations: within the installed package, or in the checkout."""
    installed = Path(__file__).parents[1] / "_migrations"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "alembic"


@dataclass(frozen=True, slots=True)
class Revision:
    """One step of the schema's history."""

    id: str
    summary: str
    is_current: bool


class DatabaseSchemaManager:
    """Brings the tables to the state that the code needs, and says whether they are.

    Two processes may upgrade at once: a lock lets one work, and the other finds it done.
    """

    def __init__(self, manager: DatabaseConnectionManager) -> None:
        self._manager = manager

    def upgrade(self, revision: str = "head") -> SchemaRevision:
        """Bring the schema up to a revision; gives what it is then."""
        with self._connected() as migrations:
            migrations.upgrade(revision)
        return self.current()

    def downgrade(self, revision: str) -> SchemaRevision:
        """Bring the schema down to a revision; ``"base"`` removes every table, and their rows."""
        with self._connected() as migrations:
            migrations.downgrade(revision)
        return self.current()

    def current(self) -> SchemaRevision:
        """The schema's revision, and the head that the code needs."""
        try:
            with self._manager.reading() as connection:
                found = connection.scalar(_CURRENT)
        except SchemaOutOfDate:  # there is no such table yet
            found = None
        return SchemaRevision(found, HEAD)

    def head(self) -> str:
        """The newest revision, which the code needs."""
        return HEAD

    def history(self) -> list[Revision]:
        """Every revision, the newest first."""
        current = self.current().current
        steps = _migrations().newest_first()
        return [Revision(id, summary, id == current) for id, summary in steps]

    def require_current(self) -> SchemaRevision:
        """The revision, if it is the one that the code needs; raises `SchemaOutOfDate` if not."""
        found = self.current()
        if found.is_current:
            return found
        if found.current is None:
            message = f"the schema has not been set up; {UPGRADE}"
        elif found.current in {step.id for step in self.history()}:
            message = f"the schema ({found.current}) is behind the code ({found.head}); {UPGRADE}"
        else:
            message = (
                f"the schema ({found.current}) is ahead of the code ({found.head}); install the "
                "newer integration_hub, or run `integration-hub db downgrade` with it"
            )
        raise SchemaOutOfDate(message, current=found.current, head=found.head)

    def check(self) -> SchemaRevision:
        """As `require_current`, and the tables are looked at too: drift from the code raises."""
        found = self.require_current()
        with self._connected() as migrations:
            drift = migrations.drift()
        if drift:
            message = f"the tables have drifted from the code: {drift}; {UPGRADE}"
            raise SchemaOutOfDate(message, current=found.current, head=found.head)
        return found

    def create_all(self) -> None:
        """Create the tables without their history, for a throw-away database."""
        with self._connected(create_all=True) as migrations:
            migrations.create_all()

    def sql(self, revision: str = "head") -> str:
        """The statements of an upgrade from nothing, for whoever runs them by hand."""
        return _migrations(url=self._manager.url).sql(revision)

    @contextmanager
    def _connected(self, **attributes: Any) -> Iterator[Migrations]:
        with faults_named(), self._manager.engine.connect() as connection:
            yield _migrations(connection=connection, **attributes)


def _migrations(**attributes: Any) -> Migrations:
    """With alembic, which is a tenth of all that is imported, and which no worker needs."""
    from integration_hub.database.migrations import Migrations

    return Migrations(migrations_path(), **attributes)


def lock_migrations(connection: Connection) -> None:
    """Within a migration's transaction: wait until no other process migrates.

    On SQLite the transaction itself holds the write lock. The wait, and what follows, is not
    bound by the limits for everyday statements: building an index may take its time.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


_LOCK: Final = int.from_bytes(b"int_hub", "big")
