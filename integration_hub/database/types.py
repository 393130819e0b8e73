"""Column types that mean the same on Postgres and SQLite.

May import: SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator


def json_type() -> JSON:
    """JSONB on Postgres, JSON text on SQLite; None is SQL's NULL."""
    return JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def ordered_text() -> Text:
    """Text that sorts by code point: collation "C" on Postgres, and what SQLite does anyway."""
    return Text(collation="C").with_variant(Text(), "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware moment, read back in UTC: timestamptz on Postgres, sortable text on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[datetime | None], Any] | None:
        if dialect.name != "sqlite":
            return None
        text = DateTime().dialect_impl(dialect).bind_processor(dialect)
        assert text is not None
        return lambda value: None if value is None else text(value.astimezone(UTC))

    def literal_processor(self, dialect: Dialect) -> Callable[[datetime], str]:
        return lambda value: f"'{value.astimezone(UTC).replace(tzinfo=None)}+00:00'"

    def result_processor(
        self, dialect: Dialect, coltype: object
    ) -> Callable[[Any], datetime | None] | None:
        if dialect.name != "sqlite":
            return _in_utc
        moment = DateTime().dialect_impl(dialect).result_processor(dialect, coltype)
        assert moment is not None
        return _zoned(moment)


def _zoned(moment: Callable[[Any], Any]) -> Callable[[Any], datetime | None]:
    def read(value: Any) -> datetime | None:
        found: datetime | None = moment(value)
        return None if found is None else found.replace(tzinfo=UTC)

    return read


def _in_utc(value: datetime | None) -> datetime | None:
    # psycopg hands out UTC itself where the session's time zone is UTC, as on our own engine; a
    # service's session, which a unit of work may join, can have any.
    return value if value is None or value.tzinfo is UTC else value.astimezone(UTC)
