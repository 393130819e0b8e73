"""The repositories over tables: what the three have in common.

May import: `ports`, `domain`, `database`, and its neighbours. The three themselves, for Postgres
and for SQLite, are in `aggregates`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Select, select

from integration_hub.database.faults import breaks_constraint
from integration_hub.domain.aggregate import Aggregate, checked_item, require_way
from integration_hub.domain.errors import (
    DuplicateId,
    DuplicateName,
    HubError,
    IntegrationNotFound,
    StaleVersion,
    StorageError,
)
from integration_hub.domain.values import checked_count, checked_id, searchable
from integration_hub.ports.query import (
    MAX_PAGE_SIZE,
    NEWEST_FIRST,
    Cursor,
    CursorPage,
    Filter,
    Page,
    PageRequest,
    Sort,
    checked_filter,
    checked_limit,
    checked_sort,
)
from integration_hub.ports.repositories import require_free, scope_of
from integration_hub.sql.bulk import copy_in, execute_many, streamed
from integration_hub.sql.filtering import Shape, asked
from integration_hub.sql.mapping import Mapper
from integration_hub.sql.prepared import Prepared
from integration_hub.sql.statements import INTEGRATIONS, Statements

if TYPE_CHECKING:
    from integration_hub.sql.unit_of_work import SqlUnitOfWork

A = TypeVar("A", bound=Aggregate)
F = TypeVar("F", bound=Filter)
T = TypeVar("T")

_CHUNK = 1_000  # ids per statement
_TRIES = 3  # an upsert that loses the race for a new name finds the winner's row the next time


class SqlRepository(Generic[A, F]):
    """What the three have in common; see `ports.repositories.Repository`."""

    MAPPER: ClassVar[Mapper[Any]]
    STATEMENTS: ClassVar[Statements]
    FILTER: ClassVar[type[Any]]

    def __init__(self, uow: SqlUnitOfWork) -> None:
        self._uow = uow
        self._mapper: Mapper[A] = self.MAPPER
        self._table = self.MAPPER.table
        self._kind: type[A] = self.MAPPER.kind

    # --- changing -----------------------------------------------------------------------------

    def add(self, item: A, /) -> A:
        new = self._new(item)
        try:
            values = self._mapper.parameters(new)
            count = self._uow.touch(self.STATEMENTS.insert, values, is_whole=True)
        except StorageError as error:
            raise self._broken(error, new) from error
        if count != 1:
            self._require_parents([new])
            raise self._clash([new])
        return new

    def add_many(self, items: Iterable[A], /) -> int:
        new = [self._new(item) for item in items]
        if not new:
            return 0
        self._require_parents(new)
        connection = self._uow.begun()
        try:
            with self._uow.savepoint(), self._uow.faults():
                if connection.dialect.name == "postgresql":
                    copy_in(connection, self._mapper, new)
                else:
                    execute_many(connection, self.STATEMENTS.insert_all, self._mapper, new)
        except StorageError as error:
            if not breaks_constraint(error.__cause__):
                raise
            self._require_parents(new)
            raise self._clash(new, instead=error) from error
        return len(new)

    def save(self, item: A, /) -> A:
        self._uow.require_active()
        item = self._uow.owned(checked_item(self._kind, item))
        if not self._uow.sees(item.tenant):
            raise self._missing(item.id)
        changed = item.saved(actor=self._uow.actor, now=self._uow.clock.now())
        parameters = {**self._mapper.parameters(changed), "expected": item.version}
        try:
            count = self._uow.touch(self.STATEMENTS.update, parameters, is_whole=True)
        except StorageError as error:
            raise self._broken(error, changed) from error
        if count != 1:
            raise self._refusal(item, changed)
        return changed

    def upsert(self, item: A, /) -> A:
        new = self._new(item)
        parameters = {"tenant_id": new.tenant, "name": new.name, "integration_id": scope_of(new)}
        statement = self.STATEMENTS.by_name(scoped=True, locked=True)
        for _ in range(_TRIES):
            self._uow.begun()
            rows = self._uow.rows(statement, parameters)
            if rows:
                return self.save(self._mapper.load(rows[0]).redeclared(new))
            try:
                return self.add(item)
            except DuplicateName:
                continue  # somebody committed that name just now
        raise DuplicateName(self._kind.KIND, new.name)

    def remove(self, id: UUID) -> None:
        statement = self.STATEMENTS.delete(scoped=self._uow.is_scoped)
        values = self._uow.scoped(id=checked_id("id", id))
        if self._uow.touch(statement, values, is_whole=True) != 1:
            raise self._missing(id)

    # --- looking up ---------------------------------------------------------------------------

    def get(self, id: UUID) -> A:
        self._uow.require_active()
        statement = self.STATEMENTS.get(scoped=self._uow.is_scoped)
        for row in self._uow.rows(statement, self._uow.scoped(id=checked_id("id", id))):
            return self._mapper.load(row)
        raise self._missing(id)

    def get_many(self, ids: Iterable[UUID]) -> dict[UUID, A]:
        self._uow.require_active()
        wanted = list(dict.fromkeys(checked_id("ids", id) for id in ids))
        found: dict[UUID, A] = {}
        for chunk in _chunks(wanted):
            statement = select(self._table).where(self._table.c.id.in_(chunk), *self._own())
            rows = self._uow.read(statement)
            found.update((item.id, item) for item in map(self._mapper.load, rows))
        return {id: found[id] for id in wanted if id in found}

    def find(
        self, filter: F | None = None, *, sort: Sort = NEWEST_FIRST, limit: int | None = None
    ) -> list[A]:
        return self._found(filter, sort, limit=checked_limit(limit))

    def page(
        self,
        filter: F | None = None,
        *,
        sort: Sort = NEWEST_FIRST,
        number: int = 1,
        size: int = 50,
    ) -> Page[A]:
        request = PageRequest(number, size)
        items = self._found(filter, sort, limit=size, offset=request.offset)
        return Page(items=items, number=number, size=size, total=self.count(filter))

    def scroll(
        self,
        filter: F | None = None,
        *,
        sort: Sort = NEWEST_FIRST,
        size: int = 50,
        after: str | None = None,
    ) -> CursorPage[A]:
        checked_count("size", size, least=1, most=MAX_PAGE_SIZE)
        self._uow.require_active()
        given, order = checked_filter(filter, self.FILTER), checked_sort(sort, self.FILTER)
        place = None if after is None else Cursor.decode(after, given, order)
        items = self._found(given, order, limit=size + 1, after=place)
        shown = items[:size]
        next = Cursor.of(shown[-1], sort).encode(given, sort) if len(items) > size else None
        return CursorPage(items=shown, next=next)

    def stream(
        self, filter: F | None = None, *, sort: Sort = NEWEST_FIRST, batch: int = 500
    ) -> Iterator[A]:
        checked_count("batch", batch, least=1)
        self._uow.require_active()
        shape, values = self._asked(filter)
        statement = self.STATEMENTS.rows(
            shape,
            checked_sort(sort, self.FILTER),
            scoped=self._uow.is_scoped,
            is_aside=not self.STATEMENTS.is_postgres,
        )
        return self._streamed(statement, values, batch)

    def _streamed(self, statement: Prepared, values: dict[str, Any], batch: int) -> Iterator[A]:
        # A server-side cursor lives in a transaction, so one begins.
        is_postgres = self.STATEMENTS.is_postgres
        connection = self._uow.begun() if is_postgres else self._uow.connected()
        with self._uow.faults():
            for rows in streamed(connection, statement.statement, values, batch):
                for row in rows:
                    self._uow.require_active()
                    yield self._mapper.load(row)

    def count(self, filter: F | None = None) -> int:
        self._uow.require_active()
        shape, values = self._asked(filter)
        rows = self._uow.rows(self.STATEMENTS.count(shape, scoped=self._uow.is_scoped), values)
        found: int = rows[0][0]
        return found

    def exists(self, filter: F) -> bool:
        self._uow.require_active()
        shape, values = self._asked(filter)
        rows = self._uow.rows(self.STATEMENTS.exists(shape, scoped=self._uow.is_scoped), values)
        return bool(rows[0][0])

    # --- inside -------------------------------------------------------------------------------

    def _new(self, item: A) -> A:
        self._uow.require_active()
        tenant = self._uow.tenant_for(checked_item(self._kind, item).tenant)
        return item.added(tenant=tenant, actor=self._uow.actor, now=self._uow.clock.now())

    def _own(self) -> list[ColumnElement[bool]]:
        scope = self._uow.scope
        return [] if scope is None else [self._table.c.tenant_id == scope]

    def _asked(self, filter: F | None) -> tuple[Shape, dict[str, Any]]:
        shape, values = asked(checked_filter(filter, self.FILTER))
        return shape, self._uow.scoped(**values)

    def _found(
        self,
        filter: F | None,
        sort: Sort,
        *,
        limit: int | None = None,
        offset: int = 0,
        after: Cursor | None = None,
    ) -> list[A]:
        self._uow.require_active()
        shape, values = self._asked(filter)
        statement = self.STATEMENTS.rows(
            shape,
            checked_sort(sort, self.FILTER),
            scoped=self._uow.is_scoped,
            after=after is not None,
            limited=limit is not None,
            skipping=bool(offset),
        )
        if limit is not None:
            values["limit"] = limit
        if offset:
            values["offset"] = offset
        if after is not None:
            values.update(cursor_key=after.key, cursor_id=after.id)
        return self._loaded(statement, values)

    def _loaded(self, statement: Prepared, values: dict[str, Any]) -> list[A]:
        load = self._mapper.load
        return [load(row) for row in self._uow.rows(statement, values)]

    def _by_name(self, **values: Any) -> list[A]:
        """Those of a name: one, or through `EVERY_TENANT` perhaps several integrations."""
        self._uow.require_active()
        statement = self.STATEMENTS.by_name(scoped=self._uow.is_scoped)
        return self._loaded(statement, self._uow.scoped(**values))

    def _named(self, name: str, integration_id: UUID) -> A:
        """The child of that name."""
        self._uow.require_active()
        parent = checked_id("integration_id", integration_id)
        for item in self._by_name(name=searchable("name", name), integration_id=parent):
            return item
        raise self._missing(name)

    def _missing(self, id: UUID | str) -> HubError:
        return self._kind.NOT_FOUND(id)

    # --- saying why ---------------------------------------------------------------------------

    def _require_parents(self, items: Sequence[Any]) -> None:
        """The integrations of all of them are there, each in the tenant of its child."""
        if not self.STATEMENTS.has_parent:
            return
        wanted = dict.fromkeys((item.integration_id, item.tenant) for item in items)
        there: set[tuple[UUID, str]] = set()
        for chunk in _chunks([id for id, _ in wanted]):
            statement = select(INTEGRATIONS.c.id, INTEGRATIONS.c.tenant_id)
            rows = self._uow.read(statement.where(INTEGRATIONS.c.id.in_(chunk)))
            there.update((row.id, row.tenant_id) for row in rows)
        for id, tenant in wanted:
            if (id, tenant) not in there:
                raise IntegrationNotFound(id)

    def _clash(self, new: list[A], *, instead: HubError | None = None) -> HubError:
        """Which id or name was taken; `instead`, if after all none is."""
        table = self._table
        ids = self._stored(select(table.c.id), table.c.id, [item.id for item in new])
        scope = table.c.integration_id if self.STATEMENTS.has_parent else table.c.tenant_id
        columns: Select[Any] = select(scope, table.c.name)
        names = self._stored(columns, table.c.name, [item.name for item in new])
        try:
            require_free(
                new,
                id_is_taken=lambda id: (id,) in ids,
                name_is_taken=lambda item: (scope_of(item), item.name) in names,
            )
        except (DuplicateId, DuplicateName) as error:
            return error
        return instead or DuplicateName(self._kind.KIND, new[0].name)

    def _stored(
        self, columns: Select[Any], key: ColumnElement[Any], values: Sequence[Any]
    ) -> set[tuple[Any, ...]]:
        chunks = _chunks(values)
        return {
            tuple(row) for chunk in chunks for row in self._uow.read(columns.where(key.in_(chunk)))
        }

    def _refusal(self, item: A, changed: A) -> HubError:
        """Why a save touched no row."""
        values = {"id": item.id, "tenant_id": item.tenant}
        found = self._loaded(self.STATEMENTS.get(scoped=True), values)
        if not found:
            return self._missing(item.id)
        if found[0].version != item.version:
            return StaleVersion(self._kind.KIND, item.id, item.version, found[0].version)
        require_way(found[0], changed)
        self._require_parents([changed])
        return DuplicateName(self._kind.KIND, changed.name)

    def _broken(self, error: StorageError, item: A) -> HubError:
        """What the database itself found out, when others were quicker than our questions."""
        constraint = self._uow.constraint_of(error) or ""
        if constraint.startswith("uq_"):
            return DuplicateName(self._kind.KIND, item.name)
        if constraint.startswith("fk_"):
            return IntegrationNotFound(getattr(item, "integration_id", item.id))
        return error


def _chunks(values: Sequence[T]) -> Iterator[list[T]]:
    remaining = iter(values)
    while chunk := list(islice(remaining, _CHUNK)):
        yield chunk
