"""The time as the database's server has it, which all that work on one database share.

May import: `ports`, SQLAlchemy. Leases are only as good as the clocks of those who write and read
them: a worker whose machine is some minutes ahead would take the runs of all others for lost.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from operator import itemgetter

from sqlalchemy import Connection

_LOG = logging.getLogger("integration_hub.database")
_HOLDS = 60.0  # seconds after which the clocks are compared again
_STEP = 0.1  # seconds by which a clock that was set, or a machine that slept, is noticed
_SAMPLES = 5  # the quickest of which counts
_MUCH = timedelta(seconds=5)  # which somebody should be told of


class DatabaseClock:
    """This machine's clock, set right by that of the database's server.

    The server is asked what time it is, and the answer taken for what it was half way between
    question and answer; of some tries, the quickest counts. A difference within half of that round
    trip is none, so that nothing is corrected that can't be told, as on one machine. Source:
    F. Cristian, Probabilistic clock synchronization, Distributed Computing 3 (1989), 146-158.

    `reading` opens a connection whose statements each stand for themselves.
    """

    def __init__(self, reading: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._reading = reading
        self._lock = threading.Lock()
        self._compared_at: float | None = None  # by the monotonic clock
        self._ran_ahead = 0.0  # the wall clock to the monotonic one, when they were compared
        self._offset = timedelta(0)

    def now(self) -> datetime:
        """What time it is there. Raises `StorageError` where it was never told, and can't be."""
        if self._compared_at is None:
            self.keep()
        return datetime.now(UTC) + self._offset

    @property
    def skew(self) -> timedelta:
        """How far this machine's clock is ahead, as it was last seen; negative if it is behind."""
        return -self._offset

    def keep(self) -> None:
        """Compare the clocks again if it is time: once a minute, and after this one was set.

        One thread does; others go on with what is known, but the first time.
        """
        if not self._is_due() or not self._lock.acquire(blocking=self._compared_at is None):
            return
        try:
            if self._is_due():
                self._compare()
        finally:
            self._lock.release()

    def _is_due(self) -> bool:
        if self._compared_at is None or time.monotonic() - self._compared_at > _HOLDS:
            return True
        return abs(_ahead() - self._ran_ahead) > _STEP

    def _compare(self) -> None:
        with self._reading() as connection:
            off, error = min((_compared(connection) for _ in range(_SAMPLES)), key=itemgetter(1))
        was = self._offset
        if abs(off - was) > error:
            self._offset = off
        self._ran_ahead = _ahead()
        self._compared_at = time.monotonic()
        if abs(self._offset - was) >= _MUCH:
            ahead = self.skew.total_seconds()
            how = "ahead of" if ahead > 0 else "behind"
            _LOG.warning(
                "this machine's clock is %.1f s %s the database's, which is gone by",
                abs(ahead),
                how,
            )


def _compared(connection: Connection) -> tuple[timedelta, timedelta]:
    """How far the server's clock is ahead of ours, and by how much that may be wrong."""
    before = datetime.now(UTC)
    began = time.monotonic()
    there: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    half = timedelta(seconds=(time.monotonic() - began) / 2)
    return there - before - half, half


def _ahead() -> float:
    return time.time() - time.monotonic()
