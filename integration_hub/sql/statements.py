"""The statements of every day, one place each, built once per table and dialect.

May import: `models`, `mapping`, SQLAlchemy. Writes are made so that a refusal is an answer (no row
touched) and not a fault: on Postgres a fault would end the transaction, and a caller that expects
a taken name could not go on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Delete,
    Executable,
    Insert,
    Select,
    Table,
    Update,
    bindparam,
    delete,
    exists,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from integration_hub.sql.mapping import Mapper
from integration_hub.sql.models import IntegrationRow

INTEGRATIONS = IntegrationRow.__table__
_CREATED = frozenset({"id", "tenant_id", "created_at", "created_by"})
_INSERTS: dict[str, Callable[[Table], Any]] = {
    "postgresql": postgresql.insert,
    "sqlite": sqlite.insert,
}


class Statements:
    """The statements on one table. Parameters have the names of the columns, but where noted."""

    def __init__(self, mapper: Mapper[Any], dialect: str) -> None:
        self.table = mapper.table
        self._dialect = dialect
        self._columns = mapper.columns

    @property
    def is_postgres(self) -> bool:
        return self._dialect == "postgresql"

    @property
    def has_parent(self) -> bool:
        return "integration_id" in self.table.c

    @cached_property
    def insert(self) -> Executable:
        """Insert a row, unless its id or name is taken or its integration is not there."""
        statement = _INSERTS[self._dialect](self.table)
        if self.has_parent:
            row = select(*(self._value(name) for name in self._columns)).where(self._parent())
            statement = statement.from_select(self._columns, row)
        else:
            statement = statement.values({name: self._value(name) for name in self._columns})
        conflict_free: Insert = statement.on_conflict_do_nothing()
        return conflict_free.execution_options(preserve_rowcount=True)

    @cached_property
    def insert_all(self) -> Insert:
        """Insert rows as they are; a taken id or name is a fault."""
        statement: Insert = _INSERTS[self._dialect](self.table)
        return statement

    @cached_property
    def update(self) -> Update:
        """Store the next version of a row; parameters are ``new_`` and the column, and `expected`.

        Touches nothing where the row is not of that version, its new name is taken, or its
        integration is not there.
        """
        table = self.table
        names = [name for name in self._columns if name not in _CREATED]
        other = table.alias("other")
        scope = "integration_id" if self.has_parent else "tenant_id"
        name_is_taken = exists(
            select(1).where(
                other.c[scope] == self._value(scope),
                other.c.name == self._value("name"),
                other.c.id != self._value("id"),
            )
        )
        statement = (
            update(table)
            .where(table.c.id == self._value("id"), table.c.tenant_id == self._value("tenant_id"))
            .where(table.c.version == bindparam("expected"))
            .where(~name_is_taken)
            .values({name: self._value(name) for name in names})
        )
        return statement.where(self._parent()) if self.has_parent else statement

    def get(self, *, scoped: bool) -> Select[Any]:
        return self._scoped_get if scoped else self._get

    @cached_property
    def _get(self) -> Select[Any]:
        return select(self.table).where(self.table.c.id == bindparam("id"))

    @cached_property
    def _scoped_get(self) -> Select[Any]:
        return self._get.where(self.table.c.tenant_id == bindparam("tenant_id"))

    def delete(self, *, scoped: bool) -> Delete:
        return self._scoped_delete if scoped else self._delete

    @cached_property
    def _delete(self) -> Delete:
        return delete(self.table).where(self.table.c.id == bindparam("row_id"))

    @cached_property
    def _scoped_delete(self) -> Delete:
        return self._delete.where(self.table.c.tenant_id == bindparam("tenant"))

    @cached_property
    def locked_by_name(self) -> Select[Any]:
        """The row of a name within its tenant and scope, kept from others until the end."""
        conditions: list[ColumnElement[bool]] = [
            self.table.c.tenant_id == bindparam("tenant_id"),
            self.table.c.name == bindparam("name"),
        ]
        if self.has_parent:
            conditions.append(self.table.c.integration_id == bindparam("integration_id"))
        return select(self.table).where(*conditions).with_for_update()

    def _value(self, column: str) -> Any:
        return bindparam(f"new_{column}", type_=self.table.c[column].type)

    def _parent(self) -> ColumnElement[bool]:
        """The integration is there, in the same tenant, which a foreign key alone would not say."""
        return exists(
            select(1).where(
                INTEGRATIONS.c.id == self._value("integration_id"),
                INTEGRATIONS.c.tenant_id == self._value("tenant_id"),
            )
        )
