"""The mock that stands for a connection manager in a service's tests."""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from sqlalchemy import JSON, Integer, column, exc, select, table, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from integration_hub import (
    DatabaseConnectionManager,
    DatabaseUnavailable,
    MockDatabaseConnection,
    StorageError,
    ValidationError,
)


@dataclass
class Row:
    name: str
    count: int


class Base(DeclarativeBase): ...


class Shop(Base):
    __tablename__ = "shops"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    key: Mapped[uuid.UUID]


def names(database: DatabaseConnectionManager) -> list[str]:
    """Code of a service, that knows of no mock."""
    with database.transaction() as connection:
        return list(connection.execute(text("SELECT name FROM shops")).scalars())


def test_code_that_takes_a_manager_takes_the_mock() -> None:
    mock = MockDatabaseConnection()
    mock.script("FROM shops", rows=[{"name": "a"}, {"name": "b"}])
    assert names(mock) == ["a", "b"]
    assert repr(mock) == "MockDatabaseConnection()"


def test_answers_are_results_of_sqlalchemy() -> None:
    mock = MockDatabaseConnection()
    mock.script("FROM shops", rows=[{"name": "a", "count": 1}, {"name": "b", "count": 2}])
    with mock.transaction() as connection:
        asked = text("SELECT name, count FROM shops")
        assert connection.execute(asked).all() == [("a", 1), ("b", 2)]
        assert connection.execute(asked).scalar() == "a"
        assert [row.name for row in connection.execute(asked)] == ["a", "b"]
        assert [row["count"] for row in connection.execute(asked).mappings()] == [1, 2]
        assert [len(part) for part in connection.execute(asked).partitions(1)] == [1, 1]


def test_an_answer_without_rows_is_an_answer() -> None:
    mock = MockDatabaseConnection()
    mock.script("shops")
    mock.script("FROM carts", columns=["id", "total"])
    with mock.transaction() as connection:
        for sql in ("SELECT name FROM shops", "DELETE FROM shops RETURNING name"):
            assert connection.execute(text(sql)).scalars().all() == []
        assert not connection.execute(text("DELETE FROM shops")).returns_rows
    mock.script("PRAGMA", rows=[{"journal_mode": "wal"}])
    assert mock.query("PRAGMA journal_mode").rows == [{"journal_mode": "wal"}]
    found = mock.query("SELECT * FROM carts")
    assert (found.rows, found.row_count, found.columns) == ([], 0, ("id", "total"))


def test_what_a_statement_changed_is_scripted_too() -> None:
    mock = MockDatabaseConnection()
    mock.script("UPDATE shops", row_count=3)
    assert mock.query("UPDATE shops SET open = true").row_count == 3
    with mock.transaction() as connection:
        changed = connection.execute(text("UPDATE shops SET open = :x"), [{"x": 1}, {"x": 2}])
        assert changed.rowcount == 6
    assert [query.params for query in mock.queries] == [{}, {"x": 1}, {"x": 2}]


def test_json_passes_as_it_is() -> None:
    mock = MockDatabaseConnection()
    mock.script("UPDATE shops")
    mock.script("FROM shops", rows=[{"id": 7, "meta": {"open": True}}])
    mock.query("UPDATE shops SET meta = :meta", {"meta": {"open": False}})
    assert mock.queries[0].params == {"meta": {"open": False}}
    shops = table("shops", column("id", Integer), column("meta", JSON))
    with mock.transaction() as connection:
        assert connection.execute(select(shops)).all() == [(7, {"open": True})]


def test_rows_have_the_same_columns() -> None:
    mock = MockDatabaseConnection()
    with pytest.raises(ValidationError, match="must have the columns id, name") as refused:
        mock.script("shops", rows=[{"id": 1, "name": "a"}, {"id": 2}])
    assert (refused.value.field, refused.value.value) == ("rows[1]", "id")


def test_sessions_load_and_store_objects() -> None:
    mock = MockDatabaseConnection()
    key = uuid.uuid4()
    mock.script("FROM shops", rows=[{"id": 7, "name": "a", "key": key}])
    mock.script("INSERT INTO shops", rows=[{"id": 8}])
    mock.script("UPDATE shops", row_count=1)
    mock.script("WHERE shops.name")
    with mock.session() as session:
        found = session.scalars(select(Shop)).one()
        assert (found.id, found.name, found.key) == (7, "a", key)
        assert session.scalars(select(Shop).where(Shop.name == "z")).all() == []
        found.name = "b"
        session.add(made := Shop(name="c", key=key))
        session.flush()
        assert made.id == 8
        session.commit()
    assert {"name": "b", "shops_id": 7} in [query.params for query in mock.queries]
    assert (mock.commits, mock.rollbacks) == (1, 0)


