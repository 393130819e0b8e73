"""A statement that is compiled once and run many times.

May import: SQLAlchemy, psycopg. On Postgres it can go straight to the driver's cursor: SQLAlchemy's
result describes every column of every answer, which for one row costs as much as the query itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import psycopg
from sqlalchemy import Dialect, Executable
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.types import TypeEngine

DIALECT: Dialect = PGDialect_psycopg()  # type: ignore[no-untyped-call]


def type_name(type_: TypeEngine[Any]) -> str:
    """A type as Postgres calls it."""
    return str(type_.dialect_impl(DIALECT).compile(DIALECT))


class Prepared:
    """A statement whose parameters are all given when it is run, by their names."""

    def __init__(self, statement: Executable) -> None:
        self.statement = statement

    @property
    def text(self) -> str:
        """The statement as psycopg takes it."""
        return str(self._compiled)

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

    def run(
        self, driver: psycopg.Connection[Any], parameters: Mapping[str, Any]
    ) -> psycopg.Cursor[Any]:
        """Run it on psycopg's own connection; faults are psycopg's."""
        values = {**self._constants, **parameters}
        for name, process in self._write.items():
            values[name] = process(values[name])
        return driver.execute(self._query, values)


def _as_it_is(value: Any) -> Any:
    return value
