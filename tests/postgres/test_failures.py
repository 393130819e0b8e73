"""What happens when the database refuses, waits too long, or is not there: by real faults."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from locks import waiting
from sqlalchemy import URL, Connection, create_engine, event, select, text
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from integration_hub import (
    AttemptOutcome,
    DatabaseConnectionManager,
    DatabaseUnavailable,
    DuplicateName,
    Err,
    Hub,
    HubSettings,
    Integration,
    Ok,
    PoolExhausted,
    PoolSettings,
    PostgresUnitOfWork,
    QueryTimeout,
    Schedule,
    SchemaOutOfDate,
    SerializationConflict,
    StorageError,
    StoreClosed,
    SyncOutcome,
    UnitOfWork,
    ValidationError,
)
from integration_hub.ports.clock import SystemClock
from integration_hub.sql.models import IntegrationRow
from integration_hub.testing import IntegrationFactory, SyncJobFactory, WebhookFactory
from integration_hub.testing.postgres import (
    Cleaner,
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
    assert health.error == refused.value.message
    assert health.latency > timedelta(0)
    assert health.pool is not None
    assert health.pool.in_use == 0
    for words in (str(refused.value), repr(manager), str(health)):
        assert PASSWORD not in words


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:s3cr3t-pass@h/d",
        "no url s3cr3t-pass",
        "oracle://x",
        "postgresql://u@h:s3cr3t-pass/d",
    ],
)
def test_a_database_that_is_not_supported_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Hub.from_url(url)
    assert refused.value.field == "url"
    assert PASSWORD not in "".join(traceback.format_exception(refused.value))


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


def test_short_questions_go_by_the_pool_as_long_as_it_has_a_connection(
    hub_postgres_url: URL,
) -> None:
    pool = PoolSettings(size=1, max_overflow=0)
    manager = DatabaseConnectionManager(hub_postgres_url, pool=pool)

    def asked_by() -> int:
        with manager.reading() as connection:
            pid: int = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        return pid

    kept = asked_by()
    assert asked_by() == kept
    with manager.transaction():
        assert asked_by() != kept
    assert asked_by() == kept
    manager.close()


def test_a_pool_with_nothing_left_says_so(hub_postgres_url: URL) -> None:
    pool = PoolSettings(size=1, max_overflow=0, timeout=0.1)
    manager = DatabaseConnectionManager(hub_postgres_url, pool=pool)
    with manager.transaction():
        assert manager.pool_figures().in_use == 1
        with pytest.raises(PoolExhausted), manager.transaction():
            pass
    manager.close()


@pytest.mark.parametrize("is_lent", [False, True])
def test_close_leaves_no_connection_behind(hub_postgres_url: URL, *, is_lent: bool) -> None:
    name = "to_be_closed"
    manager = DatabaseConnectionManager(hub_postgres_url, application_name=name)
    observer = DatabaseConnectionManager(hub_postgres_url)
    count = "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = :name"
    with manager.transaction() as connection:
        assert observer.query(count, {"name": name}).rows == [{"n": 1}]
        if is_lent:
            manager.close()
            assert connection.scalar(text("SELECT 1")) == 1
    manager.close()
    with pytest.raises(StoreClosed):
        manager.clock.now()
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


def cut_connections(url: URL) -> None:
    """End every other connection to the database, as an administrator or a fail-over would."""
    admin = DatabaseConnectionManager(url, application_name="admin")
    admin.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    left = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database()"
    deadline = time.monotonic() + 10
    while admin.query(left).rows != [{"n": 1}]:
        assert time.monotonic() < deadline
    admin.close()


@pytest.mark.parametrize(
    "moment", ["read", "first write", "write", "savepoint", "commit", "stream"]
)
def test_a_connection_that_is_cut_is_told_and_the_next_one_works(
    hub_postgres: Hub, hub_postgres_url: URL, moment: str, caplog: pytest.LogCaptureFixture
) -> None:
    with hub_postgres.unit_of_work() as uow:
        item = uow.integrations.add(IntegrationFactory(name="kept"))
        uow.commit()
    calls: dict[str, Callable[[UnitOfWork], object]] = {
        "read": lambda uow: uow.integrations.get(item.id),
        "first write": lambda uow: uow.integrations.add(IntegrationFactory()),
        "write": lambda uow: uow.integrations.add(IntegrationFactory()),
        "savepoint": lambda uow: uow.savepoint().__enter__(),
        "commit": lambda uow: uow.commit(),
        "stream": lambda uow: list(uow.integrations.stream()),
    }
    with hub_postgres.unit_of_work() as uow:
        uow.integrations.count()
        if moment not in ("read", "first write"):
            uow.integrations.save(item.rename("lost"))
        cut_connections(hub_postgres_url)
        with pytest.raises(DatabaseUnavailable) as told:
            calls[moment](uow)
    assert told.value.is_retryable
    assert ("whether this was stored is not known" in told.value.message) == (moment == "commit")
    with hub_postgres.unit_of_work() as uow:
        assert [each.name for each in uow.integrations.find()] == ["kept"]
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("opened", ["nothing", "session", "joined"])
@pytest.mark.parametrize("is_told", [True, False])
def test_who_goes_on_after_a_connection_was_cut_is_told_so_again(
    hub_postgres: Hub, hub_postgres_url: URL, opened: str, *, is_told: bool
) -> None:
    def lose_connection(uow: UnitOfWork) -> LookupError:
        cut_connections(hub_postgres_url)
        if is_told:  # or else the savepoint's end is the first to notice
            with pytest.raises(DatabaseUnavailable):
                uow.integrations.count()
        return LookupError()

    engine = create_engine(hub_postgres_url, poolclass=NullPool)
    with Session(engine) as outer:
        joined = outer if opened == "joined" else None
        with hub_postgres.unit_of_work(session=joined) as uow:
            if opened == "session":
                assert isinstance(uow, PostgresUnitOfWork)
                assert uow.session
            uow.integrations.add(IntegrationFactory())
            with pytest.raises(LookupError), uow.savepoint():
                raise lose_connection(uow)
            calls: list[Callable[[], object]] = [
                uow.integrations.count,
                lambda: uow.integrations.add(IntegrationFactory()),
                lambda: uow.savepoint().__enter__(),
                lambda: list(uow.integrations.stream()),
                uow.commit,
            ]
            for call in calls:
                with pytest.raises(DatabaseUnavailable):
                    call()
    with Session(engine) as afterwards:
        assert afterwards.scalars(select(IntegrationRow)).all() == []


@pytest.fixture
def taken(hub_postgres: Hub) -> Iterator[Integration]:
    """An integration whose row another transaction keeps."""
    with hub_postgres.unit_of_work() as uow:
        item = uow.integrations.add(IntegrationFactory(name="taken"))
        uow.commit()
    with hub_postgres.unit_of_work() as other:
        other.integrations.save(item)
        yield item


def names_in(manager: DatabaseConnectionManager) -> set[str]:
    return {row["name"] for row in manager.query("SELECT name FROM integrations").rows}


@pytest.mark.parametrize("opened", ["nothing", "session", "joined", "traced"])
def test_what_has_failed_is_never_said_to_be_stored(
    hub_postgres_url: URL, taken: Integration, opened: str
) -> None:
    manager = DatabaseConnectionManager(hub_postgres_url, lock_timeout=0.05)
    if opened == "traced":
        event.listen(manager.lazy_engine, "before_cursor_execute", lambda *_: None)
    with manager.session() as outer:
        joined = outer if opened == "joined" else None
        with PostgresUnitOfWork(manager, session=joined) as uow:
            if opened == "session":
                assert uow.session
            uow.integrations.add(IntegrationFactory(name="lost"))
            with pytest.raises(QueryTimeout):
                uow.integrations.save(taken)
            with pytest.raises(StorageError, match="roll back and start again"):
                uow.commit()
        if joined is not None:
            assert joined.scalar(select(1)) == 1  # and what it had done can be committed
    assert names_in(manager) == {"taken"}
    with PostgresUnitOfWork(manager) as uow:
        if opened == "session":
            assert uow.session
        uow.integrations.add(IntegrationFactory(name="stored"))
        with pytest.raises(StorageError, match="within this savepoint failed"), uow.savepoint():
            wait_in_vain(uow, taken)
        uow.commit()
    assert names_in(manager) == {"taken", "stored"}
    manager.close()


def wait_in_vain(uow: UnitOfWork, taken: Integration) -> None:
    uow.integrations.add(IntegrationFactory(name="undone"))
    with pytest.raises(QueryTimeout):
        uow.integrations.save(taken)


def test_a_name_that_is_taken_while_it_is_saved_ends_the_unit_of_work(
    hub_postgres: Hub, hub_postgres_url: URL
) -> None:
    manager = DatabaseConnectionManager(hub_postgres_url)
    with hub_postgres.unit_of_work() as uow:
        mine = uow.integrations.add(IntegrationFactory(name="mine"))
        uow.commit()
    with ThreadPoolExecutor(1) as pool, hub_postgres.unit_of_work() as uow:
        uow.integrations.add(IntegrationFactory(name="lost"))
        with hub_postgres.unit_of_work() as other:
            other.integrations.add(IntegrationFactory(name="theirs"))
            renamed = pool.submit(uow.integrations.save, mine.rename("theirs"))
            while not waiting(manager):
                assert not renamed.done()
            other.commit()
        with pytest.raises(DuplicateName):
            renamed.result()
        with pytest.raises(StorageError, match="roll back and start again"):
            uow.commit()
    assert names_in(manager) == {"mine", "theirs"}
    manager.close()


def test_a_savepoint_that_is_gone_ends_the_unit_of_work(hub_postgres: Hub) -> None:
    with hub_postgres.unit_of_work() as uow:
        assert isinstance(uow, PostgresUnitOfWork)
        session = uow.session
        uow.integrations.add(IntegrationFactory())
        with pytest.raises(StorageError, match="InvalidSavepointSpecification"), uow.savepoint():
            session.execute(text("RELEASE SAVEPOINT sa_savepoint_1"))
        for call in (uow.savepoint().__enter__, uow.commit):
            with pytest.raises(StorageError, match="roll back and start again"):
                call()
    with hub_postgres.unit_of_work() as uow:
        assert uow.integrations.count() == 0


def test_a_transaction_of_the_manager_s_is_stored_as_a_whole(hub_postgres_url: URL) -> None:
    manager = DatabaseConnectionManager(hub_postgres_url)

    def divide(connection: Connection) -> None:
        with pytest.raises(DataError):
            connection.execute(text("SELECT 1/0"))

    def write() -> None:
        with manager.transaction() as connection:
            connection.execute(text("CREATE TABLE lost (a INT)"))
            divide(connection)

    with pytest.raises(StorageError, match="roll back and start again"):
        write()
    with manager.session() as session:
        divide(session.connection())
        with pytest.raises(StorageError, match="roll back and start again"):
            session.commit()
        session.rollback()
        assert session.scalar(select(1)) == 1
        session.commit()
    with manager.transaction() as connection:
        with connection.begin_nested() as nested:
            divide(connection)
            nested.rollback()
        assert connection.scalar(text("SELECT to_regclass('lost')")) is None
    manager.close()


def test_who_listens_to_statements_or_logs_them_hears_all(
    hub_postgres_url: URL, caplog: pytest.LogCaptureFixture
) -> None:
    manager = DatabaseConnectionManager(hub_postgres_url)
    heard: list[str] = []

    def walk() -> None:
        with PostgresUnitOfWork(manager) as uow:
            item = uow.integrations.add(IntegrationFactory())
            uow.integrations.save(uow.integrations.get(item.id).with_tags("t"))
            assert uow.integrations.count() == 1

    walk()
    event.listen(manager.lazy_engine, "before_cursor_execute", lambda *call: heard.append(call[2]))
    walk()
    assert [sql.split()[0] for sql in heard] == ["BEGIN", "INSERT", "SELECT", "UPDATE", "SELECT"]
    manager.close()
    other = manager = DatabaseConnectionManager(hub_postgres_url)
    caplog.set_level(logging.INFO, "sqlalchemy.engine.Engine")
    walk()
    assert "UPDATE integrations" in caplog.text
    other.close()


def test_an_ending_is_one_statement_however_many_runs_it_ends(hub_postgres_url: URL) -> None:
    manager = DatabaseConnectionManager(hub_postgres_url)
    heard: list[str] = []
    event.listen(manager.lazy_engine, "before_cursor_execute", lambda *call: heard.append(call[2]))
    with PostgresUnitOfWork(manager) as uow:
        parent = IntegrationFactory(config={"sync": {"max_concurrency": 9}}, store=uow)
        for _ in range(5):
            once = Schedule.once(uow.clock.now())
            SyncJobFactory(store=uow, integration_id=parent.id, schedule=once, max_attempts=1)
        runs = uow.sync_jobs.claim("w1", limit=9, lease=1)
        heard.clear()
        uow.sync_runs.succeed(runs[0], records=3, checkpoint={"at": 1})
        uow.sync_runs.fail(runs[1], "broken")
        uow.sync_runs.succeed_many([(run, SyncOutcome()) for run in runs[2:4]])
        assert [sql.split()[0] for sql in heard] == ["WITH"] * 3
        heard.clear()
        (lost,) = uow.sync_runs.reap(uow.clock.now() + timedelta(seconds=60))
        assert [sql.split()[0] for sql in heard] == ["SELECT", "WITH"]
        assert (lost.id, lost.status) == (runs[4].id, "lost")
    manager.close()


def test_pruning_holds_nobody_up(hub_postgres_url: URL) -> None:
    """What waited for it would run into the lock's time limit."""
    now = SystemClock().now()
    settings = HubSettings(lock_timeout=timedelta(milliseconds=500))
    with Hub.from_url(hub_postgres_url, settings=settings) as hub:
        with hub.unit_of_work() as uow:
            config = {"sync": {"max_concurrency": 9}}
            parent = IntegrationFactory(active=True, config=config, store=uow)
            hook = WebhookFactory(store=uow, integration_id=parent.id, events=["a.b"])
            for _ in range(2):
                every = Schedule.every(600)
                SyncJobFactory(store=uow, integration_id=parent.id, schedule=every, next_run_at=now)
            (run,) = uow.sync_jobs.claim("w1", limit=1)
            uow.sync_runs.succeed(run)
            uow.messages.publish("a.b", 1)
            (delivery,) = uow.messages.claim()
            outcome = AttemptOutcome(started_at=now, status=200)
            uow.messages.record(delivery, outcome)
            uow.commit()
        later = now + timedelta(days=1)
        with hub.unit_of_work() as pruning:
            assert pruning.sync_runs.prune(later) == 1
            assert pruning.messages.prune(later) == 1
            with hub.unit_of_work() as uow:
                assert len(uow.sync_jobs.claim("w1")) == 1
                uow.sync_jobs.save(uow.sync_jobs.get(run.sync_job_id).run_now(now))
                assert len(uow.sync_jobs.claim("w1")) == 1
                uow.messages.publish("a.b", 2)
                assert [each.webhook_id for each in uow.messages.claim()] == [hook.id]
                assert uow.messages.prune(later) == 0  # what others are just pruning
                assert uow.sync_runs.prune(later) == 0
                uow.commit()
            pruning.commit()


