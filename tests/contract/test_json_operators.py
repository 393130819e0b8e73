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
