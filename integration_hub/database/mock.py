"""A connection manager that answers from a script, for tests of code that queries by itself.

May import: `domain`, `health`, `queries`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, TypeVar, overload

from sqlalchemy.sql.elements import TextClause

from integration_hub.database.health import Health
from integration_hub.database.queries import QueryResult, checked_parameters, mapped
from integration_hub.domain.errors import HubError, StoreClosed, ValidationError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RecordedQuery:
    """A statement that was asked, and with what."""

    sql: str
    params: dict[str, Any]


class MockDatabaseConnection:
    """The surface of `DatabaseConnectionManager` over scripted answers.

    ``mock.script("SELECT name", rows=[{"name": "crm"}])`` answers every later statement that holds
    this text; ``error=`` raises instead. The script that was written last is tried first. What
    was asked is in `queries`. A statement that no script fits is a `ValidationError`.
    """

    def __init__(self) -> None:
        self.queries: list[RecordedQuery] = []
        self.commits = 0
        self.rollbacks = 0
        self._scripts: list[tuple[str, Sequence[Mapping[str, Any]], HubError | None]] = []
        self._is_closed = False

    def script(
        self, part: str, *, rows: Sequence[Mapping[str, Any]] = (), error: HubError | None = None
    ) -> None:
        self._scripts.insert(0, (part, rows, error))

    @property
    def engine(self) -> MockDatabaseConnection:
        """Itself: there is no engine, but the mock answers what code asks of one."""
        return self

    @property
    def is_connected(self) -> bool:
        return not self._is_closed

    @contextmanager
    def transaction(self) -> Iterator[MockTransaction]:
        """Counts a commit, or by an exception a rollback."""
        try:
            yield MockTransaction(self)
        except BaseException:
            self.rollbacks += 1
            raise
        self.commits += 1

    begin = transaction

    def session(self) -> MockTransaction:
        return MockTransaction(self)

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
        given = checked_parameters(sql, params)
        with self.transaction() as connection:
            found = connection.execute(sql, given)
        return found if into is None else mapped(found.rows, into)

    def answer(self, sql: str, params: Mapping[str, Any] | None) -> QueryResult:
        """Record a statement and give its scripted answer."""
        if self._is_closed:
            raise StoreClosed("this mock is closed")
        self.queries.append(RecordedQuery(sql, dict(params or {})))
        for part, scripted, error in self._scripts:
            if part in sql:
                if error is not None:
                    raise error
                rows = [dict(row) for row in scripted]
                return QueryResult(rows, len(rows), tuple(rows[0]) if rows else ())
        raise ValidationError("sql", sql, "fits no script; add one with script(part, rows=…)")

    def health(self) -> Health:
        error = "this mock is closed" if self._is_closed else None
        return Health(
            ok=not self._is_closed, latency=timedelta(0), database_version="mock", error=error
        )

    def close(self) -> None:
        self._is_closed = True


class MockTransaction:
    """What a mock lends out: it executes, commits and rolls back as a connection or session."""

    def __init__(self, mock: MockDatabaseConnection) -> None:
        self._mock = mock

    def execute(
        self, sql: str | TextClause, params: Mapping[str, Any] | None = None
    ) -> QueryResult:
        return self._mock.answer(str(sql), params)

    def commit(self) -> None:
        self._mock.commits += 1

    def rollback(self) -> None:
        self._mock.rollbacks += 1

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
