"""The mock that stands for a connection manager in a service's tests."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import text

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


def test_it_has_the_surface_of_the_real_one() -> None:
    for name in ("query", "transaction", "session", "health", "close", "is_connected", "engine"):
        assert hasattr(MockDatabaseConnection(), name), name
    for name in ("query", "transaction", "session", "health", "close"):
        real = inspect.signature(getattr(DatabaseConnectionManager, name))
        mock = inspect.signature(getattr(MockDatabaseConnection, name))
        assert list(mock.parameters) == list(real.parameters), name


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
    with mock.transaction() as connection:
        assert connection.execute(text("INSERT INTO shops")).row_count == 0
    with pytest.raises(DatabaseUnavailable), mock.transaction() as connection:
        connection.execute("DELETE FROM shops")
    assert (mock.commits, mock.rollbacks) == (1, 1)
    with mock.session() as session:
        session.execute("INSERT INTO shops")
        session.commit()
        session.rollback()
    with mock.engine.begin() as connection:
        connection.execute("INSERT INTO shops")
    assert (mock.commits, mock.rollbacks) == (3, 2)


def test_a_closed_mock_is_no_longer_connected() -> None:
    mock = MockDatabaseConnection()
    assert (mock.is_connected, mock.health().ok) == (True, True)
    assert (mock.health().database_version, mock.health().error) == ("mock", None)
    mock.close()
    assert (mock.is_connected, mock.health().ok) == (False, False)
    assert mock.health().error == "this mock is closed"
    with pytest.raises(StorageError, match="closed"):
        mock.query("SELECT 1")
