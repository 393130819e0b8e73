"""Workers are told of new work by Postgres, and go on by looking where they can't be told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, Engine, create_engine, event, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from integration_hub import (
    AttemptOutcome,
    DatabaseConnectionManager,
    Hub,
    HubSettings,
    Integration,
    PostgresUnitOfWork,
    Schedule,
    SyncJob,
)
from integration_hub.database.notifications import tell
from integration_hub.ports.clock import SystemClock
from integration_hub.ports.waiting import DELIVERY_WORK, SYNC_WORK, Waiter
from integration_hub.sql import news, unit_of_work
from integration_hub.sync import SyncContext, SyncRunner
from integration_hub.testing import IntegrationFactory, SyncJobFactory, WebhookFactory
from integration_hub.testing.postgres import dsn


@pytest.fixture
def hub(hub_postgres_url: URL) -> Iterator[Hub]:
    with Hub.from_url(hub_postgres_url) as hub:  # by the real clock
        yield hub


@pytest.fixture
def parent(hub: Hub) -> Integration:
    with hub.unit_of_work() as uow:
        parent: Integration = IntegrationFactory(type="crm", active=True, store=uow)
        uow.commit()
    return parent


@pytest.fixture
def waiter(hub: Hub) -> Iterator[Waiter]:
    with hub.waiter(SYNC_WORK) as waiter:
        yield waiter


def job(parent: Integration, in_seconds: float = 0) -> SyncJob:
    at = SystemClock().now() + timedelta(seconds=in_seconds)
    made: SyncJob = SyncJobFactory.build(integration_id=parent.id, schedule=Schedule.once(at))
    return made


def commits(hub: Hub, act: Callable[[Any], object]) -> None:
    with hub.unit_of_work() as uow:
        act(uow)
        uow.commit()


@pytest.mark.parametrize("call", ["add", "upsert", "add_many"])
def test_a_job_that_is_due_is_told_when_it_is_committed(
    hub: Hub, parent: Integration, waiter: Waiter, call: str
) -> None:
    with hub.unit_of_work() as uow:
        new = job(parent)
        getattr(uow.sync_jobs, call)([new] if call == "add_many" else new)
        assert not waiter.wait(0.05)
        uow.commit()
    assert waiter.wait(10)
    assert not waiter.wait(0)


def test_a_job_set_to_run_now_is_told(hub: Hub, parent: Integration, waiter: Waiter) -> None:
    later = job(parent, in_seconds=3_600)
    commits(hub, lambda uow: uow.sync_jobs.add(later))
    assert not waiter.wait(0.05)
    commits(
        hub,
        lambda uow: uow.sync_jobs.save(uow.sync_jobs.get(later.id).run_now(uow.clock.now())),
    )
    assert waiter.wait(10)


@pytest.mark.parametrize("atomic", [True, False])
def test_a_job_that_is_given_back_is_told(
    hub: Hub, parent: Integration, waiter: Waiter, atomic: bool
) -> None:
    commits(hub, lambda uow: uow.sync_jobs.add(job(parent)))
    assert waiter.wait(10)
    with hub.unit_of_work(atomic=atomic) as uow:
        (run,) = uow.sync_jobs.claim("w", limit=1)
        uow.commit()
    assert not waiter.wait(0.05)
    with hub.unit_of_work(atomic=atomic) as uow:
        uow.sync_runs.release(run)
        uow.commit()
    assert waiter.wait(10)


def test_a_job_that_soon_will_be_due_is_told(hub: Hub, parent: Integration, waiter: Waiter) -> None:
    commits(hub, lambda uow: uow.sync_jobs.add(job(parent, in_seconds=30)))
    assert waiter.wait(10)


def test_who_does_not_listen_hears_afterwards_what_was_told_meanwhile(
    hub: Hub, parent: Integration, waiter: Waiter
) -> None:
    for _ in range(2):
        commits(hub, lambda uow: uow.sync_jobs.add(job(parent)))
    began = time.monotonic()
    assert waiter.wait(10, deaf=0.2) == "told"
    assert time.monotonic() - began >= 0.2
    assert waiter.wait(0) == ""  # of both
    commits(hub, lambda uow: uow.sync_jobs.add(job(parent)))
    assert waiter.wait(0.1, deaf=0.1) == "told"


def test_who_does_not_listen_is_woken_all_the_same(
    hub: Hub, parent: Integration, waiter: Waiter
) -> None:
    commits(hub, lambda uow: uow.sync_jobs.add(job(parent)))
    waiter.wake()
    assert waiter.wait(600, deaf=600) == "woken"
    assert waiter.wait(10) == "told"
    commits(hub, lambda uow: uow.sync_jobs.add(job(parent)))
    waiter.wake()
    assert waiter.wait(10) == "woken"  # its own reason comes first


def test_nothing_is_told_of_what_is_rolled_back_rests_or_has_time(
    hub: Hub, parent: Integration, waiter: Waiter
) -> None:
    with hub.unit_of_work() as uow:
        uow.sync_jobs.add(job(parent))
    commits(hub, lambda uow: uow.sync_jobs.add(job(parent, in_seconds=3_600)))
    commits(
        hub,
        lambda uow: uow.sync_jobs.add(
            SyncJobFactory.build(integration_id=parent.id, schedule=Schedule.manual())
        ),
    )
    assert not waiter.wait(0.1)


@pytest.fixture
def engine(hub_postgres_url: URL) -> Iterator[Engine]:
    """A service's own."""
    engine = create_engine(hub_postgres_url)
    yield engine
    engine.dispose()


