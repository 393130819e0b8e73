"""What the tests of locks ask the server."""

from __future__ import annotations

from integration_hub import DatabaseConnectionManager

_WAITING = """
    SELECT 1 FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND datname = current_database()
"""


def waiting(manager: DatabaseConnectionManager) -> int:
    """How many connections to this database wait for a lock: others may test on its server."""
    return len(manager.query(_WAITING).rows)