def test_pruning_keeps_to_its_limit_in_any_plan(hub_postgres_url: URL) -> None:
    """A subquery that locks may be run for each row by the plan, and finds others each time."""
    methods = ("hashjoin", "mergejoin", "hashagg", "sort", "material", "indexscan", "bitmapscan")
    options = " ".join(f"-c enable_{method}=off" for method in methods)
    now = SystemClock().now()
    with Hub.from_url(hub_postgres_url.update_query_dict({"options": options})) as hub:
        with hub.unit_of_work() as uow:
            config = {"sync": {"max_concurrency": 9}}
            parent = IntegrationFactory(active=True, config=config, store=uow)
            for number in range(5):
                SyncJobFactory(store=uow, integration_id=parent.id, next_run_at=now)
                uow.messages.publish("a.b", number)
                assert uow.inbox.accept(f"m{number}")
            for run in uow.sync_jobs.claim("w1"):
                uow.sync_runs.succeed(run)
            uow.commit()
        later = now + timedelta(days=1)
        for prune in ("sync_runs", "messages", "inbox"):
            counts: list[int] = []
            while not counts or counts[-1]:
                with hub.unit_of_work() as uow:
                    counts.append(getattr(uow, prune).prune(later, limit=2))
                    uow.commit()
            assert counts == [2, 2, 1, 0], prune


