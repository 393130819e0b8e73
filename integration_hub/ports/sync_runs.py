"""What the repository of sync runs answers, and the life of a run, which all stores share.

May import: `domain`, `clock`, `query`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeAlias
from uuid import UUID

from integration_hub.domain.errors import LeaseLost, SyncRunNotFound, ValidationError
from integration_hub.domain.frozen import evolved, put
from integration_hub.domain.frozen_json import checked_json
from integration_hub.domain.integration import Integration
from integration_hub.domain.sync_job import MOST_RECORDS, SyncJob, SyncJobStatus
from integration_hub.domain.sync_run import (
    STATUSES,
    SyncOutcome,
    SyncRun,
    SyncRunStatus,
    opened,
    wait_after,
)
from integration_hub.domain.values import (
    checked_count,
    checked_duration,
    checked_id,
    checked_kind,
    checked_lease,
    checked_name,
    checked_slug,
    checked_start,
    checked_time,
    member,
    one_or_more,
)
from integration_hub.ports.clock import Clock

LOST = "the lease ran out: the worker was not heard of in time"
LEASE_LOST = "lease_lost"
RELEASED = "released"
CLAIM_LEASE = timedelta(minutes=5)
MOST_CLAIMED = 1_000


class SyncRunRepository(Protocol):
    """The runs of a tenant's sync jobs. A run that is no longer running raises `LeaseLost`."""

    def get(self, id: UUID) -> SyncRun:
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

    def succeed_many(self, outcomes: Iterable[tuple[SyncRun, SyncOutcome]]) -> list[SyncRun]:
        """As `succeed`, for many short runs at once: all of them, or none if one is lost."""
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
        self,
        job_id: UUID,
        limit: int = 50,
        *,
        status: str | Collection[str] | None = None,
        since: datetime | None = None,
    ) -> list[SyncRun]:
        """The runs of a job that started at `since` or later, the latest first."""
        ...

    def running(self, *, integration_id: UUID | None = None, limit: int = 100) -> list[SyncRun]:
        """The runs that have not ended, of one integration or of all, the oldest first."""
        ...

    def prune(self, before: datetime, *, limit: int = 1_000) -> int:
        """Forget up to `limit` ended runs that ended before a moment; gives how many it were."""
        ...


Ending: TypeAlias = Callable[[SyncRun, SyncJob], tuple[SyncRun, SyncJob]]
"""What a run and its job become."""


@dataclass(frozen=True, slots=True)
class Change:
    """A run and its job, and what they become if they are still as they were."""

    run: SyncRun
    job: SyncJob
    ended: SyncRun
    after: SyncJob


@dataclass(frozen=True, slots=True)
class Claim:
    """Who wants how many jobs, from when on and for how long, of which types of integrations (None:
    of all).
    """

    worker: str
    limit: int
    lease: timedelta
    now: datetime
    types: tuple[str, ...] | None

    @property
    def expires(self) -> datetime:
        return self.now + self.lease

    def opened(self, job: SyncJob, integration: Integration, *, id: UUID, slot: int) -> SyncRun:
        """The run of a job that this has started."""
        return opened(
            job,
            integration,
            id=id,
            worker=self.worker,
            slot=slot,
            now=self.now,
            expires=self.expires,
        )


