"""A sync job: what is fetched from, or pushed to, an integration's system, and when.

May import: `aggregate`, `errors`, `frozen`, `frozen_json`, `schedule`, `values`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, Self
from uuid import UUID

from integration_hub.domain.aggregate import Aggregate
from integration_hub.domain.errors import (
    InvalidSchedule,
    NotFoundKind,
    SyncJobNotFound,
    ValidationError,
)
from integration_hub.domain.frozen import evolved, put
from integration_hub.domain.frozen_json import checked_json, checked_part, stored_part
from integration_hub.domain.schedule import Schedule, ScheduleKind
from integration_hub.domain.values import (
    checked_count,
    checked_flag,
    checked_id,
    checked_period,
    checked_time,
    member,
    optional_time,
)


class SyncJobStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    PAUSED = "paused"
    CANCELLED = "cancelled"


class SyncDirection(StrEnum):
    PULL = "pull"
    PUSH = "push"
    BOTH = "both"


_S = SyncJobStatus
STATUSES = {status.value: status for status in _S}
DIRECTIONS = {direction.value: direction for direction in SyncDirection}
MOST_RECORDS = 2**63 - 1
CATCH_UP = {name: name for name in ("latest", "all", "skip")}
MOST_MISSED = 100
"""How many missed times are made up for at the most; after more, as after none, comes the next."""
GRACE = timedelta(seconds=60)
"""How late a run may be, before it counts as missed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncJob(Aggregate):
    """A piece of recurring work: what a worker is to fetch or push.

    `schedule` says when; `next_run_at` is the next time, set when the job is added unless it is
    given; `checkpoint` is the sync cursor, any JSON, where the next run takes up;
    `records_processed` is a total over all runs that succeeded; `scheduled_for`, while a failed run
    is tried again, is the time of the schedule that the tries are for. Names are unique within the
    integration. Raises `ValidationError` naming the field.
    """

    KIND: ClassVar[str] = "sync job"
    NOT_FOUND: ClassVar[NotFoundKind] = SyncJobNotFound
    STATE: ClassVar[frozenset[str]] = Aggregate.STATE | {
        "next_run_at",
        "last_run_at",
        "records_processed",
        "attempt",
        "checkpoint",
        "scheduled_for",
    }
    TRANSITIONS: ClassVar[Mapping[str, frozenset[str]]] = {
        _S.PENDING: frozenset({_S.RUNNING, _S.PAUSED, _S.CANCELLED}),
        _S.RUNNING: frozenset({_S.PENDING, _S.COMPLETED, _S.FAILED, _S.PAUSED, _S.CANCELLED}),
        _S.COMPLETED: frozenset({_S.PENDING, _S.CANCELLED}),
        _S.FAILED: frozenset({_S.PENDING, _S.CANCELLED}),
        _S.PAUSED: frozenset({_S.PENDING, _S.CANCELLED}),
        _S.CANCELLED: frozenset(),
    }

    integration_id: UUID
    schedule: Schedule
    direction: SyncDirection | str = SyncDirection.PULL
    status: SyncJobStatus | str = SyncJobStatus.PENDING
    max_attempts: int = 3
    attempt: int = 0
    next_run_at: datetime | None = None
    last_run_at: datetime | None = None
    records_processed: int = 0
    checkpoint: Any = field(default=None, repr=False)
    scheduled_for: datetime | None = None

    def __post_init__(self) -> None:
        Aggregate.__post_init__(self)
        checked_id("integration_id", self.integration_id)
        if not isinstance(self.schedule, Schedule):
            raise ValidationError("schedule", self.schedule, "must be a Schedule")
        put(self, "direction", member("direction", self.direction, DIRECTIONS))
        put(self, "status", member("status", self.status, STATUSES))
        checked_count("max_attempts", self.max_attempts, least=1, most=1_000)
        checked_count("attempt", self.attempt)
        checked_count("records_processed", self.records_processed, most=MOST_RECORDS)
        put(self, "checkpoint", checked_json("checkpoint", self.checkpoint))
        for name in ("next_run_at", "last_run_at", "scheduled_for"):
            put(self, name, optional_time(name, getattr(self, name)))
        sync = checked_part(self.config, "sync", ("catch_up", "timeout"), of="a sync job")
        if "catch_up" in sync:
            member("config.sync.catch_up", sync["catch_up"], CATCH_UP)
        if sync.get("timeout") is not None:
            checked_period("config.sync.timeout", sync["timeout"])

    # A dataclass with slots is made anew by its decorator, so that a bare super() would miss it.

    def added(self, *, tenant: str, actor: str, now: datetime) -> Self:
        stored = super(SyncJob, self).added(tenant=tenant, actor=actor, now=now)
        return stored.planned(now) if stored.status == _S.PENDING else stored

    def redeclared(self, declared: Aggregate) -> Self:
        """As for every aggregate; a new schedule also plans the next run anew."""
        merged = super(SyncJob, self).redeclared(declared)
        if merged.schedule == self.schedule:
            return merged
        assert isinstance(declared, SyncJob)
        return evolved(merged, next_run_at=declared.next_run_at, scheduled_for=None)

    def saved(self, *, actor: str, now: datetime) -> Self:
        stored = super(SyncJob, self).saved(actor=actor, now=now)
        return stored.planned(now) if stored.status == _S.PENDING else stored

    def pause(self, now: datetime) -> SyncJob:
        """Not due until resumed."""
        return self._moved(_S.PAUSED, now)

    def resume(self, now: datetime) -> Self:
        """Waiting for its time again, with all its attempts; a past error is forgotten."""
        moment = checked_time("now", now)
        changes = {"attempt": 0, "error_message": None, "scheduled_for": None}
        return self._moved(_S.PENDING, moment, **changes).planned(moment)

    def cancel(self, now: datetime) -> SyncJob:
        """Never run again."""
        return self._moved(_S.CANCELLED, now, next_run_at=None, scheduled_for=None)

    def run_now(self, now: datetime, *, from_start: bool = False) -> Self:
        """Due at once, whatever its schedule says; resumed, if it rested or was over.

        `from_start` forgets its checkpoint, so that all is fetched or pushed again.
        """
        moment = checked_time("now", now)
        waiting = self if self.status == _S.PENDING else self.resume(moment)
        checkpoint = None if checked_flag("from_start", from_start) else self.checkpoint
        return evolved(waiting, next_run_at=moment, checkpoint=checkpoint)

    def with_schedule(self, schedule: Schedule, now: datetime) -> Self:
        """Run by another schedule, and next when that says so, instead of when the one before did.

        One that rests or is over stays so; its time is the new schedule's once it is resumed.
        """
        moment = checked_time("now", now)
        changed = replace(self, schedule=schedule, next_run_at=None, scheduled_for=None)
        if self.status not in (_S.PENDING, _S.RUNNING):
            return changed
        attempt = self.attempt if self.status == _S.RUNNING else 0
        return evolved(changed, attempt=attempt, next_run_at=schedule.first_run(moment))

    # --- what its runs do to it ---------------------------------------------------------------

    @property
    def catch_up(self) -> str:
        """What is done about times that were missed: ``latest`` (once), ``all`` or ``skip``."""
        found: str = stored_part(self.config, "sync").get("catch_up", "latest")
        return found

    @property
    def time_limit(self) -> timedelta | None:
        """How long one run may take: ``config["sync"]["timeout"]``, in seconds."""
        seconds = stored_part(self.config, "sync").get("timeout")
        try:
            return None if seconds is None else checked_period("config.sync.timeout", seconds)
        except ValidationError:
            return None  # it was written by hand

    def is_missed(self, now: datetime) -> bool:
        """Of a job just started: whether its time passed so long ago that it wants to skip it."""
        if self.catch_up != "skip" or self.next_run_at is None or self.attempt > 1:
            return False
        return now - self.next_run_at > GRACE

    def skipped(self, now: datetime) -> Self:
        """Of a job just started: waiting for its next time, as if the missed one had never been."""
        attempt = self.attempt - 1
        return self._after_run(
            now, attempt=attempt, **self._what_follows(self.schedule.next_after, now)
        )

    def started(self, now: datetime) -> Self:
        """Running, as one more attempt."""
        changes = {"attempt": self.attempt + 1, "version": self.version + 1}
        return evolved(self, status=_S.RUNNING, status_changed_at=now, updated_at=now, **changes)

    def succeeded(
        self, now: datetime, *, started_at: datetime, records: int, checkpoint: Any
    ) -> Self:
        """With its progress, waiting for its next time, or completed if there is none to come.

        A job that was paused or cancelled meanwhile stays so, and keeps its progress. One whose
        next time can't be told has failed.
        """
        return self._after_run(
            now,
            started_at=started_at,
            attempt=0,
            scheduled_for=None,
            **{"error_message": None, **self._what_follows(self._following, now)},
            records_processed=self.records_processed + records,
            **({} if checkpoint is None else {"checkpoint": checkpoint}),
        )

    def unsuccessful(
        self, now: datetime, *, started_at: datetime, error: str, wait: timedelta
    ) -> Self:
        """Waiting for another attempt, or failed if that was the last one."""
        is_last = self.attempt >= self.max_attempts
        return self._after_run(
            now,
            status=_S.FAILED if is_last else _S.PENDING,
            started_at=started_at,
            error_message=error,
            next_run_at=None if is_last else now + wait,
            scheduled_for=None if is_last else self.scheduled_for or self.next_run_at,
        )

    def at(self, checkpoint: Any, now: datetime) -> Self:
        """With a checkpoint that a run has reached."""
        return evolved(self, version=self.version + 1, updated_at=now, checkpoint=checkpoint)

    def released(self, now: datetime) -> Self:
        """As it was before it was claimed."""
        return self._after_run(now, status=_S.PENDING, attempt=max(0, self.attempt - 1))

    def _after_run(
        self,
        now: datetime,
        *,
        status: SyncJobStatus,
        started_at: datetime | None = None,
        **changes: Any,
    ) -> Self:
        if self.status == _S.RUNNING:
            changes.update(status=status, status_changed_at=now)
        elif self.status == _S.CANCELLED:
            changes.pop("next_run_at", None)
        if started_at is not None:
            changes["last_run_at"] = started_at
        return evolved(self, version=self.version + 1, updated_at=now, **changes)

    def _what_follows(
        self, next_after: Callable[[datetime], datetime | None], now: datetime
    ) -> dict[str, Any]:
        """What comes next. A worker may not know the time zone that a job was given elsewhere; then
        no one should wait for it in vain.
        """
        try:
            following = next_after(now)
        except InvalidSchedule as error:
            problem = f"its next time can't be told: {error.message}"
            return {"status": _S.FAILED, "error_message": problem, "next_run_at": None}
        is_over = following is None and self.schedule.kind is not ScheduleKind.MANUAL
        status = _S.COMPLETED if is_over else _S.PENDING
        return {"status": status, "next_run_at": following}

    def _following(self, now: datetime) -> datetime | None:
        """The next time after a success: after now, or for `all` after the time that it was for."""
        was_for = self.scheduled_for or self.next_run_at
        if self.catch_up != "all" or was_for is None:
            return self.schedule.next_after(now)
        if was_for > now:  # it was planned anew during the run
            return was_for
        following = moment = self.schedule.next_after(was_for)
        for _ in range(MOST_MISSED):
            if moment is None or moment > now:
                return following
            moment = self.schedule.next_after(moment)
        return self.schedule.next_after(now)

    def planned(self, now: datetime) -> Self:
        """With its next run set, if it has none."""
        if self.next_run_at is not None:
            return self
        return evolved(self, next_run_at=self.schedule.first_run(now))
