"""A hub on each store: for the contracts one after the other, and three to drive side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from sqlalchemy import URL, Engine, create_engine, event

from integration_hub import EVERY_TENANT, Hub, HubError, UnitOfWork
from integration_hub.ports.unit_of_work import Tenant
from integration_hub.testing import ManualClock
from integration_hub.testing.postgres import temporary_database
from strategies import START


class OnMemory:
    """The plugin's own `hub` is the one in memory."""


class OnSqlite:
    @pytest.fixture
    def hub(self, hub_sqlite: Hub) -> Hub:
        return hub_sqlite


class OnPostgres:
    @pytest.fixture
    def hub(self, hub_postgres: Hub) -> Hub:
        return hub_postgres


class OnTracedPostgres:
    """Where somebody traces what SQLAlchemy executes, as OpenTelemetry does: all goes by way of it,
    and nothing straight to psycopg.
    """

    @pytest.fixture
    def hub(self, hub_postgres: Hub) -> Iterator[Hub]:
        event.listen(Engine, "before_cursor_execute", _hear)
        yield hub_postgres
        event.remove(Engine, "before_cursor_execute", _hear)


def _hear(*call: object) -> None:
    """That there is somebody who does is all that counts."""


def names(hub: Hub) -> list[str]:
    """Those of the integrations that are stored."""
    with hub.unit_of_work() as uow:
        return sorted(item.name for item in uow.integrations.find())


@contextmanager
def side_by_side(
    server: URL, folder: Path, tables: Sequence[str], clock: ManualClock
) -> Iterator[Callable[[], dict[str, Hub]]]:
    """Gives a function that empties the tables, sets the clock to `START`, and gives three hubs."""
    with temporary_database(server) as database, ExitStack() as stack:
        urls: dict[str, str | URL] = {
            "sqlite": f"sqlite:///{folder / 'hub.db'}",
            "postgres": database,
        }
        hubs = {
            store: stack.enter_context(Hub.from_url(url, clock=clock))
            for store, url in urls.items()
        }
        engines = [create_engine(url) for url in urls.values()]
        for engine in engines:
            stack.callback(engine.dispose)
        for hub in hubs.values():
            hub.schema.upgrade()

        def start_over() -> dict[str, Hub]:
            clock.set(START)
            for engine in engines:
                with engine.begin() as connection:
                    for table in tables:
                        connection.exec_driver_sql(f"DELETE FROM {table}")
            return {"memory": Hub.in_memory(clock=clock), **hubs}

        yield start_over


Act: TypeAlias = Callable[[UnitOfWork], Any]


def ask_all(
    hubs: Mapping[str, Hub],
    act: Callable[[str], Act],
    shown: Callable[[Any], Any],
    *,
    tenant: Tenant = EVERY_TENANT,
    atomic: bool = True,
) -> dict[str, Any]:
    """What each store gives, as it is; as `shown`, or as an error, all must be the same."""
    values: dict[str, Any] = {}
    answers: dict[str, Any] = {}
    for store, hub in hubs.items():
        values[store] = []
        with hub.unit_of_work(tenant=tenant, actor="w", atomic=atomic) as uow:
            try:
                values[store] = act(store)(uow)
                answers[store] = shown(values[store])
            except HubError as error:
                answers[store] = (type(error).__name__, error.code)
            uow.commit()
    for store, answer in answers.items():
        assert answer == answers["memory"], f"{store} differs from memory"
    return values