def test_a_joined_session_tells_when_its_owner_commits(
    hub: Hub, parent: Integration, waiter: Waiter, engine: Engine
) -> None:
    with Session(engine) as session:
        for _ in range(2):  # the second transaction as the first
            with session.begin_nested(), hub.unit_of_work(session=session) as uow:
                uow.sync_jobs.add(job(parent))
                uow.commit()
            assert not waiter.wait(0.05)
            session.commit()
            assert waiter.wait(10)
            assert not waiter.wait(0.05)
        session.execute(text("SELECT 1"))
        session.commit()
        assert not waiter.wait(0.05)


def test_a_scoped_session_is_joined_as_the_session_of_its_thread(
    hub: Hub, parent: Integration, waiter: Waiter, engine: Engine
) -> None:
    session = scoped_session(sessionmaker(engine))
    with hub.unit_of_work(session=session) as uow:
        uow.sync_jobs.add(job(parent))
        uow.commit()
    assert not waiter.wait(0.05)
    session.commit()
    assert waiter.wait(10)
    assert not event.contains(session.session_factory, "after_commit", news._tell)
    session.remove()


def test_a_joined_connection_tells_when_its_owner_commits(
    hub: Hub, parent: Integration, waiter: Waiter, engine: Engine
) -> None:
    with engine.begin() as connection:
        with hub.unit_of_work(session=connection) as uow:
            uow.sync_jobs.add(job(parent))
            uow.commit()
        assert not waiter.wait(0.05)
    assert waiter.wait(10)


def test_a_session_within_another_s_transaction_tells_when_that_is_committed(
    hub: Hub, parent: Integration, waiter: Waiter, engine: Engine
) -> None:
    with engine.begin() as connection:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            with hub.unit_of_work(session=session) as uow:
                uow.sync_jobs.add(job(parent))
                uow.commit()
            session.commit()
        assert not waiter.wait(0.05)
    assert waiter.wait(10)


@pytest.mark.parametrize("ending", ["rollback", "close"])
def test_what_a_joined_session_gives_up_is_not_told_by_its_next_commit(
    hub: Hub, parent: Integration, waiter: Waiter, engine: Engine, ending: str
) -> None:
    with Session(engine) as session:
        with hub.unit_of_work(session=session) as uow:
            uow.sync_jobs.add(job(parent))
            uow.commit()
        getattr(session, ending)()
        session.execute(text("SELECT 1"))
        session.commit()
        assert not waiter.wait(0.1)


