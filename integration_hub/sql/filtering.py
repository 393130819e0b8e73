"""What a filter and a sort mean in SQL; `memory/matching.py` says the same for objects.

May import: `ports`, `domain`, `database`, `models`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    Table,
    UnaryExpression,
    and_,
    func,
    literal,
    literal_column,
    not_,
    tuple_,
)
from sqlalchemy.sql.operators import custom_op

from integration_hub.database import json_operators
from integration_hub.domain.sync_job import SyncJobStatus
from integration_hub.domain.values import patterns_for
from integration_hub.ports.query import LATEST, OPTIONAL_TIMES, Cursor, Filter, Sort

Clause = Callable[[Table, Any], ColumnElement[bool]]
_PLUS: Any = custom_op("+")


def _is_in(name: str) -> Clause:
    def clause(table: Table, wanted: Any) -> ColumnElement[bool]:
        column = table.c[name]
        return column == wanted[0] if len(wanted) == 1 else column.in_(wanted)

    return clause


def _has_status(status: SyncJobStatus) -> Clause:
    def clause(table: Table, wanted: bool) -> ColumnElement[bool]:
        return table.c.status == status if wanted else table.c.status != status

    return clause


def _contains_all(table: Table, wanted: tuple[str, ...]) -> ColumnElement[bool]:
    return json_operators.contains(table.c.tags, list(wanted))


def waiting(table: Table) -> ColumnElement[bool]:
    """Pending and active, in the words of the partial index."""
    return and_(table.c.status == literal_column("'pending'"), table.c.is_active)


_CLAUSES: Mapping[str, Clause] = {
    "status": _is_in("status"),
    "type": _is_in("type"),
    "direction": _is_in("direction"),
    "integration_id": _is_in("integration_id"),
    "is_active": lambda table, wanted: table.c.is_active if wanted else not_(table.c.is_active),
    "tags_any": lambda table, wanted: json_operators.has_any(table.c.tags, wanted),
    "tags_all": _contains_all,
    "config_contains": lambda table, part: json_operators.contains(table.c.config, part),
    "name_contains": lambda table, part: func.strpos(table.c.name, part) > 0,
    "created_after": lambda table, moment: table.c.created_at > moment,
    "created_before": lambda table, moment: table.c.created_at < moment,
    "event": lambda table, e: json_operators.has_any(table.c.events, patterns_for(e)),
    "due_by": lambda table, moment: and_(waiting(table), table.c.next_run_at <= moment),
    "running": _has_status(SyncJobStatus.RUNNING),
    "failed": _has_status(SyncJobStatus.FAILED),
}


def clauses(table: Table, filter: Filter) -> list[ColumnElement[bool]]:
    """The conditions of the fields that were given."""
    asked = ((each.name, getattr(filter, each.name)) for each in fields(filter))
    return [_CLAUSES[name](table, value) for name, value in asked if value is not None]


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


def beyond(table: Table, sort: Sort, cursor: Cursor) -> ColumnElement[bool]:
    """What follows the place of a cursor: one comparison of rows, which an index answers."""
    column = sort_column(table, sort)
    here = tuple_(column, table.c.id)
    place = tuple_(literal(cursor.key, column.type), literal(cursor.id, table.c.id.type))
    return here < place if sort.is_descending else here > place
