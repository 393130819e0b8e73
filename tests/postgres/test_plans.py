"""The indexes are used: the plans of the repositories' own statements on 50,000 rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

import pytest
from sqlalchemy import URL, Connection, create_engine, event

from integration_hub import (
    Hub,
    IntegrationFilter,
    Sort,
    SyncJobFilter,
    WebhookFilter,
)
from integration_hub.domain.frozen import evolved
from integration_hub.domain.values import new_id
from integration_hub.ports.query import NEWEST_FIRST, Cursor
from integration_hub.ports.sync_runs import Claim
from integration_hub.testing.postgres import temporary_database

pytestmark = pytest.mark.once
ROWS = 50_000
START = datetime(2026, 1, 1, tzinfo=UTC)
CLAIM = Claim("w1", 10, timedelta(seconds=60), START + timedelta(hours=1), None)
SOME_ID = UUID("00000000-0000-7000-8000-000000000007")
COMMON = """
    'default', 'row ' || n, NULL,
    jsonb_build_object('n', n), jsonb_build_array('t' || n %% 5000), true, NULL, NULL, 1,
    timestamptz '2026-01-01 00:00Z' + n * interval '1 s', now(), 'x', 'x'
"""
COLUMNS = """
    id, tenant_id, name, description, config, tags, is_active, error_message,
    status_changed_at, version, created_at, updated_at, created_by, updated_by
