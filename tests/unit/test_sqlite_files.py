"""A SQLite file that can't be used is named, and what could not be stored can be stored later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from integration_hub import (
    DatabaseConnectionManager,
    DatabaseUnavailable,
    Err,
    Hub,
    HubSettings,
    Integration,
    PoolSettings,
    SqliteUnitOfWork,
    StorageError,
    UnitOfWork,
)
from integration_hub.sql.models import metadata
from integration_hub.testing import IntegrationFactory

PAGE = 4096  # bytes
in_each_block = pytest.mark.parametrize(
    "block", [lambda _: nullcontext(), lambda uow: uow.savepoint()], ids=["plain", "savepoint"]
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that is set up."""
    found = tmp_path / "hub.db"
    with Hub.from_url(f"sqlite:///{found}") as hub:
        hub.schema.upgrade()
    return found


def add(uow: UnitOfWork) -> Integration:
    return uow.integrations.add(Integration(name="CRM", type="salesforce"))


def test_a_hub_whose_tables_are_in_a_service_s_own_history_is_well(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'own.db'}"
    engine = create_engine(url)
    metadata.create_all(engine)
    engine.dispose()
    with Hub.from_url(url) as hub:
        assert not hub.health().ok
    settings = HubSettings.model_construct(check_schema=False)
    with Hub.from_url(url, settings=settings) as hub:
        assert hub.run(add).is_ok
        health = hub.health()
        assert (health.ok, health.error, health.schema.current) == (True, None, None)


def refused(url: str) -> str:
    """What is said where nothing can be added."""
    with Hub.from_url(url) as hub:
        outcome = hub.run(add)
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, DatabaseUnavailable)
    return outcome.error.message


def test_a_file_in_no_folder_is_named(tmp_path: Path) -> None:
    where = tmp_path / "nowhere" / "hub.db"
    assert f"unable to open database file ({where})" in refused(f"sqlite:///{where}")


def test_a_file_that_is_something_else_is_named(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("call them back\n" * 1_000)
    assert f"file is not a database ({notes})" in refused(f"sqlite:///{notes}")
    assert notes.read_text().startswith("call them back")


def test_a_file_that_may_not_be_written_is_named(file: Path) -> None:
    said = refused(f"sqlite:///file:{file}?mode=ro&uri=true")
    assert f"attempt to write a readonly database (file:{file})" in said


def test_a_file_that_is_damaged_is_named(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:PAGE] + b"\7" * (len(whole) - PAGE))
    assert f"database disk image is malformed ({file})" in refused(f"sqlite:///{file}")


def limit_pages(manager: DatabaseConnectionManager, pages: int) -> None:
    """Let the file have so many pages at the most, or as many as it has, for its one connection."""
    with manager.reading() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")


@pytest.fixture
def manager(file: Path) -> Iterator[DatabaseConnectionManager]:
    found = DatabaseConnectionManager(
        f"sqlite:///{file}", pool=PoolSettings(size=1, max_overflow=0)
    )
    yield found
    found.close()


def count(manager: DatabaseConnectionManager) -> int:
    with SqliteUnitOfWork(manager) as uow:
        return uow.integrations.count()


def test_what_finds_no_room_can_be_stored_when_there_is_some(
    manager: DatabaseConnectionManager, file: Path
) -> None:
    many = [IntegrationFactory.build(config={"notes": "n" * PAGE}) for _ in range(20)]
    limit_pages(manager, 1)
    with (
        pytest.raises(DatabaseUnavailable, match=f"database or disk is full .{file}"),
        SqliteUnitOfWork(manager) as uow,
    ):
        uow.integrations.add_many(many)
    assert count(manager) == 0
    limit_pages(manager, 1_000)
    with SqliteUnitOfWork(manager) as uow:
        uow.integrations.add_many(many)
        uow.commit()
    assert count(manager) == 20


@in_each_block
def test_what_sqlite_gives_up_as_a_whole_is_not_stored_in_part(
    manager: DatabaseConnectionManager,
    block: Callable[[UnitOfWork], AbstractContextManager[object]],
) -> None:
    limit_pages(manager, 1)
    with SqliteUnitOfWork(manager) as uow:
        add(uow)
        big = IntegrationFactory.build(config={"notes": "n" * 50 * PAGE})
        with pytest.raises(DatabaseUnavailable, match="disk is full"), block(uow):
            uow.integrations.add(big)
        for act in (
            lambda: uow.integrations.add(IntegrationFactory.build()),
            lambda: uow.integrations.count(),
            lambda: uow.session,
            uow.savepoint().__enter__,
            uow.commit,
        ):
            with pytest.raises(StorageError, match="roll back and start again"):
                act()
        assert uow.state == "rolled_back"
    assert count(manager) == 0


@in_each_block
@pytest.mark.parametrize("is_ours", [True, False])
def test_so_it_is_in_a_transaction_that_was_joined(
    manager: DatabaseConnectionManager,
    file: Path,
    block: Callable[[UnitOfWork], AbstractContextManager[object]],
    *,
    is_ours: bool,
) -> None:
    theirs = create_engine(f"sqlite:///{file}", poolclass=NullPool)
    event.listen(theirs, "connect", lambda c, _: c.execute("PRAGMA foreign_keys = ON"))
    event.listen(theirs, "connect", lambda c, _: c.execute("PRAGMA max_page_count = 1"))
    limit_pages(manager, 1)
    with manager.session() if is_ours else Session(theirs) as session:
        with SqliteUnitOfWork(manager, session=session) as uow:
            add(uow)
            big = IntegrationFactory.build(config={"notes": "n" * 50 * PAGE})
            with pytest.raises(DatabaseUnavailable, match="disk is full"), block(uow):
                uow.integrations.add(big)
            for act in (lambda: add(uow), uow.commit):
                with pytest.raises(StorageError, match="was lost" if is_ours else "rolled back"):
                    act()
        with pytest.raises(StorageError) if is_ours else nullcontext():
            session.commit()
    assert count(manager) == 0


@pytest.mark.parametrize("goes_on", [True, False])
def test_so_it_is_in_a_transaction_of_the_manager_s(
    manager: DatabaseConnectionManager, *, goes_on: bool
) -> None:
    with manager.transaction() as connection:
        connection.exec_driver_sql("CREATE TABLE notes (note BLOB)")
    limit_pages(manager, 1)

    def fill() -> None:
        with manager.transaction() as connection:
            connection.exec_driver_sql("INSERT INTO notes VALUES ('before')")
            with pytest.raises(OperationalError, match="disk is full"):
                connection.exec_driver_sql(f"INSERT INTO notes VALUES (zeroblob({50 * PAGE}))")
            if goes_on:
                connection.exec_driver_sql("INSERT INTO notes VALUES ('after')")

    with pytest.raises(StorageError, match="roll back and start again"):
        fill()
    assert manager.query("SELECT * FROM notes").rows == []
