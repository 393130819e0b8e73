"""Column types that mean the same on Postgres and SQLite.

May import: SQLAlchemy.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Protocol

from sqlalchemy import JSON, DateTime, Dialect, Text
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import TypeDecorator


class Processor(Protocol):
    """Turns a value into what the driver takes, or what the driver gave into a value."""

    def __call__(self, value: Any) -> Any: ...


class _SqliteJson(sqlite.JSON):
    """JSON in a column of text: one declared JSON has numeric affinity, so that SQLite would take
    the document ``1.0`` for its own number 1. Source: sqlite.org/datatype3.html, 3.1.
    """


@compiles(_SqliteJson)
def _as_text(type_: _SqliteJson, compiler: Any, **options: Any) -> str:
    return "TEXT"


def json_type() -> JSON:
    """JSONB on Postgres, JSON text on SQLite; None is SQL's NULL."""
    plain = JSON(none_as_null=True)
    plain = plain.with_variant(JSONB(none_as_null=True), "postgresql")
    return plain.with_variant(_SqliteJson(none_as_null=True), "sqlite")


def ordered_text() -> Text:
    """Text that sorts by code point: collation "C" on Postgres, and what SQLite does anyway."""
    return Text(collation="C").with_variant(Text(), "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware moment, read back in UTC: timestamptz on Postgres, sortable text on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Processor | None:
        if dialect.name != "sqlite":
            return None
        text = DateTime().dialect_impl(dialect).bind_processor(dialect)
        assert text is not None

        def write(value: datetime | None) -> Any:
            return None if value is None else text(value.astimezone(UTC))

        return write

    def result_processor(self, dialect: Dialect, coltype: object) -> Processor:
        if dialect.name != "sqlite":
            return _in_utc
        moment = DateTime().dialect_impl(dialect).result_processor(dialect, coltype)
        assert moment is not None
        return _zoned(moment)


def _zoned(moment: Processor) -> Processor:
    def read(value: Any) -> datetime | None:
        found: datetime | None = moment(value)
        return None if found is None else found.replace(tzinfo=UTC)

    return read


def _in_utc(value: datetime | None) -> datetime | None:
    # psycopg hands out UTC itself where the session's time zone is UTC, as on our own engine; a
    # service's session, which a unit of work may join, can have any.
    return value if value is None or value.tzinfo is UTC else value.astimezone(UTC)
