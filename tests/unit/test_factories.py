"""The factories of the testing kit: their traits, and children in the tenant of their parent."""

from __future__ import annotations

from typing import Any

import pytest

from integration_hub import EVERY_TENANT, Hub
from integration_hub.testing import IntegrationFactory, SyncJobFactory, WebhookFactory

NOBODY = IntegrationFactory.build().id


@pytest.mark.parametrize(
    ("factory", "trait", "status", "has_error"),
    [
        (IntegrationFactory, "active", "active", False),
        (IntegrationFactory, "paused", "paused", False),
        (IntegrationFactory, "broken", "error", True),
        (IntegrationFactory, "archived", "archived", False),
        (WebhookFactory, "paused", "paused", False),
        (WebhookFactory, "failing", "failing", True),
        (WebhookFactory, "disabled", "disabled", True),
        (SyncJobFactory, "running", "running", False),
        (SyncJobFactory, "failed", "failed", True),
        (SyncJobFactory, "paused", "paused", False),
    ],
)
def test_a_trait_is_a_state(factory: Any, trait: str, status: str, has_error: bool) -> None:
    parent = {} if factory is IntegrationFactory else {"integration_id": NOBODY}
    made = factory.build(**parent, **{trait: True})
    assert made.status == status
    assert (made.error_message is not None) is has_error


def test_children_are_of_their_parent_s_tenant() -> None:
    hub = Hub.in_memory()
    with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
        parent = IntegrationFactory(store=uow, tenant="acme", with_webhooks=2, with_jobs=1)
        hooks, jobs = uow.webhooks.find(), uow.sync_jobs.find()
    assert [hook.integration_id for hook in hooks] == [parent.id, parent.id]
    assert [job.integration_id for job in jobs] == [parent.id]
    assert {child.tenant for child in (*hooks, *jobs)} == {"acme"}


def test_children_must_be_stored() -> None:
    with pytest.raises(TypeError, match="store=uow"):
        IntegrationFactory(with_jobs=1)