def test_a_session_of_ours_shares_the_transaction(hub_postgres: Hub) -> None:
    for kept in (False, True):
        with hub_postgres.unit_of_work() as uow:
            assert isinstance(uow, PostgresUnitOfWork)
            parent = uow.integrations.add(IntegrationFactory(name="ours"))
            row = uow.session.get_one(IntegrationRow, parent.id)
            row.description = "by the model"
            if kept:
                uow.commit()
        with hub_postgres.unit_of_work() as uow:
            found = [(item.name, item.description) for item in uow.integrations.find()]
        assert found == ([("ours", "by the model")] if kept else [])


@pytest.mark.once
def test_a_hundred_thousand_are_added_all_or_none(hub_postgres: Hub) -> None:
    items = [Integration(name=f"i{n}", type="crm", config={"n": n}) for n in range(100_000)]
    with hub_postgres.unit_of_work() as uow:
        with pytest.raises(DuplicateName):
            uow.integrations.add_many([*items, Integration(name="i7", type="crm")])
        assert uow.integrations.count() == 0
        assert uow.integrations.add_many(items) == 100_000
        uow.commit()
    with hub_postgres.unit_of_work() as uow:
        assert uow.integrations.count() == 100_000
        assert uow.integrations.get_by_name("i99999").config == {"n": 99_999}


