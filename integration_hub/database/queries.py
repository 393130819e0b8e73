"""One statement that somebody writes by hand: its parameters, and its rows as objects.

May import: `domain`, `types`, SQLAlchemy, pydantic.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Final, TypeVar
from uuid import UUID

import pydantic
from sqlalchemy import (
    Connection,
    CursorResult,
    Date,
    DateTime,
    TextClause,
    Uuid,
    bindparam,
    exc,
    text,
)
from sqlalchemy.types import TypeEngine

from integration_hub.database.types import UtcDateTime, json_type
from integration_hub.domain.errors import ValidationError
from integration_hub.domain.values import checked_kind

T = TypeVar("T")

_NAME: Final = r"(?<![:\w\\]):(\w+)"  # as SQLAlchemy's text() has it
_CAST: Final = re.compile(f"{_NAME}(?=::)")  # for which it takes no name before a colon
_AMONG: Final = re.compile(r"\bIN\s*(?:\(\s*:(\w+)\s*\)|\s:(\w+))", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The rows of a query, as mappings of column to value."""

    rows: list[dict[str, Any]]
    row_count: int
    columns: tuple[str, ...]


def checked_parameters(sql: object, params: object) -> dict[str, Any]:
    """The parameters of a statement. Raises `ValidationError` where either is none."""
    checked_kind("sql", sql, str, "must be a statement in text")
    if not isinstance(params, Mapping | None):
        problem = "must be a mapping of names to values"
        raise ValidationError("params", type(params).__name__, problem)
    return dict(params or {})


def answered(connection: Connection, sql: str, params: dict[str, Any]) -> QueryResult:
    """What one statement gives. Raises `ValidationError` for parameters that don't fit it."""
    result = _executed(connection, sql, params)
    if not result.returns_rows:
        return QueryResult([], result.rowcount, ())
    columns = tuple(result.keys())
    rows = [dict(row) for row in result.mappings()]
    return QueryResult(rows, len(rows), _told_apart(columns))


def _executed(connection: Connection, sql: str, params: dict[str, Any]) -> CursorResult[Any]:
    try:
        is_sqlite = connection.dialect.name == "sqlite"
        given = {name: _plain(value, is_sqlite) for name, value in params.items()}
        return connection.execute(_statement(sql, given, is_sqlite), given)
    except UnicodeEncodeError:  # it shows what it could not encode
        problem = "must hold text without lone surrogates, which are no UTF-8"
        raise ValidationError("params", "<not shown>", problem) from None
    except exc.DBAPIError:
        raise
    except (exc.StatementError, TypeError) as error:
        cause = error.orig if isinstance(error, exc.StatementError) else error
        problem = r"must have each :name of the statement (write \: for a plain colon)"
        if isinstance(cause, TypeError):  # json's
            problem = "must hold what JSON can"
        why = "" if cause is None else cause.args[0]
        raise ValidationError("params", ", ".join(params) or "none", f"{problem}: {why}") from None


def _statement(sql: str, params: dict[str, Any], is_sqlite: bool) -> TextClause:
    several: set[str] = set()

    def expanded(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if not isinstance(params.get(name), list | tuple | AbstractSet):
            return found[0]
        params[name] = [_plain(value, is_sqlite) for value in params[name]]
        several.add(name)
        return f"IN :{name}"

    def set_off(found: re.Match[str]) -> str:
        return f"(:{found[1]})" if found[1] in params else found[0]

    sql = _CAST.sub(set_off, _AMONG.sub(expanded, sql))
    types = {
        name: _type_of(next(iter(value), None) if name in several else value, is_sqlite)
        for name, value in params.items()
    }
    named = params.keys() & set(re.findall(_NAME, sql))
    binds = (bindparam(name, type_=types[name], expanding=name in several) for name in named)
    return text(sql).bindparams(*binds)


def _plain(value: Any, is_sqlite: bool) -> Any:
    """A value in types that drivers know, or that `_type_of` does."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Decimal) and is_sqlite:
        return str(value)
    return dict(value) if isinstance(value, Mapping) else value


def _type_of(value: Any, is_sqlite: bool) -> TypeEngine[Any] | None:
    """That of our own columns, for what a driver does not know, or writes otherwise."""
    if isinstance(value, dict):
        return json_type()
    if not is_sqlite:
        return None
    if isinstance(value, UUID):
        return Uuid()
    if isinstance(value, datetime):
        return DateTime() if value.tzinfo is None else UtcDateTime()
    return Date() if isinstance(value, date) else None


def _told_apart(columns: tuple[str, ...]) -> tuple[str, ...]:
    for name, count in Counter(columns).items():
        if count > 1:
            problem = f"has {count} columns of one name; give each a name of its own by AS"
            raise ValidationError("sql", name, problem)
    return columns


def mapped(rows: list[dict[str, Any]], into: type[T]) -> list[T]:
    """The rows as objects of a type; `ValidationError` names the column that does not fit."""
    try:
        return pydantic.TypeAdapter(list[into]).validate_python(rows)  # type: ignore[valid-type]
    except pydantic.PydanticUserError as error:
        raise ValidationError("into", into.__name__, f"can't hold rows: {error.message}") from error
    except pydantic.ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "row"
        problem = f"does not fit {into.__name__}: {first['msg']}"
        raise ValidationError(where, f"row {first['loc'][0]}", problem) from None
