"""The dict store looks up by its indexes: a question touches what it gives, not all there is.

And its units of work keep out of each other's way as those of Postgres do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from integration_hub import (
    Hub,
    InMemoryUnitOfWork,
    Integration,
    IntegrationFilter,
    Schedule,
    SyncJob,
    SyncJobFilter,
    UnitOfWork,
    Webhook,
    WebhookFilter,
)
from integration_hub.memory.store import MemoryStore
from integration_hub.testing import IntegrationFactory, SyncJobFactory, WebhookFactory

ROWS = 2_000
START = datetime(2026, 1, 1, tzinfo=UTC)


class CountingDict(dict[UUID, Any]):
    """Rows that count how often one of them is looked at."""

    def __init__(self, rows: dict[UUID, Any]) -> None:
        super().__init__(rows)
        self.touched = 0

    def get(self, key: UUID, default: Any = None) -> Any:
        self.touched += 1
        return super().get(key, default)

    def __iter__(self) -> Iterator[UUID]:
        self.touched += len(self)
        return super().__iter__()


def test_a_unit_of_work_without_a_store_has_one_of_its_own() -> None:
    with InMemoryUnitOfWork() as uow, InMemoryUnitOfWork() as other:
        uow.integrations.add(Integration(name="CRM", type="salesforce"))
        uow.commit()
        assert len(other.integrations) == 0
    with InMemoryUnitOfWork(uow.store) as again:
        assert len(again.integrations) == 1


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    store = MemoryStore()
    with InMemoryUnitOfWork(store, tenant="acme") as uow:
        for n in range(ROWS):
            status = "error" if n % 500 == 0 else "active"
            parent = uow.integrations.add(
                Integration(
                    name=f"i{n}", type=f"type{n % 400}", status=status, tags=[f"t{n % 400}"]
                )
            )
            uow.webhooks.add(
                Webhook(
                    integration_id=parent.id,
                    name="w",
                    url="https://x.test",
                    events=[f"e{n % 400}.*"],
                    status="failing" if n % 500 == 0 else "active",
                )
            )
            uow.sync_jobs.add(
                SyncJob(
                    integration_id=parent.id,
                    name="j",
                    schedule=Schedule.once(START + timedelta(minutes=n)),
                    status="failed" if n % 500 == 1 else "pending",
                )
            )
        uow.commit()
    return store


def one(store: MemoryStore, kind: type[Any]) -> Any:
    return next(iter(store.table(kind).rows.values()))


LOOKUPS: dict[str, tuple[Callable[[Any, MemoryStore], Any], int]] = {
    "by id": (lambda uow, store: [uow.integrations.get(one(store, Integration).id)], 1),
    "by name": (lambda uow, store: [uow.integrations.get_by_name("i7")], 1),
    "by name of a child": (
        lambda uow, store: [uow.webhooks.get_by_name("w", one(store, Integration).id)],
        1,
    ),
    "by type": (lambda uow, store: uow.integrations.by_type("type7"), 5),
    "by status": (lambda uow, store: uow.integrations.by_status("error"), 4),
    "by tag": (lambda uow, store: uow.integrations.by_tag("t7"), 5),
    "by all tags": (lambda uow, _: uow.integrations.find(IntegrationFilter(tags_all=["t7"])), 5),
    "by two fields, the narrower one": (
        lambda uow, _: uow.integrations.find(IntegrationFilter(status="active", type="type7")),
        5,
    ),
    "by integration": (
        lambda uow, store: uow.sync_jobs.for_integration(one(store, Integration).id),
        1,
    ),
    "by event": (lambda uow, store: uow.webhooks.for_event("e7.paid"), 5),
    "by event as a filter": (lambda uow, _: uow.webhooks.find(WebhookFilter(event="e7.paid")), 5),
    "webhooks in trouble": (lambda uow, store: uow.webhooks.failed(), 4),
    "failed jobs": (lambda uow, store: uow.sync_jobs.failed(), 4),
    "due jobs": (lambda uow, store: uow.sync_jobs.due(START + timedelta(minutes=9)), 9),
    "due jobs as a filter": (
        lambda uow, _: uow.sync_jobs.find(SyncJobFilter(due_by=START + timedelta(minutes=9))),
        9,
    ),
}


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_a_lookup_touches_what_it_gives(store: MemoryStore, lookup: str) -> None:
    ask, expected = LOOKUPS[lookup]
    with InMemoryUnitOfWork(store, tenant="acme") as uow:
        ask(uow, store)  # whatever `one` looks at is not counted
        counters = []
        for kind in store:
            table = store.table(kind)
            table.rows = CountingDict(table.rows)
            counters.append(table.rows)
        wanted = ask(uow, store)
        touched = sum(counter.touched for counter in counters)
    assert len(wanted) == expected
    assert touched <= 2 * expected + 2


def test_a_question_that_no_index_answers_touches_all(store: MemoryStore) -> None:
    table = store.table(Integration)
    table.rows = rows = CountingDict(table.rows)
    with InMemoryUnitOfWork(store, tenant="acme") as uow:
        assert len(uow.integrations.find(IntegrationFilter(name_contains="i199"))) == 11
    assert rows.touched >= ROWS  # so the counting counts


def test_units_of_work_that_claim_at_once_keep_to_the_limit_together() -> None:
    hub = Hub.in_memory()
    with hub.unit_of_work() as uow:
        crowded, other = (IntegrationFactory(active=True, store=uow) for _ in range(2))
        at_once = Schedule.once(hub.clock.now())
        for parent in (crowded, crowded, other):
            SyncJobFactory(store=uow, integration_id=parent.id, schedule=at_once)
        uow.commit()
    with hub.unit_of_work() as first, hub.unit_of_work() as second:
        (run,) = first.sync_jobs.claim("w1", limit=1)
        assert run.integration_id == crowded.id
        (run,) = second.sync_jobs.claim("w2", limit=10)  # the first has the other one's place
        assert run.integration_id == other.id
        first.commit()
        second.commit()
    with hub.unit_of_work() as uow:
        assert uow.sync_jobs.claim("w3") == []


def test_a_repository_on_dicts_can_be_emptied_for_its_tenant() -> None:
    hub = Hub.in_memory()
    for tenant, count in (("acme", 2), ("beta", 1)):
        with hub.unit_of_work(tenant=tenant) as uow:
            for _ in range(count):
                parent = IntegrationFactory(store=uow)
                WebhookFactory(store=uow, integration_id=parent.id)
            uow.commit()

    def counted(uow: UnitOfWork) -> tuple[int, int]:
        assert isinstance(uow, InMemoryUnitOfWork)
        return len(uow.integrations), len(uow.webhooks)

    with hub.unit_of_work(tenant="acme") as uow:
        assert isinstance(uow, InMemoryUnitOfWork)
        assert counted(uow) == (2, 2)
        uow.integrations.clear()
        assert counted(uow) == (0, 0)  # children go too
        uow.rollback()
    with hub.unit_of_work(tenant="acme") as uow:
        assert isinstance(uow, InMemoryUnitOfWork)
        assert counted(uow) == (2, 2)
        uow.webhooks.clear()
        assert counted(uow) == (2, 0)
        uow.commit()
    with hub.unit_of_work(tenant="acme") as uow:
        assert counted(uow) == (2, 0)
    with hub.unit_of_work(tenant="beta") as uow:
        assert counted(uow) == (1, 1)
