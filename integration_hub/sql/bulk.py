"""Many rows at once, and many rows out, in the way that suits each database best.

May import: `domain`, `mapping`, SQLAlchemy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import JSON, Connection, Executable, Insert

from integration_hub.sql.mapping import Mapper


def copy_in(connection: Connection, mapper: Mapper[Any], items: Iterable[Any]) -> None:
    """Postgres: all rows by one ``COPY … FROM STDIN``, which no other way comes near."""
    table, columns = mapper.table, mapper.columns
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table.name), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    encode = _encoder(mapper)
    driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        for item in items:
            copy.write_row(encode(item))


def _encoder(mapper: Mapper[Any]) -> Callable[[Any], list[Any]]:
    """Rows as COPY takes them: JSON as text, the rest as psycopg adapts it."""
    is_json = [isinstance(column.type, JSON) for column in mapper.table.columns]

    def encode(item: Any) -> list[Any]:
        values = mapper.dump(item).values()
        return [
            json.dumps(value) if json_column and value is not None else value
            for value, json_column in zip(values, is_json, strict=True)
        ]

    return encode


def execute_many(
    connection: Connection, statement: Insert, mapper: Mapper[Any], items: Iterable[Any]
) -> None:
    """SQLite: one prepared statement, run for each row."""
    connection.execute(statement, [mapper.dump(item) for item in items])


def streamed(
    connection: Connection, statement: Executable, values: Mapping[str, Any], batch: int
) -> Iterator[list[Any]]:
    """The rows in lists of `batch`, through a server-side cursor where the database has one."""
    options = {"stream_results": True, "max_row_buffer": batch}
    with connection.execute(statement, values, execution_options=options) as result:
        while rows := result.fetchmany(batch):
            yield list(rows)
