"""The schema's history: up, down and up again, no drift, two at once, and when it does not fit."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import URL, create_engine, inspect

from integration_hub import (
    DatabaseConnectionManager,
    DatabaseSchemaManager,
    Hub,
    Schedule,
    SchemaOutOfDate,
    ValidationError,
)
from integration_hub.database import migrations_path, schema
from integration_hub.testing import IntegrationFactory, SyncJobFactory
from integration_hub.testing.postgres import temporary_database

HEAD = "hub_0004"
CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'hub.db'}"
        return
    with temporary_database(request.getfixturevalue("hub_postgres_server")) as database:
        yield database.render_as_string(hide_password=False)


def test_the_code_needs_what_the_newest_migration_makes() -> None:
    assert ScriptDirectory(str(migrations_path())).get_current_head() == schema.HEAD == HEAD


def test_who_migrates_nothing_imports_no_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'hub.db'}"
    with Hub.from_url(url) as hub:
        hub.schema.upgrade()
    program = (
        "import sys, integration_hub.cli; from integration_hub import Hub\n"
        f"with Hub.from_url({url!r}) as hub, hub.unit_of_work() as uow:\n"
        "    print(uow.integrations.count(), hub.health().ok, 'alembic' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert told.stdout.split() == [b"0", b"True", b"False"]


def test_up_down_and_up_again_without_drift(url: str) -> None:
    with Hub.from_url(url) as hub:
        head = hub.schema.upgrade().head
        assert hub.schema.check().current == head == HEAD
        assert hub.schema.downgrade("base").current is None
        assert hub.schema.upgrade().current == head
        assert hub.schema.check().is_current


def test_create_all_makes_what_the_migrations_make(url: str) -> None:
    with Hub.from_url(url) as hub:
        hub.schema.create_all()
        assert hub.schema.check().is_current


def test_drift_is_found(url: str) -> None:
    with Hub.from_url(url) as hub:
        hub.schema.upgrade()
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP INDEX ix_webhooks_tenant_id_status")
        engine.dispose()
        with pytest.raises(SchemaOutOfDate, match="drifted"):
            hub.schema.check()


def test_a_schema_that_was_never_set_up_is_named_with_the_way_out(url: str) -> None:
    with Hub.from_url(url) as hub:
        with pytest.raises(SchemaOutOfDate, match="db upgrade"):
            hub.unit_of_work()
        assert not hub.health().ok
        hub.schema.upgrade()
        assert hub.unit_of_work().state == "new"


def test_a_schema_that_is_ahead_is_named_so(url: str) -> None:
    with Hub.from_url(url) as hub:
        hub.schema.upgrade()
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "UPDATE integration_hub_alembic_version SET version_num = '9999'"
            )
        engine.dispose()
        with pytest.raises(SchemaOutOfDate, match="ahead") as refused:
            hub.unit_of_work()
    assert (refused.value.current, refused.value.head) == ("9999", HEAD)


def test_a_schema_that_is_behind_is_named_so(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = tmp_path / "migrations"
    shutil.copytree(migrations_path(), newer)
    (newer / "versions" / "9999_newer.py").write_text(
        f'"""A later step."""\nrevision = "9999"\ndown_revision = "{HEAD}"\n'
        "def upgrade(): pass\ndef downgrade(): pass\n"
    )
    with Hub.from_url(url) as hub:
        hub.schema.upgrade()
        monkeypatch.setattr(schema, "migrations_path", lambda: newer)
        monkeypatch.setattr(schema, "HEAD", "9999")
        with pytest.raises(SchemaOutOfDate, match=r"behind.*db upgrade") as refused:
            hub.unit_of_work()
        assert (refused.value.current, refused.value.head) == (HEAD, "9999")
        health = hub.health()
        assert (health.ok, health.error) == (False, refused.value.message)
        assert (health.schema.current, health.schema.head) == (HEAD, "9999")
        assert hub.schema.upgrade().current == "9999"
        assert hub.unit_of_work().state == "new"
        assert hub.schema.downgrade(HEAD).current == HEAD


def test_a_database_that_refuses_is_told_by_health(url: str) -> None:
    with Hub.from_url(url) as hub:
        hub.schema.upgrade()
        assert hub.health().ok
        assert hub.health().schema.is_current


def test_the_history_lists_every_step(url: str) -> None:
    manager = DatabaseConnectionManager(url)
    steps = DatabaseSchemaManager(manager)
    assert [step.is_current for step in steps.history()].count(True) == 0
    steps.upgrade()
    history = steps.history()
    manager.close()
    assert (history[0].id, history[0].is_current) == (HEAD, True)
    assert history[-1].id == "hub_0001"
    assert "sync jobs" in history[-1].summary


def alembic(*arguments: str) -> str:
    """What `alembic` itself prints, run in a checkout."""
    command = [sys.executable, "-m", "alembic", *arguments]
    done = subprocess.run(
        command, cwd=CHECKOUT, capture_output=True, text=True, timeout=300, check=True
    )
    return done.stdout


def tables(url: str) -> set[str]:
    engine = create_engine(url)
    found = set(inspect(engine).get_table_names())
    engine.dispose()
    return found


@pytest.mark.once
def test_alembic_itself_goes_up_and_down_from_a_checkout(url: str) -> None:
    chosen = ("-x", f"url={url}")
    alembic(*chosen, "upgrade", "head")
    assert {"integrations", "webhooks", "sync_jobs"} < tables(url)
    assert HEAD in alembic(*chosen, "current")
    alembic(*chosen, "check")
    alembic(*chosen, "downgrade", "base")
    assert tables(url) == {"integration_hub_alembic_version"}
    alembic(*chosen, "upgrade", "head")
    with Hub.from_url(url) as hub:
        assert hub.schema.check().current == HEAD


@pytest.mark.once
def test_alembic_itself_writes_sql_that_works(url: str) -> None:
    sql = alembic("-x", f"url={url}", "upgrade", "head", "--sql")
    engine = create_engine(url)
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        run = driver.executescript if url.startswith("sqlite") else driver.execute
        run(sql)
        connection.commit()
    engine.dispose()
    with Hub.from_url(url) as hub:
        assert hub.schema.check().current == HEAD


def test_a_downgrade_leaves_the_tables_of_others_alone(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE orders (id integer)")
    with Hub.from_url(url) as hub:
        hub.schema.upgrade()
        assert hub.schema.check().is_current
        hub.schema.downgrade("base")
    engine.dispose()
    assert "orders" in tables(url)


def test_what_is_stored_outlives_a_way_down_and_up_again(url: str) -> None:
    with Hub.from_url(url) as hub:
        hub.schema.upgrade()
        with hub.unit_of_work() as uow:
            crm = IntegrationFactory(with_webhooks=1, active=True, tags=["a"], store=uow)
            due = Schedule.once(hub.clock.now())
            job = SyncJobFactory(
                integration_id=crm.id, schedule=due, checkpoint={"n": 1}, store=uow
            )
            uow.messages.publish("invoice.paid", {"id": 7})
            uow.commit()
        with hub.unit_of_work() as uow:
            (lost,) = uow.sync_jobs.claim("w1")
            uow.commit()
        for revision in ("hub_0003", "hub_0002", "hub_0001"):
            hub.schema.downgrade(revision)
        assert hub.schema.upgrade().current == HEAD
    with Hub.from_url(url) as hub, hub.unit_of_work() as uow:
        assert uow.integrations.get(crm.id) == crm
        assert uow.webhooks.count() == 1
        (run,) = uow.sync_jobs.claim("w2")  # though its run went with the table
        assert (run.sync_job_id, run.checkpoint) == (job.id, {"n": 1})
        assert [each.id for each in uow.sync_runs.history(job.id)] == [run.id] != [lost.id]


def test_an_unknown_revision_is_refused(url: str) -> None:
    with Hub.from_url(url) as hub, pytest.raises(ValidationError) as refused:
        hub.schema.upgrade("7777")
    assert refused.value.field == "revision"


def test_the_sql_of_an_upgrade_is_given_offline(url: str) -> None:
    with Hub.from_url(url) as hub:
        sql = hub.schema.sql()
    assert "CREATE TABLE integrations" in sql
    assert ("USING gin" in sql) is url.startswith("postgresql")


def _upgrade(url: str, outcomes: Any) -> None:
    with Hub.from_url(url) as hub:
        outcomes.put(hub.schema.upgrade().current)


@pytest.mark.once  # the database decides who works, and who waits
def test_two_processes_upgrade_at_once(hub_postgres_server: URL) -> None:
    context = multiprocessing.get_context("spawn")
    outcomes = context.Queue()
    with temporary_database(hub_postgres_server) as database:
        url = database.render_as_string(hide_password=False)
        workers = [context.Process(target=_upgrade, args=(url, outcomes)) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0, 0]
        assert [outcomes.get(timeout=10) for _ in workers] == [HEAD, HEAD]
    outcomes.close()
    outcomes.join_thread()
