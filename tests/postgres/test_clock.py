"""All workers go by the database's clock, whatever their machines' clocks say."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from sqlalchemy import URL

from integration_hub import (
    DatabaseConnectionManager,
    DatabaseUnavailable,
    Hub,
    HubSettings,
    Integration,
    PoolSettings,
    PostgresUnitOfWork,
    Schedule,
    SyncRun,
)
from integration_hub.database.clock import DatabaseClock
from integration_hub.testing import IntegrationFactory, SyncJobFactory

HOUR = timedelta(hours=1)
NO_TIME = timedelta(0)


@contextmanager
def machine_ahead(by: timedelta) -> Iterator[None]:
    """What happens here happens on a machine whose clock is wrong; the database's goes on."""
    with time_machine.travel(datetime.now(UTC) + by, tick=True):
        yield


@contextmanager
def worker_on(url: URL) -> Iterator[Hub]:
    with Hub.from_url(url) as hub:
        yield hub


@pytest.fixture
def parent(hub_postgres_url: URL) -> Integration:
    with worker_on(hub_postgres_url) as hub, hub.unit_of_work() as uow:
        parent: Integration = IntegrationFactory(type="crm", active=True, store=uow)
        once = Schedule.once(hub.clock.now() - timedelta(minutes=1))
        uow.sync_jobs.add(SyncJobFactory.build(integration_id=parent.id, schedule=once))
        uow.commit()
    return parent


def claimed(hub: Hub) -> list[SyncRun]:
    with hub.unit_of_work() as uow:
        runs = uow.sync_jobs.claim("w", lease=300)
        uow.commit()
    return runs


def reaped(hub: Hub) -> list[SyncRun]:
    with hub.unit_of_work() as uow:
        runs = uow.sync_runs.reap()
        uow.commit()
    return runs


def is_about_now(moment: datetime) -> bool:
    return abs(moment - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_a_worker_whose_clock_is_wrong_takes_part_as_any_other(
    hub_postgres_url: URL, parent: Integration, ahead: timedelta
) -> None:
    with machine_ahead(ahead), worker_on(hub_postgres_url) as hub:
        (run,) = claimed(hub)
    assert is_about_now(run.started_at)
    assert is_about_now(run.lease_expires_at - timedelta(seconds=300))
    with worker_on(hub_postgres_url) as hub:
        assert reaped(hub) == []


def test_a_worker_whose_clock_is_ahead_takes_nobodys_run_for_lost(
    hub_postgres_url: URL, parent: Integration
) -> None:
    with worker_on(hub_postgres_url) as hub:
        (run,) = claimed(hub)
        with machine_ahead(HOUR), worker_on(hub_postgres_url) as other:
            assert reaped(other) == []
        with hub.unit_of_work() as uow:
            assert uow.sync_runs.succeed(run).status == "succeeded"
            uow.commit()


def test_a_clock_that_is_set_meanwhile_is_noticed_by_the_next_unit_of_work(
    hub_postgres_url: URL, parent: Integration
) -> None:
    with worker_on(hub_postgres_url) as hub:
        assert reaped(hub) == []
        with machine_ahead(HOUR):
            (run,) = claimed(hub)
            assert run.started_at < datetime.now(UTC) - HOUR / 2
        assert is_about_now(run.started_at)
        with hub.unit_of_work() as uow:
            assert uow.integrations.count() == 1
        assert is_about_now(hub.clock.now())


def test_on_one_machine_nothing_is_corrected(hub_postgres_url: URL) -> None:
    with worker_on(hub_postgres_url) as hub:
        before = datetime.now(UTC)
        found = hub.clock.now()
        assert before <= found <= datetime.now(UTC)
        assert hub.health().clock_skew == NO_TIME


@pytest.mark.parametrize(("ahead", "words"), [(HOUR, "ahead of"), (-HOUR, "behind")])
def test_a_clock_that_is_much_off_is_told_of_once(
    hub_postgres_url: URL, caplog: pytest.LogCaptureFixture, ahead: timedelta, words: str
) -> None:
    caplog.set_level(logging.WARNING, "integration_hub.database")
    with machine_ahead(ahead), worker_on(hub_postgres_url) as hub:
        skew = hub.health().clock_skew
        assert skew is not None
        assert abs(skew - ahead) < timedelta(seconds=5)
        (told,) = caplog.messages
        assert f"s {words} the database's" in told
        assert is_off(hub)
    assert caplog.messages == [told]


def is_off(hub: Hub) -> bool:
    return abs(hub.clock.now() - datetime.now(UTC)) > HOUR / 2


def test_comparing_takes_no_connection_beside_that_of_a_unit_of_work(
    hub_postgres_url: URL,
) -> None:
    settings = HubSettings(pool_size=1, pool_max_overflow=0, pool_timeout=timedelta(seconds=0.2))
    with Hub.from_url(hub_postgres_url, settings=settings) as hub:
        for ahead in (NO_TIME, HOUR):  # the first time, and when it is due again
            with machine_ahead(ahead), hub.unit_of_work() as uow:
                assert uow.integrations.count() == 0
                assert is_about_now(hub.clock.now() + ahead)


def test_one_thread_compares_and_others_go_on(hub_postgres_url: URL) -> None:
    pool = PoolSettings(size=1, max_overflow=0, timeout=30)
    manager = DatabaseConnectionManager(hub_postgres_url, pool=pool)
    clock = manager.clock
    assert isinstance(clock, DatabaseClock)
    clock.keep()
    with machine_ahead(HOUR):
        with manager.reading():  # so that who compares has to wait
            thread = threading.Thread(target=clock.keep)
            thread.start()
            while not clock._lock.locked():
                thread.join(0.001)
            clock.keep()
            assert clock.skew == NO_TIME
        thread.join(30)
        assert clock.skew > HOUR / 2
    manager.close()


def test_a_time_that_was_never_told_is_not_made_up() -> None:
    unreachable = Hub.from_url("postgresql+psycopg://user@127.0.0.1:1/nowhere")
    with unreachable as hub, pytest.raises(DatabaseUnavailable):
        hub.clock.now()


def test_whoever_brings_a_clock_goes_by_it(hub_postgres_url: URL) -> None:
    class Stopped:
        def now(self) -> datetime:
            return datetime(2020, 1, 1, tzinfo=UTC)

    with Hub.from_url(hub_postgres_url, clock=Stopped()) as hub:
        assert hub.clock.now().year == 2020
        with hub.unit_of_work() as uow:
            made = uow.integrations.add(IntegrationFactory.build())
            assert made.created_at == hub.clock.now()


def test_a_unit_of_work_made_by_hand_goes_by_it_too(hub_postgres_url: URL) -> None:
    manager = DatabaseConnectionManager(hub_postgres_url)
    with machine_ahead(HOUR), PostgresUnitOfWork(manager) as uow:
        assert is_about_now(uow.clock.now() + HOUR)
    manager.close()
