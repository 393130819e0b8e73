"""The face of the package: what is public, and nothing by accident."""

from __future__ import annotations

import pickle

import integration_hub
from integration_hub import EVERY_TENANT, HubError, StaleVersion
from integration_hub.domain.values import new_id


def test_every_public_name_is_there_and_sorted() -> None:
    assert len(set(integration_hub.__all__)) == len(integration_hub.__all__)
    for name in integration_hub.__all__:
        assert getattr(integration_hub, name) is not None, name


def test_every_error_is_public() -> None:
    def below(kind: type[HubError]) -> set[str]:
        own = {kind.__name__} if kind.__module__.startswith("integration_hub.domain") else set()
        return own.union(*(below(child) for child in kind.__subclasses__()))

    assert below(HubError) <= set(integration_hub.__all__)


def test_errors_cross_process_boundaries_whole() -> None:
    error = StaleVersion("integration", new_id(), 1, 2)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.expected, copy.found, copy.message) == (1, 2, error.message)
    assert copy.id == error.id


def test_there_is_one_every_tenant() -> None:
    assert type(EVERY_TENANT)() is EVERY_TENANT
