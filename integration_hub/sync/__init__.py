"""Running sync jobs: what works through that which is claimed.

May import: `ports`, `domain`, `http`.
"""

from integration_hub.sync.runner import Handler, SyncContext, SyncOutcome, SyncRunner

__all__ = ["Handler", "SyncContext", "SyncOutcome", "SyncRunner"]
