"""The connection manager, on SQLite and on Postgres."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from traceback import format_exception
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pydantic
import pytest
from sqlalchemy import URL, text
from typing_extensions import TypedDict

from integration_hub import (
    DatabaseConnectionManager,
    DatabaseUnavailable,
    Hub,
    HubError,
    Integration,
    MockDatabaseConnection,
    PoolExhausted,
    PoolSettings,
    QueryTimeout,
    SchemaOutOfDate,
    StorageError,
    StoreClosed,
    ValidationError,
)
from integration_hub.domain.values import LONGEST

PASSWORD = "s3cr3t-pass"


@dataclass
class Shop:
    id: int
    name: str


class ShopModel(pydantic.BaseModel):
    id: int
    name: str


class ShopDict(TypedDict):
    id: int
    name: str


@pytest.fixture(params=["sqlite", "postgres"])
def manager(request: pytest.FixtureRequest) -> Iterator[DatabaseConnectionManager]:
    url: str | URL = "sqlite://"
    if request.param == "postgres":
        url = request.getfixturevalue("hub_postgres_url")
    manager = DatabaseConnectionManager(url)
    manager.query("CREATE TABLE shops (id integer PRIMARY KEY, name text NOT NULL)")
    manager.query("INSERT INTO shops VALUES (1, 'north'), (2, 'south')")
    yield manager
    manager.query("DROP TABLE shops")
    manager.query("DROP TABLE IF EXISTS keys")
    manager.close()


def test_rows_come_as_mappings_where_nothing_is_said(manager: DatabaseConnectionManager) -> None:
    found = manager.query("SELECT id, name FROM shops WHERE id > :least", {"least": 1})
    assert found.rows == [{"id": 2, "name": "south"}]
    assert (found.row_count, found.columns) == (1, ("id", "name"))


def test_a_statement_without_rows_tells_how_many_it_touched(
    manager: DatabaseConnectionManager,
) -> None:
    found = manager.query("UPDATE shops SET name = 'west'")
    assert (found.rows, found.row_count, found.columns) == ([], 2, ())


def test_rows_are_mapped_into_types(manager: DatabaseConnectionManager) -> None:
    ask = "SELECT id, name FROM shops ORDER BY id"
    assert manager.query(ask, into=Shop) == [Shop(1, "north"), Shop(2, "south")]
    assert manager.query(ask, into=ShopModel)[1] == ShopModel(id=2, name="south")
    assert manager.query(ask, into=ShopDict)[0] == {"id": 1, "name": "north"}


class Size(Enum):
    SMALL = "small"


EARLY = datetime(2026, 11, 28, 7, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize(
    ("value", "kind", "on_postgres", "on_sqlite"),
    [
        (Size.SMALL, "text", "small", "small"),
        ({"b": [1, None]}, "jsonb", {"b": [1, None]}, '{"b": [1, null]}'),
        (MappingProxyType({"a": 1}), "jsonb", {"a": 1}, '{"a": 1}'),
        (UUID(int=7), "uuid", UUID(int=7), f"{7:032}"),
        (Decimal("12.50"), "numeric", Decimal("12.50"), "12.50"),
        (date(2026, 11, 28), "date", date(2026, 11, 28), "2026-11-28"),
        (EARLY, "timestamptz", EARLY, "2026-11-28 05:00:00.000000"),
        (
            EARLY.replace(tzinfo=None),
            "timestamp",
            EARLY.replace(tzinfo=None),
            "2026-11-28 07:00:00.000000",
        ),
        (None, "text", None, None),
    ],
)
@pytest.mark.filterwarnings("error")
def test_values_of_common_types_are_taken(
    manager: DatabaseConnectionManager,
    value: object,
    kind: str,
    on_postgres: object,
    on_sqlite: object,
) -> None:
    sql = f"SELECT CAST(:x AS {kind}) AS x" if manager.is_postgres else "SELECT :x AS x"
    (row,) = manager.query(sql, {"x": value}).rows
    assert row["x"] == (on_postgres if manager.is_postgres else on_sqlite)


@pytest.mark.parametrize("among", ["IN :ids", "in (:ids)", "NOT IN ( :others )"])
@pytest.mark.parametrize("kind", [list, tuple, set, frozenset])
def test_a_list_may_stand_behind_in(
    manager: DatabaseConnectionManager, among: str, kind: type[list[int]]
) -> None:
    params = {"ids": kind((1, 3)), "others": kind((2, 4)), "north": "north"}
    sql = f"SELECT id FROM shops WHERE name = :north AND id {among}"
    assert manager.query(sql, params).rows == [{"id": 1}]
    assert params == {"ids": kind((1, 3)), "others": kind((2, 4)), "north": "north"}
    assert manager.query("SELECT id FROM shops WHERE id IN :ids", {"ids": kind()}).rows == []
    assert manager.query("SELECT id FROM shops WHERE id IN (:one)", {"one": 2}).rows == [{"id": 2}]


def test_ids_of_the_hub_s_own_tables_are_found_by_uuids(
    manager: DatabaseConnectionManager,
) -> None:
    key, moment = UUID(int=7), datetime(2026, 11, 28, 7, tzinfo=UTC)
    with Hub.from_url(manager.url) as hub:
        hub.schema.upgrade()
        with hub.unit_of_work() as uow:
            uow.integrations.add(Integration(id=key, name="CRM", type="crm"))
            uow.commit()
    ask = "SELECT name FROM integrations WHERE created_at > :moment AND id"
    assert manager.query(f"{ask} = :key", {"key": key, "moment": moment}).rows == [{"name": "CRM"}]
    found = manager.query(f"{ask} IN :keys", {"keys": [key], "moment": moment})
    assert found.rows == [{"name": "CRM"}]


def test_a_parameter_may_be_cast_as_postgres_writes_it() -> None:
    mock = MockDatabaseConnection()
    mock.script("SELECT")
    mock.query("SELECT :x::int, x::text, '::1', ' :y::z'", {"x": 1})
    assert mock.queries[0].sql == "SELECT (:x)::int, x::text, '::1', ' :y::z'"


def test_what_can_t_be_done_in_a_transaction_says_so(hub_postgres_url: URL) -> None:
    manager = DatabaseConnectionManager(hub_postgres_url)
    with pytest.raises(StorageError, match="VACUUM cannot run inside a transaction"):
        manager.query("VACUUM")
    assert manager.query("SELECT :x::int + 1 AS n", {"x": "5"}).rows == [{"n": 6}]
    manager.close()


def test_a_row_that_does_not_fit_names_the_column(manager: DatabaseConnectionManager) -> None:
    with pytest.raises(ValidationError) as refused:
        manager.query("SELECT 'x' AS id, name FROM shops", into=Shop)
    assert refused.value.field == "id"
    assert "Shop" in refused.value.message


def test_a_type_that_cannot_hold_rows_is_refused(manager: DatabaseConnectionManager) -> None:
    class Plain:
        pass

    with pytest.raises(ValidationError) as refused:
        manager.query("SELECT id, name FROM shops", into=Plain)
    assert refused.value.field == "into"


def test_two_columns_of_one_name_are_refused_and_nothing_is_done(
    manager: DatabaseConnectionManager,
) -> None:
    with pytest.raises(ValidationError) as refused:
        manager.query("UPDATE shops SET name = 'west' RETURNING id, name, name || '!' AS id")
    assert (refused.value.field, refused.value.value) == ("sql", "id")
    assert manager.query("SELECT id FROM shops WHERE name = 'west'").rows == []


def test_a_transaction_is_kept_or_undone_as_a_whole(manager: DatabaseConnectionManager) -> None:
    with manager.transaction() as connection:
        connection.execute(text("INSERT INTO shops VALUES (3, 'east')"))
    with pytest.raises(StorageError), manager.transaction() as connection:
        list(map(connection.execute, [text("DELETE FROM shops"), text("SELEKT")]))
    assert manager.query("SELECT count(*) AS n FROM shops").rows == [{"n": 3}]


def test_a_session_is_one_of_sqlalchemy_s_own(manager: DatabaseConnectionManager) -> None:
    with manager.session() as session, session.begin():
        session.execute(text("INSERT INTO shops VALUES (3, 'east')"))
    with manager.session() as session:
        assert session.execute(text("SELECT count(*) FROM shops")).scalar_one() == 3


@pytest.mark.parametrize(
    ("statement", "error", "named"),
    [
        ("SELECT * FROM nowhere", SchemaOutOfDate, "nowhere"),
        ("SELECT absent FROM shops", SchemaOutOfDate, "absent"),
        ("INSERT INTO shops VALUES (1, 'again')", StorageError, "refused"),
        ("SELEKT", StorageError, "refused"),
    ],
)
def test_faults_come_as_errors_of_the_package(
    manager: DatabaseConnectionManager, statement: str, error: type[HubError], named: str
) -> None:
    with pytest.raises(error, match=named):
        manager.query(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO shops VALUES (1, :name)",
        "INSERT INTO keys VALUES (:name, 1)",
        "INSERT INTO keys VALUES ('other' || :name, -1)",
        "INSERT INTO keys VALUES ('other' || :name, NULL)",
        "INSERT INTO keys SELECT :name, CAST(absent.name AS integer) FROM shops AS absent",
    ],
)
def test_parameters_stay_out_of_errors_and_logs(
    manager: DatabaseConnectionManager, caplog: pytest.LogCaptureFixture, statement: str
) -> None:
    manager.query("CREATE TABLE keys (id varchar(99) PRIMARY KEY, n int NOT NULL CHECK (n > 0))")
    manager.query("INSERT INTO keys VALUES (:name, 1)", {"name": PASSWORD})
    manager.query("UPDATE shops SET name = :name", {"name": PASSWORD})
    caplog.set_level(logging.DEBUG)
    with pytest.raises(StorageError) as refused:
        manager.query(statement, {"name": PASSWORD})
    assert PASSWORD not in caplog.text
    assert PASSWORD not in "".join(format_exception(refused.value))


@pytest.mark.parametrize(
    ("sql", "params", "field", "words"),
    [
        ("SELECT :x, :y", {"x": 1}, "params", "bind parameter 'y'"),
        ("SELECT ':x'", None, "params", r"write \: for a plain colon"),
        ("SELECT :x", {"x": "\ud800"}, "params", "lone surrogates"),
        ("SELECT :x", [("x", 1)], "params", "a mapping of names to values"),
        ("SELECT :x", {"x": {"y": {1}}}, "params", "must hold what JSON can: "),
        (text("SELECT 1"), None, "sql", "a statement in text"),
    ],
)
def test_a_question_that_can_t_be_asked_is_refused(
    manager: DatabaseConnectionManager, sql: Any, params: Any, field: str, words: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        manager.query(sql, params)
    assert refused.value.field == field
    assert words in refused.value.message
    assert manager.query(r"SELECT '\:x' AS colon").rows == [{"colon": ":x"}]


@pytest.mark.parametrize(
    ("sql", "params", "words"),
    [
        ("SELEC 1", {}, {"postgresql": "SyntaxError near character 1", "sqlite": "SQLITE_ERROR"}),
        (
            "SELECT lower(name, name) FROM shops",
            {},
            {"postgresql": "function lower(text, text) does not exist", "sqlite": "SQLITE_ERROR"},
        ),
        ("SELECT :x", {"x": object()}, {"postgresql": "type 'object'", "sqlite": "type 'object'"}),
    ],
)
def test_what_a_statement_can_t_mean_is_told(
    manager: DatabaseConnectionManager, sql: str, params: dict[str, Any], words: dict[str, str]
) -> None:
    with pytest.raises(StorageError) as refused:
        manager.query(sql, params)
    assert words[manager.url.get_backend_name()] in refused.value.message


def test_health_tells_latency_version_and_pool(manager: DatabaseConnectionManager) -> None:
    with manager.transaction():
        health = manager.health()
    assert health.ok
    assert health.error is None
    assert health.latency.total_seconds() > 0
    assert health.database_version is not None
    assert health.database_version.split()[0] in ("PostgreSQL", "SQLite")
    assert (health.pool.size, health.pool.in_use) == (5, 1)
    assert manager.is_connected


def test_health_is_told_at_once_where_all_connections_are_lent_out(
    manager: DatabaseConnectionManager,
) -> None:
    pool = PoolSettings(size=1, max_overflow=1, timeout=0.01)
    full = DatabaseConnectionManager(manager.url, pool=pool)
    with full.reading(), full.reading():
        with pytest.raises(PoolExhausted):
            full.query("SELECT 1")
        health = full.health()
        assert (health.ok, health.pool.in_use, full.is_connected) == (True, 2, True)
    assert full.query("SELECT 1 AS one").rows == [{"one": 1}]
    full.close()


def test_limits_may_be_longer_than_a_database_can_count(
    manager: DatabaseConnectionManager,
) -> None:
    pool = PoolSettings(timeout=LONGEST, recycle=LONGEST)
    patient = DatabaseConnectionManager(
        manager.url,
        pool=pool,
        connect_timeout=LONGEST,
        statement_timeout=LONGEST,
        lock_timeout=LONGEST,
    )
    assert patient.query("SELECT 1 AS one").rows == [{"one": 1}]
    patient.close()


def test_a_manager_that_is_closed_says_so(manager: DatabaseConnectionManager) -> None:
    closed = DatabaseConnectionManager(manager.url)
    closed.query("SELECT 1")
    closed.close()
    health = closed.health()
    assert (closed.is_connected, health.ok) == (False, False)
    for use in (lambda: closed.query("SELECT 1"), closed.session, closed.transaction().__enter__):
        with pytest.raises(StoreClosed, match="is closed; make another") as refused:
            use()
        assert refused.value.message == health.error


def test_a_private_sqlite_database_goes_with_its_manager() -> None:
    manager = DatabaseConnectionManager("sqlite://")
    assert manager.is_connected
    file = Path(str(manager.url.database))
    assert file.exists()
    manager.close()
    manager.close()
    assert not file.parent.exists()


def test_a_sqlite_file_that_is_none_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database at all, but long enough to be looked at" * 10)
    for name in ("text.db", "no/such/folder.db"):
        manager = DatabaseConnectionManager(f"sqlite:///{tmp_path / name}")
        with pytest.raises(DatabaseUnavailable):
            manager.query("SELECT 1")
        assert not manager.is_connected
        manager.close()


def test_a_sqlite_file_that_another_writes_is_waited_for_within_the_limit(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'hub.db'}"
    holder = DatabaseConnectionManager(url)
    other = DatabaseConnectionManager(url, lock_timeout=0.05)
    with holder.transaction(), pytest.raises(QueryTimeout), other.transaction():
        pass
    holder.close()
    other.close()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_the_ways_to_write_postgres_mean_the_same(scheme: str) -> None:
    manager = DatabaseConnectionManager(f"{scheme}://user:{PASSWORD}@localhost/db")
    assert manager.is_postgres
    assert manager.url.drivername == "postgresql+psycopg"
    assert PASSWORD not in repr(manager)
    manager.close()


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("pool.size", lambda: PoolSettings(size=0)),
        ("pool.max_overflow", lambda: PoolSettings(max_overflow=-1)),
        ("pool.timeout", lambda: PoolSettings(timeout=-1)),
        ("statement_timeout", lambda: DatabaseConnectionManager("sqlite://", statement_timeout=-1)),
        ("lock_timeout", lambda: DatabaseConnectionManager("sqlite://", lock_timeout=-1)),
    ],
)
def test_settings_out_of_bounds_are_refused(field: str, make: object) -> None:
    with pytest.raises(ValidationError) as refused:
        make()  # type: ignore[operator]
    assert refused.value.field == field
