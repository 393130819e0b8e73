"""What every store must do, as classes to subclass: give a `hub` fixture, and run them.

May import everything. An example, for a store of one's own::

    class TestMyIntegrations(contracts.IntegrationContract):
        @pytest.fixture
        def hub(self, hub_clock):
            return Hub(MyStore(), clock=hub_clock)

The fixture `hub_clock` is the plugin's `ManualClock`; the hub must go by it.
"""

import pytest

pytest.register_assert_rewrite(
    "integration_hub.testing.contracts.conflicts",
    "integration_hub.testing.contracts.json",
    "integration_hub.testing.contracts.messages",
    "integration_hub.testing.contracts.repositories",
    "integration_hub.testing.contracts.sync_runs",
    "integration_hub.testing.contracts.tenants",
    "integration_hub.testing.contracts.units_of_work",
)

from integration_hub.testing.contracts.conflicts import (  # noqa: E402 - after the rewrite
    ConflictContract,
)
from integration_hub.testing.contracts.json import JsonContract  # noqa: E402
from integration_hub.testing.contracts.messages import MessageContract  # noqa: E402
from integration_hub.testing.contracts.repositories import (  # noqa: E402
    IntegrationContract,
    SyncJobContract,
    WebhookContract,
)
from integration_hub.testing.contracts.sync_runs import SyncRunContract  # noqa: E402
from integration_hub.testing.contracts.tenants import TenantContract  # noqa: E402
from integration_hub.testing.contracts.units_of_work import UnitOfWorkContract  # noqa: E402

__all__ = [
    "ConflictContract",
    "IntegrationContract",
    "JsonContract",
    "MessageContract",
    "SyncJobContract",
    "SyncRunContract",
    "TenantContract",
    "UnitOfWorkContract",
    "WebhookContract",
]
