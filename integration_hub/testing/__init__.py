"""What services import in their tests: ``pip install integration-hub[testing]``.

May import everything. `contracts` are suites to subclass; the pytest plugin gives the fixtures
`hub`, `hub_sqlite`, `hub_postgres` and `hub_clock`.
"""

from integration_hub.testing.clock import ManualClock
from integration_hub.testing.factories import IntegrationFactory, SyncJobFactory, WebhookFactory
from integration_hub.testing.http import ScriptedTransport

__all__ = [
    "IntegrationFactory",
    "ManualClock",
    "ScriptedTransport",
    "SyncJobFactory",
    "WebhookFactory",
]
