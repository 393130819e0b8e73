"""The service tests itself with the hub's kit: most of it on dicts, all of it on every store."""

from __future__ import annotations

import pytest

from integration_hub import Hub
from integration_hub.testing import IntegrationFactory, ManualClock, contracts
from sample_crm import CrmService


@pytest.fixture(params=["hub", "hub_sqlite", "hub_postgres"])
def service(request: pytest.FixtureRequest) -> CrmService:
    return CrmService(request.getfixturevalue(request.param))


def test_a_crm_is_connected_once(service: CrmService) -> None:
    assert service.connect("acme", "Sales", user="alice") == "connected"
    assert service.connect("acme", "Sales", user="bob") == "taken"
    assert service.connect("beta", "Sales", user="carol") == "connected"
    assert service.names("acme") == ["Sales"]


def test_contacts_are_fetched_when_their_time_has_come(
    service: CrmService, hub_clock: ManualClock
) -> None:
    service.connect("acme", "Sales", user="alice")
    assert service.due() == []
    hub_clock.advance(15 * 60)
    assert service.due() == [("acme", "contacts")]


def test_only_crms_are_named(service: CrmService) -> None:
    with service.hub.unit_of_work(tenant="acme") as uow:
        IntegrationFactory(type="erp", store=uow)
        IntegrationFactory(type="crm", name="Sales", active=True, with_webhooks=2, store=uow)
        assert uow.webhooks.count() == 2
        uow.commit()
    assert service.names("acme") == ["Sales"]


class TestTheHubThatWeUse(contracts.TenantContract):
    """The service wraps its hub; what it wraps must still keep tenants apart."""

    @pytest.fixture
    def hub(self, hub_clock: ManualClock) -> Hub:
        return CrmService(Hub.in_memory(clock=hub_clock)).hub
