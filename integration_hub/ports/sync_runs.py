"""What the repository of sync runs answers, and the life of a run, which all stores share.

May import: `domain`, `clock`, `query`.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from integration_hub.domain.errors import LeaseLost, SyncRunNotFound, ValidationError
from integration_hub.domain.sync_job import MOST_RECORDS, SyncJob, SyncJobStatus
from integration_hub.domain.sync_run import STATUSES, SyncRun, SyncRunStatus, wait_after
from integration_hub.domain.values import (
    checked_count,
    checked_duration,
    checked_id,
    checked_json,
    checked_name,
    checked_time,
    member,
    one_or_more,
)
from integration_hub.ports.clock import Clock

LOST = "the lease ran out: the worker was not heard of in time"
RELEASED = "released"
CLAIM_LEASE = timedelta(minutes=5)
MOST_CLAIMED = 1_000


class SyncRunRepository(Protocol):
    """The runs of a tenant's sync jobs. A run that is no longer running raises `LeaseLost`."""

    def get(self, id: UUID, /) -> SyncRun:
        """Raises `SyncRunNotFound`."""
        ...

    def heartbeat(
        self, run: SyncRun, *, records: int | None = None, checkpoint: Any = None
    ) -> SyncRun:
        """The worker is alive: the lease begins anew, and progress is kept: a run that takes up
        after this one does so at `checkpoint`, even if this one is lost.

        Gives the run with status ``cancelled`` where its job was cancelled meanwhile: it has ended.
        """
        ...

    def succeed(self, run: SyncRun, *, records: int = 0, checkpoint: Any = None) -> SyncRun:
        """The work is done: the job waits for its next time, and keeps `checkpoint`."""
        ...

    def fail(
        self, run: SyncRun, error: object, *, retry_in: timedelta | float | None = None
    ) -> SyncRun:
        """The work failed: the job waits for another attempt (`retry_in`, or what a `StatusError`
        asked for, or full jitter), or has failed if it has had `max_attempts`.
        """
        ...

    def release(self, run: SyncRun) -> SyncRun:
        """The worker stops, and gives the job back as it was: no attempt counts."""
        ...

    def reap(self, now: datetime | None = None, *, limit: int = 100) -> list[SyncRun]:
        """End runs whose lease has run out, as lost; each counts as an attempt of its job."""
        ...

    def history(
        self, job_id: UUID, limit: int = 50, *, status: str | Collection[str] | None = None
    ) -> list[SyncRun]:
        """The runs of a job, the latest first."""
        ...

    def prune(self, before: datetime, *, limit: int = 1_000) -> int:
        """Forget up to `limit` ended runs that ended before a moment; gives how many it were."""
        ...


class RunsLife:
    """What happens to runs and their jobs, on the few questions that a store answers.

    A store gives `_held` (a run and its job, kept from others until the end; None if there is no
    such run), `_expired` (the same, of those whose lease has run out, past those that others hold)
    and `_keep` (both changed).
    """

    clock: Clock

    def _held(self, id: UUID) -> tuple[SyncRun, SyncJob] | None:
        raise AssertionError(f"{type(self).__name__} must say how it holds a run")

    def _expired(self, now: datetime, limit: int) -> list[tuple[SyncRun, SyncJob]]:
        raise AssertionError(f"{type(self).__name__} must say which leases have run out")

    def _keep(self, run: SyncRun, job: SyncJob | None) -> SyncRun:
        raise AssertionError(f"{type(self).__name__} must say how it keeps a run")

    def heartbeat(
        self, run: SyncRun, *, records: int | None = None, checkpoint: Any = None
    ) -> SyncRun:
        held, job = self._own(run)
        now = self.clock.now()
        is_over = job.status == SyncJobStatus.CANCELLED
        heard = (
            held.ended(SyncRunStatus.CANCELLED, now, records=records, checkpoint=checkpoint)
            if is_over
            else held.heard(now, records=records, checkpoint=checkpoint)
        )
        return self._keep(heard, None if checkpoint is None else job.at(heard.checkpoint, now))

    def succeed(self, run: SyncRun, *, records: int = 0, checkpoint: Any = None) -> SyncRun:
        checked_count("records", records, most=MOST_RECORDS)
        checkpoint = checked_json("checkpoint", checkpoint)
        held, job = self._own(run)
        now = self.clock.now()
        ended = held.ended(SyncRunStatus.SUCCEEDED, now, records=records, checkpoint=checkpoint)
        after = job.succeeded(
            now, started_at=held.started_at, records=records, checkpoint=ended.checkpoint_after
        )
        return self._keep(ended, after)

    def fail(
        self, run: SyncRun, error: object, *, retry_in: timedelta | float | None = None
    ) -> SyncRun:
        wait = None if retry_in is None else checked_duration("retry_in", retry_in)
        held, job = self._own(run)
        if wait is None:
            wait = wait_after(held.attempt, error)
        return self._end(SyncRunStatus.FAILED, held, job, self.clock.now(), error, wait)

    def release(self, run: SyncRun) -> SyncRun:
        held, job = self._own(run)
        now = self.clock.now()
        ended = held.ended(SyncRunStatus.CANCELLED, now, error=RELEASED)
        return self._keep(ended, job.released(now))

    def reap(self, now: datetime | None = None, *, limit: int = 100) -> list[SyncRun]:
        moment = self.clock.now() if now is None else checked_time("now", now)
        checked_count("limit", limit, least=1, most=MOST_CLAIMED)
        return [
            self._end(SyncRunStatus.LOST, run, job, moment, LOST, timedelta(0))
            for run, job in self._expired(moment, limit)
        ]

    def _end(
        self,
        status: SyncRunStatus,
        run: SyncRun,
        job: SyncJob,
        now: datetime,
        error: object,
        wait: timedelta,
    ) -> SyncRun:
        ended = run.ended(status, now, error=error)
        assert ended.error_message is not None
        after = job.unsuccessful(
            now, started_at=run.started_at, error=ended.error_message, wait=wait
        )
        return self._keep(ended, after)

    def _own(self, run: SyncRun) -> tuple[SyncRun, SyncJob]:
        if not isinstance(run, SyncRun):
            raise ValidationError("run", type(run).__name__, "must be a SyncRun")
        held = self._held(checked_id("run.id", run.id))
        if held is None:
            raise SyncRunNotFound(run.id)
        if not held[0].is_running:
            raise LeaseLost(run.id)
        return held


def checked_claim(worker: str, limit: int, lease: timedelta | float) -> timedelta:
    """The lease of a claim. Raises `ValidationError` for what is none."""
    checked_name("worker", worker)
    checked_count("limit", limit, least=1, most=MOST_CLAIMED)
    duration = checked_duration("lease", lease)
    if duration < timedelta(seconds=1):
        raise ValidationError("lease", lease, "must be at least a second")
    return duration


def checked_statuses(status: str | Collection[str] | None) -> tuple[str, ...] | None:
    if status is None:
        return None
    return tuple(sorted({member("status", each, STATUSES) for each in one_or_more(status)}))