def test_a_restart_of_the_server_is_survived() -> None:
    with postgres_server() as server, temporary_database(server) as url, Hub.from_url(url) as hub:
        hub.schema.upgrade()
        assert hub.run(lambda uow: uow.integrations.count()) == Ok(0)
        control_server(Path(str(url.query["host"])), "-m", "fast", "restart")
        outcome = hub.run(lambda uow: uow.integrations.count())
        if isinstance(outcome, Err):  # the pool may have lent out a connection still warm
            assert isinstance(outcome.error, DatabaseUnavailable)
        assert hub.run(lambda uow: uow.integrations.count()) == Ok(0)


def test_a_transaction_that_a_test_left_open_is_ended_and_named(
    hub_postgres: Hub, hub_postgres_url: URL, hub_postgres_cleaner: Cleaner
) -> None:
    def stored() -> int:
        with hub_postgres.unit_of_work() as uow:
            return uow.integrations.count()

    def store() -> None:
        with hub_postgres.unit_of_work() as uow:
            IntegrationFactory(store=uow)
            uow.commit()

    store()
    hub_postgres_cleaner.empty_tables()
    assert stored() == 0
    store()
    engine = create_engine(hub_postgres_url)
    left = engine.connect()
    left.exec_driver_sql("SELECT 'what I was at', count(*) FROM integrations")
    with pytest.raises(AssertionError, match=r"left a transaction open.*what I was at"):
        hub_postgres_cleaner.empty_tables(patience=0.05)
    assert stored() == 0
    with pytest.raises(OperationalError):
        left.exec_driver_sql("SELECT 1")
    left.close()
    engine.dispose()