@pytest.mark.parametrize("is_joined", [False, True])
def test_what_is_told_of_is_committed_by_then(
    hub: Hub,
    parent: Integration,
    waiter: Waiter,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    is_joined: bool,
) -> None:
    """Within the transaction, telling would keep all others from committing that have to tell."""
    seen: list[int] = []

    def look(*given: Any) -> None:
        with hub.unit_of_work() as uow:
            seen.append(uow.sync_jobs.count())
        tell(*given)

    monkeypatch.setattr(unit_of_work, "tell", look)
    monkeypatch.setattr(news, "tell", look)
    with Session(engine) as session:
        with hub.unit_of_work(session=session if is_joined else None) as uow:
            uow.sync_jobs.add(job(parent))
            uow.commit()
        assert seen == ([] if is_joined else [1])
        session.commit()
    assert seen == [1]
    assert waiter.wait(10)


@pytest.mark.parametrize("is_known", [True, False])
def test_who_cannot_tell_says_so_and_goes_on(
    hub_postgres_url: URL, caplog: pytest.LogCaptureFixture, is_known: bool
) -> None:
    """What there is to tell of is committed: it will be found."""
    address = dsn(hub_postgres_url)
    driver = psycopg.connect(address)
    with psycopg.connect(address, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", [driver.info.backend_pid])
    if is_known:
        driver.close()
    tell(driver, [SYNC_WORK])
    assert "workers are not told of work" in caplog.text


def test_messages_are_told_when_they_are_committed_and_when_they_are_to_be_sent_again(
    hub: Hub, parent: Integration
) -> None:
    hook = WebhookFactory.build(integration_id=parent.id, events=["a.b"])
    commits(hub, lambda uow: uow.webhooks.add(hook))
    with hub.waiter(DELIVERY_WORK) as waiter:
        with hub.unit_of_work() as uow:
            uow.messages.publish("a.b", 1)
        assert not waiter.wait(0.05)  # it was rolled back
        with hub.unit_of_work() as uow:
            said = uow.messages.publish("a.b", 1)
            assert not waiter.wait(0.05)
            uow.commit()
        assert waiter.wait(10)
        with hub.unit_of_work() as uow:
            (delivery,) = uow.messages.claim()
            uow.messages.record(delivery, AttemptOutcome(started_at=hub.clock.now(), status=404))
            uow.messages.cancel(delivery.id)
            uow.commit()
        assert not waiter.wait(0.05)
        commits(hub, lambda uow: uow.messages.replay(delivery.id))
        assert waiter.wait(10)
        assert said.id == delivery.message_id


@pytest.mark.parametrize(
    ("kind", "channel", "resumes"),
    [("integrations", SYNC_WORK, "activate"), ("webhooks", DELIVERY_WORK, "resume")],
)
def test_who_is_resumed_is_told_of(
    hub: Hub, parent: Integration, kind: str, channel: str, resumes: str
) -> None:
    """What waited for an integration, or a webhook, can go on."""
    hook = WebhookFactory.build(integration_id=parent.id)
    commits(hub, lambda uow: uow.webhooks.add(hook))
    id = parent.id if kind == "integrations" else hook.id

    def save(change: Callable[[Any], Any]) -> None:
        with hub.unit_of_work() as uow:
            repository = getattr(uow, kind)
            repository.save(change(repository.get(id)))
            uow.commit()

    with hub.waiter(channel) as waiter:
        save(lambda item: item.pause(hub.clock.now()))
        assert not waiter.wait(0.05)
        save(lambda item: getattr(item, resumes)(hub.clock.now()))
        assert waiter.wait(10)
        save(lambda item: replace(item, description="as it was, but for this"))
        assert not waiter.wait(0.05)


def test_a_runner_begins_at_once(hub: Hub, parent: Integration) -> None:
    done = threading.Event()

    def pull(context: SyncContext) -> None:
        done.set()

    runner = SyncRunner(hub, {"crm": pull}, poll=600)
    first = job(parent)
    commits(hub, lambda uow: uow.sync_jobs.add(first))
    working = threading.Thread(target=runner.run_forever)
    working.start()
    assert done.wait(20)
    done.clear()
    commits(hub, lambda uow: uow.sync_jobs.add(job(parent)))
    assert done.wait(20)
    runner.stop()
    working.join(20)
    assert not working.is_alive()


def test_a_connection_that_is_cut_is_made_anew_and_counts_as_news(
    hub: Hub,
    parent: Integration,
    waiter: Waiter,
    hub_postgres_url: URL,
    caplog: pytest.LogCaptureFixture,
) -> None:
    admin = DatabaseConnectionManager(hub_postgres_url, application_name="admin")
    cut = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE query LIKE 'LISTEN%' AND datname = current_database()"
    )
    assert admin.query(cut).row_count == 1
    caplog.set_level(logging.WARNING)
    while "looking for work from time to time" not in caplog.text:
        assert waiter.wait(10)  # it hears that the connection is gone
    commits(hub, lambda uow: uow.sync_jobs.add(job(parent)))  # told to nobody
    assert waiter.wait(10)
    assert not waiter.wait(0.05)
    commits(hub, lambda uow: uow.sync_jobs.add(job(parent)))
    assert waiter.wait(10)
    assert admin.query(cut).row_count == 1
    admin.close()


