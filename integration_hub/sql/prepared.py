"""A statement that is compiled once and run many times.

May import: `domain`, SQLAlchemy, psycopg. On Postgres it can go straight to the driver's cursor:
SQLAlchemy's result describes every column of every answer, which for one row costs as much as the
query itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import repeat
from operator import is_
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.pq import ExecStatus
from sqlalchemy import Delete, Dialect, Executable, Select, Table, delete, select, tuple_
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.types import TypeEngine

from integration_hub.domain.frozen_json import stored_json

DIALECT: Dialect = PGDialect_psycopg()  # type: ignore[no-untyped-call]


def type_name(type_: TypeEngine[Any]) -> str:
    """A type as Postgres calls it."""
    return str(type_.dialect_impl(DIALECT).compile(DIALECT))


def concise(sql: str) -> str:
    """A statement without comments and indents: what is longer than 4,096 characters, psycopg takes
    apart anew each time that it is run.
    """
    return " ".join(_COMMENT.sub("", sql).split())


_COMMENT = re.compile(r"--.*")


def array_text(values: Sequence[Any]) -> str:
    """Values of one type as Postgres reads an array. Source: its manual, 8.15.2 (Array Input)."""
    if values and all(map(is_, values, repeat(values[0]))):  # as most columns of many endings are
        return f"{{{','.join([_element(values[0])] * len(values))}}}"
    return f"{{{','.join(map(_element, values))}}}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)


def array_name(type_: TypeEngine[Any]) -> str:
    """An array of a type as Postgres calls it; a collation is not part of it."""
    return f"{type_name(type_).partition(' COLLATE ')[0]}[]"


def delete_those(table: Table, chosen: Select[*tuple[Any, ...]]) -> Delete:
    """Delete the rows whose keys are `chosen`, a query with a limit, and no others.

    It is a CTE, since a plan may run a subquery anew for each row; one that locks what is being
    deleted finds others each time. It is one within, for the `rowcount` of SQLite's driver.
    """
    those = chosen.cte("those", nesting=True)
    return delete(table).where(tuple_(*table.primary_key).in_(select(*those.c)))


class Prepared:
    """A statement whose parameters are all given when it is run, by their names."""

    def __init__(self, statement: Executable) -> None:
        self.statement = statement

    @property
    def text(self) -> str:
        """The statement as psycopg takes it; the longest name of a type in it is said shortly, for
        psycopg doesn't remember how it reads a statement of over 4,096 characters.
        """
        return str(self._compiled).replace("TIMESTAMP WITH TIME ZONE", "timestamptz")

    @cached_property
    def _query(self) -> bytes:
        return self.text.encode()  # as bytes, psycopg takes a statement that is no literal

    @cached_property
    def _compiled(self) -> Any:
        assert isinstance(self.statement, ClauseElement)
        return self.statement.compile(dialect=DIALECT)

    @cached_property
    def _constants(self) -> dict[str, Any]:
        """The values that the statement brings along."""
        constants = {n: bind.value for n, bind in self._compiled.binds.items() if not bind.required}
        return {n: self._write.get(n, _as_it_is)(value) for n, value in constants.items()}

    @cached_property
    def _write(self) -> dict[str, Any]:
        """What turns a value into what psycopg takes, for those parameters that need it."""
        found = {}
        for name, bind in self._compiled.binds.items():
            process = bind.type.dialect_impl(DIALECT).bind_processor(DIALECT)
            if process is not None:
                found[name] = process
        return found

    def run(self, cursor: OwnCursor, parameters: Mapping[str, Any]) -> OwnCursor:
        """Run it on psycopg's own connection; faults are psycopg's."""
        values = {**self._constants, **parameters}
        for name, process in self._write.items():
            values[name] = process(values[name])
        return cursor.execute(self._query, values)


def _as_it_is(value: Any) -> Any:
    return value


_SHORT = 256  # bytes
_DECODER = json.JSONDecoder()


def _read_json(document: bytes) -> Any:
    return stored_json(_DECODER.raw_decode(document.decode())[0])


#: Empty configs, tags and schedules are the same in many rows; what is frozen can be shared.
_read_short_json = lru_cache(maxsize=1024)(_read_json)


class _JsonLoader(Loader):
    """JSONB as frozen values; psycopg's own takes longer over it than over the rest of a row."""

    def load(self, data: Buffer) -> Any:
        document = bytes(data)
        return (_read_short_json if len(document) <= _SHORT else _read_json)(document)


_ADAPTERS = AdaptersMap(psycopg.adapters)
_ADAPTERS.register_loader("jsonb", _JsonLoader)


class OwnCursor(psycopg.Cursor[Any]):
    """A cursor that reads JSON as the domain has it.

    One lasts as long as its connection: it knows by then how to read and write each type.
    """

    @property
    def adapters(self) -> AdaptersMap:
        return _ADAPTERS

    def begin(self) -> None:
        """Begin a transaction, by libpq alone: it can't wait for anything, and psycopg would spend
        on it what it spends on a query.
        """
        result = self.connection.pgconn.exec_(b"BEGIN")
        if result.status != ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(result)