"""
RUNS = (
    "INSERT INTO sync_runs (id, tenant_id, sync_job_id, integration_id, slot, attempt, status, worker,"
    " started_at, heartbeat_at, lease_expires_at, finished_at, records_processed, version)"
    " SELECT id, tenant_id, id, integration_id, 1, 1, CASE WHEN name LIKE '%%99' THEN 'running' ELSE"
    " 'succeeded' END, 'w', created_at, created_at, created_at, CASE WHEN name LIKE '%%99' THEN NULL"
    " ELSE created_at END, 0, 1 FROM sync_jobs"
)
INSTEAD = {
    "the claim": "ix_sync_jobs_due",
    "the next that comes to be due": "ix_sync_jobs_due",
    "the claim of what does not wait in vain": "ix_sync_jobs_due",
    "the first that does not wait in vain": "ix_sync_jobs_due",
    "those that wait in vain, found once": "hashed SubPlan",
    "those that have no place, by the index": "uq_sync_runs_running_slot",
    "an ending": "pk_sync_runs",
    "who is told of an event": "ix_webhooks_events",
    "deliveries that are due": "ix_webhook_deliveries_open",
    "deliveries that are taken": "ix_webhook_deliveries_open",
}
#: Which of a call's statements it is, where that is not the first.
STATEMENT = {
    "an ending": 1,
    "uq_webhook_deliveries_message_id_webhook_id": 1,
    "uq_webhook_messages_tenant_id_idempotency_key": 2,
    "ix_webhook_attempts_delivery_id_number": 1,
}
ID = "('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid"
FILL = (
    (
        f"INSERT INTO integrations ({COLUMNS}, type, status) SELECT {ID}, {COMMON}, 'type' || n %% 500,"
        f" CASE WHEN n %% 1000 = 0 THEN 'error' ELSE 'active' END FROM generate_series(1, {ROWS}) n"
    ),
    (
        f"INSERT INTO webhooks ({COLUMNS}, integration_id, url, events, status) SELECT {ID}, {COMMON},"
        f" {ID}, 'https://x.test', jsonb_build_array('event' || n %% 500 || '.*'),"
        f" CASE WHEN n %% 1000 = 0 THEN 'failing' ELSE 'active' END FROM generate_series(1, {ROWS}) n"
    ),
    (
        f"INSERT INTO sync_jobs ({COLUMNS}, integration_id, schedule, direction, status, max_attempts,"
        f" attempt, next_run_at, records_processed) SELECT {ID}, {COMMON}, {ID},"
        """ '{"kind": "manual"}', 'pull', CASE WHEN n %% 100 = 0 THEN 'pending' WHEN n %% 1001 = 0"""
        " THEN 'failed' ELSE 'completed' END, 3, 0,"
        " timestamptz '2026-01-01 00:00Z' + n * interval '1 s', 0"
        f" FROM generate_series(1, {ROWS}) n"
    ),
    RUNS,
    (
        "INSERT INTO webhook_messages (id, tenant_id, event_type, payload, occurred_at, idempotency_key, is_fanned_out, version)"
        " SELECT id, tenant_id, 'a.b', 'x', created_at, name, true, 1 FROM webhooks"
    ),
    (
        "INSERT INTO webhook_deliveries (id, tenant_id, message_id, webhook_id, created_at, status, attempt_count, next_attempt_at, finished_at, retries_used, version)"
        " SELECT id, tenant_id, id, id, created_at, CASE WHEN name LIKE '%%99' THEN 'pending' ELSE 'delivered' END, 1,"
        " CASE WHEN name LIKE '%%99' THEN created_at END, CASE WHEN name LIKE '%%99' THEN NULL ELSE created_at END, 0, 1 FROM webhooks"
    ),
    (
        "INSERT INTO webhook_attempts (id, tenant_id, delivery_id, number, started_at, duration_ms, response_body, version)"
        " SELECT id, tenant_id, id, 1, created_at, 1, '', 1 FROM webhooks"
    ),
)
#: As above, of one endpoint.
OUTAGE = (
    FILL[0].replace(f"(1, {ROWS})", "(7, 7)"),
    FILL[1].replace(f"(1, {ROWS})", "(7, 7)"),
    (
        "INSERT INTO webhook_messages (id, tenant_id, event_type, payload, occurred_at, is_fanned_out,"
        f" version) SELECT {ID}, 'default', 'a.b', 'x', now(), true, 1"
        f" FROM generate_series(1, {ROWS}) n"
    ),
    (
        "INSERT INTO webhook_deliveries (id, tenant_id, message_id, webhook_id, created_at, status,"
        " attempt_count, next_attempt_at, retries_used, version) SELECT m.id, m.tenant_id, m.id, w.id,"
        " w.created_at, 'pending', 1, w.created_at, 0, 1 FROM webhook_messages m, webhooks w"
    ),
)

Filled: TypeAlias = tuple[Hub, Connection]


@pytest.fixture(scope="module")
def filled(hub_postgres_server: URL) -> Iterator[Filled]:
    with _filled(hub_postgres_server, FILL) as found:
        yield found


@pytest.fixture(scope="module")
def after_an_outage(hub_postgres_server: URL) -> Iterator[Filled]:
    """All that was published waits for the same endpoint."""
    with _filled(hub_postgres_server, OUTAGE) as found:
        yield found


@contextmanager
def _filled(server: URL, statements: Iterable[str]) -> Iterator[Filled]:
    with temporary_database(server) as url, Hub.from_url(url) as hub:
        hub.schema.upgrade()
        engine = create_engine(url)
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
            yield hub, connection
        engine.dispose()


def _find(kind: str, filter: Any, limit: int | None = None, sort: Sort = NEWEST_FIRST) -> Any:
    return lambda uow: getattr(uow, kind).find(filter, sort=sort, limit=limit)


def _deep_scroll(uow: Any) -> Any:
    place = Cursor(START + timedelta(seconds=ROWS // 2), SOME_ID)
    after = place.encode(IntegrationFilter(), NEWEST_FIRST)
    return uow.integrations.scroll(sort=NEWEST_FIRST, after=after)


def _history(uow: Any) -> Any:
    return uow.sync_runs.history(SOME_ID)


def _prune(uow: Any) -> Any:
    return uow.sync_runs.prune(START)


def _reap(uow: Any) -> Any:
    return uow.sync_runs.reap(START)


def _claim(uow: Any) -> Any:
    return uow.sync_jobs.claim("w1", now=START + timedelta(hours=1))


def _first_free(uow: Any) -> Any:
    return uow.sync_runs._first_free(CLAIM, (START, SOME_ID))


def _claim_from_one_on(uow: Any) -> Any:
    uow.begun()
    return uow.sync_runs._turn(CLAIM, 10, (START, SOME_ID))


def _end(uow: Any) -> Any:
    (run,) = uow.sync_jobs.claim("w1", limit=1, now=START + timedelta(hours=1))
    return uow.sync_runs.succeed(run)


def _delivery(uow: Any) -> Any:
    return uow.messages.delivery(SOME_ID)


def _take(uow: Any) -> Any:
    return uow.messages._take({SOME_ID: 4}, START + timedelta(hours=1), timedelta(seconds=60))


PLANS = {
    "who is told of an event": lambda uow: uow.messages.publish("event7.paid", None),
    "deliveries that are due": lambda uow: uow.messages.claim(now=START + timedelta(hours=1)),
    "deliveries that are taken": _take,
    "pk_webhook_deliveries": _delivery,
    "ix_webhook_deliveries_webhook_id_created_at_id": lambda uow: uow.messages._deliveries_to(
        SOME_ID, ["pending", "failed"], 10
    ),
    "uq_webhook_deliveries_message_id_webhook_id": lambda uow: uow.messages._deliveries_of(
        uow.messages._message(SOME_ID)
    ),
    "uq_webhook_messages_tenant_id_idempotency_key": lambda uow: uow.messages._put_message(
        evolved(uow.messages._message(SOME_ID), id=new_id())
    ),
    "ix_webhook_attempts_delivery_id_number": lambda uow: uow.messages.attempts(SOME_ID),
    "ix_webhook_messages_occurred_at_id": lambda uow: uow.messages.prune(START),
    "ix_sync_runs_history": _history,
    "uq_sync_runs_running_slot": lambda uow: uow.sync_runs.running(integration_id=SOME_ID),
    "ix_sync_runs_ended": _prune,
    "ix_sync_runs_leases": _reap,
    "the claim": _claim,
    "the claim of what does not wait in vain": _claim_from_one_on,
    "the first that does not wait in vain": _first_free,
    "those that wait in vain, found once": _first_free,
    "those that have no place, by the index": _first_free,
    "an ending": _end,
    "ix_integrations_tenant_id_type": _find("integrations", IntegrationFilter(type="type7")),
    "ix_integrations_tenant_id_status": _find("integrations", IntegrationFilter(status="error")),
    "ix_integrations_config": _find("integrations", IntegrationFilter(config_contains={"n": 7})),
    "ix_integrations_tags": _find("integrations", IntegrationFilter(tags_any=["t7"])),
    "ix_integrations_tenant_id_created_at_id": _deep_scroll,
    "uq_integrations_tenant_id_name": _find("integrations", None, 51, Sort("name")),
    "ix_webhooks_events": _find("webhooks", WebhookFilter(event="event7.paid")),
    "ix_webhooks_tenant_id_status": _find("webhooks", WebhookFilter(status="failing")),
    "ix_webhooks_tags": _find("webhooks", WebhookFilter(tags_all=["t7"])),
    "ix_webhooks_tenant_id_created_at_id": _find("webhooks", None, 50),
    "uq_webhooks_integration_id_name": _find("webhooks", WebhookFilter(integration_id=SOME_ID)),
    "ix_sync_jobs_due": lambda uow: uow.sync_jobs.due(START + timedelta(hours=1)),
    "the next that comes to be due": lambda uow: uow.sync_jobs.next_due(START),
    "ix_sync_jobs_tenant_id_status": _find("sync_jobs", SyncJobFilter(failed=True)),
    "ix_sync_jobs_tags": _find("sync_jobs", SyncJobFilter(tags_any=["t7"])),
    "ix_sync_jobs_tenant_id_created_at_id": _find("sync_jobs", None, 50),
    "uq_sync_jobs_integration_id_name": _find("sync_jobs", SyncJobFilter(integration_id=SOME_ID)),
}


@pytest.mark.parametrize("index", PLANS)
@pytest.mark.parametrize("plan", ["custom", "generic"])
def test_the_plan_uses_the_index_meant_for_it(filled: Filled, index: str, plan: str) -> None:
    """With the values known, and, as for a statement that is prepared, with none of them."""
    told = _plan(filled, PLANS[index], plan, STATEMENT.get(index, 0))
    assert INSTEAD.get(index, index) in told, told
    assert "Seq Scan on sync_" not in told, told


@pytest.mark.parametrize("plan", ["custom", "generic"])
def test_deliveries_are_taken_by_index_however_many_wait(
    after_an_outage: Filled, plan: str
) -> None:
    told = _plan(after_an_outage, _take, plan)
    assert "Index Scan using pk_webhook_messages" in told, told
    assert "Seq Scan" not in told, told


def _plan(filled: Filled, act: Callable[[Any], object], kind: str, number: int = 0) -> str:
    """The plan of one of the statements that a call sends."""
    hub, connection = filled
    asked: list[tuple[str, dict[str, Any]]] = []

    def listen(_: object, __: object, sql: str, parameters: Any, *rest: object) -> None:
        asked.append((sql, parameters))

    engine = hub._store.manager.lazy_engine  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
    event.listen(engine, "before_cursor_execute", listen)
    try:
        with hub.unit_of_work() as uow:
            asked.clear()  # what was asked about the schema
            act(uow)
    finally:
        event.remove(engine, "before_cursor_execute", listen)
    statements = [each for each in asked if each[0] != "BEGIN"]
    sql, parameters = statements[number]
    driver: Any = connection.connection.driver_connection
    driver.execute(f"SET plan_cache_mode = force_{kind}_plan")
    rows = driver.execute(f"EXPLAIN {sql}", parameters, prepare=True).fetchall()
    return "\n".join(row[0] for row in rows)