def test_who_listens_takes_no_connection_of_the_pool(
    hub_postgres_url: URL, hub: Hub, parent: Integration
) -> None:
    settings = HubSettings(pool_size=1, pool_max_overflow=0, pool_timeout=timedelta(seconds=0.01))
    with Hub.from_url(hub_postgres_url, settings=settings) as small:
        with small.unit_of_work() as uow:
            uow.integrations.save(uow.integrations.get(parent.id))
            with small.waiter(SYNC_WORK) as waiter:
                commits(hub, lambda uow: uow.sync_jobs.add(job(parent)))
                assert waiter.wait(10) == "told"
            assert small.health().ok
        assert small.health().pool.in_use == 0


def test_where_it_cannot_listen_it_waits_for_its_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    nowhere = "postgresql://user:s3cr3t-pass@127.0.0.1:1/nowhere"
    with Hub.from_url(nowhere) as hub, hub.waiter(SYNC_WORK) as waiter:
        assert not waiter.wait(0.05)
        waiter.wake()
        assert waiter.wait(60)
    assert "looking for work from time to time" in caplog.text
    assert "s3cr3t-pass" not in caplog.text


def test_statements_are_prepared_unless_a_pooler_knows_none(hub_postgres_url: URL) -> None:
    """Tried with PgBouncer 1.18 in transaction mode, which must be told to ignore `options`."""
    counts = []
    for prepares in (True, False):
        manager = DatabaseConnectionManager(hub_postgres_url, prepared_statements=prepares)
        with PostgresUnitOfWork(manager) as uow:
            for _ in range(10):
                uow.integrations.count()
            driver = uow.begun().connection.driver_connection
            assert isinstance(driver, psycopg.Connection)
            found = driver.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
            assert found is not None
            counts.append(found[0])
        manager.close()
    assert counts[0] >= 1
    assert counts[1] == 0


@pytest.fixture
def german(hub_postgres_url: URL) -> Iterator[None]:
    """A database whose own time zone and style of dates are others."""
    admin = DatabaseConnectionManager(hub_postgres_url)
    own = f'ALTER DATABASE "{hub_postgres_url.database}"'
    admin.query(f"{own} SET timezone = 'Europe/Berlin'")
    admin.query(f"{own} SET datestyle = 'German'")
    yield
    admin.query(f"{own} RESET ALL")
    admin.close()


@pytest.mark.usefixtures("german")
def test_moments_are_in_utc_though_a_pooler_ignores_options(
    hub_postgres_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that PgBouncer does."""
    monkeypatch.setattr(DatabaseConnectionManager, "_postgres_arguments", lambda self: {})
    manager = DatabaseConnectionManager(hub_postgres_url)
    with PostgresUnitOfWork(manager) as uow:
        added = uow.integrations.add(IntegrationFactory.build())
        uow.commit()
    with PostgresUnitOfWork(manager) as uow:
        found = uow.integrations.get(added.id)
        assert found.created_at == added.created_at
        assert found.created_at is not None
        assert found.created_at.tzinfo is UTC
    for _ in range(2):  # on one connection, which the pool takes back in between
        ask = "SELECT current_setting('timezone') AS zone, current_setting('datestyle') AS style"
        assert manager.query(ask).rows == [{"zone": "UTC", "style": "ISO, DMY"}]
    manager.close()


def test_a_waiter_is_none_of_the_pool_s_connections(hub: Hub, waiter: Waiter) -> None:
    assert hub.health().pool.in_use == 0
