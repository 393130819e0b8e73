"""A unit of work inside a service's own transaction, on SQLite and on Postgres."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from hubs import names
from integration_hub import (
    DuplicateName,
    Hub,
    Schedule,
    StorageError,
    SyncContext,
    SyncRunner,
    ValidationError,
)
from integration_hub.sql.mapping import INTEGRATIONS
from integration_hub.sql.models import IntegrationRow
from integration_hub.sql.unit_of_work import SqlUnitOfWork
from integration_hub.testing import IntegrationFactory, SyncJobFactory, WebhookFactory


@pytest.fixture(params=["sqlite", "postgres"])
def hub_and_engine(request: pytest.FixtureRequest) -> Iterator[tuple[Hub, Engine]]:
    """A hub, and an engine of the service's own on the same database with a table of its own."""
    hub: Hub = request.getfixturevalue(f"hub_{request.param}")
    url = (
        request.getfixturevalue("hub_postgres_url")
        if request.param == "postgres"
        else f"sqlite:///{request.getfixturevalue('tmp_path') / 'hub.db'}"
    )
    engine = create_engine(url)
    if request.param == "sqlite":
        event.listen(engine, "connect", lambda c, _: c.execute("PRAGMA foreign_keys = ON"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (id integer)"))
    yield hub, engine
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE orders"))
    engine.dispose()


def orders(engine: Engine) -> int:
    with engine.connect() as connection:
        found: int = connection.execute(text("SELECT count(*) FROM orders")).scalar_one()
        return found


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("before", [0, 1])
def test_the_service_s_commit_decides_on_all(
    hub_and_engine: tuple[Hub, Engine], kept: bool, before: int
) -> None:
    hub, engine = hub_and_engine
    with Session(engine) as session:
        for _ in range(before):
            session.execute(text("INSERT INTO orders VALUES (1)"))
        with hub.unit_of_work(session=session) as uow:
            parent = uow.integrations.add(IntegrationFactory(name="joined"))
            uow.webhooks.add(WebhookFactory(integration_id=parent.id))
            uow.commit()
        session.execute(text("INSERT INTO orders VALUES (2)"))
        if kept:
            session.commit()
    assert names(hub) == (["joined"] if kept else [])
    assert orders(engine) == (before + 1 if kept else 0)


def test_what_the_service_has_added_is_there_to_refer_to(
    hub_and_engine: tuple[Hub, Engine],
) -> None:
    hub, engine = hub_and_engine
    parent = IntegrationFactory.build(name="the service's").added(
        tenant="default", actor="it", now=datetime(2026, 1, 1, tzinfo=UTC)
    )
    with Session(engine) as session:
        session.add(IntegrationRow(**INTEGRATIONS.dump(parent)))
        with hub.unit_of_work(session=session) as uow:
            uow.webhooks.add(WebhookFactory.build(integration_id=parent.id))
            uow.commit()
        session.commit()
    assert names(hub) == ["the service's"]


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("first", ["the service writes first", "the hub writes first"])
def test_a_unit_of_work_that_is_given_up_takes_its_own_changes_alone(
    hub_and_engine: tuple[Hub, Engine], first: str, atomic: bool
) -> None:
    hub, engine = hub_and_engine
    with Session(engine) as session:
        if first == "the service writes first":
            session.execute(text("INSERT INTO orders VALUES (1)"))
        with hub.unit_of_work(session=session, atomic=atomic) as uow:
            uow.integrations.add(IntegrationFactory(name="given up"))
        with hub.unit_of_work(session=session, atomic=atomic) as uow:
            uow.integrations.add(IntegrationFactory(name="kept"))
            uow.commit()
        session.execute(text("INSERT INTO orders VALUES (2)"))
        session.commit()
    assert names(hub) == ["kept"]
    assert orders(engine) == (2 if first == "the service writes first" else 1)


@pytest.mark.parametrize(
    ("end", "stored"), [(Session.commit, ["joined"]), (Session.rollback, []), (Session.close, [])]
)
def test_a_service_that_ends_its_transaction_ends_the_unit_of_work(
    hub_and_engine: tuple[Hub, Engine], end: Callable[[Session], None], stored: list[str]
) -> None:
    hub, engine = hub_and_engine
    with Session(engine) as session:
        with hub.unit_of_work(session=session) as uow:
            crm = uow.integrations.add(IntegrationFactory.build(name="joined"))
            due = Schedule.once(hub.clock.now())  # so that there is something to tell workers
            uow.sync_jobs.add(SyncJobFactory.build(integration_id=crm.id, schedule=due))
            end(session)
            for act in (
                lambda: uow.integrations.add(IntegrationFactory.build(name="too late")),
                uow.integrations.count,
                uow.commit,
            ):
                with pytest.raises(StorageError, match="joined was committed, or rolled back"):
                    act()
        session.commit()
    assert names(hub) == stored


def test_a_flush_that_fails_ends_the_unit_of_work_and_not_the_service_s_transaction(
    hub_and_engine: tuple[Hub, Engine],
) -> None:
    hub, engine = hub_and_engine
    with Session(engine) as session:
        session.execute(text("INSERT INTO orders VALUES (1)"))
        with hub.unit_of_work(session=session) as uow:
            assert isinstance(uow, SqlUnitOfWork)
            item = uow.integrations.add(IntegrationFactory(name="undone"))
            uow.session.add(IntegrationRow(**INTEGRATIONS.dump(item)))
            with pytest.raises(IntegrityError):
                uow.session.flush()
            for act in (lambda: uow.integrations.add(IntegrationFactory()), uow.commit):
                with pytest.raises(StorageError, match="rolled back"):
                    act()
        session.execute(text("INSERT INTO orders VALUES (2)"))
        session.commit()
    assert names(hub) == []
    assert orders(engine) == 2


def test_a_connection_can_be_joined_as_well(hub_and_engine: tuple[Hub, Engine]) -> None:
    hub, engine = hub_and_engine
    with engine.begin() as connection:
        with hub.unit_of_work(session=connection) as uow:
            uow.integrations.add(IntegrationFactory(name="by connection"))
            uow.commit()
        assert names_seen_by(connection) == ["by connection"]
    assert names(hub) == ["by connection"]


def names_seen_by(connection: Connection) -> list[str]:
    return list(connection.execute(text("SELECT name FROM integrations")).scalars())


def test_savepoints_filters_and_streams_work_within(hub_and_engine: tuple[Hub, Engine]) -> None:
    hub, engine = hub_and_engine
    with Session(engine) as session:
        with hub.unit_of_work(session=session) as uow:
            uow.integrations.add_many(
                IntegrationFactory(name=f"n{n}", tags=["t"], config={"n": n}) for n in range(5)
            )
            taken = [IntegrationFactory(name="undone"), IntegrationFactory(name="n1")]
            with pytest.raises(DuplicateName), uow.savepoint():
                list(map(uow.integrations.add, taken))
            assert len(uow.integrations.by_tag("t")) == 5
            assert [i.name for i in uow.integrations.stream(batch=2)] != []
            uow.commit()
        session.commit()
    assert names(hub) == ["n0", "n1", "n2", "n3", "n4"]


def test_a_session_of_another_database_is_refused(
    hub_and_engine: tuple[Hub, Engine], hub_postgres: Hub, hub_sqlite: Hub
) -> None:
    _, engine = hub_and_engine
    other = hub_sqlite if engine.dialect.name == "postgresql" else hub_postgres
    with (
        Session(engine) as session,
        other.unit_of_work(session=session) as uow,
        pytest.raises(StorageError, match="can't join"),
    ):
        uow.integrations.find()


def test_a_session_by_another_driver_is_refused(hub_and_engine: tuple[Hub, Engine]) -> None:
    """Two speak to one database in two ways: psycopg2, say, counts the rows of an INSERT else."""
    hub, engine = hub_and_engine
    for is_async, driver in ((False, "another"), (True, engine.dialect.driver)):
        engine.dialect.is_async, engine.dialect.driver = is_async, driver
        with (
            Session(engine) as session,
            hub.unit_of_work(session=session) as uow,
            pytest.raises(StorageError, match=f"by {'an async ' * is_async}{driver}; this hub is"),
        ):
            uow.integrations.find()


def test_a_connection_that_commits_by_itself_is_refused_with_the_way_out(
    hub_postgres: Hub, hub_postgres_url: URL
) -> None:
    engine = create_engine(hub_postgres_url, isolation_level="AUTOCOMMIT")
    with (
        engine.connect() as connection,
        hub_postgres.unit_of_work(session=connection) as uow,
        pytest.raises(StorageError, match=r"AUTOCOMMIT mode.*another isolation level"),
    ):
        uow.integrations.find()
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN")  # by hand
        with hub_postgres.unit_of_work(session=connection) as uow:
            IntegrationFactory(store=uow)
            uow.commit()
        assert names(hub_postgres) == []
        connection.exec_driver_sql("COMMIT")
    assert len(names(hub_postgres)) == 1
    engine.dispose()


@pytest.mark.parametrize("wrong", [5, "sqlite://", Session, object()])
def test_what_is_no_session_is_refused(hub_and_engine: tuple[Hub, Engine], wrong: Any) -> None:
    hub, _ = hub_and_engine
    with pytest.raises(ValidationError, match=r"asyncio\.to_thread") as refused:
        hub.unit_of_work(session=wrong)
    assert refused.value.field == "session"


def test_sqlite_without_foreign_keys_is_refused_with_the_way_out(
    hub_sqlite: Hub, tmp_path: object
) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/hub.db")
    with (
        Session(engine) as session,
        hub_sqlite.unit_of_work(session=session) as uow,
        pytest.raises(StorageError, match="PRAGMA foreign_keys"),
    ):
        uow.integrations.find()
    engine.dispose()


def test_the_dict_store_has_no_transaction_to_join(hub: Hub) -> None:
    with pytest.raises(ValidationError) as refused:
        hub.unit_of_work(session=Session())
    assert refused.value.field == "session"


def test_a_handler_keeps_its_checkpoint_with_the_service_s_rows(
    hub_and_engine: tuple[Hub, Engine],
) -> None:
    """A run that fails after a page, before it is committed or after, has each page once."""
    hub, engine = hub_and_engine
    with hub.unit_of_work() as uow:
        parent = uow.integrations.add(IntegrationFactory(type="crm", active=True))
        job = SyncJobFactory(integration_id=parent.id, max_attempts=9, next_run_at=hub.clock.now())
        uow.sync_jobs.add(job)
        uow.commit()
    fails = iter([False, True, False, False])

    def pull(context: SyncContext) -> None:
        for page in range(context.checkpoint or 0, 3):
            with Session(engine) as session, session.begin():
                session.execute(text("INSERT INTO orders VALUES (:page)"), {"page": page})
                with context.unit_of_work(session=session) as uow:
                    context.progress(checkpoint=page + 1, uow=uow)
                    uow.commit()
                if next(fails):
                    raise ConnectionError

    runner = SyncRunner(hub, {"crm": pull})
    assert runner.run_once() == 1
    assert orders(engine) == 1
    with hub.unit_of_work() as uow:
        uow.sync_jobs.save(uow.sync_jobs.get(job.id).run_now(hub.clock.now()))
        uow.commit()
    assert runner.run_once() == 1
    assert orders(engine) == 3
    with hub.unit_of_work() as uow:
        assert uow.sync_jobs.get(job.id).checkpoint == 3
