"""A unit of work that threads share: nothing to recommend, but each gets its own answers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from integration_hub import Hub
from integration_hub.testing import IntegrationFactory


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Python changes between threads as often as it can, so that what can go wrong does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("quick_switches")
def test_each_thread_gets_its_own_answers(each_hub: Hub) -> None:
    names = [f"i{n}" for n in range(50)]
    with each_hub.unit_of_work() as uow:
        uow.integrations.add_many(IntegrationFactory.build(name=name) for name in names)
        uow.commit()
    with each_hub.unit_of_work() as uow, ThreadPoolExecutor(8) as pool:
        asked = names * 60
        found = pool.map(uow.integrations.get_by_name, asked)
        assert [each.name for each in found] == asked


@pytest.mark.usefixtures("quick_switches")
def test_what_threads_write_is_one_transaction(each_hub: Hub) -> None:
    with each_hub.unit_of_work() as uow, ThreadPoolExecutor(8) as pool:
        added = list(pool.map(uow.integrations.add, IntegrationFactory.build_batch(200)))
        uow.rollback()
    with each_hub.unit_of_work() as uow:
        assert uow.integrations.get_many([each.id for each in added]) == {}
