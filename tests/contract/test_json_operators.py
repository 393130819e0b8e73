"""Containment, asked of Postgres, SQLite and Python directly; the top of a document too."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import URL

from integration_hub import DatabaseConnectionManager
from integration_hub.domain.frozen_json import json_contains
from integration_hub.testing.contracts.json import CONTAINMENT

ON_SQLITE = "SELECT integration_hub_json_contains(:document, :fragment) AS answer"
ON_POSTGRES = "SELECT CAST(:document AS jsonb) @> CAST(:fragment AS jsonb) AS answer"


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Any:
    url: str | URL = "sqlite://"
    if request.param == "postgres":
        url = request.getfixturevalue("hub_postgres_server")
    manager = DatabaseConnectionManager(url)
    yield manager
    manager.close()


def test_containment_is_the_same_everywhere(database: DatabaseConnectionManager) -> None:
    statement = ON_POSTGRES if database.is_postgres else ON_SQLITE
    for document, fragment, expected in CONTAINMENT:
        if isinstance(document, dict) and 1e100 in document.values():
            continue  # as plain JSON text, 1e100 is the power of ten; a config makes it exact
        texts = {"document": json.dumps(document), "fragment": json.dumps(fragment)}
        answer = database.query(statement, texts).rows[0]["answer"]
        assert bool(answer) is expected, (document, fragment)
        assert json_contains(document, fragment) is expected, (document, fragment)


@pytest.mark.parametrize(
    ("document", "texts", "expected"),
    [
        ('["a", "b"]', ["b", "c"], True),
        ('["a", "b"]', ["c"], False),
        ('["a"]', [], False),
        ('{"a": 1}', ["a"], True),
        ('"a"', ["a"], True),
        ('"ab"', ["a"], False),
        ("7", ["7"], False),
        ("null", ["null"], False),
        (None, ["a"], None),
    ],
)
def test_whether_one_of_some_texts_is_there_is_the_same_everywhere(
    database: DatabaseConnectionManager,
    document: str | None,
    texts: list[str],
    expected: bool | None,
) -> None:
    """Of whatever stands in a column, by hand too."""
    if database.is_postgres:
        statement = "SELECT CAST(:document AS jsonb) ?| CAST(:texts AS text[]) AS answer"
        given: object = texts
    else:
        statement = "SELECT integration_hub_json_has_any(:document, :texts) AS answer"
        given = json.dumps(texts)
    (row,) = database.query(statement, {"document": document, "texts": given}).rows
    assert (None if row["answer"] is None else bool(row["answer"])) is expected
