"""The same work done by raw psycopg, by the hub, by SQLAlchemy's ORM and by advanced-alchemy.

Raw psycopg sends the very statements that the hub sends, and commits where the hub commits; it
gives and takes tuples. The others work as their documentation shows it: a Session per unit of work,
rows of declarative models (our own models serve all of them), their own transactions.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
from advanced_alchemy.filters import LimitOffset
from advanced_alchemy.repository import SQLAlchemySyncRepository
from psycopg.types.json import Jsonb
from sqlalchemy import URL, Text, cast, create_engine, func, select, tuple_
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from integration_hub import Hub, Integration, IntegrationFilter, Sort, Webhook, WebhookFilter
from integration_hub.domain.values import new_id, patterns_for
from integration_hub.ports.query import Cursor
from integration_hub.sql.aggregates import PostgresIntegrationRepository, PostgresWebhookRepository
from integration_hub.sql.filtering import asked
from integration_hub.sql.mapping import INTEGRATIONS, WEBHOOKS
from integration_hub.sql.models import IntegrationRow, WebhookRow
from integration_hub.testing.postgres import dsn

CONFIG = {
    "http": {"base_url": "https://crm.example.com/v1", "timeout": 30, "retries": 3},
    "fields": ["id", "name", "email"],
    "sandbox": False,
}
BULK = "bulk"  # the tenant of what add_many adds
OF_EVENT = 100  # webhooks that one event concerns
NEWEST = Sort("created_at", "desc")
ACTIVE = IntegrationFilter(status="active")  # 99 % of the integrations
numbers = itertools.count(10_000_000)


def integration(number: int, **fields: Any) -> Integration:
    status = "error" if number % 100 == 0 else "active"
    given = {"config": CONFIG, "tags": [f"region{number % 50}", "crm"], "status": status}
    return Integration(name=f"integration {number:09d}", type="salesforce", **{**given, **fields})


def webhook(parent: UUID, number: int, events: Sequence[str], **fields: Any) -> Webhook:
    return Webhook(
        integration_id=parent,
        name=f"webhook {number:09d}",
        url=f"https://hooks.example.com/{number}",
        events=events,
        **fields,
    )


def fill(hub: Hub, rows: int) -> list[UUID]:
    """`rows` integrations with a webhook each; of any event, `OF_EVENT` webhooks are told."""
    start = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    ids: list[UUID] = []
    for chunk in range(0, rows, 20_000):
        numbers = range(chunk, min(rows, chunk + 20_000))
        times = [datetime.fromtimestamp(start + number, UTC) for number in numbers]
        parents = [integration(n, created_at=t) for n, t in zip(numbers, times, strict=True)]
        kinds = max(1, rows // OF_EVENT)
        children = [
            webhook(parent.id, n, [f"event{n % kinds}.*"], created_at=t)
            for parent, n, t in zip(parents, numbers, times, strict=True)
        ]
        with hub.unit_of_work() as uow:
            uow.integrations.add_many(parents)
            uow.webhooks.add_many(children)
            uow.commit()
        ids += [parent.id for parent in parents]
    return ids


class OfHub:
    """The public API: domain objects in and out."""

    name = "integration_hub"

    def __init__(self, hub: Hub, ids: list[UUID]) -> None:
        self.hub = hub
        self.ids = itertools.cycle(ids)

    def get(self) -> object:
        with self.hub.unit_of_work() as uow:
            return uow.integrations.get(next(self.ids))

    def add(self) -> object:
        with self.hub.unit_of_work() as uow:
            added = uow.integrations.add(integration(next(numbers)))
            uow.commit()
        return added

    def save(self) -> object:
        with self.hub.unit_of_work() as uow:
            found = uow.integrations.get(next(self.ids))
            saved = uow.integrations.save(dataclasses.replace(found, description="changed"))
            uow.commit()
        return saved

    def family(self) -> object:
        with self.hub.unit_of_work() as uow:
            found = uow.integrations.get(next(self.ids))
            uow.integrations.save(dataclasses.replace(found, description="changed"))
            for _ in range(2):
                uow.webhooks.add(webhook(found.id, next(numbers), ["never"]))
            uow.commit()
        return found

    def add_many(self, items: list[Integration]) -> Callable[[], object]:
        def run() -> object:
            with self.hub.unit_of_work(tenant=BULK) as uow:
                count = uow.integrations.add_many(items)
                uow.commit()
            return count

        return run

    def scroll(self, after: str | None) -> Callable[[], object]:
        def run() -> object:
            with self.hub.unit_of_work() as uow:
                return uow.integrations.scroll(sort=NEWEST, size=50, after=after)

        return run

    def for_event(self) -> object:
        with self.hub.unit_of_work() as uow:
            return uow.webhooks.for_event("event7.paid")

    def count(self) -> object:
        with self.hub.unit_of_work() as uow:
            return uow.integrations.count(ACTIVE)

    def stream(self) -> int:
        with self.hub.unit_of_work() as uow:
            return sum(1 for _ in uow.integrations.stream(sort=NEWEST))

    def due(self) -> object:
        with self.hub.unit_of_work() as uow:
            return uow.sync_jobs.due(limit=100)


class OfPsycopg:
    """Raw psycopg 3 on one connection that stays open."""

    name = "raw psycopg 3"

    def __init__(self, url: URL, ids: list[UUID]) -> None:
        self.connection = psycopg.connect(dsn(url), autocommit=True)
        self.ids = itertools.cycle(ids)
        of = PostgresIntegrationRepository.STATEMENTS
        of_webhooks = PostgresWebhookRepository.STATEMENTS
        told = WebhookFilter(event="event7.paid", is_active=True, status=("active", "failing"))
        shape, self.told = asked(told)
        self.sql_event = of_webhooks.rows(shape, NEWEST, scoped=True).text
        self.sql_count = of.count(asked(ACTIVE)[0], scoped=True).text
        self.sql_first = of.rows((), NEWEST, scoped=True, limited=True).text
        self.sql_next = of.rows((), NEWEST, scoped=True, limited=True, after=True).text
        self.sql_stream = of.rows((), NEWEST, scoped=True).text
        self.sql_get = of.get(scoped=True).text
        self.sql_insert = of.insert.text
        self.sql_update = of.update.text
        self.sql_insert_webhook = of_webhooks.insert.text

    def get(self) -> object:
        values = {"id": next(self.ids), "tenant_id": "default"}
        return self.connection.execute(self.sql_get, values).fetchone()

    def add(self) -> object:
        with self.connection.transaction():
            return self.connection.execute(self.sql_insert, self._row(next(numbers)))

    def save(self) -> object:
        found = self.get()
        with self.connection.transaction():
            return self._update(found)

    def family(self) -> object:
        found: Any = self.get()
        with self.connection.transaction():
            self._update(found)
            for _ in range(2):
                item = webhook(found[0], next(numbers), ["never"])
                values = _parameters(WEBHOOKS, item.added(tenant="default", actor="x", now=NOW))
                self.connection.execute(self.sql_insert_webhook, values)
        return found

    def add_many(self, items: list[Integration]) -> Callable[[], object]:
        columns = ", ".join(INTEGRATIONS.columns)
        rows = [tuple(INTEGRATIONS.dump(_added(item)).values()) for item in items]

        def run() -> object:
            with self.connection.transaction(), self.connection.cursor() as cursor:
                with cursor.copy(f"COPY integrations ({columns}) FROM STDIN") as copy:
                    for row in rows:
                        copy.write_row(
                            [json.dumps(v) if isinstance(v, dict | list) else v for v in row]
                        )
                return cursor.rowcount

        return run

    def scroll(self, place: tuple[datetime, UUID] | None) -> Callable[[], object]:
        values: dict[str, object] = {"tenant_id": "default", "limit": 51}
        if place is None:
            return lambda: self.connection.execute(self.sql_first, values).fetchall()
        values.update(cursor_key=place[0], cursor_id=place[1])
        return lambda: self.connection.execute(self.sql_next, values).fetchall()

    def for_event(self) -> object:
        values = {"tenant_id": "default", **self.told}
        return self.connection.execute(self.sql_event, values).fetchall()

    def count(self) -> object:
        values = {"tenant_id": "default", "status": "active"}
        return self.connection.execute(self.sql_count, values).fetchone()

    def stream(self) -> int:
        with self.connection.transaction(), self.connection.cursor("benchmark") as cursor:
            cursor.itersize = 500
            cursor.execute(self.sql_stream, {"tenant_id": "default"})
            return sum(1 for _ in cursor)

    def _row(self, number: int) -> dict[str, Any]:
        return _parameters(INTEGRATIONS, _added(integration(number)))

    def _update(self, found: Any) -> object:
        columns = dict(zip(INTEGRATIONS.columns, found, strict=True))
        values = {f"new_{name}": value for name, value in columns.items()}
        values.update(
            expected=columns["version"],
            new_version=columns["version"] + 1,
            new_description="changed",
            new_config=Jsonb(columns["config"]),
            new_tags=Jsonb(columns["tags"]),
            new_updated_at=NOW,
        )
        return self.connection.execute(self.sql_update, values)


NOW = datetime(2026, 6, 1, tzinfo=UTC)


def _added(item: Integration) -> Integration:
    return item.added(tenant="default", actor="x", now=NOW)


def _parameters(mapper: Any, item: Any) -> dict[str, Any]:
    return {
        name: Jsonb(value) if isinstance(value, dict | list) else value
        for name, value in mapper.parameters(item).items()
    }


class OfOrm:
    """SQLAlchemy's ORM, a Session per unit of work."""

    name = "SQLAlchemy ORM"

    def __init__(self, url: URL, ids: list[UUID]) -> None:
        self.engine = create_engine(url)
        self.ids = itertools.cycle(ids)

    def get(self) -> object:
        with Session(self.engine) as session:
            return session.get_one(IntegrationRow, next(self.ids))

    def add(self) -> object:
        with Session(self.engine, expire_on_commit=False) as session:
            row = _row(integration(next(numbers)))
            session.add(row)
            session.commit()
        return row

    def save(self) -> object:
        with Session(self.engine, expire_on_commit=False) as session:
            row = session.get_one(IntegrationRow, next(self.ids))
            _change(row)
            session.commit()
        return row

    def family(self) -> object:
        with Session(self.engine, expire_on_commit=False) as session:
            row = session.get_one(IntegrationRow, next(self.ids))
            _change(row)
            session.add_all(_webhook_row(row.id) for _ in range(2))
            session.commit()
        return row

    def add_many(self, items: list[Integration]) -> Callable[[], object]:
        def run() -> object:
            with Session(self.engine) as session:
                session.add_all(_row(item, tenant_id=BULK) for item in items)
                session.commit()
            return len(items)

        return run

    def scroll(self, place: tuple[datetime, UUID] | None) -> Callable[[], object]:
        row = IntegrationRow
        statement = select(row).where(row.tenant_id == "default")
        if place is not None:
            statement = statement.where(tuple_(row.created_at, row.id) < place)
        statement = statement.order_by(row.created_at.desc(), row.id.desc()).limit(51)

        def run() -> object:
            with Session(self.engine) as session:
                return session.scalars(statement).all()

        return run

    def for_event(self) -> object:
        events: Any = WebhookRow.events
        statement = (
            select(WebhookRow)
            .where(WebhookRow.tenant_id == "default", WebhookRow.is_active)
            .where(events.op("?|")(cast(list(patterns_for("event7.paid")), ARRAY(Text))))
            .order_by(WebhookRow.created_at.desc(), WebhookRow.id.desc())
        )
        with Session(self.engine) as session:
            return session.scalars(statement).all()

    def count(self) -> object:
        statement = select(func.count()).select_from(IntegrationRow)
        with Session(self.engine) as session:
            return session.scalar(
                statement.where(
                    IntegrationRow.tenant_id == "default", IntegrationRow.status == "active"
                )
            )

    def stream(self) -> int:
        statement = select(IntegrationRow).order_by(
            IntegrationRow.created_at.desc(), IntegrationRow.id.desc()
        )
        with Session(self.engine) as session:
            rows = session.scalars(statement.execution_options(yield_per=500))
            return sum(1 for _ in rows)


