"""What a handler works with: its job, its system, and how far it has come.

May import: `ports`, `domain`, `http`, `workforce`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol, TypeAlias

from integration_hub.domain.errors import LeaseLost, SyncRunNotFound
from integration_hub.domain.integration import Integration
from integration_hub.domain.sync_job import SyncJob
from integration_hub.domain.sync_run import SyncOutcome, SyncRun
from integration_hub.http.client import HttpClient
from integration_hub.ports.clock import Clock
from integration_hub.ports.unit_of_work import UnitOfWork
from integration_hub.ports.waiting import Waiter
from integration_hub.workforce import OpensUnitsOfWork


class OffersWork(OpensUnitsOfWork, Protocol):
    """What a runner needs of a hub."""

    @property
    def clock(self) -> Clock: ...
    def http(self, integration: Integration, /) -> HttpClient: ...
    def waiter(self, channel: str) -> Waiter: ...


#: Why a handler is to stop, in words.
_REASONS = {
    "time": "its time limit is over",
    "cancelled": "its job was cancelled",
    "lost": "another worker may have its job",
    "stopped": "the worker ends",
}


class SpeaksUp(Protocol):
    """What a context needs of its runner."""

    @property
    def hub(self) -> OffersWork: ...
    @property
    def worker(self) -> str: ...
    @property
    def lease(self) -> timedelta: ...

    def beat(
        self, context: SyncContext, *, records: int | None = None, checkpoint: Any = None
    ) -> None: ...


class SyncContext:
    """What a handler works with."""

    def __init__(self, runner: SpeaksUp, run: SyncRun, heard_at: float) -> None:
        assert run.job is not None
        assert run.integration is not None
        self.run = run
        self.job: SyncJob = run.job
        self.integration: Integration = run.integration
        self._runner = runner
        self._stop = threading.Event()
        limit = self.job.time_limit
        seconds = math.inf if limit is None else limit.total_seconds()
        self._ends_at = time.monotonic() + seconds
        self._lease = runner.lease.total_seconds()
        self.heard_at = heard_at  # when the worker last spoke up, and the database heard it
        self.why: str | None = None
        self.was_told = False  # whether the handler knows that it is to stop
        self.is_over = False
        self._looks = 0  # of the runner's, since it was to stop
        self._told: tuple[UnitOfWork, SyncRun] | None = None  # in a unit of work of the handler's
        self._stored = run  # in one before that
        self.lock = threading.RLock()  # between the handler's thread and that of the heartbeats

    @property
    def checkpoint(self) -> Any:
        """Where the sync stands: where this run took up, or what it has stored since."""
        return self.latest.checkpoint

    @property
    def latest(self) -> SyncRun:
        """The run as it was last stored, by a heartbeat or in a unit of work of the handler's."""
        known = [self.run, self._stored]
        if self._told is not None and self._told[0].state == "committed":
            known.append(self._told[1])
        return max(known, key=_version)

    @property
    def http(self) -> HttpClient:
        """The client for the integration's system."""
        return self._runner.hub.http(self.integration)

    def unit_of_work(self, *, session: Any = None) -> UnitOfWork:
        """A unit of work of the job's tenant: to store what came, or to publish what it means.

        With a SQLAlchemy `session` (or connection) it joins that transaction; see
        `Hub.unit_of_work`.
        """
        tenant, actor = self.run.tenant, self._runner.worker
        return self._runner.hub.unit_of_work(tenant=tenant, actor=actor, session=session)

    @property
    def cancelled(self) -> bool:
        """Whether to stop: the job was cancelled, its time is over, the worker ends, or the lease
        has run out while the database can't be reached, so that somebody else may have the job.
        """
        self.was_told = self.is_to_stop()
        return self.was_told

    def is_to_stop(self) -> bool:
        """The same, asked by others than the handler, which does not know of it then."""
        now = time.monotonic()
        if now >= self._ends_at:
            self.stop("time")
        if now - self.heard_at > self._lease:
            self.stop("lost")
        return self._stop.is_set()

    def goes_on_though(self) -> str | None:
        """Why it was to stop, where that was so at the runner's last look already. Said once."""
        if not (self._stop.is_set() or time.monotonic() >= self._ends_at):
            return None
        self._looks += 1
        return _REASONS[self.why or "time"] if self._looks == 2 else None

    def wait(self, seconds: float) -> bool:
        """Wait, but not longer than until it is time to stop; gives whether it is."""
        left = min(self._ends_at - time.monotonic(), threading.TIMEOUT_MAX)
        self._stop.wait(max(0.0, min(seconds, left)))
        return self.cancelled

    def progress(
        self, records: int | None = None, checkpoint: Any = None, *, uow: UnitOfWork | None = None
    ) -> None:
        """Keep what has been reached: a run that takes up after this one does so there.

        In a unit of work it is kept when that is committed, together with what else it stores, or
        not at all. Raises `LeaseLost` where the run is no longer this worker's: nothing of it
        should be stored then.
        """
        if uow is None:
            self._runner.beat(self, records=records, checkpoint=checkpoint)
            return
        # Without the lock: a heartbeat that has it may be waiting for what this unit of work holds.
        self._stored = self.latest
        self._told = (uow, self._stored)
        try:
            run = uow.sync_runs.heartbeat(self._stored, records=records, checkpoint=checkpoint)
        except (LeaseLost, SyncRunNotFound):
            self.stop("lost")
            raise
        self._told = (uow, run)
        if not run.is_running:
            self.stop("cancelled")

    @property
    def is_telling(self) -> bool:
        """Whether the handler has told of its progress in a unit of work that is still open, so
        that a heartbeat would have to wait for it.
        """
        return self._told is not None and self._told[0].state == "active"

    def stop(self, why: str) -> None:
        self.why = self.why or why
        self._stop.set()


Handler: TypeAlias = Callable[[SyncContext], SyncOutcome | None]


def _version(run: SyncRun) -> int:
    return run.version
