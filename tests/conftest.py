"""What the tests share: a hub on each store."""

from __future__ import annotations

import pytest

from integration_hub import Hub


@pytest.fixture(params=["memory", "sqlite", "postgres"], ids=str)
def each_hub(request: pytest.FixtureRequest) -> Hub:
    """A hub on each of the three stores, one after the other."""
    name = {"memory": "hub", "sqlite": "hub_sqlite", "postgres": "hub_postgres"}[request.param]
    found: Hub = request.getfixturevalue(name)
    return found
