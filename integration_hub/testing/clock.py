"""A clock that tests move by hand.

May import: `domain`.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

from integration_hub.domain.values import checked_duration, checked_time


class ManualClock:
    """Stands still until it is moved; safe to share between threads."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, 12, tzinfo=UTC)) -> None:
        self._now = checked_time("start", start)
        self._lock = threading.Lock()

    def now(self) -> datetime:
        with self._lock:
            return self._now

    def advance(self, duration: timedelta | float) -> datetime:
        """Move forward by a `timedelta`, or a number of seconds; gives the time it is then."""
        step = checked_duration("duration", duration)
        with self._lock:
            self._now += step
            return self._now

    def set(self, moment: datetime) -> datetime:
        """Move to a moment, also one in the past."""
        moment = checked_time("moment", moment)
        with self._lock:
            self._now = moment
            return self._now
