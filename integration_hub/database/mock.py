"""A connection manager that answers from a script, for tests of code that queries by itself.

It is the manager, with SQLAlchemy's engine, connections, Sessions and results: a script stands in
the place of the driver alone.

May import: `domain`, `engine`, `health`, SQLAlchemy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any, Final

import psycopg
from sqlalchemy import Connection, Engine, QueuePool, SelectBase, event
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.engine.interfaces import ExecutionContext

from integration_hub.database.engine import DatabaseConnectionManager, PoolSettings
from integration_hub.database.health import Health
from integration_hub.domain.errors import ValidationError

_UNNAMED: Final = "?column?"  # as Postgres calls a column without a name
_GIVES_ROWS = re.compile(
    r"\s*(SELECT|WITH|VALUES|TABLE|SHOW|EXPLAIN)\b|.*\bRETURNING\b", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class RecordedQuery:
    """A statement that was asked, and with what."""

    sql: str
    params: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What a script says to statements that hold `part`."""

    part: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    row_count: int
    error: Exception | None


class MockDatabaseConnection(DatabaseConnectionManager):
    """A `DatabaseConnectionManager` over scripted answers: code that takes one can't tell.

    ``mock.script("SELECT name", rows=[{"name": "crm"}])`` answers every later statement that holds
    this text; ``error=`` raises instead. The script that was written last is tried first. What
    was asked is in `queries`, and how often was committed and rolled back in `commits` and
    `rollbacks`. A statement that no script fits is a `ValidationError`.
    """

    def __init__(self) -> None:
        self.queries: list[RecordedQuery] = []
        self.commits = 0
        self.rollbacks = 0
        self._answers: list[_Answer] = []
        super().__init__("sqlite:///script", pool=PoolSettings(pre_ping=False))
        event.listen(self.engine, "commit", self._count_commit)
        event.listen(self.engine, "rollback", self._count_rollback)

    def __repr__(self) -> str:
        return "MockDatabaseConnection()"

    def script(
        self,
        part: str,
        *,
        rows: Sequence[Mapping[str, Any]] = (),
        columns: Sequence[str] | None = None,
        row_count: int | None = None,
        error: Exception | None = None,
    ) -> None:
        """Say what comes of statements that hold `part`.

        `columns` are those of the first row, unless they are named, as for an answer without rows;
        `row_count` is how many rows a statement has changed, and that of `rows` by itself. Raises
        `ValidationError` for a row that has other columns.
        """
        named = tuple((rows[0] if rows else ()) if columns is None else columns)
        for number, row in enumerate(rows):
            if set(row) != set(named):
                problem = f"must have the columns {', '.join(named)}"
                raise ValidationError(f"rows[{number}]", ", ".join(row), problem)
        answer = _Answer(
            part=part,
            columns=named,
            rows=[tuple(row[name] for name in named) for row in rows],
            row_count=len(rows) if row_count is None else row_count,
            error=error,
        )
        self._answers.insert(0, answer)

    @property
    def is_connected(self) -> bool:
        return not self._closed.is_set()

    def health(self) -> Health:
        if self._closed.is_set():
            return super().health()
        return Health(
            ok=True, latency=timedelta(0), database_version="mock", pool=self.pool_figures()
        )

    def _make_engine(self, **pool: Any) -> Engine:
        driver: Any = psycopg  # for its errors
        dialect = _ScriptDialect(dbapi=driver, paramstyle="named")
        lent = QueuePool(self._connect, dialect=dialect)
        return Engine(lent, dialect, self.url, hide_parameters=True)

    def _connect(self) -> Any:
        return _Connection(self._answered)

    def _answered(self, sql: str, params: Mapping[str, Any]) -> _Answer:
        self.queries.append(RecordedQuery(sql, dict(params)))
        for found in self._answers:
            if found.part in sql:
                if found.error is not None:
                    raise found.error
                return found
        raise ValidationError("sql", sql, "fits no script; add one with script(part, rows=…)")

    def _count_commit(self, connection: object) -> None:
        self.commits += 1

    def _count_rollback(self, connection: object) -> None:
        self.rollbacks += 1


def _as_it_is(value: Any) -> Any:
    return value


class _ScriptDialect(DefaultDialect):
    """Statements as SQLAlchemy writes them for no database in particular, ``:name`` as it stands;
    values pass as they are, and what was stored is asked for by RETURNING.
    """

    name = "script"
    postfetch_lastrowid = False
    insert_returning = True
    update_returning = True
    delete_returning = True
    supports_statement_cache = True
    supports_native_boolean = True
    supports_native_decimal = True
    supports_native_uuid = True
    _json_serializer = _json_deserializer = staticmethod(_as_it_is)

    def do_execute(
        self,
        cursor: Any,
        statement: str,
        parameters: Any,
        context: ExecutionContext | None = None,
    ) -> None:
        """Tell the cursor what columns the statement asks for, where SQLAlchemy knows."""
        asked = None if context is None else context.invoked_statement
        if isinstance(asked, SelectBase):
            cursor.asked = tuple(asked.exported_columns.keys())
        cursor.execute(statement, parameters)

    def do_savepoint(self, connection: Connection, name: str) -> None:
        """It is no statement of the code under test."""

    def do_rollback_to_savepoint(self, connection: Connection, name: str) -> None:
        driver: Any = connection.connection.driver_connection
        driver.in_transaction = True

    def do_release_savepoint(self, connection: Connection, name: str) -> None:
        """It is no statement of the code under test."""


class _Cursor:
    """A driver's cursor (PEP 249) that reads from a script."""

    arraysize = 1

    def __init__(self, answered: Callable[[str, Mapping[str, Any]], _Answer]) -> None:
        self._answered = answered
        self._rows: Iterator[tuple[Any, ...]] = iter(())
        self.asked: tuple[str, ...] = (_UNNAMED,)
        self.description: list[tuple[Any, ...]] | None = None
        self.rowcount = -1

    def execute(self, sql: str, params: Mapping[str, Any]) -> None:
        found = self._answered(sql, params)
        self._rows = iter(found.rows)
        self.rowcount = found.row_count
        if found.columns or _GIVES_ROWS.match(sql):
            self.description = [(name, *[None] * 6) for name in found.columns or self.asked]

    def executemany(self, sql: str, many: Sequence[Mapping[str, Any]]) -> None:
        self.rowcount = sum(self._answered(sql, params).row_count for params in many)

    def fetchone(self) -> tuple[Any, ...] | None:
        return next(self._rows, None)

    def fetchmany(self, size: int = 1) -> list[tuple[Any, ...]]:
        return list(islice(self._rows, size))

    def fetchall(self) -> list[tuple[Any, ...]]:
        return list(self._rows)

    def close(self) -> None:
        """Nothing is held."""


class _Connection:
    """A driver's connection (PEP 249) that has nothing to store.

    `in_transaction` is what sqlite3 calls it: a statement that failed has ended the transaction.
    """

    def __init__(self, answered: Callable[[str, Mapping[str, Any]], _Answer]) -> None:
        self._answered = answered
        self.in_transaction = True

    def cursor(self) -> _Cursor:
        return _Cursor(self.answered)

    def answered(self, sql: str, params: Mapping[str, Any]) -> _Answer:
        try:
            return self._answered(sql, params)
        except Exception:
            self.in_transaction = False
            raise

    def commit(self) -> None:
        """The engine counts it."""

    def rollback(self) -> None:
        self.in_transaction = True

    def close(self) -> None:
        """Nothing is held."""
