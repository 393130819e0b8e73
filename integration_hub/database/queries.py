"""One statement that somebody writes by hand: its parameters, and its rows as objects.

May import: `domain`, SQLAlchemy, pydantic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import pydantic
from sqlalchemy import Connection, CursorResult, exc, text

from integration_hub.domain.errors import ValidationError
from integration_hub.domain.values import checked_kind

T = TypeVar("T")


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
        return connection.execute(text(sql), params)
    except UnicodeEncodeError:  # it shows what it could not encode
        problem = "must hold text without lone surrogates, which are no UTF-8"
        raise ValidationError("params", "<not shown>", problem) from None
    except exc.DBAPIError:
        raise
    except exc.StatementError as error:
        why = "" if error.orig is None else error.orig.args[0]
        problem = rf"must have each :name of the statement (write \: for a plain colon): {why}"
        raise ValidationError("params", ", ".join(params) or "none", problem) from None


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