def test_scripted_rows_are_given_and_queries_are_recorded() -> None:
    mock = MockDatabaseConnection()
    mock.script("FROM shops", rows=[{"name": "a", "count": 1}, {"name": "b", "count": 2}])
    plain = mock.query("SELECT * FROM shops WHERE x = :x", {"x": 1})
    assert plain.rows == [{"name": "a", "count": 1}, {"name": "b", "count": 2}]
    assert (plain.row_count, plain.columns) == (2, ("name", "count"))
    assert mock.query("SELECT * FROM shops", into=Row) == [Row("a", 1), Row("b", 2)]
    assert [(query.sql, query.params) for query in mock.queries] == [
        ("SELECT * FROM shops WHERE x = :x", {"x": 1}),
        ("SELECT * FROM shops", {}),
    ]


def test_the_script_that_was_written_last_is_tried_first() -> None:
    mock = MockDatabaseConnection()
    mock.script("FROM shops", rows=[{"n": 1}])
    mock.script("FROM shops WHERE", rows=[{"n": 2}])
    assert mock.query("SELECT n FROM shops WHERE true").rows == [{"n": 2}]
    assert mock.query("SELECT n FROM shops").rows == [{"n": 1}]


def test_a_statement_that_fits_no_script_is_refused() -> None:
    with pytest.raises(ValidationError, match="fits no script") as refused:
        MockDatabaseConnection().query("SELECT 1")
    assert refused.value.field == "sql"


def test_what_is_no_statement_or_no_parameters_is_refused_as_by_the_real_one() -> None:
    wrong: Any = 5
    mock = MockDatabaseConnection()
    mock.script("shops")
    for sql, params in ((wrong, None), ("shops", wrong)):
        with pytest.raises(ValidationError, match="must be a"):
            mock.query(sql, params)
    assert (mock.queries, mock.commits) == ([], 0)


def test_a_row_that_does_not_fit_names_its_column_as_the_real_one_does() -> None:
    mock = MockDatabaseConnection()
    mock.script("shops", rows=[{"name": "a", "count": "many"}])
    with pytest.raises(ValidationError) as refused:
        mock.query("SELECT * FROM shops", into=Row)
    assert refused.value.field == "count"


def test_transactions_are_counted_by_their_end() -> None:
    mock = MockDatabaseConnection()
    mock.script("DELETE", error=DatabaseUnavailable("gone"))
    mock.script("INSERT")
    insert = text("INSERT INTO shops VALUES (1)")
    with mock.transaction() as connection:
        assert connection.execute(insert).rowcount == 0
    with pytest.raises(DatabaseUnavailable, match="gone"), mock.transaction() as connection:
        connection.execute(text("DELETE FROM shops"))
    assert (mock.commits, mock.rollbacks) == (1, 1)
    with mock.session() as session:
        session.execute(insert)
        session.commit()
        session.execute(insert)
        session.rollback()
        session.execute(insert)
    assert (mock.commits, mock.rollbacks) == (2, 3)
    with mock.engine.begin() as connection:
        connection.execute(insert)
    assert (mock.commits, mock.rollbacks) == (3, 3)


def test_an_error_that_is_caught_has_ended_its_transaction_as_in_a_database() -> None:
    mock = MockDatabaseConnection()
    mock.script("INSERT", error=DatabaseUnavailable("gone"))
    mock.script("SELECT", rows=[{"n": 1}])
    insert = text("INSERT INTO shops VALUES (1)")
    with (
        pytest.raises(StorageError, match="earlier statement"),
        mock.transaction() as connection,
        suppress(DatabaseUnavailable),
    ):
        connection.execute(insert)
    with mock.transaction() as connection:
        with suppress(DatabaseUnavailable), connection.begin_nested():
            connection.execute(insert)
        with connection.begin_nested():
            assert connection.execute(text("SELECT 1")).scalar_one() == 1
    assert (mock.commits, mock.rollbacks) == (1, 1)
    assert [query.sql for query in mock.queries] == [str(insert), str(insert), "SELECT 1"]


def test_an_error_of_the_driver_comes_as_from_the_driver() -> None:
    mock = MockDatabaseConnection()
    mock.script("INSERT", error=psycopg.errors.UniqueViolation("shops_pkey"))
    with mock.session() as session, pytest.raises(exc.IntegrityError):
        session.execute(text("INSERT INTO shops VALUES (1)"))
    with pytest.raises(StorageError, match="UniqueViolation"):
        mock.query("INSERT INTO shops VALUES (1)")


def test_a_closed_mock_is_no_longer_connected() -> None:
    mock = MockDatabaseConnection()
    assert (mock.is_connected, mock.health().ok) == (True, True)
    assert (mock.health().database_version, mock.health().error) == ("mock", None)
    mock.close()
    assert (mock.is_connected, mock.health().ok) == (False, False)
    assert mock.health().error == "this connection manager is closed; make another"
    with pytest.raises(StorageError, match="closed"):
        mock.query("SELECT 1")