class RunsLife:
    """What happens to runs and their jobs, on the few questions that a store answers.

    A store gives `claimed` (checked claims), `_held` (a run and its job, kept from others until the
    end; None if there is no such run), `_expired` (the same, of those whose lease has run out, past
    those that others hold) and `_keep` (both changed). It may give `_keep_at_once`.
    """

    clock: Clock

    def claim(
        self,
        worker: str,
        limit: int,
        lease: timedelta | float,
        now: datetime | None,
        types: str | Collection[str] | None,
    ) -> list[SyncRun]:
        duration = checked_claim(worker, limit, lease)
        moment = self.clock.now() if now is None else checked_start("now", now)
        return self.claimed(Claim(worker, limit, duration, moment, checked_types(types)))

    def claimed(self, claim: Claim) -> list[SyncRun]:
        raise AssertionError(f"{type(self).__name__} must say how it claims")

    def _held(self, id: UUID) -> tuple[SyncRun, SyncJob] | None:
        raise AssertionError(f"{type(self).__name__} must say how it holds a run")

    def _expired(self, now: datetime, limit: int) -> list[tuple[SyncRun, SyncJob]]:
        raise AssertionError(f"{type(self).__name__} must say which leases have run out")

    def _keep(self, run: SyncRun, job: SyncJob | None) -> None:
        raise AssertionError(f"{type(self).__name__} must say how it keeps a run")

    def _keep_at_once(self, changes: list[Change]) -> bool:
        """Make all changes if everything is as it was; whether it was. None is made otherwise."""
        return False

    def heartbeat(
        self, run: SyncRun, *, records: int | None = None, checkpoint: Any = None
    ) -> SyncRun:
        if records is not None:
            checked_count("records", records, most=MOST_RECORDS)
        checkpoint = checked_json("checkpoint", checkpoint)
        held, job = self._own(run)
        now = self.clock.now()
        is_over = job.status == SyncJobStatus.CANCELLED
        heard = (
            held.ended(SyncRunStatus.CANCELLED, now, records=records, checkpoint=checkpoint)
            if is_over
            else held.heard(now, records=records, checkpoint=checkpoint)
        )
        reached = None if checkpoint is None else job.at(heard.checkpoint, now)
        self._keep(heard, reached)
        return evolved(heard, job=reached or job, integration=run.integration)

    def succeed(self, run: SyncRun, *, records: int = 0, checkpoint: Any = None) -> SyncRun:
        return self.succeed_many([(run, SyncOutcome(records, checkpoint))])[0]

    def succeed_many(self, outcomes: Iterable[tuple[SyncRun, SyncOutcome]]) -> list[SyncRun]:
        now = self.clock.now()
        return self._end(
            [(run, _succeeding(checked_outcome(outcome), now)) for run, outcome in outcomes]
        )

    def fail(
        self, run: SyncRun, error: object, *, retry_in: timedelta | float | None = None
    ) -> SyncRun:
        if error is None:
            raise ValidationError("error", error, "must be an exception, or say what was wrong")
        wait = None if retry_in is None else checked_duration("retry_in", retry_in)
        now = self.clock.now()

        def ending(held: SyncRun, job: SyncJob) -> tuple[SyncRun, SyncJob]:
            chosen = wait_after(held.attempt, error) if wait is None else wait
            return _unsuccessful(held.ended(SyncRunStatus.FAILED, now, error=error), job, chosen)

        return self._end([(run, ending)])[0]

    def release(self, run: SyncRun) -> SyncRun:
        now = self.clock.now()

        def ending(held: SyncRun, job: SyncJob) -> tuple[SyncRun, SyncJob]:
            ended = held.ended(SyncRunStatus.CANCELLED, now, error=RELEASED, code=RELEASED)
            return ended, job.released(now)

        return self._end([(run, ending)])[0]

    def reap(self, now: datetime | None = None, *, limit: int = 100) -> list[SyncRun]:
        moment = self.clock.now() if now is None else checked_time("now", now)
        checked_count("limit", limit, least=1, most=MOST_CLAIMED)

        def ending(held: SyncRun, job: SyncJob) -> tuple[SyncRun, SyncJob]:
            ended = held.ended(SyncRunStatus.LOST, moment, error=LOST, code=LEASE_LOST)
            return _unsuccessful(ended, job, timedelta(0))

        expired = self._expired(moment, limit)
        return self._changed([Change(run, job, *ending(run, job)) for run, job in expired])

    def _end(self, endings: list[tuple[SyncRun, Ending]]) -> list[SyncRun]:
        """End runs: by what the worker believes of them, or else by what they are found to be."""
        runs = [_checked_run(run) for run, _ in endings]
        if len({run.id for run in runs}) < len(runs):
            raise ValidationError("outcomes", len(runs), "must have each run once")
        believed = [
            Change(run, run.job, *ending(run, run.job))
            for run, ending in endings
            if run.job is not None and run.is_running
        ]
        if len(believed) == len(endings) and self._keep_at_once(believed):
            for change in believed:
                put(change.ended, "job", change.after)  # nobody else has it yet
            return [change.ended for change in believed]
        held = {run.id: self._own(run) for run in sorted(runs, key=_job_id)}
        found = [Change(*held[run.id], *ending(*held[run.id])) for run, ending in endings]
        ended = self._changed(found)
        return [
            evolved(each, integration=run.integration)
            for each, run in zip(ended, runs, strict=True)
        ]

    def _changed(self, changes: list[Change]) -> list[SyncRun]:
        """Make changes of what is held."""
        if not self._keep_at_once(changes):
            for change in changes:
                self._keep(change.ended, change.after)
        return [_shown(change) for change in changes]

    def _own(self, run: SyncRun) -> tuple[SyncRun, SyncJob]:
        held = self._held(_checked_run(run).id)
        if held is None:
            raise SyncRunNotFound(run.id)
        if not held[0].is_running:
            raise LeaseLost(run.id)
        return held


def checked_outcome(outcome: object) -> SyncOutcome:
    """What came of a run that succeeded. Raises `ValidationError` for what is none."""
    problem = "must be a SyncOutcome or None: what a handler of sync jobs gives back"
    return checked_kind("outcome", outcome, SyncOutcome, problem)


def _succeeding(outcome: SyncOutcome, now: datetime) -> Ending:
    def ending(held: SyncRun, job: SyncJob) -> tuple[SyncRun, SyncJob]:
        records, checkpoint = outcome.records, outcome.checkpoint
        ended = held.ended(SyncRunStatus.SUCCEEDED, now, records=records, checkpoint=checkpoint)
        after = job.succeeded(
            now, started_at=held.started_at, records=records, checkpoint=ended.checkpoint_after
        )
        return ended, after

    return ending


def _unsuccessful(ended: SyncRun, job: SyncJob, wait: timedelta) -> tuple[SyncRun, SyncJob]:
    assert ended.error_message is not None
    assert ended.finished_at is not None
    after = job.unsuccessful(
        ended.finished_at, started_at=ended.started_at, error=ended.error_message, wait=wait
    )
    return ended, after


def _shown(change: Change) -> SyncRun:
    return evolved(change.ended, job=change.after)


def _job_id(run: SyncRun) -> UUID:
    return run.sync_job_id


def _checked_run(run: object) -> SyncRun:
    found = checked_kind("run", run, SyncRun, "must be a SyncRun")
    checked_id("run.id", found.id)
    return found


def checked_claim(worker: str, limit: int, lease: timedelta | float) -> timedelta:
    """The lease of a claim. Raises `ValidationError` for what is none."""
    checked_name("worker", worker)
    checked_count("limit", limit, least=1, most=MOST_CLAIMED)
    return checked_lease("lease", lease)


def checked_types(types: str | Collection[str] | None) -> tuple[str, ...] | None:
    if types is None:
        return None
    found = tuple(sorted({checked_slug("types", each) for each in one_or_more(types)}))
    if not found:
        raise ValidationError("types", types, "must name a type, or be None for all of them")
    return found


def checked_statuses(status: str | Collection[str] | None) -> tuple[str, ...] | None:
    if status is None:
        return None
    return tuple(sorted({member("status", each, STATUSES) for each in one_or_more(status)}))
