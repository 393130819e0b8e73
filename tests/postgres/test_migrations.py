"""The schema's history: up, down and up again, no drift, two at once, and when it does not fit."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import URL, create_engine

from integration_hub import Hub, SchemaOutOfDate, ValidationError
from integration_hub.testing.postgres import temporary_database


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'hub.db'}"
        return
    with temporary_database(request.getfixturevalue("hub_postgres_server")) as database:
        yield database.render_as_string(hide_password=False)


def test_up_down_and_up_again_without_drift(url: str) -> None:
    with Hub.from_url(url) as hub:
        head = hub.schema.upgrade().head
        assert hub.schema.check().current == head == "0001"
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
    assert (refused.value.current, refused.value.head) == ("9999", "0001")


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
        assert [outcomes.get(timeout=10) for _ in workers] == ["0001", "0001"]
    outcomes.close()
    outcomes.join_thread()