def test_a_test_that_goes_on_in_a_thread_is_ended_and_named(
    hub_postgres_url: URL, hub_postgres_cleaner: Cleaner
) -> None:
    """It takes the tables in another order, so that one of the two must give way."""
    manager = DatabaseConnectionManager(hub_postgres_url)
    engine = create_engine(hub_postgres_url)
    left = engine.connect()
    left.exec_driver_sql("SET deadlock_timeout = '1min'")  # it is not this one that finds out
    left.exec_driver_sql("LOCK TABLE webhook_attempts")

    def go_on() -> None:
        is_over = False
        while not is_over:
            is_over = emptied.done()
            left.exec_driver_sql("SELECT 'and what then' FROM integrations")

    with ThreadPoolExecutor(1) as pool:
        emptied = pool.submit(hub_postgres_cleaner.empty_tables)
        while not waiting(manager):
            assert not emptied.done()
        with pytest.raises(OperationalError):
            go_on()
        with pytest.raises(AssertionError, match=r"left a transaction open.*and what then"):
            emptied.result(20)
    left.close()
    engine.dispose()
    manager.close()


@pytest.mark.parametrize("count", [1, 5_000], ids=["deleted", "truncated"])
def test_the_next_test_finds_nothing_however_much_there_was(
    hub_postgres: Hub, hub_postgres_url: URL, hub_postgres_cleaner: Cleaner, count: int
) -> None:
    with hub_postgres.unit_of_work() as uow:
        crm = IntegrationFactory(store=uow)
        uow.webhooks.add_many(WebhookFactory.build_batch(count, integration_id=crm.id))
        uow.messages.publish("invoice.paid", {})
        uow.commit()
    hub_postgres_cleaner.empty_tables()
    with hub_postgres.unit_of_work() as uow:
        assert uow.integrations.count() == uow.webhooks.count() == 0
    manager = DatabaseConnectionManager(hub_postgres_url)
    assert manager.query("SELECT count(*) FROM webhook_messages").rows == [{"count": 0}]
    (found,) = manager.query("SELECT pg_relation_size('webhooks') AS bytes").rows
    assert found["bytes"] == 0 or count == 1  # who deletes leaves the files as they are
    manager.close()


