"""What the tests of locks ask the server."""

from __future__ import annotations

from integration_hub import DatabaseConnectionManager


def waiting(manager: DatabaseConnectionManager) -> int:
    """How many connections wait for a lock."""
    return len(manager.query("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'").rows)
