"""What a filter and a sort mean in SQL; `memory/matching.py` says the same for objects.

May import: `ports`, `domain`, `database`, `models`. A filter has a shape (which fields were given,
and of what kind) and values. The statement depends on the shape alone, so that it is built and
compiled once for all filters of that shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeAlias

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    Table,
    UnaryExpression,
    and_,
    any_,
    bindparam,
    false,
    func,
    literal,
    literal_column,
    not_,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.operators import custom_op

from integration_hub.database import json_operators
from integration_hub.domain.integration import RESTING
from integration_hub.domain.sync_job import SyncJobStatus
from integration_hub.domain.values import patterns_for
from integration_hub.ports.query import LATEST, OPTIONAL_TIMES, SORT_FIELDS, Filter, Sort

Shape: TypeAlias = tuple[tuple[str, Any], ...]
"""The names of the fields that were given, each with the kind of its clause."""

_PLUS: Any = custom_op("+")


class Condition(Protocol):
    """A field of a filter: what its value is as a parameter, and the clause on that parameter."""

    def read(self, value: Any) -> tuple[Any, tuple[Any, ...]]:
        """The kind of clause that the value calls for, and the value of its parameter, if any."""
        ...

    def clause(self, table: Table, kind: Any, name: str, *, is_postgres: bool) -> Any: ...


@dataclass(frozen=True)
class OneOf:
    """A column that has one of the values: none, one or many of them."""

    column: str

    def read(self, value: Any) -> tuple[int, tuple[Any, ...]]:
        count = min(len(value), 2)
        return count, ((), (value[0],) if value else (), (list(value),))[count]

    def clause(self, table: Table, kind: int, name: str, *, is_postgres: bool) -> Any:
        column = table.c[self.column]
        if kind == 0:
            return false()
        if kind == 1:
            return column == bindparam(name, type_=column.type)
        if is_postgres:
            return column == any_(bindparam(name, type_=ARRAY(column.type)))
        return column.in_(bindparam(name, type_=column.type, expanding=True))


@dataclass(frozen=True)
class Flag:
    """A clause that is asked for, or against."""

    of: Callable[[Table], ColumnElement[bool]]

    def read(self, value: bool) -> tuple[bool, tuple[()]]:
        return value, ()

    def clause(self, table: Table, kind: bool, name: str, *, is_postgres: bool) -> Any:
        return self.of(table) if kind else not_(self.of(table))


@dataclass(frozen=True)
class With:
    """A clause on one parameter, of a type of its own where that is not the column's."""

    of: Callable[[Table, ColumnElement[Any]], ColumnElement[bool]]
    type: Callable[[Table], Any]
    value: Callable[[Any], Any] = lambda value: value

    def read(self, value: Any) -> tuple[None, tuple[Any]]:
        return None, (self.value(value),)

    def clause(self, table: Table, kind: None, name: str, *, is_postgres: bool) -> Any:
        return self.of(table, bindparam(name, type_=self.type(table)))


def waiting(table: Table) -> ColumnElement[bool]:
    """Pending and active, in the words of the partial index."""
    return and_(table.c.status == literal_column("'pending'"), table.c.is_active)


RESTING_LISTED = ", ".join(f"'{status}'" for status in sorted(RESTING))
"""The states in which the jobs of an integration are not due, as SQL lists them."""


def may_run(integrations: FromClause) -> ColumnElement[bool]:
    """Whether the jobs of an integration are due when their time has come."""
    resting: ColumnElement[str] = literal_column(f"({RESTING_LISTED})")
    return and_(integrations.c.is_active, integrations.c.status.op("NOT IN")(resting))


_CONDITIONS: Mapping[str, Condition] = {
    "status": OneOf("status"),
    "type": OneOf("type"),
    "direction": OneOf("direction"),
    "integration_id": OneOf("integration_id"),
    "is_active": Flag(lambda table: table.c.is_active),
    "running": Flag(lambda table: table.c.status == literal_column(f"'{SyncJobStatus.RUNNING}'")),
    "failed": Flag(lambda table: table.c.status == literal_column(f"'{SyncJobStatus.FAILED}'")),
    "tags_any": With(
        lambda table, wanted: json_operators.has_any(table.c.tags, wanted),
        lambda table: json_operators.TEXTS,
        list,
    ),
    "tags_all": With(
        lambda table, wanted: json_operators.contains(table.c.tags, wanted),
        lambda table: table.c.tags.type,
        list,
    ),
    "config_contains": With(
        lambda table, part: json_operators.contains(table.c.config, part),
        lambda table: table.c.config.type,
    ),
    "name_contains": With(
        lambda table, part: func.strpos(table.c.name, part) > 0, lambda table: table.c.name.type
    ),
    "created_after": With(
        lambda table, moment: table.c.created_at > moment, lambda table: table.c.created_at.type
    ),
    "created_before": With(
        lambda table, moment: table.c.created_at < moment, lambda table: table.c.created_at.type
    ),
    "event": With(
        lambda table, patterns: json_operators.has_any(table.c.events, patterns),
        lambda table: json_operators.TEXTS,
        lambda event: list(patterns_for(event)),
    ),
    "due_by": With(
        lambda table, moment: and_(waiting(table), table.c.next_run_at <= moment),
        lambda table: table.c.next_run_at.type,
    ),
}


_NAMES: Mapping[type[Filter], tuple[str, ...]] = {
    kind: tuple(each.name for each in fields(kind)) for kind in SORT_FIELDS
}


def asked(filter: Filter) -> tuple[Shape, dict[str, Any]]:
    """The shape of a filter, and the parameters that its clauses want."""
    shape: list[tuple[str, Any]] = []
    values: dict[str, Any] = {}
    for name in _NAMES[type(filter)]:
        value = getattr(filter, name)
        if value is not None:
            kind, given = _CONDITIONS[name].read(value)
            shape.append((name, kind))
            values.update((name, each) for each in given)
    return tuple(shape), values


def clauses(table: Table, shape: Shape, *, is_postgres: bool) -> list[ColumnElement[bool]]:
    """The conditions of a shape; their parameters have the names of the filter's fields."""
    return [
        _CONDITIONS[name].clause(table, kind, name, is_postgres=is_postgres) for name, kind in shape
    ]


def sort_column(table: Table, sort: Sort) -> ColumnElement[Any]:
    column = table.c[sort.field]
    if sort.field in OPTIONAL_TIMES:
        return func.coalesce(column, literal(LATEST, column.type), type_=column.type)
    return column


def ordered(
    statement: Select[Any], table: Table, sort: Sort, *, is_aside: bool = False
) -> Select[Any]:
    """In the total order of the sort: the field, then the id, both in one direction.

    With `is_aside` SQLite sorts without an index, so that a stream, like a cursor on Postgres,
    shows the rows as they were when it began, even if its own unit of work changes them on the
    way. Source: sqlite.org/optoverview.html, on the unary "+".
    """
    keys: list[ColumnElement[Any]] = [sort_column(table, sort), table.c.id]
    if is_aside:
        keys = [UnaryExpression(key, operator=_PLUS, type_=key.type) for key in keys]
    return statement.order_by(*(key.desc() if sort.is_descending else key for key in keys))


def beyond(table: Table, sort: Sort) -> ColumnElement[bool]:
    """What follows the place of a cursor (parameters `cursor_key`, `cursor_id`): one comparison of
    rows, which an index answers.
    """
    column = sort_column(table, sort)
    here = tuple_(column, table.c.id)
    key = bindparam("cursor_key", type_=column.type)
    place = tuple_(key, bindparam("cursor_id", type_=table.c.id.type))
    return here < place if sort.is_descending else here > place
