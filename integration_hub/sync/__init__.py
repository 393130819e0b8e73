"""Running sync jobs: what works through that which is claimed.

May import: `ports`, `domain`, `http`.
"""

from integration_hub.domain.sync_run import SyncOutcome
from integration_hub.sync.context import Handler, SyncContext
from integration_hub.sync.runner import SyncRunner

__all__ = ["Handler", "SyncContext", "SyncOutcome", "SyncRunner"]
