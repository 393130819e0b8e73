"""The repositories over tables: what the three have in common.

May import: `ports`, `domain`, `database`, and its neighbours. The three themselves, for Postgres
and for SQLite, are in `aggregates`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, select

from integration_hub.domain.aggregate import Aggregate, checked_item
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
from integration_hub.ports.unit_of_work import EveryTenant
from integration_hub.sql.bulk import copy_in, execute_many, streamed
from integration_hub.sql.filtering import beyond, clauses, ordered
from integration_hub.sql.mapping import Mapper
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
            result = self._uow.write(self.STATEMENTS.insert, self._mapper.parameters(new))
        except StorageError as error:
            raise self._broken(error, new) from error
        if result.rowcount != 1:
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
            self._require_parents(new)
            raise self._clash(new, instead=error) from error
        return len(new)

    def save(self, item: A, /) -> A:
        self._uow.require_active()
        tenant = checked_item(self._kind, item).tenant
        if not self._is_own(tenant):
            raise self._missing(item.id)
        changed = item.saved(actor=self._uow.actor, now=self._uow.clock.now())
        parameters = {**self._mapper.parameters(changed), "expected": item.version}
        try:
            result = self._uow.write(self.STATEMENTS.update, parameters)
        except StorageError as error:
            raise self._broken(error, changed) from error
        if result.rowcount != 1:
            raise self._refusal(item, changed)
        return changed

    def upsert(self, item: A, /) -> A:
        new = self._new(item)
        parameters = {"tenant_id": new.tenant, "name": new.name, "integration_id": scope_of(new)}
        for _ in range(_TRIES):
            rows = self._uow.write(self.STATEMENTS.locked_by_name, parameters).all()
            if rows:
                return self.save(self._mapper.load(rows[0]).redeclared(new))
            try:
                return self.add(item)
            except DuplicateName:
                continue  # somebody committed that name just now
        raise DuplicateName(self._kind.KIND, new.name)

    def remove(self, id: UUID, /) -> None:
        scope = self._scope()
        statement = self.STATEMENTS.delete(scoped=scope is not None)
        row = {"row_id": checked_id("id", id), "tenant": scope}
        if self._uow.write(statement, row).rowcount != 1:
            raise self._missing(id)

    # --- looking up ---------------------------------------------------------------------------

    def get(self, id: UUID, /) -> A:
        scope = self._scope()
        statement = self.STATEMENTS.get(scoped=scope is not None)
        row = self._uow.read(
            statement, {"id": checked_id("id", id), "tenant_id": scope}
        ).one_or_none()
        if row is None:
            raise self._missing(id)
        return self._mapper.load(row)

    def get_many(self, ids: Iterable[UUID], /) -> dict[UUID, A]:
        self._uow.require_active()
        wanted = list(dict.fromkeys(checked_id("ids", id) for id in ids))
        found: dict[UUID, A] = {}
        for chunk in _chunks(wanted):
            statement = self._select(self._table.c.id.in_(chunk))
            found.update((item.id, item) for item in self._loaded(statement))
        return {id: found[id] for id in wanted if id in found}

    def find(
        self, filter: F | None = None, *, sort: Sort = NEWEST_FIRST, limit: int | None = None
    ) -> list[A]:
        statement = self._sorted(filter, sort)
        if checked_limit(limit) is not None:
            statement = statement.limit(limit)
        return self._loaded(statement)

    def page(
        self,
        filter: F | None = None,
        *,
        sort: Sort = NEWEST_FIRST,
        number: int = 1,
        size: int = 50,
    ) -> Page[A]:
        request = PageRequest(number, size)
        items = self._loaded(self._sorted(filter, sort).limit(size).offset(request.offset))
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
        statement = self._sorted(filter, sort)
        asked = checked_filter(filter, self.FILTER)
        if after is not None:
            place = Cursor.decode(after, asked, sort)
            statement = statement.where(beyond(self._table, sort, place))
        items = self._loaded(statement.limit(size + 1))
        shown = items[:size]
        next = Cursor.of(shown[-1], sort).encode(asked, sort) if len(items) > size else None
        return CursorPage(items=shown, next=next)

    def stream(
        self, filter: F | None = None, *, sort: Sort = NEWEST_FIRST, batch: int = 500
    ) -> Iterator[A]:
        checked_count("batch", batch, least=1)
        self._uow.require_active()
        return self._streamed(self._sorted(filter, sort, is_aside=not self._is_postgres()), batch)

    def _streamed(self, statement: Select[Any], batch: int) -> Iterator[A]:
        # A server-side cursor lives in a transaction, so one begins.
        connection = self._uow.begun() if self._is_postgres() else self._uow.connected()
        with self._uow.faults():
            for rows in streamed(connection, statement, batch):
                for row in rows:
                    self._uow.require_active()
                    yield self._mapper.load(row)

    def count(self, filter: F | None = None) -> int:
        statement = select(func.count()).select_from(self._table).where(*self._conditions(filter))
        found: int = self._uow.read(statement).scalar_one()
        return found

    def exists(self, filter: F) -> bool:
        inner = select(self._table.c.id).where(*self._conditions(filter)).exists()
        return bool(self._uow.read(select(inner)).scalar_one())

    # --- inside -------------------------------------------------------------------------------

    def _is_postgres(self) -> bool:
        return self.STATEMENTS.is_postgres

    def _new(self, item: A) -> A:
        self._uow.require_active()
        tenant = self._uow.tenant_for(checked_item(self._kind, item).tenant)
        return item.added(tenant=tenant, actor=self._uow.actor, now=self._uow.clock.now())

    def _scope(self) -> str | None:
        """The tenant to look in; None for every one."""
        tenant = self._uow.tenant
        return None if isinstance(tenant, EveryTenant) else tenant

    def _is_own(self, tenant: str) -> bool:
        return self._scope() in (None, tenant)

    def _conditions(self, filter: F | None) -> list[ColumnElement[bool]]:
        found = clauses(self._table, checked_filter(filter, self.FILTER))
        scope = self._scope()
        return found if scope is None else [self._table.c.tenant_id == scope, *found]

    def _select(self, *conditions: ColumnElement[bool]) -> Select[Any]:
        scope = self._scope()
        own = [] if scope is None else [self._table.c.tenant_id == scope]
        return select(self._table).where(*own, *conditions)

    def _sorted(self, filter: F | None, sort: Sort, *, is_aside: bool = False) -> Select[Any]:
        statement = select(self._table).where(*self._conditions(filter))
        order = checked_sort(sort, self.FILTER)
        return ordered(statement, self._table, order, is_aside=is_aside)

    def _loaded(self, statement: Select[Any]) -> list[A]:
        load = self._mapper.load
        return [load(row) for row in self._uow.read(statement)]

    def _named(self, name: str, integration_id: UUID) -> A:
        """The child of that name."""
        self._uow.require_active()
        found = self._loaded(
            self._select(
                self._table.c.integration_id == checked_id("integration_id", integration_id),
                self._table.c.name == searchable("name", name),
            )
        )
        if not found:
            raise self._missing(name)
        return found[0]

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
        row = self._uow.read(
            self.STATEMENTS.get(scoped=True), {"id": item.id, "tenant_id": item.tenant}
        ).one_or_none()
        if row is None:
            return self._missing(item.id)
        if row.version != item.version:
            return StaleVersion(self._kind.KIND, item.id, item.version, row.version)
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
