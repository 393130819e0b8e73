"""Factories, managers and the dict store's schema: the thin types beside their ports."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from integration_hub import (
    EVERY_TENANT,
    DatabaseConnectionManager,
    Err,
    HttpClient,
    HttpClientFactory,
    Hub,
    Ok,
    SchemaOutOfDate,
    SerializationConflict,
    UnitOfWork,
    UnitOfWorkFactory,
    UnitOfWorkManager,
    ValidationError,
)
from integration_hub.testing import IntegrationFactory


@pytest.mark.parametrize("url", ["memory://", "sqlite://"])
def test_a_factory_opens_units_of_work_on_one_store(url: str) -> None:
    factory = UnitOfWorkFactory.for_url(url)
    if url == "sqlite://":
        with pytest.raises(SchemaOutOfDate):
            factory()
        factory.schema.upgrade()
    with factory(tenant="acme", actor="alice") as uow:
        uow.integrations.add(IntegrationFactory(name="CRM"))
        uow.commit()
    with factory(tenant="acme") as uow:
        assert uow.integrations.get_by_name("CRM").created_by == "alice"
    factory.close()


def test_a_manager_runs_on_a_factory_and_knows_what_is_running() -> None:
    manager = UnitOfWorkManager(UnitOfWorkFactory.for_url("memory://"))

    def operation(uow: UnitOfWork) -> bool:
        assert manager.current is uow
        return manager.has_active_transaction

    assert manager.run(operation) == Ok(True)
    assert manager.current is None
    assert not manager.has_active_transaction


def test_a_manager_waits_longer_before_each_try() -> None:
    waits: list[float] = []
    manager = UnitOfWorkManager(UnitOfWorkFactory.for_url("memory://"), sleep=waits.append)

    def operation(uow: UnitOfWork) -> None:
        raise SerializationConflict("again")

    seen: list[list[float]] = []
    for _ in range(50):
        assert isinstance(manager.run(operation, attempts=6), Err)
        seen.append(list(waits))
        waits.clear()
    for n, each in enumerate(zip(*seen, strict=True)):
        most = 0.05 * 2**n
        assert 0 <= min(each) < most / 2 < max(each) <= most
    assert len(seen[0]) == 5
    manager.run(operation)
    assert len(waits) == 2  # three tries, if nothing is said


def test_a_manager_tries_at_least_once() -> None:
    with pytest.raises(ValidationError) as refused:
        Hub.in_memory().run(lambda uow: None, attempts=0)
    assert refused.value.field == "attempts"


def test_every_tenant_is_itself_in_another_process() -> None:
    assert pickle.loads(pickle.dumps(EVERY_TENANT)) is EVERY_TENANT
    assert repr(EVERY_TENANT) == "EVERY_TENANT"


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        (Hub.in_memory, "hand over its URL, and make one there by Hub.from_url"),
        (partial(Hub.from_url, "sqlite://"), "hand over its URL"),
        (partial(DatabaseConnectionManager, "sqlite://"), "hand over its URL"),
        (HttpClient, "hand over its options"),
        (HttpClientFactory, "register its clients"),
    ],
)
def test_what_belongs_to_its_process_says_so_where_it_is_sent_to_another(
    kind: Callable[[], Any], way: str
) -> None:
    mine = kind()
    for act in (pickle.dumps, copy.deepcopy, copy.copy):
        with pytest.raises(TypeError, match=f"an? {type(mine).__name__} can't be .*; .*{way}"):
            act(mine)
    (mine.close_all if isinstance(mine, HttpClientFactory) else mine.close)()


def test_the_dict_store_says_that_it_has_no_schema() -> None:
    with Hub.in_memory() as hub:
        for answer in (
            hub.schema.upgrade(),
            hub.schema.downgrade("base"),
            hub.schema.current(),
            hub.schema.check(),
            hub.schema.require_current(),
        ):
            assert answer.current == "none (dict store)"
            assert answer.is_current
        hub.schema.create_all()
        assert hub.schema.sql().startswith("-- the dict store")
        assert hub.health().ok
