"""What the tests share: a hub on each store, and how long Hypothesis looks.

The profile ``quick`` is the same walk every time, so that a run that passed passes again. In tox
(``matrix``) each interpreter has a fifth of it, and goes a way of its own, by its seed. ``long``
(``tox -e fuzz``) goes a new way each time and remembers what it found.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from integration_hub import Hub

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile(
    "quick",
    max_examples=300,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=_SLOW,
)
settings.register_profile(
    "matrix", settings.get_profile("quick"), max_examples=60, derandomize=False, print_blob=True
)
settings.register_profile(
    "long",
    max_examples=3_000,
    stateful_step_count=60,
    deadline=None,
    print_blob=True,
    suppress_health_check=_SLOW,
)
settings.load_profile("quick")


@pytest.fixture(params=["memory", "sqlite", "postgres"], ids=str)
def each_hub(request: pytest.FixtureRequest) -> Hub:
    """A hub on each of the three stores, one after the other."""
    name = {"memory": "hub", "sqlite": "hub_sqlite", "postgres": "hub_postgres"}[request.param]
    found: Hub = request.getfixturevalue(name)
    return found
