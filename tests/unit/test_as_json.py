"""Objects as web frameworks show them: by their types alone, as JSON and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from datetime import timedelta
from typing import Any, get_type_hints

import pytest
from pydantic import TypeAdapter

from integration_hub import (
    CursorPage,
    Health,
    Hub,
    Integration,
    Page,
    Schedule,
    SyncJob,
    SyncRun,
    Webhook,
    WebhookDelivery,
    WebhookMessage,
)
from integration_hub.testing import IntegrationFactory, SyncJobFactory, WebhookFactory

CONFIG = {"http": {"base_url": "https://crm.test"}, "regions": ["emea", {"and": None}]}


@pytest.fixture
def shown(hub: Hub) -> Iterator[dict[Any, object]]:
    """One of each kind, as it is stored."""
    with hub.unit_of_work() as uow:
        crm = IntegrationFactory(store=uow, config=CONFIG, tags=["a"], active=True)
        hook = WebhookFactory(store=uow, integration_id=crm.id, events=["*"])
        schedule = Schedule.every(timedelta(minutes=5), start=hub.clock.now())
        job = SyncJobFactory(
            store=uow, integration_id=crm.id, schedule=schedule, checkpoint={"page": 1}
        )
        message = uow.messages.publish("invoice.paid", {"id": 7})
        (run,) = uow.sync_jobs.claim("w1")
        (delivery,) = uow.messages.deliveries(message.id)
        yield {
            Integration: crm,
            Webhook: hook,
            SyncJob: uow.sync_jobs.get(job.id),
            SyncRun: run,
            Schedule: schedule,
            WebhookMessage: message,
            WebhookDelivery: delivery,
            Health: hub.health(),
            Page[Integration]: uow.integrations.page(),
            CursorPage[Integration]: uow.integrations.scroll(),
        }


def test_objects_go_to_json_and_back_by_their_types(shown: dict[Any, object]) -> None:
    for kind, item in shown.items():
        adapter = TypeAdapter(kind)
        assert adapter.validate_json(adapter.dump_json(item)) == item
        assert "properties" in json.dumps(adapter.json_schema(mode="serialization"))


def test_objects_go_to_json_as_plain_dictionaries(shown: dict[Any, object]) -> None:
    for item in shown.values():
        assert is_dataclass(item)
        assert not isinstance(item, type)
        assert json.loads(json.dumps(asdict(item), default=str)).keys() == asdict(item).keys()


def test_the_types_of_objects_can_be_asked_for(shown: dict[Any, object]) -> None:
    for item in shown.values():
        assert get_type_hints(type(item))
