"""What goes past SQLAlchemy to psycopg's own cursor: arrays in text, JSON, transactions."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import URL

from integration_hub import (
    DatabaseConnectionManager,
    DatabaseUnavailable,
    PostgresUnitOfWork,
)
from integration_hub.sql.prepared import OwnCursor, array_text, concise
from integration_hub.sql.run_statements import RunStatements
from integration_hub.sql.unit_of_work import MANY_ROWS
from integration_hub.testing.factories import IntegrationFactory
from integration_hub.testing.postgres import dsn

#: What psycopg takes apart once, and remembers; see `psycopg._queries`.
MOST_REMEMBERED = 4_096

WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
DOCUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=10,
)
EXPLORING = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def cursor(hub_postgres_url: URL) -> Any:
    with psycopg.connect(dsn(hub_postgres_url), autocommit=True) as connection:
        yield OwnCursor(connection)


@EXPLORING
@given(st.lists(st.none() | WORDS | st.sampled_from(["NULL", "null", "{}", '"', "\\", ",", " "])))
def test_postgres_reads_the_words_that_were_written(cursor: OwnCursor, words: list[Any]) -> None:
    words = [*words, "the end"]
    assert cursor.execute("SELECT %s::text[]", [array_text(words)]).fetchone() == (words,)


@EXPLORING
@given(DOCUMENTS)
def test_json_is_read_as_psycopg_reads_it(cursor: OwnCursor, document: Any) -> None:
    asked = "SELECT %s::jsonb", [json.dumps(document)]
    [(own,)] = cursor.execute(*asked).fetchall()
    [(theirs,)] = cursor.connection.execute(*asked).fetchall()
    assert json.dumps(own) == json.dumps(theirs)  # True is not 1, and 1.0 not 1


def test_json_that_was_read_cannot_be_changed(cursor: OwnCursor) -> None:
    for length in (1, 1_000):
        [(found,)] = cursor.execute("SELECT %s::jsonb", [json.dumps([[1] * length])]).fetchall()
        with pytest.raises(TypeError, match="frozen"):
            found[0][0] = 2


@pytest.mark.parametrize("limit", [1, 100, 1_000])
def test_psycopg_remembers_the_statements_of_runs(limit: int) -> None:
    statements = RunStatements("postgresql")
    for far in (False, True):
        assert len(statements.claim(limit, far=far).text) <= MOST_REMEMBERED
    assert len(statements.end.text) <= MOST_REMEMBERED


def test_a_concise_statement_has_no_comments() -> None:
    assert concise("SELECT 1  -- one\n    FROM t\n") == "SELECT 1 FROM t"


def test_a_pooled_connection_does_not_hold_on_to_a_large_answer(hub_postgres_url: URL) -> None:
    manager = DatabaseConnectionManager(hub_postgres_url)
    with PostgresUnitOfWork(manager) as uow:
        uow.integrations.add_many(IntegrationFactory.build_batch(MANY_ROWS + 1))
        uow.commit()
    held = []
    for limit in (1, MANY_ROWS + 1, 1):
        with PostgresUnitOfWork(manager) as uow:
            assert len(uow.integrations.find(limit=limit)) == limit
            answer = uow.connected().info["integration_hub_cursor"].pgresult
            held.append(answer.ntuples if answer else 0)
    assert held == [1, 0, 1]
    manager.close()


def test_a_transaction_can_not_begin_on_a_connection_that_was_cut(hub_postgres_url: URL) -> None:
    manager = DatabaseConnectionManager(hub_postgres_url)
    with PostgresUnitOfWork(manager) as uow:
        assert uow.integrations.count() == 0  # nothing is begun yet
        cut = "SELECT pg_terminate_backend(:own, 5000)"
        own = uow.connected().exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        assert manager.query(cut, {"own": own}).row_count == 1
        with pytest.raises(DatabaseUnavailable):
            uow.integrations.add(IntegrationFactory.build())
    with PostgresUnitOfWork(manager) as uow:
        uow.integrations.add(IntegrationFactory.build())
        uow.commit()
    manager.close()