def test_the_next_test_finds_nothing_though_this_one_has_cut_all_connections(
    hub_postgres_url: URL, hub_postgres_cleaner: Cleaner
) -> None:
    for _ in range(2):
        with Hub.from_url(hub_postgres_url) as hub, hub.unit_of_work() as uow:
            assert uow.integrations.count() == 0
            IntegrationFactory(store=uow)
            uow.commit()
        cut_connections(hub_postgres_url)
        hub_postgres_cleaner.empty_tables()


@pytest.mark.once
@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_server_of_one_s_own_is_gone_at_the_end(is_restarted: bool) -> None:
    with postgres_server() as server:
        data = Path(str(server.query["host"]))
        if is_restarted:  # it is no longer the one that the wheel began
            control_server(data, "-m", "fast", "restart")
        manager = DatabaseConnectionManager(server)
        assert manager.query("SHOW fsync").rows == [{"fsync": "off"}]
        process = int((data / "postmaster.pid").read_text().split()[0])
        manager.close()
    assert not data.parent.exists()
    began = time.monotonic()
    while is_there(process):  # until its parent has laid it to rest
        assert time.monotonic() < began + 20
        time.sleep(0.02)


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_server_that_takes_no_writes_is_given_up_for_one_that_does(
    hub_postgres_url: URL,
) -> None:
    """As after a failover, when a connection still leads to what was the primary."""
    with Hub.from_url(hub_postgres_url) as hub:
        with read_only(hub_postgres_url), hub.unit_of_work() as uow:
            assert uow.integrations.count() == 0  # it can be read
            with pytest.raises(DatabaseUnavailable) as refused:
                uow.integrations.add(IntegrationFactory.build())
            assert refused.value.sqlstate == "25006"
            assert refused.value.is_retryable
        with hub.unit_of_work() as uow:
            uow.integrations.add(IntegrationFactory.build())
            uow.commit()


def test_so_it_is_for_what_goes_by_sqlalchemy(hub_postgres_url: URL) -> None:
    manager = DatabaseConnectionManager(hub_postgres_url)
    with read_only(hub_postgres_url), pytest.raises(DatabaseUnavailable):
        manager.query("CREATE TABLE here (n int)")
    manager.query("CREATE TABLE here (n int)")
    manager.close()


@contextmanager
def read_only(url: URL) -> Iterator[None]:
    """Who connects meanwhile can't write, for as long as that session lasts."""
    setting = f'ALTER DATABASE "{url.database}" SET default_transaction_read_only'
    manager = DatabaseConnectionManager(url)
    try:
        manager.query(f"{setting} = on")
        yield
    finally:
        manager.query(f"{setting} = off")
        manager.close()


def test_a_network_that_goes_silent_is_noticed_within_a_minute(hub_postgres_url: URL) -> None:
    chosen = hub_postgres_url.update_query_dict({"keepalives_idle": "77"})
    manager = DatabaseConnectionManager(chosen)
    with manager.reading() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        found = driver.info.get_parameters()
    manager.close()
    expected = {
        "tcp_user_timeout": "30000",
        "keepalives_idle": "77",
        "keepalives_interval": "10",
        "keepalives_count": "3",
    }
    assert expected.items() <= found.items()


@pytest.mark.parametrize(
    "setting",
    [
        "default_transaction_isolation = 'serializable'",
        "datestyle = 'German'",
        "client_encoding = 'LATIN1'",
        "array_nulls = off",
        "timezone = 'Asia/Tokyo'",
        "bytea_output = 'escape'",
        "standard_conforming_strings = off",
    ],
)
def test_what_a_database_is_set_to_makes_no_difference(hub_postgres_url: URL, setting: str) -> None:
    name, value = setting.split(" = ")
    alter = f'ALTER DATABASE "{hub_postgres_url.database}"'
    manager = DatabaseConnectionManager(hub_postgres_url)
    manager.query(f"{alter} SET {name} = {value}")
    try:
        with Hub.from_url(hub_postgres_url) as hub:
            _work_with_what_is_odd(hub)
    finally:
        manager.query(f"{alter} RESET {name}")
        manager.close()


