"""What happens when the database refuses, waits too long, or is not there: by real faults."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import URL

from integration_hub import (
    DatabaseConnectionManager,
    DatabaseUnavailable,
    Err,
    Hub,
    HubSettings,
    Ok,
    PoolExhausted,
    PoolSettings,
    QueryTimeout,
    SerializationConflict,
    UnitOfWork,
    ValidationError,
)
from integration_hub.testing import IntegrationFactory
from integration_hub.testing.postgres import (
    control_server,
    postgres_server,
    temporary_database,
)

PASSWORD = "s3cr3t-pass"


def test_nothing_that_listens_is_said_within_the_limit() -> None:
    url = f"postgresql+psycopg://user:{PASSWORD}@127.0.0.1:1/nowhere"
    manager = DatabaseConnectionManager(url, connect_timeout=2)
    start = time.monotonic()
    with pytest.raises(DatabaseUnavailable) as refused, manager.transaction():
        pass
    assert time.monotonic() - start < 5
    assert refused.value.is_retryable
    health = manager.health()
    assert (health.ok, manager.is_connected) == (False, False)
    for words in (str(refused.value), repr(manager), str(health)):
        assert PASSWORD not in words


@pytest.mark.parametrize("url", ["mysql://u:s3cr3t-pass@h/d", "no url s3cr3t-pass", "oracle://x"])
def test_a_database_that_is_not_supported_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Hub.from_url(url)
    assert refused.value.field == "url"
    assert PASSWORD not in str(refused.value)


def test_a_statement_that_takes_too_long_is_ended_by_the_server(hub_postgres_url: URL) -> None:
    manager = DatabaseConnectionManager(hub_postgres_url, statement_timeout=0.1)
    with pytest.raises(QueryTimeout) as refused:
        manager.query("SELECT pg_sleep(30)")
    manager.close()
    assert refused.value.sqlstate == "57014"


def test_a_lock_that_is_not_given_in_time_is_a_timeout(hub_postgres_url: URL) -> None:
    settings = HubSettings.model_construct(lock_timeout=0.1)
    with Hub.from_url(hub_postgres_url, settings=settings) as hub:
        with hub.unit_of_work() as uow:
            item = uow.integrations.add(IntegrationFactory())
            uow.commit()
        with hub.unit_of_work() as holder:
            holder.integrations.save(item)
            with hub.unit_of_work() as other, pytest.raises(QueryTimeout):
                other.integrations.save(item)


def test_a_pool_with_nothing_left_says_so(hub_postgres_url: URL) -> None:
    pool = PoolSettings(size=1, max_overflow=0, timeout=0.1)
    manager = DatabaseConnectionManager(hub_postgres_url, pool=pool)
    with manager.transaction():
        assert manager.pool_figures().in_use == 1
        with pytest.raises(PoolExhausted), manager.transaction():
            pass
    manager.close()


def test_close_leaves_no_connection_behind(hub_postgres_url: URL) -> None:
    name = "to_be_closed"
    manager = DatabaseConnectionManager(hub_postgres_url, application_name=name)
    observer = DatabaseConnectionManager(hub_postgres_url)
    count = "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = :name"
    with manager.transaction():
        assert observer.query(count, {"name": name}).rows == [{"n": 1}]
    manager.close()
    deadline = time.monotonic() + 10
    while observer.query(count, {"name": name}).rows != [{"n": 0}]:
        assert time.monotonic() < deadline  # the server notices the end of a connection by itself
    observer.close()


def test_run_tries_a_deadlock_again_and_both_succeed(hub_postgres: Hub) -> None:
    with hub_postgres.unit_of_work() as uow:
        first, second = (uow.integrations.add(IntegrationFactory()) for _ in range(2))
        uow.commit()
    barrier = threading.Barrier(2)
    tries: list[str] = []

    def swap(order: tuple[str, str]) -> object:
        ids = {"first": first.id, "second": second.id}

        def operation(uow: UnitOfWork) -> str:
            tries.append(order[0])
            repository = uow.integrations
            repository.save(repository.get(ids[order[0]]).with_tags(*order))
            if tries.count(order[0]) == 1:
                barrier.wait(10)
            repository.save(repository.get(ids[order[1]]).with_tags(*order))
            return order[0]

        return hub_postgres.run(operation)

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(swap, [("first", "second"), ("second", "first")]))
    # The one that gives way starts again and finds the versions of the other.
    assert outcomes == [Ok("first"), Ok("second")]
    assert len(tries) == 3


def test_run_gives_up_after_its_attempts(hub_postgres: Hub) -> None:
    tries: list[int] = []

    def operation(uow: UnitOfWork) -> None:
        tries.append(1)
        raise SerializationConflict("again")

    outcome = hub_postgres.run(operation, attempts=2)
    assert not outcome.is_ok
    assert len(tries) == 2


def test_a_restart_of_the_server_is_survived() -> None:
    with postgres_server() as server, temporary_database(server) as url, Hub.from_url(url) as hub:
        hub.schema.upgrade()
        assert hub.run(lambda uow: uow.integrations.count()) == Ok(0)
        control_server(Path(str(url.query["host"])), "-m", "fast", "restart")
        outcome = hub.run(lambda uow: uow.integrations.count())
        if isinstance(outcome, Err):  # the pool may have lent out a connection still warm
            assert isinstance(outcome.error, DatabaseUnavailable)
        assert hub.run(lambda uow: uow.integrations.count()) == Ok(0)