def _row(item: Integration, **fields: Any) -> IntegrationRow:
    return IntegrationRow(**{**INTEGRATIONS.dump(_added(item)), "id": new_id(), **fields})


def _webhook_row(parent: UUID) -> WebhookRow:
    item = webhook(parent, next(numbers), ["never"])
    return WebhookRow(**WEBHOOKS.dump(item.added(tenant="default", actor="x", now=NOW)))


def _change(row: IntegrationRow) -> None:
    row.description = f"changed {next(numbers)}"
    row.version += 1
    row.updated_at = NOW


class Integrations(SQLAlchemySyncRepository[IntegrationRow]):  # type: ignore[type-var]
    model_type = IntegrationRow


class Webhooks(SQLAlchemySyncRepository[WebhookRow]):  # type: ignore[type-var]
    model_type = WebhookRow


class OfAdvancedAlchemy:
    """advanced-alchemy's repository, a Session per unit of work."""

    name = "advanced-alchemy"

    def __init__(self, url: URL, ids: list[UUID]) -> None:
        self.engine = create_engine(url)
        self.ids = itertools.cycle(ids)

    def get(self) -> object:
        with Session(self.engine) as session:
            return Integrations(session=session).get(next(self.ids))

    def add(self) -> object:
        with Session(self.engine, expire_on_commit=False) as session:
            return Integrations(session=session).add(
                _row(integration(next(numbers))), auto_commit=True
            )

    def save(self) -> object:
        with Session(self.engine, expire_on_commit=False) as session:
            repository = Integrations(session=session)
            row = repository.get(next(self.ids))
            _change(row)
            return repository.update(row, auto_commit=True)

    def family(self) -> object:
        with Session(self.engine, expire_on_commit=False) as session:
            repository = Integrations(session=session)
            row = repository.get(next(self.ids))
            _change(row)
            repository.update(row)
            Webhooks(session=session).add_many([_webhook_row(row.id) for _ in range(2)])
            session.commit()
            return row

    def add_many(self, items: list[Integration]) -> Callable[[], object]:
        def run() -> object:
            with Session(self.engine) as session:
                rows = [_row(item, tenant_id=BULK) for item in items]
                Integrations(session=session).add_many(rows, auto_commit=True)
            return len(items)

        return run

    def scroll(self, offset: int) -> Callable[[], object]:
        def run() -> object:
            with Session(self.engine) as session:
                return Integrations(session=session).list(
                    LimitOffset(51, offset),
                    IntegrationRow.tenant_id == "default",
                    order_by=[("created_at", True), ("id", True)],
                )

        return run

    def count(self) -> object:
        with Session(self.engine) as session:
            return Integrations(session=session).count(
                IntegrationRow.tenant_id == "default", IntegrationRow.status == "active"
            )


def pages(hub: Hub, depth: int) -> tuple[str, tuple[datetime, UUID]]:
    """The cursor at a depth, and the place that it stands for."""
    with hub.unit_of_work() as uow:
        items = uow.integrations.stream(sort=NEWEST)
        last = next(itertools.islice(items, depth - 1, None))
    assert last.created_at is not None
    cursor = Cursor.of(last, NEWEST).encode(IntegrationFilter(), NEWEST)
    return cursor, (last.created_at, last.id)
