"""Being told of new work by Postgres: LISTEN on a connection of its own.

May import: `domain`, `ports.waiting`, `engine`, `faults`, psycopg. What is told is only a hint, and
who listens also looks from time to time: behind PgBouncer in transaction mode, which has no LISTEN,
nothing is ever heard, and all works by looking. Source: PostgreSQL manual, LISTEN and NOTIFY.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg.pq import ExecStatus
from sqlalchemy.exc import SQLAlchemyError

from integration_hub.database.engine import DatabaseConnectionManager
from integration_hub.database.faults import driver_fault, fault
from integration_hub.ports.waiting import Heard, Waiter

_LOG = logging.getLogger("integration_hub.database")


def tell(driver: psycopg.Connection[Any], channels: Iterable[str]) -> None:
    """Tell all who listen on these channels, in a transaction of its own that waits for no disk.

    Who has something to tell holds a lock while it commits, for which all others who have wait: in
    the transactions that there is something to tell of, one at a time could commit, in the whole
    server. (Source: PostgreSQL, src/backend/commands/async.c, PreCommit_Notify.) It raises nothing:
    what there is to tell of is stored, and will be found.
    """
    said = "; ".join(f"NOTIFY {channel}" for channel in sorted(channels))
    statements = f"BEGIN; SET LOCAL synchronous_commit = off; {said}; COMMIT"
    try:
        result = driver.pgconn.exec_(statements.encode())
        if result.status != ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(result)
    except psycopg.Error as error:
        told = driver_fault(error, is_lost=bool(driver.closed))
        _LOG.warning("workers are not told of work: %s", told.message)


class PostgresWaiter(Waiter):
    """Waits for notifications on a channel.

    It listens from the start, so that what is told after it was made is not missed. A connection
    that is lost is made anew, and counts as news: something may have been told meanwhile.
    """

    def __init__(self, manager: DatabaseConnectionManager, channel: str) -> None:
        super().__init__()
        self._manager = manager
        self._channel = channel
        self._driver: psycopg.Connection[object] | None = None
        self._listen()

    def wait(self, seconds: float, *, deaf: float = 0.0) -> Heard:
        if self._driver is None and self._listen():
            return "told"
        driver = self._driver
        if driver is None:
            return super().wait(seconds)
        if deaf and super().wait(min(deaf, seconds)):
            return "woken"
        heard = self._heard([self._ear, driver], seconds - deaf)
        if driver in heard:
            self._take_in(driver)
        if self._ear in heard:
            return "woken"
        return "told" if heard else ""

    def _take_in(self, driver: psycopg.Connection[object]) -> None:
        try:
            for _ in driver.notifies(timeout=0):
                continue
        except psycopg.Error as error:
            _LOG.warning("%s; looking for work from time to time", driver_fault(error).message)
            self._leave()

    def _listen(self) -> bool:
        try:
            connection = self._manager.unpooled()
            driver = connection.driver_connection
            connection.detach()  # so that it is not closed with what it was lent out as
            assert isinstance(driver, psycopg.Connection)
            self._driver = driver
            driver.autocommit = True
            driver.execute(f"LISTEN {self._channel}".encode())
        except (SQLAlchemyError, psycopg.Error) as error:
            told = fault(error) if isinstance(error, SQLAlchemyError) else driver_fault(error)
            _LOG.warning("%s; looking for work from time to time", told.message)
            self._leave()
            return False
        return True

    def _leave(self) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.close()

    def close(self) -> None:
        self._leave()
        super().close()
