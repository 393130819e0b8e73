"""The statements of every day, one place each, built once per table, dialect and shape.

May import: `ports`, `domain`, `models`, `mapping`, `filtering`, `prepared`, SQLAlchemy. Writes are
made so that a refusal is an answer (no row touched) and not a fault: on Postgres a fault would end
the transaction, and a caller that expects a taken name could not go on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Insert,
    Integer,
    Select,
    Table,
    bindparam,
    delete,
    exists,
    func,
    literal_column,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from integration_hub.domain.aggregate import no_ways
from integration_hub.ports.query import Sort
from integration_hub.sql.filtering import Shape, beyond, clauses, may_run, ordered, waiting
from integration_hub.sql.mapping import Mapper
from integration_hub.sql.models import IntegrationRow
from integration_hub.sql.prepared import Prepared

INTEGRATIONS = IntegrationRow.__table__
_CREATED = frozenset({"id", "tenant_id", "created_at", "created_by"})
INSERTS: dict[str, Callable[[Table], Any]] = {
    "postgresql": postgresql.insert,
    "sqlite": sqlite.insert,
}
_SHAPES = 256  # how many statements of questions are kept, per table and dialect


class Statements:
    """The statements on one table.

    Parameters have the names of the columns (``new_`` before those that are stored) or of a
    filter's fields. Where a statement is `scoped`, it wants `tenant_id` too, and sees that tenant's
    rows alone.
    """

    def __init__(self, mapper: Mapper[Any], dialect: str) -> None:
        self.table = mapper.table
        self._dialect = dialect
        self._columns = mapper.columns
        self._kind = mapper.kind
        self.get = lru_cache(self._get)
        self.delete = lru_cache(self._delete)
        self.by_name = lru_cache(self._by_name)
        self.rows = lru_cache(_SHAPES)(self._rows)
        self.count = lru_cache(_SHAPES)(self._count)
        self.exists = lru_cache(_SHAPES)(self._exists)
        self.due = lru_cache(self._due)
        self.next_due = lru_cache(self._next_due)

    @property
    def is_postgres(self) -> bool:
        return self._dialect == "postgresql"

    @property
    def has_parent(self) -> bool:
        return "integration_id" in self.table.c

    # --- changing -----------------------------------------------------------------------------

    @cached_property
    def insert(self) -> Prepared:
        """Insert a row, unless its id or name is taken or its integration is not there."""
        statement = INSERTS[self._dialect](self.table)
        if self.has_parent:
            row = select(*(self._value(name) for name in self._columns)).where(self._parent())
            statement = statement.from_select(self._columns, row)
        else:
            statement = statement.values({name: self._value(name) for name in self._columns})
        conflict_free: Insert = statement.on_conflict_do_nothing()
        return Prepared(conflict_free.execution_options(preserve_rowcount=True))

    @cached_property
    def insert_all(self) -> Insert:
        """Insert rows as they are; a taken id or name is a fault."""
        statement: Insert = INSERTS[self._dialect](self.table)
        return statement

    @cached_property
    def update(self) -> Prepared:
        """Store the next version of a row; wants the `expected` version too.

        Touches nothing where the row is not of that version, its new name is taken, its integration
        is not there, or no way leads from its state to the new one.
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
        if refused := no_ways(self._kind):
            moves = [tuple_(*(literal_column(f"'{each}'") for each in pair)) for pair in refused]
            move = tuple_(table.c.status, self._value("status"))
            statement = statement.where(move.not_in(moves))
        return Prepared(statement.where(self._parent()) if self.has_parent else statement)

    def _delete(self, *, scoped: bool) -> Prepared:
        return Prepared(delete(self.table).where(self._is("id"), *self._scope(scoped)))

    # --- looking up ---------------------------------------------------------------------------

    def _get(self, *, scoped: bool) -> Prepared:
        return Prepared(select(self.table).where(self._is("id"), *self._scope(scoped)))

    def _by_name(self, *, scoped: bool, locked: bool = False) -> Prepared:
        """Rows of a name, within its integration if it has one; `locked` until the end."""
        parent = [self._is("integration_id")] if self.has_parent else []
        statement = select(self.table).where(self._is("name"), *parent, *self._scope(scoped))
        return Prepared(statement.with_for_update() if locked else statement)

    def _rows(
        self,
        shape: Shape,
        sort: Sort,
        *,
        scoped: bool,
        after: bool = False,
        limited: bool = False,
        skipping: bool = False,
        is_aside: bool = False,
    ) -> Prepared:
        """Rows that match, in order; `after` a cursor, `limited` in number (`limit`), `skipping`
        those before (`offset`).
        """
        statement = self._matching(select(self.table), shape, scoped)
        statement = ordered(statement, self.table, sort, is_aside=is_aside)
        if after:
            statement = statement.where(beyond(self.table, sort))
        if limited:
            statement = statement.limit(bindparam("limit", type_=Integer))
        if skipping:
            statement = statement.offset(bindparam("offset", type_=BigInteger))
        return Prepared(statement)

    def _count(self, shape: Shape, *, scoped: bool) -> Prepared:
        counted: Select[Any] = select(func.count()).select_from(self.table)
        return Prepared(self._matching(counted, shape, scoped))

    def _exists(self, shape: Shape, *, scoped: bool) -> Prepared:
        return Prepared(select(self._matching(select(self.table.c.id), shape, scoped).exists()))

    def _due(self, shape: Shape, *, scoped: bool) -> Prepared:
        """Reads the partial index in its own order, and of each job its integration."""
        parent = INTEGRATIONS.c.id == self.table.c.integration_id
        due = self._matching(select(self.table), shape, scoped).join(
            INTEGRATIONS, parent & may_run(INTEGRATIONS)
        )
        in_order = due.order_by(self.table.c.next_run_at, self.table.c.id)
        return Prepared(in_order.limit(bindparam("limit", type_=Integer)))

    def _next_due(self, *, scoped: bool) -> Prepared:
        """The first entry of the same index beyond a moment."""
        at = self.table.c.next_run_at
        later = select(at).where(waiting(self.table), at > bindparam("moment", type_=at.type))
        return Prepared(later.where(*self._scope(scoped)).order_by(at).limit(literal_column("1")))

    # --- their parts --------------------------------------------------------------------------

    def _matching(self, statement: Select[Any], shape: Shape, scoped: bool) -> Select[Any]:
        conditions = clauses(self.table, shape, is_postgres=self.is_postgres)
        return statement.where(*self._scope(scoped), *conditions)

    def _scope(self, scoped: bool) -> list[ColumnElement[bool]]:
        return [self._is("tenant_id")] if scoped else []

    def _is(self, column: str) -> ColumnElement[bool]:
        found: ColumnElement[Any] = self.table.c[column]
        return found == bindparam(column, type_=found.type)

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