def _work_with_what_is_odd(hub: Hub) -> None:
    words = "é ☃ \\x41 '\"{,} NULL"
    with hub.unit_of_work(atomic=False) as uow:
        assert isinstance(uow, PostgresUnitOfWork)
        isolation = uow.session.connection().exec_driver_sql("SHOW transaction_isolation")
        assert isolation.scalar_one() == "read committed"
        config = {"words": words, "number": 1.1234567890123457}
        parent = uow.integrations.add(IntegrationFactory.build(status="active", config=config))
        once = Schedule.once(hub.clock.now())
        job = uow.sync_jobs.add(SyncJobFactory.build(integration_id=parent.id, schedule=once))
        hook = uow.webhooks.add(WebhookFactory.build(integration_id=parent.id, events=["a.*"]))
        message = uow.messages.publish("a.b", {"words": words})
        uow.commit()
    with hub.unit_of_work(atomic=False) as uow:
        assert uow.integrations.get(parent.id) == parent
        assert uow.webhooks.for_event("a.b") == [hook]
        (run,) = uow.sync_jobs.claim("w")
        assert job.created_at is not None
        assert run.started_at >= job.created_at
        uow.sync_runs.fail(run, words)
        (delivery,) = uow.messages.claim(limit=1)
        assert delivery.message == message
        uow.commit()
    with hub.unit_of_work() as uow:
        (told,) = uow.sync_runs.history(job.id)
        assert told.error_message == words


def test_a_user_without_a_privilege_is_told_which(hub_postgres_url: URL) -> None:
    manager = DatabaseConnectionManager(hub_postgres_url)
    manager.query("CREATE ROLE nobody_special LOGIN")
    try:
        with Hub.from_url(hub_postgres_url.set(username="nobody_special")) as hub:
            with pytest.raises(StorageError) as refused:
                hub.schema.current()
            assert "permission denied for table integration_hub_alembic_version" in str(
                refused.value
            )
    finally:
        manager.query("DROP ROLE nobody_special")
        manager.close()


def test_a_search_path_to_nowhere_is_told(hub_postgres_url: URL) -> None:
    nowhere = hub_postgres_url.update_query_dict({"options": "-c search_path=nowhere"})
    with Hub.from_url(nowhere) as hub, pytest.raises(SchemaOutOfDate) as refused:
        hub.schema.upgrade()
    assert "search_path" in str(refused.value)


class TimeIsUp(Exception):
    """What a signal's handler raises: Celery's soft time limit, rq's timeout."""


def time_is_up(*_: object) -> None:
    raise TimeIsUp


def test_what_a_signal_breaks_off_is_undone_and_its_reason_raised(hub_postgres_url: URL) -> None:
    manager = DatabaseConnectionManager(hub_postgres_url)

    def strike_who_waits() -> None:
        deadline = time.monotonic() + 10
        while not waiting(manager) and time.monotonic() < deadline:
            pass
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    with Hub.from_url(hub_postgres_url) as hub, ThreadPoolExecutor(1) as pool:
        crm = hub.run(lambda uow: uow.integrations.add(IntegrationFactory.build())).unwrap()
        with hub.unit_of_work() as other, hub.unit_of_work() as uow:
            other.integrations.save(crm.with_tags("other"))
            uow.integrations.add(IntegrationFactory.build())
            before = signal.signal(signal.SIGUSR1, time_is_up)
            try:
                struck = pool.submit(strike_who_waits)
                with pytest.raises(TimeIsUp), uow.savepoint():
                    uow.integrations.save(crm.with_tags("mine"))
                struck.result()
            finally:
                signal.signal(signal.SIGUSR1, before)
            with pytest.raises(StorageError, match="roll back and start again"):
                uow.commit()
            other.commit()
        found = hub.run(lambda uow: uow.integrations.find()).unwrap()
        assert [item.tags for item in found] == [("other",)]
    manager.close()
